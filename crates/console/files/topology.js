// The topology on the page of the cluster: its version, what nodes may be used for, and jobs.

import { h, told } from "./dom.js";
import { count, counted, span } from "./text.js";

/**
 * @typedef {object} Job
 * @property {number} job
 * @property {string} kind
 * @property {number | null} node
 * @property {number | null} new_node
 * @property {number | null} replicas
 * @property {number | null} shard
 * @property {string} state
 * @property {number} done
 * @property {number} total
 * @property {string} why
 */
/**
 * @typedef {object} Topology
 * @property {number} version
 * @property {{node: number, state: string}[]} nodes
 * @property {Job[]} jobs
 * @property {{repair_after_s: number | null, paused: boolean}} settings
 */

/** How many jobs that ended are shown. */
const ENDED_SHOWN = 8;
/** The color of each state of a job. @type {Record<string, string>} */
const COLORS = { running: "amber", done: "green" };

/** What a node may be used for, unless it serves. @param {Topology | undefined} topology @param {number} node */
export function stateOfNode(topology, node) {
  const state = topology?.nodes.find((one) => one.node === node)?.state ?? "serving";
  return state === "serving" ? null : h("span", { class: `pill ${state === "removed" ? "red" : "amber"}` }, state);
}

/** The version and the settings, for the line below the title. @param {Topology | undefined} topology */
export function inShort(topology) {
  if (!topology) return [];
  const { version, settings } = topology;
  const dot = () => h("span", { class: "dot" }, "·");
  return [dot(), `topology version ${count(version)}`,
    ...settings.repair_after_s === null ? [] : [dot(), `nodes silent for ${span(1_000 * settings.repair_after_s)} are replaced`],
    ...settings.paused ? [dot(), h("span", { class: "pill amber", title: "go on with: palisade cluster resume" }, "jobs and repairs rest")] : []];
}

/** The jobs, those that run first, or nothing if there was none. @param {Topology | undefined} topology */
export function jobsOf(topology) {
  const all = [...topology?.jobs ?? []].reverse();
  const running = all.filter((job) => job.state === "running");
  const shown = [...running, ...all.filter((job) => job.state !== "running").slice(0, ENDED_SHOWN)];
  if (!shown.length) return null;
  return h("table", { class: "list jobs" },
    h("thead", null, h("tr", null, ["Job", "What", "State", "Progress", "Waits for"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", null, shown.map((job) => h("tr", null, h("th", { scope: "row" }, String(job.job)), h("td", null, inWords(job)),
      h("td", null, h("span", { class: `pill ${COLORS[job.state] ?? ""}` }, job.state)),
      h("td", null, progress(job)), h("td", { class: "why" }, job.why ? told(job.why) : "–")))));
}

/** What stands in the way of repairs and of the group of the topology. @param {string[]} obstacles */
export function obstaclesOf(obstacles) {
  return obstacles.map((obstacle) => h("p", { class: "obstacle" }, h("span", { class: "pill amber" }, "waits"), " ", told(obstacle)));
}

/** How far a job is. @param {Job} job */
function progress({ done, total }) {
  if (!total) return "–";
  const part = h("span", { class: "rest" });
  part.style.width = `${100 * done / total}%`;
  return h("div", { class: "progress" }, `${count(done)} of ${counted(total, "shard")}`,
    h("span", { class: "gauge", "aria-hidden": "true" }, part));
}

/** What a job does. @param {Job} job */
export function inWords({ kind, node, new_node, replicas, shard }) {
  switch (kind) {
    case "DRAIN": return `drain node ${node}`;
    case "UNDRAIN": return `undrain node ${node}`;
    case "REMOVE_NODE": return `remove node ${node}`;
    case "REPLACE_NODE": return `replace node ${node} by node ${new_node}`;
    case "REPLICAS": return `${counted(replicas ?? 0, "replica")}${shard === null ? "" : ` of shard ${shard}`}`;
    default: return kind.toLowerCase().replaceAll("_", " ");
  }
}
