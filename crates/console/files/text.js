// Numbers, times and names as text. Pure functions.

/**
 * Characters that hide, reorder or break what is around them, and white space that looks like another.
 * U+2800 is a braille pattern without dots.
 */
const ODD = /\p{C}|\p{Default_Ignorable_Code_Point}|\p{Zl}|\p{Zp}|(?! )\p{Zs}|\u2800|^ +| +$/gu;

const NAMES = new Map([["\n", "\\n"], ["\r", "\\r"], ["\t", "\\t"]]);

/**
 * A text in pieces. Odd characters are pieces of their own, written as escapes: `\u{202E}`.
 * @param {string} text
 * @returns {{text: string, odd: boolean}[]}
 */
export function pieces(text) {
  const found = [];
  let from = 0;
  for (const match of text.matchAll(ODD)) {
    if (match.index > from) found.push({ text: text.slice(from, match.index), odd: false });
    found.push({ text: escaped(match[0]), odd: true });
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push({ text: text.slice(from), odd: false });
  return found;
}

/** @param {string} odd */
function escaped(odd) {
  if (odd.startsWith(" ")) return "␣".repeat(odd.length);
  const code = odd.codePointAt(0) ?? 0;
  return NAMES.get(odd) ?? `\\u{${code.toString(16).toUpperCase().padStart(4, "0")}}`;
}

/**
 * A text as one plain string, with odd characters as escapes: for labels and titles.
 * @param {string} text
 */
export function plain(text) {
  return pieces(text).map((piece) => piece.text).join("");
}

/** @param {number} number */
export function count(number) {
  return Math.round(number).toLocaleString("en-US");
}

/**
 * A number with its noun: `1 lock`, `2 locks`.
 * @param {number} number
 * @param {string} noun
 * @param {string} [many]
 */
export function counted(number, noun, many) {
  return `${count(number)} ${number === 1 ? noun : (many ?? `${noun}s`)}`;
}

/**
 * A time span, in the two largest units.
 * @param {number} ms
 */
export function span(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = Math.floor(ms / 1_000);
  const pad = (/** @type {number} */ number) => String(number).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} m ${pad(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${pad(Math.floor((s % 3_600) / 60))} m`;
  return `${count(Math.floor(s / 86_400))} d ${pad(Math.floor((s % 86_400) / 3_600))} h`;
}

/**
 * A length that was configured: `30 s`, `5 m`, `1.5 s`.
 * @param {number} ms
 */
export function length(ms) {
  if (ms % 3_600_000 === 0 && ms > 0) return `${ms / 3_600_000} h`;
  if (ms % 60_000 === 0 && ms > 0) return `${ms / 60_000} m`;
  if (ms < 1_000) return `${ms} ms`;
  return ms < 600_000 ? `${ms / 1_000} s` : span(ms);
}

/**
 * A point in time, on the reader's clock: the time of day, and the date if that is not today's.
 * @param {number} ms Unix milliseconds.
 */
export function moment(ms) {
  const date = new Date(ms);
  const time = date.toLocaleTimeString("en-GB");
  if (date.toDateString() === new Date().toDateString()) return time;
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${time}`;
}

/**
 * A size in bytes, in three digits: `1.21 GB`.
 * @param {number} bytes
 */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let [value, unit] = [bytes, 0];
  // 999.5 and more would be shown as 1000.
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1_000;
  return `${+value.toPrecision(3)} ${units[unit]}`;
}

/**
 * A rate per second.
 * @param {number} rate
 */
export function rate(rate) {
  if (rate === 0) return "0";
  return rate < 10 ? rate.toFixed(1) : count(rate);
}

/**
 * A hash of the page: `#/locks?prefix=a%2F`.
 * @param {string} page
 * @param {Record<string, string | undefined>} [query]
 */
export function link(page, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(/** @type {[string, string][]} */ (given)).toString();
  return `#/${page}${search ? `?${search}` : ""}`;
}
