// The locks that are held, kept up to date by a watch: each change is told once, and a connection that
// broke goes on where it ended. A reader who may not watch gets the first pages of the list instead.

import { Problem, events, get, identity, may } from "./api.js";

/**
 * @typedef {object} Hold
 * @property {number} token
 * @property {string} owner
 * @property {string} principal
 * @property {string} session
 * @property {string} mode
 * @property {number} at When it was granted, in Unix milliseconds.
 * @property {number} ttl In milliseconds.
 */
/**
 * @typedef {object} Wait
 * @property {number} waiter
 * @property {string} owner
 * @property {string} principal
 * @property {string} session
 * @property {number} at
 */
/**
 * A name that is held, or waited for.
 * @typedef {object} Lock
 * @property {string} name
 * @property {number} shard
 * @property {Hold[]} holds The oldest first.
 * @property {Wait[]} waits The next first.
 * @property {number} stamp Another one after each change.
 * @property {boolean} gone Whether it is here no more.
 */
/** @typedef {"idle" | "loading" | "live" | "lost" | "polled" | "denied" | "failed" | "full"} State */

/** The names that a page keeps at most. They come once, and then only their changes. */
export const NAMES_MAX = 250_000;
/** The names that a page asks for again and again at most, where a watch is not permitted. */
export const LISTED_MAX = 10_000;
/** How often it does so. */
const POLL_MS = 15_000;
/** The locks in an answer at most. */
const PAGE = 1_000;
/** A tab that nobody has seen for this time ends its watch, so that it takes no connection. */
const HIDDEN_MS = 30_000;
/** Once no part of a state has come for this time, the shards that lack theirs are said to be missing. */
const PATIENT_MS = 2_000;
const RETRY_MS = [250, 500, 1_000, 2_000, 4_000];

/** @param {import("./api.js").Grant} grant @returns {Hold} */
const hold = (grant) => ({
  token: grant.fencing_token, owner: grant.owner_id, principal: grant.principal,
  session: grant.session_id, mode: grant.mode, at: grant.acquired_at_ms, ttl: grant.ttl_ms,
});

/** @param {import("./api.js").Waiter} waiter @returns {Wait} */
const wait = (waiter) => ({
  waiter: waiter.waiter, owner: waiter.owner_id, principal: waiter.principal,
  session: waiter.session_id, at: waiter.queued_at_ms,
});

/**
 * Waits, or until the browser says that it is online, or the signal aborts.
 * @param {number} ms
 * @param {AbortSignal} signal
 */
export function rest(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      removeEventListener("palisade:retry", end);
      signal.removeEventListener("abort", end);
      resolve(undefined);
    };
    const timer = setTimeout(end, ms);
    addEventListener("online", end);
    addEventListener("palisade:retry", end);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}

/** Resolves once the tab can be seen. @param {AbortSignal} signal */
function seen(signal) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve(undefined);
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
    look();
  });
}

/**
 * Watches until the signal aborts, over connections that break.
 * @param {Record<string, string | undefined>} query
 * @param {(name: string, data: any) => void} take
 * @param {(is_open: boolean) => void} opened
 * @param {AbortSignal} signal
 * @throws {Problem} If the watch is refused.
 */
export async function follow(query, take, opened, signal) {
  let [last, tries] = ["", 0];
  while (!signal.aborted) {
    await seen(signal);
    const run = new AbortController();
    const leave = () => run.abort();
    signal.addEventListener("abort", leave, { once: true });
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const hidden = () => {
      clearTimeout(timer);
      if (document.hidden) timer = setTimeout(leave, HIDDEN_MS);
    };
    document.addEventListener("visibilitychange", hidden);
    try {
      await events("/v1/watch", query, last, (name, data, id) => {
        if (name === "ended") throw new Problem(data.status, data.code, data.detail);
        if (name) take(name, data);
        if (id) last = id;
        tries = 0;
      }, run.signal, () => opened(true));
    } catch (error) {
      const is_over = error instanceof Problem && [400, 401, 403, 404].includes(error.status);
      if (is_over && !signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", hidden);
      signal.removeEventListener("abort", leave);
    }
    if (signal.aborted) return;
    if (!run.signal.aborted) {
      opened(false);
      await rest(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)], signal);
    }
  }
}

/** All locks below a prefix. */
export class Store {
  /** @type {State} */
  state = "idle";
  /** @type {Problem | null} */
  problem = null;
  /** The beginning of all names here. */
  prefix = "";
  /** Another one after each change of a lock. */
  version = 0;
  /** Whether there are more names with this beginning than are kept here. */
  is_cut = false;

  /** @type {Map<string, Lock>} */
  #locks = new Map();
  /** The same in order of their names, once `#added` is put in and the empty ones are taken out. */
  /** @type {Lock[]} */
  #sorted = [];
  /** @type {Lock[]} */
  #added = [];
  #has_empty = false;
  /** The shards with a state that is here as a whole. */
  #complete = new Set();
  /** The shards that the last list could not ask. @type {number[]} */
  #unasked = [];
  /** When it began to load, or the last part of a state came. */
  #since = 0;
  /** Tells the listeners once the shards that lack their state are missing. @type {ReturnType<typeof setTimeout> | undefined} */
  #patience;
  #run = new AbortController();
  /** @type {Set<() => void>} */
  #listeners = new Set();

  /** @param {() => void} listener @returns {() => void} Ends it. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Loads all locks below a prefix, and follows their changes.
   * @param {string} prefix
   */
  start(prefix) {
    if (this.prefix === prefix && !["idle", "denied", "failed"].includes(this.state)) return;
    this.stop();
    this.prefix = prefix;
    this.#set("loading");
    this.#run = new AbortController();
    void this.#work(this.#run.signal);
  }

  stop() {
    this.#run.abort();
    clearTimeout(this.#patience);
    this.#clear();
    this.state = "idle";
  }

  /** @param {string} name */
  lock(name) {
    return this.#locks.get(name);
  }

  /** The shards whose locks have not come. @returns {number[]} */
  get missing() {
    if (!may("watch", this.prefix)) return this.#unasked;
    if (this.state !== "loading" || performance.now() - this.#since < PATIENT_MS) return [];
    return [...Array(identity().shards).keys()].filter((shard) => !this.#complete.has(shard));
  }

  /** Whether all locks below its prefix are here, as they are now. */
  get is_whole() {
    return (this.state === "live" || this.state === "polled") && !this.is_cut && !this.missing.length;
  }

  get size() {
    return this.#locks.size;
  }

  /** All locks by name. */
  all() {
    if (this.#has_empty) {
      this.#sorted = this.#sorted.filter((lock) => !lock.gone);
      this.#added = this.#added.filter((lock) => !lock.gone);
      this.#has_empty = false;
    }
    if (this.#added.length > 64) {
      this.#sorted = this.#sorted.concat(this.#added);
      this.#sorted.sort((a, b) => (a.name < b.name ? -1 : 1));
    } else {
      for (const lock of this.#added) this.#sorted.splice(at(this.#sorted, lock.name), 0, lock);
    }
    this.#added = [];
    return this.#sorted;
  }

  /** The locks with a name that begins like this. @param {string} prefix */
  below(prefix) {
    const all = this.all();
    if (!prefix) return all;
    const first = at(all, prefix);
    let last = at(all, prefix + "\u{10ffff}");
    while (last < all.length && all[last].name.startsWith(prefix)) last++;
    return all.slice(first, last);
  }

  /** @param {State} state @param {Problem | null} [problem] */
  #set(state, problem = null) {
    if (state === "loading" && this.state !== "loading") this.#wait();
    [this.state, this.problem] = [state, problem];
    this.#changed();
  }

  /** Waits for the next part of a state. */
  #wait() {
    this.#since = performance.now();
    clearTimeout(this.#patience);
    this.#patience = setTimeout(() => this.#changed(), PATIENT_MS + 50);
  }

  #changed() {
    this.version++;
    for (const listener of this.#listeners) listener();
  }

  #clear() {
    this.#locks.clear();
    [this.#sorted, this.#added] = [[], []];
    this.#complete.clear();
    this.#unasked = [];
    this.is_cut = false;
  }

  /** @param {AbortSignal} signal */
  async #work(signal) {
    try {
      if (may("watch", this.prefix)) {
        await follow({ prefix: this.prefix }, (name, data) => this.#take(name, data), (is_open) => {
          if (!signal.aborted) this.#set(is_open ? this.#watched() : "lost");
        }, signal);
      } else {
        await this.#poll(signal);
      }
    } catch (error) {
      if (signal.aborted) return;
      const problem = error instanceof Problem ? error : new Problem(0, "PAGE", String(error));
      this.#set([401, 403].includes(problem.status) ? "denied" : "failed", problem);
    }
  }

  /** The state of a watch that is open: it is live once all shards have told theirs. @returns {State} */
  #watched() {
    return this.#complete.size >= identity().shards ? "live" : "loading";
  }

  /** Lists again and again. @param {AbortSignal} signal */
  async #poll(signal) {
    while (!signal.aborted) {
      try {
        await this.#list(signal);
        this.#set("polled");
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Problem) || [400, 401, 403].includes(error.status)) throw error;
        this.#set("lost", error);
      }
      await rest(this.state === "lost" ? 2_000 : POLL_MS, signal);
      await seen(signal);
    }
  }

  /** Lists once, in a bounded number of calls. @param {AbortSignal} signal */
  async #list(signal) {
    /** @type {Map<string, Lock>} */
    const fresh = new Map();
    /** @type {Set<number>} */
    const unasked = new Set();
    const pages = async (/** @type {boolean | undefined} */ waiting, /** @type {(page: any) => void} */ take) => {
      let cursor = "";
      for (let left = LISTED_MAX / PAGE; cursor !== null && left > 0; left--) {
        const page = await get("/v1/locks", { prefix: this.prefix, limit: PAGE, cursor, waiting }, signal);
        for (const shard of page.missing_shards) unasked.add(shard);
        take(page);
        cursor = page.next_cursor;
      }
      return cursor !== null;
    };
    const is_cut = await pages(undefined, (page) => {
      for (const grant of page.locks) {
        const name = grant.resource_name;
        const lock = fresh.get(name) ?? made(name, grant.shard);
        lock.holds.push(hold(grant));
        fresh.set(name, lock);
      }
      if (!this.#locks.size || this.state === "loading") this.#replace(new Map(fresh));
    });
    await pages(true, (page) => {
      for (const waiter of page.waiters) fresh.get(waiter.resource_name)?.waits.push(wait(waiter));
    });
    this.#replace(fresh);
    this.is_cut = is_cut;
    this.#unasked = [...unasked].sort((a, b) => a - b);
  }

  /** @param {Map<string, Lock>} fresh */
  #replace(fresh) {
    this.#clear();
    this.#locks = fresh;
    this.#added = [...fresh.values()];
    this.#changed();
  }

  /** Takes what a watch tells. @param {string} kind @param {any} data */
  #take(kind, data) {
    if (kind === "resync") return;
    if (kind === "state") {
      this.#wait();
      if (data.first) this.#forget(data.shard);
      for (const grant of data.held) this.#granted(grant);
      for (const waiter of data.queued) this.#queued(waiter);
      if (data.last) this.#complete.add(data.shard);
      else this.#complete.delete(data.shard);
      this.#set(this.#watched());
    } else {
      const lock = this.#locks.get(data.resource_name);
      if (kind === "queued") this.#queued(data.waiter);
      else if (lock && data.waiter) this.#waited(lock, data.waiter.waiter);
      if (kind === "granted") this.#granted(data.grant);
      else if (lock && data.grant) this.#ended(lock, data.grant.fencing_token);
      if (this.state === "lost") this.#set(this.#watched());
    }
    if (this.#locks.size > NAMES_MAX) {
      this.#run.abort();
      this.is_cut = true;
      this.#set("full");
    } else this.#changed();
  }

  /** @param {number} shard */
  #forget(shard) {
    for (const lock of this.#locks.values()) {
      if (lock.shard === shard) this.#remove(lock);
    }
  }

  /** @param {Lock} lock */
  #remove(lock) {
    lock.gone = true;
    this.#locks.delete(lock.name);
    this.#has_empty = true;
  }

  /** @param {string} name @param {number} shard */
  #of(name, shard) {
    let lock = this.#locks.get(name);
    if (!lock) {
      lock = made(name, shard);
      this.#locks.set(name, lock);
      this.#added.push(lock);
    }
    lock.stamp++;
    return lock;
  }

  /** @param {import("./api.js").Grant} grant */
  #granted(grant) {
    const lock = this.#of(grant.resource_name, grant.shard);
    lock.holds.push(hold(grant));
  }

  /** @param {import("./api.js").Waiter} waiter */
  #queued(waiter) {
    const lock = this.#of(waiter.resource_name, waiter.shard);
    lock.waits.push(wait(waiter));
  }

  /** @param {Lock} lock @param {number} waiter */
  #waited(lock, waiter) {
    lock.waits = lock.waits.filter((one) => one.waiter !== waiter);
    this.#less(lock);
  }

  /** @param {Lock} lock @param {number} token */
  #ended(lock, token) {
    lock.holds = lock.holds.filter((one) => one.token !== token);
    this.#less(lock);
  }

  /** @param {Lock} lock */
  #less(lock) {
    lock.stamp++;
    if (!lock.holds.length && !lock.waits.length) this.#remove(lock);
  }
}

/** @param {string} name @param {number} shard @returns {Lock} */
const made = (name, shard) => ({ name, shard, holds: [], waits: [], stamp: 0, gone: false });

/** The place of a name in an order. @param {Lock[]} sorted @param {string} name */
function at(sorted, name) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle].name < name) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The places that `ranked` has room for: more than a page keeps names. */
const PLACES = 2 ** 19;
/** Greater than each rank, so that a rank and a place fit one number. */
export const RANKS = 2 ** 34;

/**
 * Puts items in order of their ranks, which are whole numbers below `RANKS`. Equal ones stay as they were.
 *
 * A comparison of two locks costs a call, and 100,000 locks need 1,700,000 of them. The browser sorts
 * numbers without any call, so each rank becomes a number with the place of its item.
 * @template T
 * @param {T[]} items
 * @param {(item: T) => number} rank
 */
export function ranked(items, rank) {
  const keys = new Float64Array(items.length);
  for (let place = 0; place < items.length; place++) {
    keys[place] = Math.min(RANKS - 1, Math.max(0, rank(items[place]))) * PLACES + place;
  }
  keys.sort();
  /** @type {T[]} */
  const sorted = new Array(items.length);
  for (let place = 0; place < items.length; place++) sorted[place] = items[keys[place] % PLACES];
  return sorted;
}

/** The locks that all pages share. */
export const store = new Store();
