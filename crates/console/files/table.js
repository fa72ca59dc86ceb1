// A table that draws only the rows that can be seen, so that 100,000 rows cost as much as forty.

import { h, put, write } from "./dom.js";
import { now } from "./api.js";
import { span } from "./text.js";

/**
 * @template T
 * @typedef {object} Column
 * @property {string} title
 * @property {string} kind A class of its cells.
 * @property {(item: T) => import("./dom.js").Child | import("./dom.js").Child[]} cell
 */
/**
 * @template T
 * @typedef {object} Options
 * @property {string} label What the rows are, for readers of screens.
 * @property {string} kind A class that sets the widths of the columns.
 * @property {Column<T>[]} columns
 * @property {(item: T) => string} link Where a row leads to.
 * @property {(item: T) => number} [stamp] Another one if the row has to be drawn anew.
 */

/** Rows beyond both edges that are drawn, too. */
const BEYOND = 6;
let tables = 0;

/** A time span that grows, as `tick` writes it. @param {number} since Unix milliseconds. */
export function ageSince(since) {
  return h("span", { class: "age", "data-since": since }, span(now() - since));
}

/** Writes all time spans anew. @param {Element} below */
export function tick(below) {
  const time = now();
  for (const element of below.querySelectorAll("[data-since]")) {
    write(element, span(time - Number(element.getAttribute("data-since"))));
  }
}

/** @template T */
export class Table {
  /** @type {T[]} */
  #items = [];
  /** @type {T | undefined} */
  #selected;
  #at = -1;
  #height = 40;
  #id = `table-${++tables}`;
  /** @type {Map<number, {item: T, stamp: number, row: HTMLElement}>} */
  #drawn = new Map();

  /** @param {Options<T>} options */
  constructor(options) {
    this.options = options;
    const titles = options.columns.map((column) =>
      h("span", { role: "columnheader", class: `cell ${column.kind}` }, column.title));
    this.head = h("div", { class: "row head", role: "row", "aria-rowindex": 1 }, titles);
    this.space = h("div", { class: "space", role: "rowgroup" });
    this.body = h("div", { class: "body", role: "rowgroup" }, this.space);
    this.element = h("div", { class: `table ${options.kind}`, role: "grid", "aria-label": options.label,
      tabindex: 0 }, this.head, this.body);
    this.space.removeAttribute("role");
    this.body.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.space.addEventListener("click", (event) => this.#clicked(event));
    this.watcher = new ResizeObserver(() => this.#measure());
    this.watcher.observe(this.body);
  }

  end() {
    this.watcher.disconnect();
  }

  /** Shows these rows, and keeps the place and the selected row. @param {T[]} items */
  show(items) {
    this.#items = items;
    this.#at = this.#selected === undefined ? -1 : items.indexOf(this.#selected);
    this.element.setAttribute("aria-rowcount", String(items.length + 1));
    const height = `${items.length * this.#height}px`;
    if (this.space.style.height !== height) this.space.style.height = height;
    this.#draw();
  }

  /** Goes to the first row. */
  top() {
    this.body.scrollTop = 0;
  }

  /** Selects the row that is so many rows below. @param {number} by */
  move(by) {
    if (!this.#items.length) return;
    const first = Math.ceil(this.body.scrollTop / this.#height);
    const from = this.#at < 0 ? (by > 0 ? first - 1 : first) : this.#at;
    this.#select(Math.min(this.#items.length - 1, Math.max(0, from + by)));
  }

  /** Opens the selected row. Says whether there is one. */
  open() {
    if (this.#at < 0) return false;
    location.hash = this.options.link(this.#items[this.#at]);
    return true;
  }

  /** The rows of one page. */
  get page() {
    return Math.max(1, Math.floor(this.body.clientHeight / this.#height) - 1);
  }

  /** Takes a key. Says whether it was of use. @param {string} key */
  key(key) {
    const by = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: this.page, PageUp: -this.page,
      Home: -Infinity, End: Infinity }[key];
    if (by !== undefined) this.move(by);
    return by !== undefined || (key === "Enter" && this.open());
  }

  /** @param {number} at */
  #select(at) {
    [this.#at, this.#selected] = [at, this.#items[at]];
    const [top, view] = [at * this.#height, this.body.clientHeight];
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    else if (top + this.#height > this.body.scrollTop + view) {
      this.body.scrollTop = top + this.#height - view;
    }
    this.#draw();
  }

  #measure() {
    const height = parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 40;
    if (height !== this.#height) {
      this.#height = height;
      this.#drawn.clear();
      put(this.space);
    }
    this.show(this.#items);
  }

  #draw() {
    const view = this.body.clientHeight;
    if (!view) return;
    const first = Math.max(0, Math.floor(this.body.scrollTop / this.#height) - BEYOND);
    const last = Math.min(this.#items.length, Math.ceil((this.body.scrollTop + view) / this.#height) + BEYOND);
    for (const [at, { row }] of this.#drawn) {
      if (at >= first && at < last) continue;
      row.remove();
      this.#drawn.delete(at);
    }
    for (let at = first; at < last; at++) {
      const item = this.#items[at];
      const stamp = this.options.stamp?.(item) ?? 0;
      const kept = this.#drawn.get(at);
      let row = kept?.row;
      if (!row || kept?.item !== item || kept.stamp !== stamp) {
        const fresh = this.#row(item, at);
        row ? row.replaceWith(fresh) : this.space.append(fresh);
        row = fresh;
        this.#drawn.set(at, { item, stamp, row });
      }
      row.setAttribute("aria-selected", String(at === this.#at));
    }
    const active = this.#at >= first && this.#at < last ? `${this.#id}-${this.#at}` : null;
    if (active) this.element.setAttribute("aria-activedescendant", active);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** @param {T} item @param {number} at */
  #row(item, at) {
    const cells = this.options.columns.map((column) =>
      h("span", { role: "gridcell", class: `cell ${column.kind}` }, column.cell(item)));
    const row = h("div", { class: "row", role: "row", id: `${this.#id}-${at}`, "aria-rowindex": at + 2,
      "data-at": at }, cells);
    row.style.transform = `translateY(${at * this.#height}px)`;
    return row;
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    if (!(event.target instanceof Element) || event.target.closest("a, button")) return;
    const row = event.target.closest("[data-at]");
    // A text that is being selected is no click.
    if (!row || getSelection()?.toString()) return;
    this.#select(Number(row.getAttribute("data-at")));
    this.open();
  }
}
