// The sessions that hold or wait for something, and the page of one of them.

import { blank, copyButton, h, icon, loading, put, told, write } from "./dom.js";
import { gaps, scope } from "./locks.js";
import { store } from "./store.js";
import { Table, ageSince, tick } from "./table.js";
import { count, counted, link } from "./text.js";

/** @typedef {import("./store.js").Lock} Lock */
/**
 * @typedef {object} Session
 * @property {string} id
 * @property {string} owner
 * @property {string} principal
 * @property {Lock[]} held
 * @property {Lock[]} waiting
 * @property {Set<number>} shards
 * @property {number} since When the oldest of its holds began, in Unix milliseconds.
 * @property {number} stamp
 */

/** All sessions, those with the most locks first. */
function sessions() {
  /** @type {Map<string, Session>} */
  const found = new Map();
  const of = (/** @type {{session: string, owner: string, principal: string}} */ one) => {
    let session = found.get(one.session);
    if (!session) {
      session = { id: one.session, owner: one.owner, principal: one.principal, held: [], waiting: [],
        shards: new Set(), since: Infinity, stamp: store.version };
      found.set(one.session, session);
    }
    return session;
  };
  for (const lock of store.all()) {
    for (const hold of lock.holds) {
      if (!hold.session) continue;
      const session = of(hold);
      session.held.push(lock);
      session.shards.add(lock.shard);
      session.since = Math.min(session.since, hold.at);
    }
    for (const wait of lock.waits) {
      if (wait.session) of(wait).waiting.push(lock);
    }
  }
  return [...found.values()].sort((a, b) => b.held.length - a.held.length || (a.id < b.id ? -1 : 1));
}

/**
 * Calls a function now and after changes of the locks, and leaves it nine tenths of the time.
 * @param {() => void} view
 */
function kept(view) {
  let timer = 0;
  let due = 0;
  const draw = () => {
    timer = 0;
    const began = performance.now();
    view();
    due = performance.now() + Math.max(200, (performance.now() - began) * 10);
  };
  const unlisten = store.listen(() => {
    timer ||= setTimeout(draw, Math.max(0, due - performance.now()));
  });
  requestAnimationFrame(draw);
  return () => {
    unlisten();
    clearTimeout(timer);
  };
}

/** @param {string} [prefix] The beginning of the names to load. */
function begin(prefix) {
  const { prefixes, first } = scope(prefix ?? "");
  const is_other = prefix !== undefined && !prefix.startsWith(store.prefix);
  if (prefixes.length && (is_other || ["idle", "denied", "failed"].includes(store.state))) store.start(first);
  return prefixes.length > 0;
}

/**
 * Puts something, unless it is there already: a link that is replaced again and again takes no click.
 * @param {Element} over
 * @param {...(import("./dom.js").Child | import("./dom.js").Child[])} children
 */
function say(over, ...children) {
  const fresh = [...h("div", null, ...children).childNodes];
  const shown = [...over.childNodes];
  const is_same = fresh.length === shown.length && fresh.every((node, at) => node.isEqualNode(shown[at]));
  if (!is_same) over.replaceChildren(...fresh);
}

/** Why there is nothing to show. @param {boolean} is_permitted */
function nothing(is_permitted) {
  if (!is_permitted || store.state === "denied") {
    return blank("denied", "You may not see sessions", store.problem?.message ?? "They are shown by their locks: ask for a role with the verb read.");
  }
  if (store.state === "loading") return loading("Loading locks");
  if (store.state === "failed") return blank("warning", "The locks could not be loaded", store.problem?.message ?? "");
  if (!store.is_whole || store.prefix) {
    return blank("session", "Nothing is here", "There may be locks that have not come, or that you may not see.");
  }
  return blank("session", "No session holds a lock",
    "A session keeps many locks with one heartbeat. Those that hold or wait for something are here.");
}

/** @param {URLSearchParams} query */
export function open(query) {
  let part = query.get("owner") ?? "";
  const prefix = query.get("prefix") ?? undefined;
  const is_permitted = begin(prefix);
  const search = h("input", { type: "search", id: "search", placeholder: "Owner or id contains…", value: part,
    "aria-label": "Owner, identity or id contains", autocomplete: "off", spellcheck: "false" });
  const found = h("span", { class: "found", role: "status" });
  const over = h("div", { class: "over" });
  /** @type {Table<Session>} */
  const table = new Table({
    label: "Sessions", kind: "sessions", link: (session) => link("session", { id: session.id }),
    stamp: (session) => session.stamp,
    columns: [
      { title: "Session", kind: "name", cell: (session) => h("a", { href: link("session", { id: session.id }), tabindex: -1 }, told(session.id)) },
      { title: "Owner", kind: "owner", cell: (session) => [told(session.owner || session.principal, "no owner"),
        session.principal && session.owner && session.principal !== session.owner ? h("span", { class: "dim" }, " ", told(session.principal)) : null] },
      { title: "Holds", kind: "number held", cell: (session) => count(session.held.length) },
      { title: "Waits for", kind: "number waiting", cell: (session) => session.waiting.length
        ? h("span", { class: "pill amber" }, count(session.waiting.length)) : h("span", { class: "dim" }, "–") },
      { title: "Oldest", kind: "number ttl", cell: (session) => Number.isFinite(session.since) ? ageSince(session.since) : "" },
      { title: "Shards", kind: "number shard", cell: (session) => count(session.shards.size) },
    ],
  });
  function view() {
    const all = sessions();
    const low = part.toLowerCase();
    const shown = part ? all.filter((one) => [one.owner, one.principal, one.id].some((text) => text.toLowerCase().includes(low))) : all;
    table.show(shown);
    write(found, part ? `${count(shown.length)} of ${counted(all.length, "session")}` : counted(all.length, "session"));
    element.classList.toggle("blanked", !shown.length);
    say(over, gaps("sessions"), shown.length ? null : all.length ? blank("search", "No session matches", "Change what you search for.") : nothing(is_permitted));
  }
  search.addEventListener("input", () => {
    part = search.value;
    history.replaceState(null, "", link("sessions", { owner: part, prefix }));
    table.top();
    view();
  });
  const element = h("section", { class: "page full" },
    h("header", { class: "bar" }, h("h1", null, "Sessions")),
    h("div", { class: "tools" }, h("label", { class: "field search" }, icon("search"), search, h("kbd", null, "/")), found),
    over, table.element);
  const end = kept(view);
  const ticking = setInterval(() => tick(table.element), 1_000);
  return {
    element,
    title: "Sessions",
    search,
    /** @param {KeyboardEvent} event */
    key: (event) => table.key(event.key),
    close: () => {
      end();
      clearInterval(ticking);
      table.end();
    },
  };
}

/** @param {URLSearchParams} query */
export function openOne(query) {
  const id = query.get("id") ?? "";
  const is_permitted = begin();
  const meta = h("p", { class: "meta" });
  const over = h("div", { class: "over" });
  /** @type {Table<Lock>} */
  const table = new Table({
    label: "Locks of the session", kind: "held-locks", link: (lock) => link("lock", { name: lock.name }), stamp: (lock) => lock.stamp,
    columns: [
      { title: "Name", kind: "name", cell: (lock) => h("a", { href: link("lock", { name: lock.name }), tabindex: -1 }, told(lock.name)) },
      { title: "State", kind: "owner", cell: (lock) => lock.holds.some((hold) => hold.session === id)
        ? h("span", { class: "pill green" }, "held") : h("span", { class: "pill amber" }, `waits, place ${lock.waits.findIndex((wait) => wait.session === id) + 1}`) },
      { title: "For", kind: "number held", cell: (lock) => {
        const one = lock.holds.find((hold) => hold.session === id) ?? lock.waits.find((wait) => wait.session === id);
        return one ? ageSince(one.at) : "";
      } },
      { title: "Token", kind: "number token", cell: (lock) => String(lock.holds.find((hold) => hold.session === id)?.token ?? "") },
      { title: "Shard", kind: "number shard", cell: (lock) => String(lock.shard) },
    ],
  });
  function view() {
    const session = sessions().find((one) => one.id === id);
    const locks = session ? [...session.held, ...session.waiting] : [];
    table.show(locks);
    element.classList.toggle("blanked", !locks.length);
    say(over, gaps("sessions"), locks.length ? null : is_permitted && store.is_whole && !store.prefix
      ? blank("session", "This session holds nothing", "It has ended, or has let go of all its locks.", h("a", { class: "button", href: "#/sessions" }, "All sessions"))
      : nothing(is_permitted));
    put(meta, session ? [told(session.owner || session.principal, "no owner"), h("span", { class: "dot" }, "·"), counted(session.held.length, "lock"),
      session.waiting.length ? [h("span", { class: "dot" }, "·"), `waits for ${count(session.waiting.length)}`] : null,
      h("span", { class: "dot" }, "·"), counted(session.shards.size, "shard")].flat() : null);
  }
  const element = h("section", { class: "page full" },
    h("header", { class: "bar" },
      h("a", { class: "button ghost square", href: "#/sessions", "data-back": true, "aria-label": "All sessions", title: "All sessions (Esc)" }, icon("back")),
      h("h1", { class: "lock-name" }, told(id, "no session"), copyButton(id, "id"))), meta, over, table.element);
  const end = kept(view);
  const ticking = setInterval(() => tick(table.element), 1_000);
  return {
    element,
    title: "Session",
    /** @param {KeyboardEvent} event */
    key: (event) => table.key(event.key),
    close: () => {
      end();
      clearInterval(ticking);
      table.end();
    },
  };
}
