// The frame of all pages: the way between them, keys, the theme, and who the reader is.

import { Problem, askPermissions, get, identity, onReach, setToken, token } from "./api.js";
import * as cluster from "./cluster.js";
import { blank, h, icon, put, takesText, told, write } from "./dom.js";
import * as lock from "./lock.js";
import * as locks from "./locks.js";
import * as plan from "./plan.js";
import * as sessions from "./sessions.js";
import { rest, store } from "./store.js";
import { counted, moment } from "./text.js";

/**
 * A page that is open.
 * @typedef {object} Page
 * @property {HTMLElement} element
 * @property {string} title
 * @property {() => void} close
 * @property {(event: KeyboardEvent) => boolean} [key] Says whether the key was of use.
 * @property {HTMLInputElement} [search]
 */

/** @type {Record<string, {open: (query: URLSearchParams) => Page, tab: string}>} */
const PAGES = {
  locks: { open: locks.open, tab: "locks" },
  lock: { open: lock.open, tab: "locks" },
  sessions: { open: sessions.open, tab: "sessions" },
  session: { open: sessions.openOne, tab: "sessions" },
  cluster: { open: cluster.open, tab: "cluster" },
  plan: { open: plan.open, tab: "plan" },
};
const TABS = /** @type {const} */ ([
  ["locks", "Locks", "lock", "l"], ["sessions", "Sessions", "session", "s"],
  ["cluster", "Cluster", "cluster", "c"], ["plan", "Plan", "plan", "p"],
]);
const THEMES = /** @type {const} */ ([["auto", "auto", "as the system"], ["light", "sun", "light"], ["dark", "moon", "dark"]]);
const THEME = "palisade.theme";

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {Page | undefined} */
let page;
/** The hash of the last list, so that Esc goes back to its place. */
let list = "#/locks";

/** Where Esc and the arrow of a page lead: to the list that it belongs to, as it was searched. */
function back() {
  const [tab] = ["locks", "sessions"].filter((tab) => location.hash.startsWith(`#/${tab.slice(0, -1)}`));
  return list.startsWith(`#/${tab}`) ? list : `#/${tab ?? "locks"}`;
}

/** @param {HashChangeEvent} [event] */
function route(event) {
  const from = event ? new URL(event.oldURL).hash : "";
  if (/^#\/(locks|sessions)/.test(from)) list = from;
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const { open, tab } = PAGES[Object.hasOwn(PAGES, path) ? path : "locks"];
  page?.close();
  page = open(new URLSearchParams(search));
  document.title = `${page.title} · Palisade`;
  put(part("main"), page.element);
  page.element.querySelector("a[data-back]")?.setAttribute("href", back());
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("data-tab") === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// ---- the bar at the top

const live = h("span", { class: "live", role: "status" });
const who = h("button", { class: "ghost reader", type: "button", hidden: true, click: signIn });
const theme = h("button", { class: "ghost square", type: "button", click: nextTheme });
const nav = h("nav", { "aria-label": "Pages" }, TABS.map(([path, title, picture, key]) =>
  h("a", { href: `#/${path}`, "data-tab": path, title: `${title} (g ${key})` }, icon(picture), h("span", null, title))));
put(part("top"),
  h("a", { class: "brand", href: "#/locks", "aria-label": "Palisade" }, h("img", { src: "console/icon.svg", alt: "", width: 22, height: 22 }), h("span", null, "Palisade")),
  nav, live, who, theme,
  h("button", { class: "ghost square", type: "button", "aria-label": "Keys", title: "Keys (?)", click: help }, icon("help")));

const LIVE = { idle: "", loading: "loading", live: "live", lost: "reconnecting", polled: "every 15 s", denied: "", failed: "", full: "not live" };

function showLive() {
  const kind = `live ${store.state}`;
  if (live.className !== kind) live.className = kind;
  const missing = store.missing.length;
  write(live, missing ? `${LIVE[store.state]}, ${counted(missing, "shard")} missing` : LIVE[store.state]);
}
store.listen(showLive);

function nextTheme() {
  const at = THEMES.findIndex(([name]) => name === (localStorage.getItem(THEME) ?? "auto"));
  localStorage.setItem(THEME, THEMES[(at + 1) % THEMES.length][0]);
  showTheme();
}

function showTheme() {
  const kept = localStorage.getItem(THEME) ?? "auto";
  const [name, picture, title] = THEMES.find(([name]) => name === kept) ?? THEMES[0];
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", name);
  theme.setAttribute("aria-label", `Theme: ${title}`);
  theme.setAttribute("title", `Theme: ${title} (t)`);
  put(theme, icon(picture));
}

onReach((since) => {
  const gone = part("gone");
  gone.hidden = since === 0;
  if (since) {
    put(gone, icon("warning"), h("span", null, h("strong", null, "Disconnected"), ` since ${moment(since)}. What is shown may be old. It comes back by itself.`),
      h("button", { type: "button", click: () => dispatchEvent(new Event("palisade:retry")) }, "Try now"));
    void knock();
  }
});

/** Asks until the gateway is back, so that pages without a watch learn of it, too. */
async function knock() {
  const signal = new AbortController().signal;
  for (let gone = true; gone;) {
    await rest(1_500, signal);
    gone = await get("/livez").then(() => false, (error) => error instanceof Problem && error.isGone);
  }
  dispatchEvent(new Event("palisade:retry"));
  if (!identity().permissions.length) await begin();
}

// ---- the reader

function showIdentity() {
  const { identities, principal, anonymous } = identity();
  who.hidden = !identities;
  who.classList.toggle("accent", anonymous || !principal);
  put(who, icon("key"), anonymous || !principal ? "Sign in" : told(principal));
  who.title = anonymous || !principal ? "Sign in with a token" : "Signed in: use another token, or sign out";
}

/** @param {string} [why] */
function signIn(why) {
  const input = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", value: token() });
  const said = h("p", { class: "note red", role: "alert", hidden: typeof why !== "string" }, typeof why === "string" ? why : "");
  const take = async (/** @type {string} */ text) => {
    const before = token();
    setToken(text);
    try {
      await askPermissions();
      dialog.close();
      store.stop();
      showIdentity();
      route();
    } catch (error) {
      setToken(before);
      said.hidden = false;
      put(said, error instanceof Error ? error.message : String(error));
    }
  };
  const dialog = h("dialog", { "aria-labelledby": "sign-in-title", close: () => dialog.remove() },
    h("form", { method: "dialog", submit: (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      void take(input.value.trim());
    } },
    h("h2", { id: "sign-in-title" }, "Sign in"),
    h("p", null, "With a bearer token of this cluster. It is kept until this tab is closed, and goes to this gateway only. A certificate of your browser needs no token."),
    h("label", { for: "token" }, "Token"), input, said,
    h("div", { class: "actions" },
      token() ? h("button", { type: "button", click: () => void take("") }, "Sign out") : null,
      h("button", { type: "button", click: () => dialog.close() }, "Cancel"),
      h("button", { class: "accent", type: "submit" }, "Sign in"))));
  document.body.append(dialog);
  dialog.showModal();
}

// ---- keys

const KEYS = [["/", "Search"], ["j  k", "Down, up"], ["Enter", "Open"], ["Esc", "Back"], ["g l", "Locks"], ["g s", "Sessions"],
  ["g c", "Cluster"], ["g p", "Plan"], ["b", "Break the lock that is open"], ["t", "Theme"], ["?", "This list"]];

function help() {
  const dialog = h("dialog", { class: "keys", "aria-labelledby": "keys-title", close: () => dialog.remove(), click: (/** @type {Event} */ event) => {
    if (event.target === dialog) dialog.close();
  } }, h("form", { method: "dialog" }, h("h2", { id: "keys-title" }, "Keys"),
    h("dl", null, KEYS.map(([keys, what]) => h("div", null, h("dt", null, keys.split(" ").map((key) => key && h("kbd", null, key))), h("dd", null, what)))),
    h("div", { class: "actions" }, h("button", { class: "accent" }, "Close"))));
  document.body.append(dialog);
  dialog.showModal();
}

/** Whether the key before was `g`, which names a page together with the next one. */
let is_going = false;

/** @param {KeyboardEvent} event @returns {boolean} Whether the key was of use. */
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return false;
  if (takesText(event.target)) {
    if (event.key === "Escape") /** @type {HTMLElement} */ (event.target).blur();
    const is_search = event.target === page?.search;
    return is_search && ["ArrowDown", "ArrowUp", "Enter"].includes(event.key) && (page?.key?.(event) ?? false);
  }
  // A button or a link has its own use for Enter.
  if (event.key === "Enter" && event.target instanceof Element && event.target.closest("a, button, summary")) return false;
  const tab = is_going && TABS.find(([, , , letter]) => letter === event.key);
  is_going = event.key === "g";
  if (tab) location.hash = `#/${tab[0]}`;
  if (tab || is_going) return true;
  if (page?.key?.(event)) return true;
  if (event.key === "/" && page?.search) page.search.select();
  else if (event.key === "?") help();
  else if (event.key === "t") nextTheme();
  else if (event.key === "Escape" && /^#\/(lock|session)\?/.test(location.hash)) {
    location.hash = back();
  } else return false;
  return true;
}

addEventListener("keydown", (event) => {
  if (key(event)) event.preventDefault();
});
addEventListener("hashchange", route);

// ---- the beginning

async function begin() {
  try {
    await askPermissions();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      setToken("");
      await askPermissions().catch(() => {});
      signIn(error.message);
    } else if (!(error instanceof Problem && error.isGone)) {
      put(part("main"), blank("warning", "The gateway refuses this page", error instanceof Error ? error.message : String(error)));
      return;
    }
  }
  showIdentity();
  showLive();
  route();
}

showTheme();
void begin();
