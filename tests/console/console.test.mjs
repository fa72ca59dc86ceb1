// The console in Chromium, against `palisade dev`. Times are reported, and nothing waits for a time.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { Cluster, PROGRAM, withFiles } from "./cluster.mjs";

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const LOCKS = Number(process.env.LOCKS ?? 100_000);
const SLOW_MS = 120_000;

let browser;
let cluster;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"], // tests run as root in containers
  });
  cluster = await Cluster.start("--shards", "4");
});

after(async () => {
  await browser?.close();
  await cluster?.end();
});

/** Opens a page of the console. Whatever a page logs as an error fails the test. */
async function open(t, hash, { of = cluster, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(SLOW_MS);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    // A refusal and a lost connection are logged by the browser, and are shown by the page.
    if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(message.text())) faults.push(message.text());
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(faults, []);
  });
  await withFiles(page);
  await page.goto(`${of.url}/${hash}`);
  return page;
}

const rows = (page) => page.locator(".space > .row");
const row = (page, text) => rows(page).filter({ hasText: text });

test("a lock comes and goes while it is looked at", async (t) => {
  const page = await open(t, "#/locks?prefix=live%2F");
  await page.getByText("No lock matches").waitFor();
  const grant = await cluster.acquire("live/one", { owner: "worker-1" });
  await row(page, "live/one").getByText("worker-1").waitFor();
  await cluster.release(grant);
  await row(page, "live/one").waitFor({ state: "detached" });
});

test("a wait and its hand-over are seen", async (t) => {
  const grant = await cluster.acquire("hand/over", { owner: "first" });
  const page = await open(t, "#/lock?name=hand%2Fover");
  await page.locator(".holder").getByText("first").waitFor();
  const waited = cluster.acquire("hand/over", { owner: "second", wait: "10m" });
  await page.locator(".queue").getByText("second").waitFor();
  await cluster.release(grant);
  await page.locator(".holder").getByText("second").waitFor();
  await page.getByText("Nobody waits.").waitFor();
  await page.locator(".timeline .released").getByText("first").waitFor();
  await cluster.release(await waited);
  await page.getByText("Nobody holds it.").waitFor();
});

test("a lock is broken with a reason, and the history keeps it", async (t) => {
  await cluster.acquire("break/me", { owner: "stuck" });
  const page = await open(t, "#/lock?name=break%2Fme");
  await page.locator(".holder").getByText("stuck").waitFor();
  await page.keyboard.press("b");
  const go = page.getByRole("button", { name: "Break the lock" });
  assert.ok(await go.isDisabled(), "no reason is typed yet");
  await page.keyboard.type("   ");
  assert.ok(await go.isDisabled(), "spaces are no reason");
  await page.keyboard.type("node 7 is gone");
  await page.getByLabel("Your name").fill("ada");
  await go.click();
  await page.locator(".timeline .reason").getByText("By ada: node 7 is gone").waitFor();
  const { document } = await cluster.request("GET", "/v1/history?name=break/me");
  const [tenure] = document.tenures;
  assert.deepEqual([tenure.state, tenure.break_reason, tenure.broken_by], ["BROKEN", "node 7 is gone", "ada"]);
});

test("keys find, choose, open and go back", async (t) => {
  for (const name of ["keys/a", "keys/b", "keys/c"]) await cluster.acquire(name);
  const page = await open(t, "#/cluster");
  await page.getByText("healthy").waitFor();
  await page.keyboard.press("g");
  await page.keyboard.press("l");
  await row(page, "keys/a").waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("keys/");
  await page.getByText(/^3 (names|of )/).waitFor();
  await page.keyboard.press("Escape");
  for (const key of ["j", "j", "j", "k"]) await page.keyboard.press(key);
  assert.equal(await page.locator('.row[aria-selected="true"] .name').innerText(), "keys/b");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "keys/b" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByText(/^3 (names|of )/).waitFor();
  assert.equal(new URL(page.url()).hash, "#/locks?prefix=keys%2F");
  await page.keyboard.press("?");
  await page.getByRole("dialog").getByText("Break the lock that is open").waitFor();
});

test("names with odd characters are shown as what they are", async (t) => {
  const name = "odd/<img src=x onerror=alert(1)>\u202egnp.exe";
  const grant = await cluster.acquire(name, { owner: "<b>me</b>" });
  const page = await open(t, "#/locks?prefix=odd%2F");
  const shown = row(page, "odd/");
  await shown.waitFor();
  assert.match(await shown.innerText(), /odd\/<img src=x onerror=alert\(1\)>\\u\{202E\}gnp\.exe/);
  assert.match(await shown.innerText(), /<b>me<\/b>/);
  assert.equal(await page.locator(".space img, .space b").count(), 0);
  await shown.locator("a").click();
  await page.locator(".holder").waitFor();
  assert.equal(new URLSearchParams(new URL(page.url()).hash.split("?")[1]).get("name"), name);
  await cluster.release(grant);
});

test("sessions are shown with all that they hold", async (t) => {
  const { document } = await cluster.request("POST", "/v1/sessions", { owner: "batch", ttl: "1h" });
  const session = document.session_id;
  for (let at = 0; at < 5; at++) await cluster.acquire(`session/${at}`, { owner: "batch", session });
  const page = await open(t, "#/sessions");
  const shown = row(page, session);
  await shown.getByText("5", { exact: true }).waitFor();
  await shown.locator("a").click();
  await row(page, "session/4").waitFor();
  assert.equal(await rows(page).count(), 5);
});

test("the cluster is shown by nodes and shards", async (t) => {
  const page = await open(t, "#/cluster");
  await page.getByText("healthy").waitFor();
  assert.equal(await page.locator(".matrix .line:not(.heads)").count(), 3);
  assert.equal(await page.locator(".matrix .leader").count(), 4, "one leader for each shard");
  await page.getByRole("button", { name: "Shard 2" }).click();
  await page.locator(".detail").getByText("follower").first().waitFor();
  assert.equal(await page.locator(".detail tbody tr").count(), 3);
});

test("the cluster shows jobs, drained nodes and the version of the topology", async (t) => {
  const other = await Cluster.start("--shards", "2");
  t.after(() => other.end());
  const page = await open(t, "#/cluster", { of: other });
  await page.getByText(/topology version \d+/).waitFor();
  assert.equal(await page.getByRole("heading", { name: "Jobs" }).isVisible(), false, "no job was started");
  const start = (body) => other.request("POST", "/v1/cluster/jobs", body);
  assert.equal((await start({ kind: "DRAIN", node: 2 })).status, 200);
  await page.getByRole("row").filter({ hasText: "drain node 2" }).getByText("done").waitFor();
  await page.locator(".card.node").filter({ hasText: "Node 2" }).getByText("draining").waitFor();
  assert.equal((await start({ kind: "UNDRAIN", node: 2 })).status, 200);
  await page.locator(".card.node").filter({ hasText: "draining" }).waitFor({ state: "detached" });
  assert.equal((await other.request("POST", "/v1/cluster/settings", { paused: true })).status, 200);
  await page.getByText("jobs and repairs rest").waitFor();
  assert.equal((await start({ kind: "REPLICAS", replicas: 1 })).status, 200);
  const job = page.getByRole("row").filter({ hasText: "1 replica" });
  await job.getByText("running").waitFor();
  assert.equal((await other.request("POST", "/v1/cluster/settings", { paused: false })).status, 200);
  await job.getByText("2 of 2 shards").waitFor();
  await job.getByText("done").waitFor();
});

test("a plan becomes a cluster file that the program accepts", async (t) => {
  const page = await open(t, "#/plan");
  await page.getByRole("heading", { name: "Storage" }).waitFor();
  await page.getByLabel("Instances").fill("5000");
  await page.getByLabel("Per month").fill("20%");
  await page.getByText("= 5,000 instances × 10/min ÷ 60").waitFor();
  await page.getByText("8.92 times today's").waitFor(); // 1.2 to the power of 12
  for (const step of ["Latency", "Operations", "Cluster", "Key metrics", "Storage"]) {
    await page.locator(".card h2").filter({ hasText: step }).first().waitFor();
  }
  const downloading = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download" }).click();
  const download = await downloading;
  assert.equal(download.suggestedFilename(), "cluster.yaml");
  const file = join(cluster.dir, "cluster.yaml");
  await download.saveAs(file);
  const { stdout } = await promisify(execFile)(PROGRAM, ["cluster", "check", "--config", file]);
  t.diagnostic(stdout.trim().split("\n")[0]);
  await page.getByLabel("Instances").fill("-1");
  await page.getByRole("alert").getByText("instances").waitFor();
});

test("without permission there is no button, and the request is refused", async (t) => {
  const secure = await Cluster.start("--secure");
  t.after(() => secure.end());
  const token = (await readFile(join(secure.dir, "data/secure/bob.token"), "utf8")).trim();
  await secure.acquire("b/job", {}, token);
  const page = await open(t, "#/locks", { of: secure, ignoreHTTPSErrors: true });
  await page.getByText("You may not see these locks").waitFor();
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByLabel("Token").fill("wrong");
  await page.getByRole("dialog").getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("dialog").getByRole("alert").waitFor();
  await page.getByLabel("Token").fill(token);
  await page.getByRole("dialog").getByRole("button", { name: "Sign in" }).click();
  await row(page, "b/job").locator("a").click();
  await page.locator(".holder").getByText("me").waitFor();
  assert.equal(await page.locator(".danger").count(), 0, "bob may not break");
  await page.keyboard.press("b");
  assert.equal(await page.getByRole("dialog").count(), 0);
  const status = await page.evaluate(async () => {
    const body = JSON.stringify({ name: "b/job", fencing_token: 1, reason: "mine" });
    const headers = { authorization: `Bearer ${sessionStorage.getItem("palisade.token")}`, "content-type": "application/json" };
    return (await fetch("/v1/break", { method: "POST", headers, body })).status;
  });
  assert.equal(status, 403);
  await page.goto(`${secure.url}/#/cluster`);
  await page.getByText("You may not see the cluster").waitFor();
  assert.ok(!(await page.content()).includes(token));
});

test("a connection that is lost is told, and comes back by itself", async (t) => {
  const other = await Cluster.start();
  t.after(() => other.end());
  await other.acquire("gone/before");
  const page = await open(t, "#/locks", { of: other });
  await row(page, "gone/before").waitFor();
  await other.stop();
  await page.getByRole("alert").getByText("Disconnected").waitFor();
  await row(page, "gone/before").waitFor();
  await other.start();
  await page.locator("#gone").waitFor({ state: "hidden" });
  await other.acquire("gone/after");
  await row(page, "gone/after").waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing serious, ${colorScheme}`, async (t) => {
    const name = `axe/${colorScheme}`;
    await cluster.release(await cluster.acquire(name, { owner: "before" }));
    const grant = await cluster.acquire(name, { owner: "worker", metadata: "note" });
    t.after(() => cluster.release(grant));
    const { document } = await cluster.request("POST", "/v1/sessions", { owner: "batch", ttl: "1h" });
    const session = document.session_id;
    await cluster.acquire(`${name}/batch`, { owner: "batch", session });
    void cluster.acquire(name, { owner: "next", wait: "10m", ttl: "1s" }).catch(() => {});
    const lock = `#/lock?name=${encodeURIComponent(name)}`;
    for (const [hash, ready, key] of [
      ["#/locks", ".space > .row"], ["#/locks?prefix=none", ".blank"], [lock, ".queue"], [lock, ".queue", "b"],
      ["#/sessions", ".space > .row"], [`#/session?id=${session}`, ".space > .row"],
      ["#/cluster?shard=1", ".detail table"], ["#/plan", ".plot"], ["#/plan", ".plot", "?"],
    ]) {
      const page = await open(t, hash, { colorScheme });
      await page.locator(ready).first().waitFor();
      if (key) {
        await page.keyboard.press(key);
        await page.getByRole("dialog").waitFor();
      }
      await page.evaluate(AXE);
      for (const width of [1280, 768, 360]) {
        await page.setViewportSize({ width, height: 800 });
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
        assert.deepEqual(serious.map(({ id, nodes }) => [hash, width, id, nodes.map(({ html }) => html.slice(0, 160))]), []);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wider <= 0, `${hash} is ${wider} px wider than ${width}`);
      }
      await page.context().close();
    }
  });
}

test("a search among many locks", { timeout: 20 * SLOW_MS }, async (t) => {
  const many = await Cluster.start("--shards", "4", "--replicas", "1");
  t.after(() => many.end());
  const name = (at) => `team-${at % 40}/service-${at % 7}/item-${at}`;
  let next = 0;
  const take = async () => {
    while (next < LOCKS) await many.acquire(name(next), { owner: `worker-${next++ % 500}`, ttl: "24h" });
  };
  await Promise.all(Array.from({ length: 64 }, take));
  const page = await open(t, "#/locks", { of: many });
  await page.evaluate(() => {
    globalThis.shifts = 0;
    globalThis.longest = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) globalThis.shifts += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.longest = Math.max(globalThis.longest, entry.duration);
    }).observe({ type: "longtask", buffered: true });
  });
  const began = Date.now();
  await page.getByText(`${LOCKS.toLocaleString("en-US")} names`).waitFor();
  await page.locator(".live.live").waitFor();
  const loaded = await page.evaluate(() => globalThis.longest);
  t.diagnostic(`${LOCKS} locks were shown ${Date.now() - began} ms after the page, longest task ${loaded} ms`);
  const session = await page.context().newCDPSession(page);
  // In time of the page's thread, so that other work of the machine does not count.
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const script = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    const of = (name) => 1_000 * metrics.find((metric) => metric.name === name).value;
    return { script: of("ScriptDuration"), layout: of("LayoutDuration") + of("RecalcStyleDuration") };
  };
  for (const [what, act, shown] of [
    ["a name", () => page.locator("#search").fill("team-7/service-3/"), "of"],
    ["an owner", async () => {
      await page.locator("#search").fill("");
      await page.getByPlaceholder("Owner contains").fill("worker-499");
    }, "of"],
    ["the oldest holds", async () => {
      await page.getByPlaceholder("Owner contains").fill("");
      await page.getByRole("button", { name: "Oldest hold" }).click();
    }, "names"],
  ]) {
    const from = await script();
    await act();
    await page.locator(".found").getByText(shown).waitFor();
    await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
    const to = await script();
    t.diagnostic(`search for ${what}: ${Math.round(to.script - from.script)} ms of script, ${Math.round(to.layout - from.layout)} ms of layout`);
  }
  assert.ok((await rows(page).count()) < 100, "only the rows that can be seen are drawn");
  for (let at = 0; at < 20; at++) await page.mouse.wheel(0, 40_000);
  await page.keyboard.press("Escape");
  await page.keyboard.press("End");
  await row(page, name(LOCKS - 1)).waitFor();
  const { shifts, longest } = await page.evaluate(() => ({ shifts: globalThis.shifts, longest: globalThis.longest }));
  t.diagnostic(`layout shift ${shifts}, longest task ${longest} ms`);
  assert.ok(shifts < 0.01, `the layout shifted by ${shifts}`);
});
