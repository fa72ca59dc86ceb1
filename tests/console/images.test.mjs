// The pictures of the documents: only made where IMAGES names a directory.

import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { Cluster, withFiles } from "./cluster.mjs";

const IMAGES = process.env.IMAGES;
const TEAMS = ["billing", "deploy", "media", "orders", "reports", "users"];
const JOBS = ["export", "index", "invoice", "nightly", "rebalance", "rollout"];

let browser;
let cluster;

before(async () => {
  if (!IMAGES) return;
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  cluster = await Cluster.start("--shards", "8");
});

after(async () => {
  await browser?.close();
  await cluster?.end();
});

const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a few teams could hold. */
async function fill() {
  const wait = (name, owner) => void cluster.acquire(name, { owner, wait: "1h", ttl: "5m" }).catch(() => {});
  for (let at = 0; at < 90; at++) {
    const name = `${TEAMS[at % 6]}/${JOBS[(at * 5) % 6]}/${1000 + at * 7}`;
    await cluster.acquire(name, { owner: `worker-${(at * 13) % 17}.eu-west`, ttl: ["30m", "1h", "10m", "6h"][at % 4] });
    if (at % 11 === 0) wait(name, `worker-${20 + at}.eu-west`);
  }
  for (let at = 0; at < 4; at++) {
    const owner = `batch-${at}.eu-west`;
    const { document } = await cluster.request("POST", "/v1/sessions", { owner, ttl: "20m" });
    for (let of = 0; of < 3 + at; of++) await cluster.acquire(`media/transcode/${at}-${of}`, { owner, session: document.session_id });
  }
  for (let at = 0; at < 4; at++) {
    const grant = await cluster.acquire("deploy/production", { owner: `ci-runner-${at}`, ttl: at === 1 ? "1s" : "10m" });
    await rest(1_500);
    if (at === 2) {
      await cluster.request("POST", "/v1/break", { name: "deploy/production", fencing_token: grant.fencing_token,
        reason: "the runner is gone, and the release has to go on", broken_by: "ada" });
    } else if (at !== 1) await cluster.release(grant);
  }
  await cluster.acquire("deploy/production", { owner: "ci-runner-4", ttl: "10m", metadata: "pipeline 8812" });
  for (let at = 5; at < 9; at++) {
    wait("deploy/production", `ci-runner-${at}`);
    await rest(400);
  }
}

test("the pictures of the documents", { skip: IMAGES ? false : "IMAGES names no directory" }, async () => {
  await fill();
  for (const [name, hash, ready, colorScheme, height] of [
    ["locks", "#/locks", ".space > .row", "light", 640],
    ["lock", "#/lock?name=deploy%2Fproduction", ".queue", "light", 760],
    ["lock-dark", "#/lock?name=deploy%2Fproduction", ".queue", "dark", 760],
    ["cluster", "#/cluster", ".matrix .leader", "dark", 760],
    ["plan", "#/plan?instances=20000&hold=2m&growth.per_month=15%25", ".plot", "light", 900],
  ]) {
    const context = await browser.newContext({ viewport: { width: 1200, height }, colorScheme });
    const page = await context.newPage();
    await withFiles(page);
    await page.goto(`${cluster.url}/${hash}`);
    await page.locator(ready).first().waitFor();
    await rest(hash === "#/cluster" ? 4_500 : 1_500); // rates come with the second look
    await page.screenshot({ path: `${IMAGES}/console-${name}.png` });
    await context.close();
  }
});
