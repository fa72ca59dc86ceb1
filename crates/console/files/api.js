// What the pages ask of their gateway: `/v1/…`, with the identity of the reader.

/**
 * @typedef {object} Grant
 * @property {string} resource_name
 * @property {string} owner_id
 * @property {number} fencing_token
 * @property {number} acquired_at_ms
 * @property {number} expires_at_ms
 * @property {number} remaining_ms
 * @property {number} ttl_ms
 * @property {number} renewal_count
 * @property {number} shard
 * @property {string} mode
 * @property {number} waited_ms
 * @property {string} session_id
 * @property {string} metadata
 * @property {string} principal
 */
/**
 * @typedef {object} Waiter
 * @property {string} resource_name
 * @property {string} owner_id
 * @property {string} principal
 * @property {string} mode
 * @property {string} session_id
 * @property {string} metadata
 * @property {number} place
 * @property {number} permits
 * @property {number} permit_limit
 * @property {number} queued_at_ms
 * @property {number} shard
 * @property {number} waiter
 */
/** @typedef {{verb: string, prefixes: string[]}} Permission */
/**
 * @typedef {object} Permissions
 * @property {boolean} identities
 * @property {string} principal
 * @property {boolean} anonymous
 * @property {Permission[]} permissions
 * @property {number} shards Those of the cluster.
 */

const TOKEN = "palisade.token";
/** A request that takes longer than this has failed. */
const PATIENCE_MS = 20_000;

/** The milliseconds by which the clock of the gateway is ahead of the reader's. */
let ahead_ms = 0;

/** An answer that is no success. Status 0: there was none. */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} detail
   */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** Whether the gateway, or the way to it, is gone for now. */
  get isGone() {
    return this.status === 0 || this.status >= 502;
  }
}

/** @type {Set<(since: number) => void>} */
const listeners = new Set();
/** Since when the gateway is gone, or 0. */
let gone_since = 0;

/**
 * Is told when the gateway is gone (since when), and when it is back (0).
 * @param {(since: number) => void} listener
 */
export function onReach(listener) {
  listeners.add(listener);
  listener(gone_since);
}

/** @param {boolean} is_here */
function reached(is_here) {
  if (is_here === (gone_since === 0)) return;
  gone_since = is_here ? 0 : Date.now();
  for (const listener of listeners) listener(gone_since);
}

/** Unix milliseconds on the clock of the gateway, as far as its answers tell. */
export function now() {
  return Date.now() + ahead_ms;
}

/** The token of the reader, kept as long as the tab. */
export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

/** @param {string} text */
export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

/**
 * @param {string} path
 * @param {Record<string, string | number | boolean | undefined>} [query]
 */
function url(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return given.length ? `${path}?${search}` : path;
}

/**
 * @param {string} at
 * @param {RequestInit} init
 */
async function send(at, init) {
  const headers = new Headers(init.headers);
  if (token()) headers.set("authorization", `Bearer ${token()}`);
  let response;
  try {
    response = await fetch(at, { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted && init.signal.reason !== "patience") throw error;
    reached(false);
    throw new Problem(0, "DISCONNECTED", "the gateway cannot be reached");
  }
  reached(response.status !== 502);
  const date = Date.parse(response.headers.get("date") ?? "");
  // The header counts in whole seconds, so a smaller difference says nothing.
  if (date) ahead_ms = Math.abs(date - Date.now()) > 2_000 ? date - Date.now() : 0;
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const detail = typeof body.detail === "string" ? body.detail : response.statusText;
  throw new Problem(response.status, String(body.code ?? response.status), detail);
}

/**
 * @param {string} at
 * @param {RequestInit} init
 * @param {AbortSignal} [signal]
 */
async function answer(at, init, signal) {
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort("patience"), PATIENCE_MS);
  const leave = () => patience.abort(signal?.reason);
  signal?.addEventListener("abort", leave, { once: true });
  if (signal?.aborted) leave();
  try {
    return await (await send(at, { ...init, signal: patience.signal })).json();
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", leave);
  }
}

/**
 * Asks for a document.
 * @param {string} path
 * @param {Record<string, string | number | boolean | undefined>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export function get(path, query, signal) {
  return answer(url(path, query), {}, signal);
}

/**
 * Sends a document.
 * @param {string} path
 * @param {unknown} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export function post(path, body, signal) {
  const init = { method: "POST", headers: { "content-type": "application/json" } };
  return answer(path, { ...init, body: JSON.stringify(body) }, signal);
}

/** Work in one go, so that keys and clicks are answered between. */
const SLICE_MS = 8;

/** A gateway sends a comment every 15 s. A stream that is silent for longer is dead. */
const SILENCE_MS = 40_000;

/** Lets the browser draw, and take keys. */
function pause() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close(); // an open port is kept for ever
      resolve(undefined);
    };
    channel.port2.postMessage(undefined);
  });
}

/**
 * Reads a stream of server-sent events until it ends. `EventSource` could not send the token.
 * @param {string} path
 * @param {Record<string, string | undefined>} query
 * @param {string} last The id of the last event of an earlier stream, or empty.
 * @param {(name: string, data: any, id: string) => void} take
 * @param {AbortSignal} signal
 * @param {() => void} opened
 */
export async function events(path, query, last, take, signal, opened) {
  const headers = last ? { "last-event-id": last } : undefined;
  const silence = new AbortController();
  const leave = () => silence.abort();
  signal.addEventListener("abort", leave, { once: true });
  let timer = setTimeout(leave, SILENCE_MS);
  try {
    const response = await send(url(path, query), { headers, signal: silence.signal });
    opened();
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(leave, SILENCE_MS);
    };
    await read(response, take, signal, heard);
  } catch (error) {
    if (!signal.aborted && !(error instanceof Problem)) {
      reached(false);
      throw new Problem(0, "DISCONNECTED", "the connection to the gateway broke");
    }
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", leave);
    silence.abort();
  }
}

/**
 * @param {Response} response
 * @param {(name: string, data: any, id: string) => void} take
 * @param {AbortSignal} signal
 * @param {() => void} heard
 */
async function read(response, take, signal, heard) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let began = performance.now();
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    heard();
    rest += decoder.decode(value, { stream: true });
    let from = 0;
    for (let end; (end = rest.indexOf("\n\n", from)) >= 0; from = end + 2) {
      let [name, id, data] = ["", "", ""];
      for (const line of rest.slice(from, end).split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data = line.slice(6);
        else if (line.startsWith("id: ")) id = line.slice(4);
      }
      if (name || id) take(name, data && JSON.parse(data), id);
      if (performance.now() - began > SLICE_MS) {
        await pause();
        if (signal.aborted) return;
        began = performance.now();
      }
    }
    rest = rest.slice(from);
  }
}

/** @type {Permissions} */
let permissions = { identities: false, principal: "", anonymous: false, permissions: [], shards: 0 };

/** What the reader may do, as of the last answer. */
export function identity() {
  return permissions;
}

/** Asks what the reader may do. */
export async function askPermissions() {
  permissions = await get("/v1/permissions");
  return permissions;
}

/**
 * Whether the reader may do this to a name, or to all names that begin with it.
 * @param {string} verb
 * @param {string} name
 */
export function may(verb, name) {
  const found = permissions.permissions.find((permission) => permission.verb === verb);
  return found?.prefixes.some((prefix) => name.startsWith(prefix)) ?? false;
}
