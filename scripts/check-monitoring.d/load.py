"""Clients of every kind, by HTTP: locks, waits, sessions, watches, lists, and some that are refused.

The load is small, and it goes on through every fault: its clients make new connections and try again. `palisade bench` adds
contended acquires by gRPC. Knows nothing of alerts.
"""
import http.client
import json
import random
import ssl
import subprocess
import threading
import time
import uuid

from harness import Failed

POLICY = """\
roles:
  all: { hold: [""], read: [""], watch: [""], break: [""], observe: true, operate: true }
  few: { hold: ["few/"], read: ["few/"] }
bindings:
  - { identities: [bench, operator], roles: [all], quota: large }
  - { identities: [few], roles: [few], quota: few }
quotas:
  large: { operations_per_second: 100000, locks_per_shard: 1000000, sessions_per_shard: 10000, waits_per_shard: 10000, waits: 10000,
           streams: 1000, watches: 100 }
  few: { locks_per_shard: 1 }
"""
IDENTITIES = ["bench", "operator", "few", "stranger"]
WORKERS, NAMES, WATCHES = 6, 12, 4


class Client:
    """One connection of one identity, made anew when it breaks."""

    def __init__(self, cluster, identity, timeout_s=10):
        certs = cluster.directory / "certs"
        self.tls = ssl.create_default_context(cafile=certs / "clients-ca.pem")
        self.tls.load_cert_chain(certs / f"{identity}.pem", certs / f"{identity}.key")
        self.host, port = cluster.endpoint.split(":")
        self.port, self.timeout_s, self.connection = int(port), timeout_s, None

    def open(self, method, path, body=None, headers=None):
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout_s, context=self.tls)
        headers = {"content-type": "application/json", **(headers or {})}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return self.connection.getresponse()

    def call(self, method, path, body=None, headers=None):
        """Status and document; (0, {}) without an answer."""
        try:
            answer = self.open(method, path, body, headers)
            text = answer.read()
            return answer.status, json.loads(text) if text else {}
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, {}

    def acquire(self, name, ttl="10s", **more):
        return self.call("POST", "/v1/acquire", {"name": name, "owner": "load", "ttl": ttl, **more},
                         {"idempotency-key": str(uuid.uuid4())})

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Load:
    """Runs from `with` to its end."""

    def __init__(self, cluster):
        self.cluster, self.over, self.threads, self.bench = cluster, threading.Event(), [], None

    def __enter__(self):
        for work, count in [(self.lock, WORKERS), (self.session, 1), (self.watch, WATCHES), (self.read, 1), (self.be_refused, 1)]:
            for _ in range(count):
                self.threads.append(threading.Thread(target=self.again, args=[work], daemon=True))
        for thread in self.threads:
            thread.start()
        command = [self.cluster.run.palisade, "bench", "--endpoint", self.cluster.endpoint, *self.cluster.own, "--rate", 20,
                   "--clients", 16, "--names", 1_000, "--hot", "30%", "--hot-names", 4, "--duration", "3h", "--warmup", "1s"]
        with open(self.cluster.directory / "bench.log", "ab") as log:
            self.bench = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)],
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.bench.poll() is None:
            self.bench.kill()
        self.bench.wait()
        for thread in self.threads:
            thread.join(15)

    def check(self):
        if self.bench.poll() is not None:
            said = (self.cluster.directory / "bench.log").read_text(errors="replace")
            raise Failed(f"palisade bench has ended: {said[-300:]}")

    def again(self, work):
        client = Client(self.cluster, "few" if work == self.be_refused else "operator")
        while not self.over.is_set():
            if not work(client):
                self.over.wait(0.2)
        client.close()

    def lock(self, client):
        name = f"load/{random.randrange(NAMES)}"
        status, grant = client.acquire(name, wait="2s")
        if status != 200:
            return False
        token = {"name": name, "fencing_token": grant["fencing_token"]}
        client.call("GET", f"/v1/check?name={name}")
        client.call("POST", "/v1/renew", {**token, "ttl": "10s"})
        self.over.wait(random.uniform(0.05, 0.2))
        return client.call("POST", "/v1/release", token)[0] == 200

    def session(self, client):
        status, session = client.call("POST", "/v1/sessions", {"ttl": "5s"})
        if status != 200:
            return False
        path, shards = f"/v1/sessions/{session['session_id']}", set()
        for n in range(4):
            status, grant = client.acquire(f"session/{n}-{uuid.uuid4()}", ttl="5s", session=session["session_id"])
            if status == 200:
                shards.add(grant["shard"])
        for _ in range(4):
            self.over.wait(0.5)
            client.call("POST", f"{path}/heartbeat", {"shards": sorted(shards)})
        return client.call("DELETE", f"{path}?shards={','.join(map(str, sorted(shards)))}")[0] == 200

    def watch(self, client):
        try:
            answer = client.open("GET", "/v1/watch?prefix=load/")
            while answer.status == 200 and not self.over.is_set() and answer.readline():
                pass
        except (OSError, http.client.HTTPException):
            pass
        client.close()
        return False

    def read(self, client):
        for path in ["/v1/locks?prefix=load/&waiting=true", "/v1/history?name=load/1", "/v1/cluster"]:
            client.call("GET", path)
        self.over.wait(0.5)
        return True

    def be_refused(self, few):
        """Above its quota; without a permission; with a token that nobody gave."""
        status, grant = few.acquire("few/{one}first")
        few.acquire("few/{one}second")
        if status == 200:
            few.call("POST", "/v1/release", {"name": "few/{one}first", "fencing_token": grant["fencing_token"]})
        stranger = Client(self.cluster, "stranger")
        stranger.acquire("load/1")
        stranger.call("GET", "/v1/check?name=load/1", headers={"authorization": "Bearer nobody-gave-this"})
        stranger.close()
        self.over.wait(1)
        return True


def wait_long(cluster, waits, wait_s, apart_s):
    """Starts acquires that wait for a lock of somebody else until their time is over; one after the other, so that they end so."""
    holder = Client(cluster, "operator")
    holder.acquire("long/held", ttl=f"{int(wait_s + waits * apart_s + 60)}s")

    def wait(delay_s):
        time.sleep(delay_s)
        client = Client(cluster, "operator", timeout_s=wait_s + 30)
        client.acquire("long/held", wait=f"{wait_s}s")
        client.close()
    for n in range(waits):
        threading.Thread(target=wait, args=[n * apart_s], daemon=True).start()
