// The page that plans capacity: what a workload needs, by which formulas, and a cluster file for it.

import { Problem, get, identity, post } from "./api.js";
import { blank, h, icon, loading, put, told } from "./dom.js";
import { growth } from "./plot.js";
import { count, counted, link } from "./text.js";

/** @typedef {{name: string, example: string, help: string}} Field */
/** @typedef {{value: string, how: string}} Figure */
/** @typedef {{title: string, about: string, rows: {label: string, palisade: Figure, specification: Figure}[]}} Step */

/** The fields in groups, the first of which is open. */
const GROUPS = /** @type {const} */ ([
  ["Load", ["instances", "locks_per_instance_per_min", "acquire_per_s", "events_per_day", "hold", "peak_multiplier", "reads_per_write"]],
  ["Growth", ["growth.per_month", "growth.months"]],
  ["Leases", ["ttl", "heartbeat"]],
  ["Cluster", ["replicas", "nodes_per_shard", "failure_zones", "network_rtt", "sizing", "headroom", "leader_capacity", "target_p99"]],
  ["Entries and history", ["entry.name_bytes", "entry.owner_bytes", "entry.metadata_bytes", "history_days"]],
  ["Contention", ["resources", "hottest_share"]],
  ["Cluster file", ["domain"]],
]);
/** It is no field of the workload, but belongs to the cluster file. */
const DOMAIN = { name: "domain", example: "DOMAIN",
  help: "Domain in which each process has a host of its own [default: 127.0.0.1]" };
/** Fields of which only one may be given. */
const RATES = ["locks_per_instance_per_min", "acquire_per_s", "events_per_day"];
/** The instances to begin with, if nothing is given. */
const INSTANCES = "2000";
/** Time after the last key until the plan is made. */
const SETTLED_MS = 250;

/** @param {string} name */
const worded = (name) => name.replace(/^entry\./, "").replace(/^growth\./, "").replaceAll("_", " ").replace(" per s", " per second").replace("ttl", "TTL").replace("rtt", "RTT");

/** @param {URLSearchParams} query */
export function open(query) {
  const run = new AbortController();
  /** @type {Map<string, HTMLInputElement | HTMLSelectElement>} */
  const inputs = new Map();
  const form = h("form", { class: "fields", "aria-label": "Workload", submit: (/** @type {Event} */ event) => event.preventDefault() }, loading());
  const result = h("div", { class: "result" }, loading("Planning"));
  const said = h("p", { class: "note red", role: "alert", hidden: true });
  /** @type {"palisade" | "specification"} */
  let column = "palisade";
  /** @type {any} */
  let planned;
  let asked = 0;

  const element = h("section", { class: "page" },
    h("header", { class: "bar" }, h("h1", null, "Plan"), h("p", { class: "meta" }, "What a workload needs. Nothing of this cluster is used or changed.")),
    h("div", { class: "planner" }, form, h("div", { class: "outcome" }, said, result)));

  function given() {
    /** @type {Record<string, string>} */
    const fields = {};
    for (const [name, input] of inputs) {
      if (input.value.trim()) fields[name] = input.value.trim();
    }
    return fields;
  }

  async function make() {
    const at = ++asked;
    const { domain, ...fields } = given();
    history.replaceState(null, "", link("plan", { ...fields, domain }));
    try {
      const answer = await post("/v1/plan", { fields, domain }, run.signal);
      if (at !== asked) return;
      planned = answer;
      said.hidden = true;
      result.classList.remove("stale");
      draw();
    } catch (error) {
      if (run.signal.aborted || at !== asked) return;
      if (error instanceof Problem && (error.status === 401 || error.status === 403)) {
        put(result, blank("denied", "You may not plan here", error.message));
        return;
      }
      const message = error instanceof Error ? error.message : String(error);
      said.hidden = false;
      put(said, message);
      result.classList.toggle("stale", Boolean(planned));
      if (!planned) put(result);
      for (const [name, input] of inputs) input.setAttribute("aria-invalid", String(message.includes(`\`${name}\``)));
      return;
    }
    for (const input of inputs.values()) input.removeAttribute("aria-invalid");
  }

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon;
  /** @param {string} name */
  function changed(name) {
    // The rate can be given in one way only, so the others are emptied.
    if (RATES.includes(name) && inputs.get(name)?.value) {
      for (const other of RATES) {
        const input = inputs.get(other);
        if (other !== name && input) input.value = "";
      }
    }
    clearTimeout(soon);
    soon = setTimeout(make, SETTLED_MS);
  }

  /** @param {Field[]} fields */
  function fill(fields) {
    const known = new Map([...fields, DOMAIN].map((field) => [field.name, field]));
    put(form, GROUPS.map(([title, names], place) => h("details", { open: place < (innerWidth > 900 ? 2 : 1) || names.some((name) => query.has(name)) },
      h("summary", null, title),
      names.map((name) => {
        const field = known.get(name);
        if (!field) return null;
        const [, help, standard] = /^(.*?)(?: \[default: (.*)\])?$/.exec(field.help) ?? ["", field.help, ""];
        const id = `field-${name}`;
        const brief = standard?.split(",")[0];
        const words = field.example.includes("|") ? field.example.split("|") : null;
        const input = words
          ? h("select", { id, change: () => changed(name) }, h("option", { value: "" }, `${standard}`),
              words.filter((word) => word !== standard).map((word) => h("option", { value: word }, word)))
          : h("input", { id, placeholder: brief ?? "", autocomplete: "off", spellcheck: "false",
              inputmode: field.example === "N" ? "decimal" : null, input: () => changed(name) });
        const is_empty = !RATES.concat("instances").some((rate) => query.has(rate));
        input.value = query.get(name) ?? (is_empty && name === "instances" ? INSTANCES : "");
        inputs.set(name, input);
        return h("div", { class: "input" }, h("label", { for: id, title: help }, worded(name)), input, h("small", null, brief === standard ? help : `${help} [default: ${standard}]`));
      }))));
  }

  function draw() {
    const { plan } = planned;
    const of = column === "palisade" ? plan.palisade : plan;
    const build = of.build;
    const fits = of.fit === "yes";
    put(result,
      h("div", { class: "choice wide", role: "group", "aria-label": "Model" },
        /** @type {const} */ ([["palisade", "Palisade"], ["specification", "Published model"]]).map(([key, title]) =>
          h("button", { type: "button", "aria-pressed": String(key === column), click: () => {
            column = key;
            draw();
            /** @type {HTMLElement | null} */ (result.querySelector("[aria-pressed=true]"))?.focus();
          } }, title))),
      h("article", { class: "card build" },
        h("div", { class: "headline" },
          h("strong", null, counted(build.shards, "shard")), h("span", null, `× ${counted(plan.workload.replicas, "replica")}`),
          h("span", { class: "dim" }, "on"), h("strong", null, counted(build.nodes, "node")),
          h("span", { class: "dim" }, "and"), h("strong", null, counted(build.gateways, "gateway")),
          h("span", { class: `pill ${fits ? "green" : "red"}` }, fits ? "fits" : "does not fit")),
        of.fit_reasons.map((/** @type {string} */ reason) => h("p", { class: "note red" }, icon("warning"), reason)),
        h("div", { class: "figures wide" },
          figure("writes/s, average", count(of.writes_per_s)), figure("writes/s, peak", count(of.peak_writes_per_s)),
          figure("shards, average", count(of.shards_avg)), figure("shards, peak", count(of.shards_peak)),
          figure("locks held, peak", count(of.peak_active_locks)), figure("acquire, ms", `${of.latency_ms.low}–${of.latency_ms.high}`)),
        planned.cluster_file
          ? h("div", { class: "actions start" }, h("button", { class: "accent", type: "button", click: download }, icon("download"), "Download cluster.yaml"),
              h("span", { class: "dim" }, "with the plan of Palisade; then ", h("code", null, "palisade cluster check --config cluster.yaml")))
          : h("p", { class: "note amber" }, icon("warning"), planned.cluster_file_error)),
      h("article", { class: "card" },
        h("h2", null, "Growth"),
        h("div", { class: "legend" }, h("span", { class: "peak" }, "shards, peak"), h("span", { class: "average" }, "shards, average"), h("span", { class: "load" }, "writes/s, peak (right)")),
        growth(of.growth.months),
        h("p", { class: "dim" }, of.growth.months_until_next_shard === null || of.growth.months_until_next_shard === undefined
          ? "The load does not grow." : `Today's shards carry the load for ${+of.growth.months_until_next_shard.toFixed(1)} months.`)),
      planned.steps.map((/** @type {Step} */ step, /** @type {number} */ place) => steps(step, place)),
      h("article", { class: "card" }, h("h2", null, "Smell tests"),
        h("ul", { class: "smells" }, of.smell_tests.map((/** @type {any} */ test) => h("li", null,
          h("span", { class: `pill ${{ pass: "green", warn: "amber", fail: "red" }[/** @type {"pass"} */ (test.verdict)]}` }, test.verdict),
          h("div", null, h("strong", null, test.name.replaceAll("_", " ")), ` ${test.finding}`, test.advice ? h("p", { class: "dim" }, test.advice) : null))))),
      plan.notes.length ? h("details", { class: "card" }, h("summary", null, `Notes (${plan.notes.length})`),
        h("ul", null, plan.notes.map((/** @type {string} */ note) => h("li", null, told(note))))) : null);
  }

  /** @param {string} title @param {string} value */
  function figure(title, value) {
    return h("div", { class: "figure" }, h("span", { class: "value" }, value), h("span", { class: "title" }, title));
  }

  /** @param {Step} step @param {number} place */
  function steps(step, place) {
    return h("article", { class: "card" },
      h("h2", null, place ? h("span", { class: "step" }, String(place)) : null, step.title, step.about ? h("small", { class: "dim" }, step.about) : null),
      h("table", { class: "sheet" },
        h("thead", { class: "sr" }, h("tr", null, ["Figure", "Value", "Formula"].map((title) => h("th", { scope: "col" }, title)))),
        h("tbody", null, step.rows.map((row) => {
          const { value, how } = row[column];
          // The components of the published latency have names of their own.
          const own = step.title === "Latency" && column === "specification";
          if (own && !how) return null;
          return h("tr", null, h("th", { scope: "row" }, own ? how : row.label), h("td", { class: "number" }, value), h("td", { class: "how" }, own ? "" : how));
        }))));
  }

  function download() {
    const file = URL.createObjectURL(new Blob([planned.cluster_file], { type: "application/yaml" }));
    h("a", { href: file, download: "cluster.yaml" }).click();
    setTimeout(() => URL.revokeObjectURL(file), 10_000);
  }

  get("/v1/plan", {}, run.signal).then(({ fields }) => {
    fill(fields);
    return make();
  }).catch((error) => {
    if (run.signal.aborted) return;
    put(form);
    put(result, blank("denied", identity().anonymous ? "Sign in to plan" : "No plan can be made", error.message));
  });

  return {
    element,
    title: "Plan",
    close: () => {
      run.abort();
      clearTimeout(soon);
    },
  };
}
