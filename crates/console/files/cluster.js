// The page of the cluster: nodes × shards as a picture, and what each of them does.

import { Problem, get } from "./api.js";
import { blank, h, icon, loading, put, told, write } from "./dom.js";
import { rest } from "./store.js";
import { count, counted, rate, size, span } from "./text.js";
import { inShort, jobsOf, obstaclesOf, stateOfNode } from "./topology.js";

/**
 * @typedef {object} Replica
 * @property {number} node
 * @property {string} role
 * @property {number} term
 * @property {number} lag
 * @property {number} applied_index
 * @property {number} committed_index
 * @property {number} last_index
 * @property {boolean} reseeding
 * @property {string} state_hash
 */
/**
 * @typedef {object} Shard
 * @property {number} shard
 * @property {number | null} leader
 * @property {number} term
 * @property {number} applied_index
 * @property {number} last_token
 * @property {number} active_locks
 * @property {number} sessions
 * @property {number} waiters
 * @property {boolean | null} hashes_equal
 * @property {Replica[]} replicas
 * @property {{node: number, has_vote: boolean, counts: boolean, reason: string}[]} members
 */
/**
 * @typedef {object} Host
 * @property {number} node
 * @property {string} address
 * @property {string} zone
 * @property {boolean} reachable
 * @property {boolean} disk_hangs
 * @property {boolean} insecure
 * @property {number | null} disk_sync_ms
 * @property {number | null} disk_write_age_ms
 * @property {number | null} journal_bytes
 * @property {number | null} database_bytes
 * @property {number | null} disk_free_bytes
 * @property {number | null} disk_bytes
 * @property {number} leads
 */
/** @typedef {{cluster: string, map_version: number, insecure: boolean, nodes: Host[], shards: Shard[], topology: {obstacles: string[]} | null}} Status */
/** @typedef {import("./topology.js").Topology} Topology */

const EVERY_MS = 2_000;
/** A replica that lacks more entries is shown as late. */
const LATE = 100;

/** @param {URLSearchParams} query */
export function open(query) {
  const run = new AbortController();
  let chosen = query.has("shard") ? Number(query.get("shard")) : -1;
  /** @type {{status: Status, at: number} | undefined} */
  let before;
  /** @type {Status | undefined} */
  let status;
  /** @type {Topology | undefined} */
  let topology;
  /** Entries and grants of each shard, per second. @type {Map<number, {entries: number, grants: number}>} */
  const rates = new Map();

  const meta = h("p", { class: "meta" });
  const health = h("span", { class: "pill" }, "…");
  const figures = h("div", { class: "figures" });
  const picture = h("div", { class: "matrix" });
  const detail = h("div", { class: "detail" });
  const nodes = h("div", { class: "cards" });
  const shards = scroll("Shards");
  const jobs = scroll("Jobs");
  const obstacles = h("div", { class: "stack" });
  const changes = h("section", { class: "part", hidden: true }, h("h2", null, "Jobs"), obstacles, jobs);
  const content = h("div", { class: "sections" },
    h("section", { class: "part" }, h("h2", null, "Replicas"),
      h("div", { class: "legend" }, ["leader", "follower", "late", "missing"].map((kind) => h("span", { class: "key" }, h("i", { class: `cell ${kind}` }), kind))),
      picture, detail),
    changes,
    h("section", { class: "part" }, h("h2", null, "Nodes"), nodes),
    h("section", { class: "part" }, h("h2", null, "Shards"), shards));
  const over = h("div", { class: "over" }, loading("Asking all nodes"));
  content.hidden = true;
  const element = h("section", { class: "page" }, h("header", { class: "bar" }, h("h1", null, "Cluster"), health, figures), meta, over, content);

  async function ask() {
    while (!run.signal.aborted) {
      if (!document.hidden) await look();
      await rest(EVERY_MS, run.signal);
    }
  }

  async function look() {
    try {
      /** @type {Status} */
      const asked = await get("/v1/cluster", {}, run.signal);
      topology = await get("/v1/cluster/topology", {}, run.signal).catch(topologyIsAway);
      const at = performance.now();
      if (before) measure(before.status, asked, (at - before.at) / 1_000);
      before = { status: asked, at };
      status = asked;
      content.hidden = false;
      put(over);
      draw(asked);
    } catch (error) {
      if (run.signal.aborted || !(error instanceof Problem) || error.isGone) return;
      const is_denied = error.status === 401 || error.status === 403;
      content.hidden ||= is_denied;
      if (content.hidden) put(over, blank(is_denied ? "denied" : "warning", is_denied ? "You may not see the cluster" : "The cluster could not be asked for", error.message));
    }
  }

  /**
   * The page goes on with what it had of the topology, while no node tells it.
   * @param {unknown} error
   */
  function topologyIsAway(error) {
    if (run.signal.aborted || !(error instanceof Problem) || error.status === 401 || error.status === 403) throw error;
    return topology;
  }

  /** @param {Status} old @param {Status} fresh @param {number} seconds */
  function measure(old, fresh, seconds) {
    for (const shard of fresh.shards) {
      const last = old.shards.find((one) => one.shard === shard.shard);
      if (!last) continue;
      const per_second = (/** @type {number} */ from, /** @type {number} */ to) => Math.max(0, to - from) / seconds;
      rates.set(shard.shard, { entries: per_second(last.applied_index, shard.applied_index), grants: per_second(last.last_token, shard.last_token) });
    }
  }

  /** @param {Status} status */
  function draw(status) {
    const led = status.shards.filter((shard) => shard.leader !== null).length;
    const up = status.nodes.filter((node) => node.reachable).length;
    const differ = status.shards.filter((shard) => shard.hashes_equal === false).length;
    const all_well = led === status.shards.length && up === status.nodes.length && !differ && !status.nodes.some((node) => node.disk_hangs);
    const [kind, words] = led < status.shards.length ? ["red", "not all served"] : all_well ? ["green", "healthy"] : ["amber", "degraded"];
    health.className = `pill ${kind}`;
    write(health, words);
    const sum = (/** @type {(shard: Shard) => number} */ of) => status.shards.reduce((all, shard) => all + of(shard), 0);
    put(figures, [
      ["nodes up", `${up}/${status.nodes.length}`], ["shards led", `${led}/${status.shards.length}`],
      ["locks", count(sum((shard) => shard.active_locks))], ["waiting", count(sum((shard) => shard.waiters))],
      ["grants/s", rates.size ? rate([...rates.values()].reduce((all, one) => all + one.grants, 0)) : "…"],
    ].map(([title, value]) => h("div", { class: "figure" }, h("span", { class: "value" }, value), h("span", { class: "title" }, title))));
    put(meta, told(status.cluster), h("span", { class: "dot" }, "·"), `map version ${status.map_version}`, inShort(topology),
      differ ? [h("span", { class: "dot" }, "·"), h("span", { class: "pill red" }, `state hashes differ on ${counted(differ, "shard")}`)] : null,
      status.insecure || status.nodes.some((node) => node.insecure) ? [h("span", { class: "dot" }, "·"), h("span", { class: "pill amber" }, "started with --insecure")] : null);
    drawPicture(status);
    drawDetail();
    const [table_of_jobs, waits] = [jobsOf(topology), status.topology?.obstacles ?? []];
    changes.hidden = !table_of_jobs && !waits.length;
    jobs.hidden = !table_of_jobs;
    put(jobs, table_of_jobs);
    obstacles.hidden = !waits.length;
    put(obstacles, obstaclesOf(waits));
    put(nodes, status.nodes.map(card));
    put(shards, table(status.shards));
  }

  /** @param {Status} status */
  function drawPicture(status) {
    const focused = document.activeElement?.getAttribute("data-shard");
    const columns = status.shards.map((shard) => shard.shard);
    picture.style.setProperty("--shards", String(columns.length));
    picture.classList.toggle("dense", columns.length > 24);
    const rows = status.nodes.map((node) => h("div", { class: "line" },
      h("span", { class: `label ${node.reachable ? "" : "gone"}` }, `node ${node.node}`),
      status.shards.map((shard) => {
        const { kind, words } = stateOf(shard, node);
        return h("i", { class: `cell ${kind} ${shard.shard === chosen ? "chosen" : ""}`, title: words });
      })));
    const heads = h("div", { class: "line heads" }, h("span", { class: "label" }, "shard"), columns.map((shard) =>
      h("button", { type: "button", class: "head", "data-shard": shard, "aria-label": `Shard ${shard}`, "aria-pressed": String(shard === chosen), click: () => {
        chosen = shard === chosen ? -1 : shard;
        if (before) draw(before.status);
      } }, String(shard))));
    put(picture, heads, rows);
    if (focused) /** @type {HTMLElement | null} */ (picture.querySelector(`[data-shard="${focused}"]`))?.focus();
  }

  function drawDetail() {
    const shard = status?.shards.find((one) => one.shard === chosen);
    if (!shard) return put(detail);
    put(detail, scroll("Replicas of the shard", h("table", { class: "list" },
      h("thead", null, h("tr", null, ["Replica", "Role", "Term", "Applied", "Committed", "Lag", "State hash", "Counts"].map((title, place) =>
        h("th", { scope: "col", class: place > 1 && place < 6 ? "number" : "" }, title)))),
      h("tbody", null, shard.replicas.map((replica) => {
        const member = shard.members.find((one) => one.node === replica.node);
        return h("tr", null, h("th", { scope: "row" }, `node ${replica.node}`), h("td", null, replica.reseeding ? "re-seeding" : replica.role),
          ...[replica.term, replica.applied_index, replica.committed_index, replica.lag].map((value) => h("td", { class: "number" }, count(value))),
          h("td", null, h("code", null, replica.state_hash)), h("td", null, !member ? "–" : member.counts ? "yes" : told(member.reason, "no")));
      })))));
  }

  /** @param {Host} node */
  function card(node) {
    const state = !node.reachable ? ["red", "unreachable"] : node.disk_hangs ? ["red", "disk hangs"] : ["green", "up"];
    const row = (/** @type {string} */ title, /** @type {import("./dom.js").Child} */ value) => h("div", null, h("dt", null, title), h("dd", null, value));
    const bytes = (/** @type {string} */ title, /** @type {number | null} */ value) => value === null ? null : row(title, size(value));
    return h("article", { class: "card node" },
      h("div", { class: "who" }, h("strong", null, `Node ${node.node}`),
        h("span", null, stateOfNode(topology, node.node), " ", h("span", { class: `pill ${state[0]}` }, state[1]))),
      h("dl", { class: "facts" },
        h("div", { class: "whole" }, h("dt", null, "Address"), h("dd", null, h("code", null, told(node.address)))), node.zone ? row("Zone", told(node.zone)) : null,
        row("Leads", counted(node.leads, "shard")),
        row("Sync", node.disk_sync_ms === null ? "–" : `${+node.disk_sync_ms.toPrecision(3)} ms`),
        node.disk_write_age_ms ? row("Write under way", span(node.disk_write_age_ms)) : null,
        bytes("Journal", node.journal_bytes), bytes("Database", node.database_bytes), room(node)));
  }

  /** @param {Shard[]} all */
  function table(all) {
    const titles = ["Shard", "Leader", "Term", "Locks", "Waiting", "Contention", "Sessions", "Grants/s", "Entries/s", "Lag", "Hashes"];
    return h("table", { class: "list" },
      h("thead", null, h("tr", null, titles.map((title, place) => h("th", { scope: "col", class: place > 1 && place < 10 && place !== 5 ? "number" : "" }, title)))),
      h("tbody", null, all.map((shard) => {
        const speed = rates.get(shard.shard);
        const lag = Math.max(0, ...shard.replicas.map((replica) => replica.lag));
        return h("tr", null, h("th", { scope: "row" }, String(shard.shard)),
          h("td", null, shard.leader === null ? h("span", { class: "pill red" }, "none") : `node ${shard.leader}`),
          ...[shard.term, shard.active_locks, shard.waiters].map((value) => h("td", { class: "number" }, count(value))),
          h("td", null, contention(shard)), h("td", { class: "number" }, count(shard.sessions)),
          ...[speed?.grants, speed?.entries].map((value) => h("td", { class: "number" }, value === undefined ? "…" : rate(value))),
          h("td", { class: `number ${lag > LATE ? "late" : ""}` }, count(lag)),
          h("td", null, shard.hashes_equal === null ? h("span", { class: "dim", title: "no two replicas stand at the same index" }, "–")
            : shard.hashes_equal ? "equal" : h("span", { class: "pill red" }, icon("warning"), "differ")));
      })));
  }

  void ask();
  return { element, title: "Cluster", close: () => run.abort() };
}

/** The room on the disk of a node, if it is known. @param {Host} node */
function room({ disk_free_bytes: free, disk_bytes: whole }) {
  if (free === null || whole === null) return null;
  const used = h("span", { class: "rest" });
  used.style.width = `${100 * (1 - free / Math.max(1, whole))}%`;
  used.classList.toggle("low", free < whole / 10);
  return h("div", { class: "whole" }, h("dt", null, "Disk"),
    h("dd", null, `${size(free)} free of ${size(whole)}`, h("span", { class: "gauge", "aria-hidden": "true" }, used)));
}

/**
 * The class of contention: of those who want a lock, the share that waits, with the bounds of a plan.
 * @param {Shard} shard
 */
function contention({ waiters, active_locks }) {
  const share = waiters / Math.max(1, waiters + active_locks);
  const [kind, words] = share < 0.05 ? ["green", "low"] : share <= 0.2 ? ["amber", "medium"] : ["red", "high"];
  return h("span", { class: `pill ${kind}`, title: `${(100 * share).toFixed(1)}% of those who want a lock wait` }, words);
}

/**
 * A table that may be wider than the page. The keyboard scrolls it once it has the focus.
 * @param {string} label
 * @param {...Node} children
 */
function scroll(label, ...children) {
  return h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, ...children);
}

/** What a node does for a shard. @param {Shard} shard @param {Host} node */
function stateOf(shard, node) {
  const at = `Shard ${shard.shard} on node ${node.node}: `;
  const replica = shard.replicas.find((one) => one.node === node.node);
  if (replica) {
    const late = replica.lag > LATE || replica.reseeding;
    const kind = replica.node === shard.leader ? "leader" : late ? "late" : "follower";
    return { kind, words: `${at}${replica.reseeding ? "re-seeding" : kind}, term ${replica.term}, applied ${count(replica.applied_index)}, lag ${count(replica.lag)}` };
  }
  const is_member = shard.members.some((member) => member.node === node.node) || !node.reachable;
  return is_member ? { kind: "missing", words: `${at}no answer` } : { kind: "none", words: `${at}no replica` };
}
