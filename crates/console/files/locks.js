// The page of all locks: search by name and owner, oldest holds, longest queues, live.

import { blank, h, icon, loading, put, told, write } from "./dom.js";
import { identity, now } from "./api.js";
import { LISTED_MAX, NAMES_MAX, RANKS, ranked, store } from "./store.js";
import { Table, ageSince, tick } from "./table.js";
import { count, counted, length, link, plain, span } from "./text.js";

/** @typedef {import("./store.js").Lock} Lock */

const ORDERS = /** @type {const} */ ([
  ["name", "Name"], ["oldest", "Oldest hold"], ["queue", "Longest queue"],
]);

/** A view that took long is made anew less often, so that it takes a tenth of the time. */
const SHARE = 10;
/** No change is shown later than this. */
const LATE_MS = 500;

/** @param {Lock} lock */
const held_since = (lock) => lock.holds[0]?.at ?? Infinity;

/**
 * The beginnings of names that the reader may see. `first` is the one to load for what was typed, and
 * `fitting` are all that go with it.
 * @param {string} typed
 */
export function scope(typed) {
  const found = identity().permissions.filter(({ verb }) => verb === "read" || verb === "watch");
  const all = [...new Set(found.flatMap((permission) => permission.prefixes))].sort();
  const prefixes = all.filter((one) => !all.some((other) => other !== one && one.startsWith(other)));
  const fitting = prefixes.filter((prefix) => typed.startsWith(prefix) || prefix.startsWith(typed));
  return { prefixes, first: fitting[0] ?? prefixes[0] ?? "", fitting };
}

/**
 * What is not here, if anything: names with other beginnings that the reader may see, and shards that
 * have not answered.
 * @param {"locks" | "sessions"} page
 * @param {string} [typed]
 */
export function gaps(page, typed = "") {
  const { prefix, missing } = store;
  const others = typed.startsWith(prefix) ? [] : scope(typed).fitting.filter((one) => !one.startsWith(prefix));
  return [
    others.length ? h("p", { class: "note amber" }, icon("warning"), h("span", null, "Only names that begin with ", told(prefix), " are here. Show ",
      others.map((one, at) => [at ? ", " : "", h("a", { href: link(page, { prefix: one }) }, one ? told(one) : "all names")]).flat(), ".")) : null,
    missing.length ? h("p", { class: "note amber" }, icon("warning"),
      `The locks of ${missing.length > 1 ? "shards" : "shard"} ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ", …" : ""} are missing: no answer yet.`) : null,
  ].filter((one) => one !== null);
}

/** @param {URLSearchParams} query */
export function open(query) {
  let [prefix, owner, order] = [query.get("prefix") ?? "", query.get("owner") ?? "", query.get("order") ?? "name"];
  let due = 0;
  let frame = 0;

  const name = h("input", { type: "search", id: "search", placeholder: "Name begins with…", value: prefix,
    "aria-label": "Name begins with", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const of = h("input", { type: "search", placeholder: "Owner contains…", value: owner,
    "aria-label": "Owner or identity contains", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const orders = h("div", { class: "choice", role: "group", "aria-label": "Order" },
    ORDERS.map(([key, title]) => h("button", { type: "button", "data-order": key,
      "aria-pressed": String(key === order), click: () => {
        order = key;
        for (const button of orders.children) {
          button.setAttribute("aria-pressed", String(button.getAttribute("data-order") === key));
        }
        changed();
      } }, title)));
  const figures = h("div", { class: "figures" });
  const [held, waiting, queue, oldest] = ["held", "waiting", "longest queue", "oldest hold"].map((title) => {
    const value = h("a", { class: "value" }, "–");
    figures.append(h("div", { class: "figure" }, value, h("span", { class: "title" }, title)));
    return value;
  });
  const found = h("span", { class: "found", role: "status" });
  const over = h("div", { class: "over" });

  /** @type {Table<Lock>} */
  const table = new Table({
    label: "Locks", kind: "locks", link: (lock) => link("lock", { name: lock.name }), stamp: (lock) => lock.stamp,
    columns: [
      { title: "Name", kind: "name", cell: (lock) => [
        h("a", { href: link("lock", { name: lock.name }), tabindex: -1 }, told(lock.name)), modeOf(lock)] },
      { title: "Owner", kind: "owner", cell: ownerOf },
      { title: "Held for", kind: "number held", cell: (lock) =>
        lock.holds.length ? ageSince(lock.holds[0].at) : h("span", { class: "dim" }, "free") },
      { title: "Waiting", kind: "number waiting", cell: (lock) => lock.waits.length
        ? h("span", { class: "pill amber" }, count(lock.waits.length)) : h("span", { class: "dim none" }, "–") },
      { title: "TTL", kind: "number ttl", cell: (lock) => lock.holds[0] ? length(lock.holds[0].ttl) : "" },
      { title: "Token", kind: "number token", cell: (lock) => lock.holds[0] ? String(lock.holds[0].token) : "" },
      { title: "Shard", kind: "number shard", cell: (lock) => String(lock.shard) },
    ],
  });

  function changed() {
    history.replaceState(null, "", link("locks", { prefix, owner, order: order === "name" ? "" : order }));
    start();
    table.top();
    view();
  }

  function start() {
    const { prefixes, first } = scope(prefix);
    if (!prefixes.length) return;
    const covers = prefix.startsWith(store.prefix) && !["idle", "denied", "failed"].includes(store.state);
    if (covers && (!store.is_cut || prefix === store.prefix)) return;
    // More names than are kept at once can only be had by a longer beginning.
    store.start(covers ? prefix : first);
  }

  function view() {
    const began = performance.now();
    if (store.is_cut) start(); // for the beginning that was typed meanwhile
    let shown = store.below(prefix);
    if (owner) {
      const part = owner.toLowerCase();
      const matches = (/** @type {{owner: string, principal: string}} */ one) =>
        one.owner.toLowerCase().includes(part) || one.principal.toLowerCase().includes(part);
      shown = shown.filter((lock) => lock.holds.some(matches) || lock.waits.some(matches));
    }
    if (order === "oldest") {
      const latest = now();
      shown = ranked(shown, (lock) => RANKS - Math.max(0, latest - held_since(lock)));
    }
    if (order === "queue") {
      shown = ranked(shown.filter((lock) => lock.waits.length), (lock) => RANKS - lock.waits.length);
    }
    table.show(shown);
    summary(shown);
    due = performance.now() + Math.min(LATE_MS, (performance.now() - began) * SHARE);
  }

  /** @param {Lock[]} shown */
  function summary(shown) {
    let [longest, first] = /** @type {(Lock | undefined)[]} */ ([undefined, undefined]);
    let [holds, waits] = [0, 0];
    for (const lock of shown) {
      holds += lock.holds.length;
      waits += lock.waits.length;
      if (lock.waits.length > (longest?.waits.length ?? 0)) longest = lock;
      if (lock.holds.length && (!first || held_since(lock) < held_since(first))) first = lock;
    }
    write(held, count(holds));
    write(waiting, count(waits));
    points(queue, longest, (lock) => count(lock.waits.length));
    points(oldest, first, (lock) => span(now() - held_since(lock)));
    const all = store.size;
    write(found, shown.length === all ? counted(all, "name") : `${count(shown.length)} of ${counted(all, "name")}`);
    notice(shown.length);
  }

  /** @param {Element} figure @param {Lock | undefined} lock @param {(lock: Lock) => string} text */
  function points(figure, lock, text) {
    write(figure, lock ? text(lock) : "–");
    if (lock) {
      figure.setAttribute("href", link("lock", { name: lock.name }));
      figure.setAttribute("title", plain(lock.name));
    } else figure.removeAttribute("href");
  }

  let noticed = "";
  /** What lies over the rows, if there is more to say than they do. @param {number} rows */
  function notice(rows) {
    const { state, problem } = store;
    const { prefixes, fitting } = scope(prefix);
    const what = [state, rows > 0, prefix, owner, order, store.prefix, store.is_cut, store.missing].join("\n");
    if (what === noticed) return;
    noticed = what;
    element.classList.toggle("blanked", !rows);
    if (!fitting.length || state === "denied") {
      const why = prefixes.length ? "You may see names with another beginning."
        : identity().anonymous ? "Sign in to see locks." : "Ask for a role with the verb read.";
      put(over, blank("denied", "You may not see these locks", problem?.message ?? why,
        ...prefixes.map((one) => h("a", { class: "button", href: link("locks", { prefix: one }) }, `Show ${plain(one)}…`))));
    } else if (state === "failed") {
      put(over, blank("warning", "The locks could not be loaded", problem?.message ?? ""));
    } else if (store.is_cut) {
      put(over, h("p", { class: "note amber" }, icon("warning"), state === "full"
        ? `There are more than ${count(NAMES_MAX)} names, and these do not change any more: type the beginning of a name.`
        : `There are more than ${count(LISTED_MAX)} holds, and only the first by name are here: type the beginning of a name.`),
      ...gaps("locks", prefix));
    } else if (rows) {
      put(over, ...gaps("locks", prefix));
    } else if (state === "loading") {
      put(over, ...gaps("locks", prefix), loading("Loading locks"));
    } else if (!store.is_whole) {
      put(over, ...gaps("locks", prefix), blank("empty", "No lock is here", "There may be some that have not come."));
    } else if (prefix || owner || (order === "queue" && store.size)) {
      const clear = h("button", { type: "button", click: () => {
        [prefix, owner, order, name.value, of.value] = ["", "", "name", "", ""];
        for (const button of orders.children) {
          button.setAttribute("aria-pressed", String(button.getAttribute("data-order") === "name"));
        }
        changed();
      } }, "Show all");
      put(over, ...gaps("locks", prefix), order === "queue" && !prefix && !owner
        ? blank("lock", "Nobody waits", "No lock here has a queue.", clear)
        : blank("search", "No lock matches", "A name that is held or waited for appears here at once.", clear));
    } else {
      put(over, ...gaps("locks", prefix), blank("empty", "No lock is held", "Take one, and it is here at once: ",
        h("code", null, "palisade acquire orders:42 --ttl 5m")));
    }
  }

  const search = () => {
    [prefix, owner] = [name.value, of.value];
    changed();
  };
  name.addEventListener("input", search);
  of.addEventListener("input", search);

  const element = h("section", { class: "page full" },
    h("header", { class: "bar" }, h("h1", null, "Locks"), figures),
    h("div", { class: "tools" },
      h("label", { class: "field search" }, icon("search"), name, h("kbd", null, "/")),
      h("label", { class: "field" }, icon("session"), of), orders, found),
    over, table.element);

  const unlisten = store.listen(() => {
    if (frame) return;
    const wait = Math.max(0, due - performance.now());
    frame = setTimeout(() => {
      frame = 0;
      requestAnimationFrame(view);
    }, wait);
  });
  start();
  const ticking = setInterval(() => tick(table.element), 1_000);
  requestAnimationFrame(view);

  return {
    element,
    title: "Locks",
    /** @param {KeyboardEvent} event */
    key: (event) => table.key(event.key),
    search: name,
    close: () => {
      unlisten();
      clearInterval(ticking);
      clearTimeout(frame);
      table.end();
    },
  };
}

/** How a lock is held, if not by one alone. @param {Lock} lock */
function modeOf(lock) {
  const mode = lock.holds[0]?.mode ?? "exclusive";
  return mode === "exclusive" ? null : h("span", { class: "tag" }, mode);
}

/** @param {Lock} lock */
function ownerOf(lock) {
  const [first] = lock.holds;
  if (!first) return h("span", { class: "dim" }, "–");
  return [
    told(first.owner || first.principal, "no owner"),
    first.principal && first.principal !== first.owner && first.owner
      ? h("span", { class: "dim" }, " ", told(first.principal)) : null,
    lock.holds.length > 1 ? h("span", { class: "tag" }, `+${count(lock.holds.length - 1)}`) : null,
  ];
}
