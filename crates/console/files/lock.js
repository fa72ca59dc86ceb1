// The page of one lock: its holders, its queue, its history, and the way to break it.

import { Problem, get, identity, may, now } from "./api.js";
import { askToBreak } from "./break.js";
import { blank, copyButton, h, icon, loading, put, told, write } from "./dom.js";
import { follow, rest } from "./store.js";
import { ageSince, tick } from "./table.js";
import { count, counted, length, link, moment, plain, span } from "./text.js";

/** @typedef {import("./api.js").Grant} Grant */
/** @typedef {import("./api.js").Waiter} Waiter */
/**
 * @typedef {object} Tenure
 * @property {string} owner_id
 * @property {string} principal
 * @property {number} fencing_token
 * @property {number} acquired_at_ms
 * @property {number | null} ended_at_ms
 * @property {string} state
 * @property {number} waited_ms
 * @property {number} renewal_count
 * @property {string} session_id
 * @property {string} broken_by
 * @property {string} broken_by_principal
 * @property {string} break_reason
 */

/** A watch does not tell of renewals, so the time that is left is asked for. */
const CHECK_MS = 2_000;
const WAITERS = 200;
const TENURES = 100;

const ENDS = new Map([["ACQUIRED", "held"], ["RELEASED", "released"], ["EXPIRED", "expired"], ["BROKEN", "broken"]]);

/** @param {URLSearchParams} query */
export function open(query) {
  const name = query.get("name") ?? "";
  const run = new AbortController();
  const state = h("span", { class: "pill" }, "…");
  const meta = h("p", { class: "meta" });
  const holders = h("div", { class: "stack" }, loading());
  const queue = h("div", { class: "stack" });
  const queue_title = h("h2", null, "Queue");
  const past = h("div", { class: "stack" });
  /** @type {Grant | undefined} */
  let first;
  let asked = 0;

  const element = h("section", { class: "page" },
    h("header", { class: "bar" },
      h("a", { class: "button ghost square", href: "#/locks", "data-back": true, "aria-label": "All locks", title: "All locks (Esc)" }, icon("back")),
      h("h1", { class: "lock-name" }, told(name, "no name"), copyButton(name, "name")), state),
    meta,
    h("div", { class: "columns" },
      h("section", { class: "part" }, h("h2", null, "Held by"), holders),
      h("section", { class: "part" }, queue_title, queue)),
    h("section", { class: "part" }, h("h2", null, "History"), past));

  async function check() {
    const at = ++asked;
    try {
      const checked = await get("/v1/check", { name, waiters: WAITERS, limit: 100 }, run.signal);
      if (at === asked) show(checked);
    } catch (error) {
      if (run.signal.aborted || !(error instanceof Problem) || error.isGone) return;
      const denied = error.status === 401 || error.status === 403;
      put(holders, blank(denied ? "denied" : "warning", denied ? "You may not see this lock" : "The lock could not be asked for", error.message));
    }
  }

  async function history() {
    try {
      const { tenures } = await get("/v1/history", { name, limit: TENURES }, run.signal);
      timeline(past, tenures);
    } catch (error) {
      if (!run.signal.aborted && error instanceof Problem && !error.isGone) put(past, h("p", { class: "dim" }, error.message));
    }
  }

  /** @param {any} checked */
  function show(checked) {
    /** @type {Grant[]} */
    const grants = checked.holders;
    [first] = grants;
    const shared = first && first.mode !== "exclusive" ? `, ${first.mode}` : "";
    state.className = `pill ${grants.length ? "green" : ""}`;
    write(state, grants.length > 1 ? counted(checked.holder_count, "holder") : grants.length ? "held" : "free");
    put(meta, `Shard ${checked.shard}`, h("span", { class: "dot" }, "·"), `node ${checked.answered_by} answered at index ${count(checked.applied_index)}`,
      shared ? [h("span", { class: "dot" }, "·"), shared.slice(2)] : null);
    put(holders, grants.length ? grants.map(holder)
      : h("p", { class: "dim" }, "Nobody holds it. The next acquire gets it at once."));
    if (checked.more) holders.append(h("p", { class: "dim" }, `and ${count(checked.holder_count - grants.length)} more`));
    write(queue_title, checked.waiters ? `Queue (${count(checked.waiters)})` : "Queue");
    put(queue, checked.queue.length ? line(checked.queue, checked.waiters)
      : h("p", { class: "dim" }, checked.waiters ? "You may not see who waits." : "Nobody waits."));
  }

  /** @param {Grant} grant */
  function holder(grant) {
    const left = h("strong", { class: "left", "data-until": now() + grant.remaining_ms }, span(grant.remaining_ms));
    const rest = h("span", { class: "rest" });
    const share = Math.min(1, grant.remaining_ms / Math.max(1, grant.ttl_ms));
    rest.style.width = `${100 * share}%`;
    rest.classList.toggle("low", share < 0.2);
    return h("article", { class: "card holder" },
      h("div", { class: "who" }, h("strong", null, told(grant.owner_id, "no owner")),
        grant.principal ? h("span", { class: "tag", title: "identity" }, told(grant.principal)) : null,
        may("break", name) ? h("button", { class: "danger quiet", type: "button", click: () => askToBreak(grant, refresh) }, "Break…") : null),
      h("div", { class: "lease" }, left, ` of ${length(grant.ttl_ms)} left`, h("span", { class: "gauge", "aria-hidden": "true" }, rest)),
      facts([
        ["Held for", [ageSince(grant.acquired_at_ms), h("span", { class: "dim" }, ` since ${moment(grant.acquired_at_ms)}`)]],
        ["Token", String(grant.fencing_token)],
        ["Renewals", count(grant.renewal_count)],
        grant.waited_ms ? ["Waited", span(grant.waited_ms)] : null,
        grant.session_id ? ["Session", h("a", { href: link("session", { id: grant.session_id }) }, told(grant.session_id))] : null,
      ]),
      grant.metadata ? facts([["Metadata", told(grant.metadata)]]) : null);
  }

  function refresh() {
    void check();
    void history();
  }

  async function ask() {
    while (!run.signal.aborted) {
      if (!document.hidden) await check();
      await rest(CHECK_MS, run.signal);
    }
  }

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon;
  if (name) {
    void ask();
    void history();
    if (may("watch", name)) {
      // Several events of one entry are one reason to look again.
      void follow({ name }, (kind) => {
        clearTimeout(soon);
        soon = setTimeout(kind === "state" ? check : refresh, 30);
      }, () => {}, run.signal).catch(() => {});
    }
  } else {
    put(holders, blank("search", "Which lock?", "Open one from the list of locks."));
  }
  const ticking = setInterval(() => {
    tick(element);
    for (const left of element.querySelectorAll("[data-until]")) {
      write(left, span(Math.max(0, Number(left.getAttribute("data-until")) - now())));
    }
  }, 500);

  return {
    element,
    title: plain(name),
    /** @param {KeyboardEvent} event */
    key: (event) => {
      if (event.key !== "b" || !first || !may("break", name)) return false;
      askToBreak(first, refresh);
      return true;
    },
    close: () => {
      run.abort();
      clearInterval(ticking);
      clearTimeout(soon);
    },
  };
}

/** Names and values. @param {([string, import("./dom.js").Child | import("./dom.js").Child[]] | null)[]} rows */
function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter((row) => row !== null).map(([title, value]) =>
    h("div", null, h("dt", null, title), h("dd", null, value))));
}

/** The queue. @param {Waiter[]} waiters @param {number} all */
function line(waiters, all) {
  const rows = waiters.map((waiter) => h("li", null,
    h("span", { class: "place" }, String(waiter.place)),
    h("span", { class: "who" }, told(waiter.owner_id, "no owner"),
      waiter.principal && identity().identities ? h("span", { class: "dim" }, " ", told(waiter.principal)) : null,
      waiter.mode !== "exclusive" ? h("span", { class: "tag" }, waiter.mode) : null),
    ageSince(waiter.queued_at_ms)));
  return [h("ol", { class: "queue" }, rows),
    all > waiters.length ? h("p", { class: "dim" }, `and ${count(all - waiters.length)} more`) : null];
}

/**
 * The tenures of a lock on one axis of time, the newest first.
 * @param {Element} into
 * @param {Tenure[]} tenures
 */
function timeline(into, tenures) {
  if (!tenures.length) return put(into, h("p", { class: "dim" }, "Nobody has held it yet."));
  const end = now();
  const begin = Math.min(...tenures.map((tenure) => tenure.acquired_at_ms - tenure.waited_ms));
  const whole = Math.max(1, end - begin);
  const place = (/** @type {HTMLElement} */ bar, /** @type {number} */ from, /** @type {number} */ to) => {
    bar.style.left = `${(100 * (from - begin)) / whole}%`;
    bar.style.width = `${Math.max(0.4, (100 * (to - from)) / whole)}%`;
    return bar;
  };
  const rows = tenures.map((tenure) => {
    const how = ENDS.get(tenure.state) ?? tenure.state.toLowerCase();
    const until = tenure.ended_at_ms ?? end;
    const waited = tenure.waited_ms ? place(h("span", { class: "waited" }), tenure.acquired_at_ms - tenure.waited_ms, tenure.acquired_at_ms) : null;
    const by = tenure.broken_by_principal || tenure.broken_by;
    return h("li", { class: how },
      h("div", { class: "what" },
        h("span", { class: "who" }, told(tenure.owner_id || tenure.principal, "no owner")),
        h("span", { class: `pill ${how}` }, how),
        h("span", { class: "dim" }, `${moment(tenure.acquired_at_ms)}, for ${span(until - tenure.acquired_at_ms)}`,
          tenure.waited_ms ? `, after ${span(tenure.waited_ms)} in the queue` : "", `, token ${tenure.fencing_token}`)),
      tenure.state === "BROKEN" ? h("p", { class: "reason" }, by ? ["By ", told(by), ": "] : null, told(tenure.break_reason, "no reason given")) : null,
      h("div", { class: "track", "aria-hidden": "true" }, waited, place(h("span", { class: "held" }), tenure.acquired_at_ms, until)));
  });
  put(into, h("ol", { class: "timeline" }, rows),
    h("div", { class: "axis dim", "aria-hidden": "true" }, h("span", null, moment(begin)), h("span", null, "now")));
}
