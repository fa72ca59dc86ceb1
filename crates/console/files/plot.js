// Pictures of numbers, as SVG.

import { svg } from "./dom.js";
import { count } from "./text.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 230, 46, 60, 14, 26];

/** Round numbers from 0 to at least this one. @param {number} most @param {boolean} whole */
function ticks(most, whole) {
  const rough = Math.max(most, whole ? 1 : 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? rough;
  if (whole) step = Math.max(1, Math.ceil(step));
  const found = [];
  for (let at = 0; at < most + step; at += step) found.push(at);
  return found;
}

/** @param {number} number */
function short(number) {
  for (const [size, unit] of /** @type {[number, string][]} */ ([[1e9, "G"], [1e6, "M"], [1e3, "k"]])) {
    if (number >= size) return `${+(number / size).toPrecision(3)}${unit}`;
  }
  return String(+number.toPrecision(3));
}

/**
 * The growth of a load, as an area, against the shards that carry it on average and at the peak, as
 * steps.
 * @param {{month: number, peak_writes_per_s: number, shards_avg: number, shards_peak: number}[]} months
 */
export function growth(months) {
  const last = months[months.length - 1];
  const [load, shards] = [ticks(Math.max(...months.map((month) => month.peak_writes_per_s)), false), ticks(Math.max(...months.map((month) => month.shards_peak)), true)];
  const x = (/** @type {number} */ month) => LEFT + ((WIDTH - LEFT - RIGHT) * month) / Math.max(1, last.month);
  const y = (/** @type {number} */ value, /** @type {number[]} */ of) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / of[of.length - 1];
  const at = (/** @type {number} */ px, /** @type {number} */ py) => `${px.toFixed(1)} ${py.toFixed(1)}`;
  const curve = months.map((month) => at(x(month.month), y(month.peak_writes_per_s, load)));
  const steps = (/** @type {"shards_avg" | "shards_peak"} */ key) => months.map((month, place) => {
    const level = y(month[key], shards).toFixed(1);
    return place === 0 ? `M${x(month.month).toFixed(1)} ${level}` : `H${x(month.month).toFixed(1)}V${level}`;
  }).join("");
  const stride = Math.max(1, Math.ceil(months.length / 13));
  const text = (/** @type {number} */ px, /** @type {number} */ py, /** @type {string} */ anchor, /** @type {string} */ words, kind = "") =>
    svg("text", { x: px, y: py, "text-anchor": anchor, class: kind }, words);
  return svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `From today to month ${last.month}: ${count(months[0].peak_writes_per_s)} to ${count(last.peak_writes_per_s)} writes per second at the peak, on ${count(months[0].shards_peak)} to ${count(last.shards_peak)} shards` },
    shards.map((value) => [svg("path", { class: "grid", d: `M${LEFT} ${y(value, shards)}H${WIDTH - RIGHT}` }),
      text(LEFT - 8, y(value, shards) + 4, "end", short(value))]).flat(),
    load.map((value) => text(WIDTH - RIGHT + 8, y(value, load) + 4, "start", short(value), "load")),
    months.filter((_, place) => place % stride === 0).map((month) => text(x(month.month), HEIGHT - 8, "middle", String(month.month))),
    svg("path", { class: "area", d: `M${x(0)} ${y(0, load)}L${curve.join("L")}L${x(last.month)} ${y(0, load)}Z` }),
    svg("path", { class: "load", d: `M${curve.join("L")}` }),
    svg("path", { class: "average", d: steps("shards_avg") }),
    svg("path", { class: "peak", d: steps("shards_peak") }));
}
