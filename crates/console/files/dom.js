// Elements. Text only ever becomes text nodes, so no name can become markup.

import { pieces, plain } from "./text.js";

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Props */

/**
 * Makes an element. A property that is a function listens to its event; `true` sets an attribute
 * without a value, `false`, `null` and `undefined` leave it out.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Props | null} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  set(element, props);
  fill(element, children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element of a picture.
 * @param {string} tag
 * @param {Props | null} [props]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
export function svg(tag, props, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, tag));
  set(element, props);
  fill(element, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Props | null} [props]
 */
function set(element, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/**
 * @param {Element} element
 * @param {(Child | Child[])[]} children
 */
function fill(element, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === "number" ? String(child) : child);
  }
}

/**
 * Replaces what an element holds.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function put(element, ...children) {
  element.replaceChildren();
  fill(element, children);
}

/**
 * Changes a text, and touches nothing if it is the same.
 * @param {Element} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A text of a client, kept apart from the direction of what is around it, with odd characters as
 * visible escapes.
 * @param {string} text
 * @param {string} [empty] Stands for an empty text.
 */
export function told(text, empty = "–") {
  const found = pieces(text);
  const element = h("bdi", { class: "told", title: found.length ? plain(text) : null });
  if (!found.length) element.append(h("span", { class: "dim" }, empty));
  for (const piece of found) {
    element.append(piece.odd ? h("span", { class: "odd" }, piece.text) : piece.text);
  }
  return element;
}

/** The paths of the icons, on a field of 16 × 16. */
const ICONS = /** @type {const} */ ({
  search: "M7 2.500a4.500 4.500 0 1 0 0 9 4.500 4.500 0 0 0 0-9M10.300 10.300 14 14",
  lock: "M4 7.500h8v6H4zM5.500 7.500V5a2.500 2.500 0 0 1 5 0v2.500",
  session: "M8 2.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5M3 13.500c.4-3 2.400-4 5-4s4.600 1 5 4",
  cluster: "M2.500 3h11v3.500h-11zM2.500 9.500h11V13h-11zM5 4.750h.01M5 11.250h.01",
  plan: "M2.500 2.500v11h11M5 10.500l3-4 2.500 2 3-4.500",
  copy: "M5.500 5.500h8v8h-8zM3 10.500h-.5v-8h8V3",
  back: "M9.500 3.500 5 8l4.500 4.500",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8 1.500v1M8 13.500v1M1.500 8h1M13.500 8h1M3.400 3.400l.7.7M11.900 11.900l.7.7M12.600 3.400l-.7.7M4.100 11.900l-.7.7",
  moon: "M13 9.500A5.500 5.500 0 1 1 6.500 3a4.500 4.500 0 0 0 6.500 6.500",
  auto: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 2v12M10 3v10M12 4.500v7",
  key: "M10.500 2.500a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8.300 7.700 3 13M4.500 11.500 6 13",
  help: "M5.800 6a2.200 2.200 0 1 1 3.300 1.900C8.300 8.400 8 8.800 8 9.700M8 12.300v.01",
  warning: "M8 2.500 14 13.500H2zM8 6.500v3.200M8 11.600v.01",
  download: "M8 2.500v7.500M5 7.500l3 3 3-3M2.500 13.500h11",
  empty: "M2.500 9.500h3l1 2h3l1-2h3M2.500 9.500l2-6h7l2 6v4h-11z",
  denied: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M3.800 3.800l8.400 8.400",
});

/**
 * @param {keyof typeof ICONS} name
 */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }));
}

/**
 * A page or a part of one that has nothing to show, and why.
 * @param {keyof typeof ICONS} picture
 * @param {string} title
 * @param {Child} text
 * @param {...Child} actions
 */
export function blank(picture, title, text, ...actions) {
  return h("div", { class: "blank", role: "status" }, icon(picture), h("h2", null, title),
    h("p", null, text), actions.length ? h("div", { class: "actions" }, actions) : null);
}

/** Something is on its way. */
export function loading(what = "Loading") {
  return h("div", { class: "loading", role: "status" }, h("span", { class: "spinner" }), `${what}…`);
}

/**
 * A button that copies a text as it is, with all odd characters.
 * @param {string} text
 * @param {string} what
 */
export function copyButton(text, what) {
  const said = h("span", { class: "sr", role: "status" });
  const button = h("button", { class: "ghost square", type: "button", title: `Copy the ${what}`,
    "aria-label": `Copy the ${what}`, click: async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.classList.add("done");
        write(said, "Copied");
      } catch {
        write(said, "The browser did not copy it");
      }
      setTimeout(() => button.classList.remove("done"), 1_200);
    } }, icon("copy"), said);
  return button;
}

/**
 * Whether an element takes what is typed.
 * @param {EventTarget | null} target
 */
export function takesText(target) {
  return target instanceof HTMLElement && (target.isContentEditable
    || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement
    || (target instanceof HTMLInputElement && !["checkbox", "radio", "button"].includes(target.type)));
}
