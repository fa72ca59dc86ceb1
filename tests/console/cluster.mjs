// A cluster of `palisade dev`, and requests to it.

import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const PROGRAM = process.env.PALISADE_BIN ?? "palisade";

/** Has a page take its files from the directory FILES, if that is set, so that a change needs no build. */
export async function withFiles(page) {
  const dir = process.env.FILES;
  if (!dir) return;
  await page.route(/:\d+\/(console\/.*)?$/, async (route) => {
    const response = await route.fetch();
    const name = new URL(route.request().url()).pathname.split("/").pop() || "index.html";
    await route.fulfill({ response, status: 200, body: await readFile(join(dir, name)) });
  });
}

export class Cluster {
  /** Starts one. It keeps its data and its address over `stop` and `start`. */
  static async start(...options) {
    const cluster = new Cluster();
    cluster.dir = await mkdtemp(join(tmpdir(), "palisade-console-"));
    cluster.options = options;
    cluster.address = "127.0.0.1:0";
    await cluster.start();
    return cluster;
  }

  async start() {
    const args = ["dev", "--listen", this.address, "--data-dir", join(this.dir, "data"), ...this.options];
    this.process = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.log = "";
    this.process.stderr.on("data", (bytes) => { this.log += bytes; });
    this.ended = new Promise((resolve) => this.process.once("exit", resolve));
    let out = "";
    this.url = await new Promise((resolve, reject) => {
      this.process.stdout.on("data", (bytes) => {
        out += bytes;
        const url = /console: +(\S+?)\/?\s/.exec(out)?.[1];
        if (url) resolve(url);
      });
      this.process.once("exit", () => reject(new Error(`palisade dev ended: ${out}${this.log}`)));
    });
    this.address = new URL(this.url).host;
    this.agent = new (this.url.startsWith("https") ? https : http).Agent({
      keepAlive: true, maxSockets: 64, rejectUnauthorized: false });
  }

  async stop() {
    this.process.kill("SIGTERM");
    await this.ended;
    this.agent.destroy();
  }

  async end() {
    await this.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** Sends a request, and gives its status and document. */
  request(method, path, body, token) {
    const text = body === undefined ? "" : JSON.stringify(body);
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    if (text) Object.assign(headers, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
    const { request } = this.url.startsWith("https") ? https : http;
    return new Promise((resolve, reject) => {
      const sent = request(`${this.url}${path}`, { method, headers, agent: this.agent }, (answer) => {
        const parts = [];
        answer.on("data", (part) => parts.push(part));
        answer.on("end", () => {
          const document = JSON.parse(Buffer.concat(parts).toString() || "null");
          resolve({ status: answer.statusCode, document });
        });
      });
      sent.on("error", reject);
      sent.end(text);
    });
  }

  /** Takes a lock, and gives its grant. */
  async acquire(name, more = {}, token = undefined) {
    const { status, document } = await this.request("POST", "/v1/acquire", { name, owner: "me", ttl: "1h", ...more }, token);
    if (status !== 200) throw new Error(`acquire ${name}: ${status} ${document.detail}`);
    return document;
  }

  async release(grant) {
    await this.request("POST", "/v1/release", { name: grant.resource_name, fencing_token: grant.fencing_token });
  }
}
