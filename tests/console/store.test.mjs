// What the pages keep of the locks, without a browser and a cluster.

import assert from "node:assert/strict";
import test from "node:test";

const nobody = { addEventListener() {}, removeEventListener() {} };
Object.assign(globalThis, nobody, { document: { hidden: false, ...nobody }, sessionStorage: { getItem: () => null } });
const { askPermissions } = await import("../../crates/console/files/api.js");
const { LISTED_MAX, RANKS, Store, ranked } = await import("../../crates/console/files/store.js");

/** Answers requests by their paths. A stream is one that the test writes to. */
function serve(t, verb, page) {
  let stream;
  const asked = [];
  const permissions = { identities: false, principal: "", anonymous: false, permissions: [{ verb, prefixes: [""] }], shards: 2 };
  t.mock.method(globalThis, "fetch", async (url) => {
    if (url.startsWith("/v1/permissions")) return Response.json(permissions);
    if (url.startsWith("/v1/locks")) {
      asked.push(url);
      return Response.json(page(new URL(url, "http://here").searchParams));
    }
    return new Response(new ReadableStream({ start: (controller) => { stream = controller; } }));
  });
  return {
    asked,
    tell: (event, data) => stream.enqueue(new TextEncoder().encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)),
    end: () => stream.close(),
  };
}

/** Waits until the locks are like this. */
const until = (store, is) => new Promise((resolve) => {
  const look = () => is() && (end(), resolve());
  const end = store.listen(look);
  look();
});

const grant = (name, shard) => ({ resource_name: name, shard, fencing_token: 1, owner_id: "a", principal: "", session_id: "",
  mode: "exclusive", acquired_at_ms: 1, ttl_ms: 1_000 });
const state = (shard, names, last = true) => ({ shard, first: true, last, held: names.map((name) => grant(name, shard)), queued: [] });

test("a watch is live once each shard has told its whole state", async (t) => {
  const gateway = serve(t, "watch");
  await askPermissions();
  const store = new Store();
  t.after(() => {
    store.stop();
    gateway.end();
  });
  store.start("");
  await new Promise(setImmediate);
  gateway.tell("state", state(0, ["a"]));
  await until(store, () => store.size === 1);
  assert.deepEqual([store.state, store.is_whole], ["loading", false], "shard 1 has told nothing");
  await until(store, () => store.missing.length > 0);
  assert.deepEqual(store.missing, [1]);
  gateway.tell("state", state(1, ["b"], false));
  await until(store, () => store.size === 2);
  assert.equal(store.is_whole, false, "a part of shard 1 is on its way");
  gateway.tell("state", { ...state(1, ["c"]), first: false });
  await until(store, () => store.state === "live");
  assert.deepEqual([store.size, store.missing, store.is_whole], [3, [], true]);
});

test("a list names the shards that could not be asked", async (t) => {
  let missing_shards = [1];
  serve(t, "read", () => ({ locks: [grant("a", 0)], waiters: [], next_cursor: null, missing_shards }));
  await askPermissions();
  const store = new Store();
  t.after(() => store.stop());
  store.start("");
  await until(store, () => store.state === "polled");
  assert.deepEqual([store.size, store.missing, store.is_whole], [1, [1], false]);
  store.stop();
  missing_shards = [];
  store.start("");
  await until(store, () => store.state === "polled");
  assert.deepEqual([store.missing, store.is_whole], [[], true]);
});

/** Regression: 250,000 names cost 250 calls every 15 s. */
test("a list is asked for in a bounded number of calls, and more names are told", async (t) => {
  let names = 250_000;
  const gateway = serve(t, "read", (query) => {
    const first = Number(query.get("cursor") ?? 0);
    const of = query.get("waiting") ? [] : Array.from({ length: Math.min(1_000, names - first) }, (_, at) => grant(`name-${first + at}`, 0));
    return { locks: of, waiters: [], next_cursor: first + 1_000 < names ? String(first + 1_000) : null, missing_shards: [] };
  });
  await askPermissions();
  const store = new Store();
  t.after(() => store.stop());
  store.start("");
  await until(store, () => store.state === "polled");
  assert.deepEqual([store.size, store.is_cut, store.is_whole], [LISTED_MAX, true, false]);
  assert.ok(gateway.asked.length <= 2 * LISTED_MAX / 1_000, `${gateway.asked.length} calls`);
  store.stop();
  names = 2_500;
  store.start("");
  await until(store, () => store.state === "polled");
  assert.deepEqual([store.size, store.is_cut, store.is_whole], [2_500, false, true]);
});

test("ranks give the order that comparisons give", () => {
  let seed = 7;
  const random = () => (seed = (seed * 48_271) % 2_147_483_647);
  for (const spread of [1, 5, 1_000, RANKS]) {
    const items = Array.from({ length: 3_000 }, (_, place) => ({ rank: (random() * 8) % spread, place }));
    assert.deepEqual(ranked(items, ({ rank }) => rank), [...items].sort((a, b) => a.rank - b.rank));
  }
  const ends = [{ rank: Infinity }, { rank: -5 }, { rank: RANKS }, { rank: 0 }];
  assert.deepEqual(ranked(ends, ({ rank }) => rank), [ends[1], ends[3], ends[0], ends[2]]);
});
