"""A million held locks, and 20,000 operations per second: a node is drained, and one that died is replaced.

Five nodes, five replicas of four shards, locks on private leases. `palisade bench` gives the load, open loop: 20,000 operations
per second, or a quarter of what a closed loop of 2,048 clients reaches on this machine with these locks, whichever is less. Where
117,000 were reached, 20,000 are a sixth; at more than a half, queues hide what a change costs. Its latencies of several spans
without a change are compared with those while the change goes on, in the same cluster. tools/load/examples/rolling.rs runs beside
it, for it uses the SDK: its clients keep locks, and no operation of theirs may fail. "Voters again" counts from the start of
`palisade cluster replace-node` until each shard has five voters and none of them lags. A new node has joined before.
"""
import json
import signal
import subprocess
import threading
import time

from harness import Failed, median
from memory import locks_held, settled

RATE, RATE_SHARE, CLIENTS, SPAN_S, CALM_SPANS = 20_000, 0.25, 2048, 10, 3
VOTERS_WITHIN_S, DRAIN_WITHIN_S, P99_RATIO_MAX, STEP_MAX_MS = 60, 3, 1.5, 50
DEAD, JOINS, DRAINED = 3, 6, 2
TARGETS = [f"replace a dead node: voters again in {VOTERS_WITHIN_S} s, p99 at most {P99_RATIO_MAX} times that before",
           f"no step of a shard's thread above {STEP_MAX_MS} ms meanwhile", f"drain a node: at most {DRAIN_WITHIN_S} s",
           "no operation of the SDK fails, no lock is lost, and states of replicas are equal"]
LOAD = ["--clients", CLIENTS, "--streams", 4]
STEP = "palisade_step_seconds"


def measure(run):
    locks = run.choose(1_000_000, 50_000)
    with run.cluster("elastic") as cluster:
        cluster.bench("--mix", "stale-check", "--clients", 1024, "--names", locks, "--ttl", "24h", "--keep",
                      duration_s=0.5, warmup_s=0.1, patience_s=600)
        if locks_held(cluster) < locks:
            raise Failed(f"{locks:,} locks were to be held, and {locks_held(cluster):,} are")
        settled(cluster)
        most = cluster.bench(*LOAD, duration_s=run.choose(5, 2))["operations_per_s"]
        rate = int(min(RATE, RATE_SHARE * most))
        run.say(f"a closed loop reaches {most:,.0f}/s; the load is {rate:,}/s")
        sample = tokens(cluster)
        kept = Kept(run, cluster)
        try:
            phase = Phase(run, cluster, kept, rate)
            calm = phase.calm("before the drain")
            drain_s = phase.change("drain", calm, "cluster", "drain", DRAINED, "--within", "60s")
            phase.change("undrain", None, "cluster", "undrain", DRAINED, "--within", "60s")
            calm = phase.calm("before the kill")
            kept.begin("kill")
            before_kill = slow_steps(cluster)
            cluster.kill(f"node-{DEAD}")
            phase.spans("failover", until=time.monotonic() + 2)
            cluster.start_node(JOINS, "--join", "--address", f"127.0.0.1:{cluster.port + JOINS}", "--listen-metrics",
                               f"127.0.0.1:{cluster.port + 100 + JOINS}")
            cluster.wait(lambda: joined(cluster), 60, f"node {JOINS} did not join")
            replace_s = phase.change("replace", calm, "cluster", "replace-node", DEAD, JOINS, "--within", "300s",
                                     done=lambda: voters(cluster), since=before_kill)
            phase.calm("after")
        finally:
            failed, lost = kept.end()
        status = cluster.wait(cluster.level, 60, "replicas lag")
        same = all(shard["hashes_equal"] for shard in status["shards"])
        now = tokens(cluster)
        moved = [name for name, token in sample.items() if now.get(name) != token]
        held = locks_held(cluster)
    run.judge("drain of a node under load", drain_s, f"≤ {DRAIN_WITHIN_S} s", drain_s <= DRAIN_WITHIN_S, "s")
    run.judge("replace-node, until all are voters", replace_s, f"≤ {VOTERS_WITHIN_S} s", replace_s <= VOTERS_WITHIN_S, "s")
    run.judge("operations of the SDK that failed", failed, "0", failed == 0)
    run.judge("locks lost", lost + len(moved) + max(0, locks - held), "0", not lost and not moved and held >= locks)
    run.judge("states of all replicas equal", same, "True", same)


class Phase:
    """Spans of load, with and without a change."""

    def __init__(self, run, cluster, kept, rate):
        self.run, self.cluster, self.kept, self.rate = run, cluster, kept, rate

    def span(self, what):
        report = self.cluster.bench("--rate", self.rate, *LOAD, duration_s=self.run.choose(SPAN_S, 3), warmup_s=0.5)
        latency = report["latency"]["all"]
        self.run.row(span=what, operations_per_s=report["operations_per_s"], refused=sum(report["errors"].values()),
                     behind=report["behind"], **{key: latency[key] for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")})
        return latency["p99_ms"]

    def spans(self, what, until=None, working=None):
        """Span after span while something goes on."""
        found = []
        while not found or (working.is_alive() if working else time.monotonic() < until):
            found.append(self.span(what))
        return found

    def calm(self, what):
        """The 99th percentiles of some spans without a change. Steps that are slow here are not the change's."""
        self.kept.begin(what)
        before = slow_steps(self.cluster)
        p99s = [self.span(what) for _ in range(self.run.choose(CALM_SPANS, 1))]
        self.run.say(f"{what}: {more(before, slow_steps(self.cluster)):.0f} steps above {STEP_MAX_MS} ms")
        return p99s

    def change(self, what, calm_ms, *command, done=None, since=None):
        """Runs a verb under load; how long it took. Judges the load's latency meanwhile, and the longest step: since a moment
        before if it is given."""
        self.kept.begin(what)
        before, took = since or slow_steps(self.cluster), []

        def work():
            time.sleep(1.5)
            began = time.monotonic()
            verb = subprocess.run([str(part) for part in [self.run.palisade, *command, "--json", "--endpoint", self.cluster.endpoint]],
                                  capture_output=True, text=True, timeout=600)
            if verb.returncode != 0:
                self.run.say(f"{what}: {(verb.stdout + verb.stderr).strip()[-500:]}")
                return
            if done:
                self.cluster.wait(done, 300, "replicas lag", pause_s=0.2)
            took.append(time.monotonic() - began)
        working = threading.Thread(target=work)
        working.start()
        p99s = self.spans(what, working=working)
        if not took:
            raise Failed(f"{what}: the verb failed")
        self.run.say(f"{what}: {took[0]:.2f} s")
        slow = more(before, slow_steps(self.cluster))
        if calm_ms:
            # The worst of some spans is above their median also where nothing changes.
            for which, of in [("median", median), ("worst", max)]:
                ratio = of(p99s) / of(calm_ms)
                self.run.judge(f"{what}: p99 of the {which} span over that of the {which} before", ratio, f"≤ {P99_RATIO_MAX} ×",
                               ratio <= P99_RATIO_MAX, "×")
            self.run.judge(f"{what}: steps above {STEP_MAX_MS} ms", slow, "0", not slow)
        return took[0]


class Kept:
    """Clients of the SDK that keep locks, beside the load."""

    def __init__(self, run, cluster):
        self.run = run
        command = ["setpriv", "--pdeathsig", "KILL", run.example("palisade-load", "rolling"), "--endpoints", cluster.endpoint,
                   "--clients", 32, "--pause-ms", 200]
        self.load = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, phase):
        self.load.stdin.write(phase + "\n")
        self.load.stdin.flush()

    def end(self):
        """Operations that failed, and kept locks that were lost."""
        try:
            out = self.load.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            raise Failed("the clients of the SDK did not go on to their end") from None
        finally:
            if self.load.poll() is None:
                self.load.kill()
                self.load.wait()
        *phases, kept = [json.loads(line) for line in out.splitlines()]
        for phase in phases:
            for failure in phase["failures"]:
                self.run.say(f"failed {phase['phase']}: {failure}")
        return sum(phase["failed"] for phase in phases), kept["lost"]


def joined(cluster):
    code, topology = cluster.command("cluster", "topology")
    return code == 0 and any(node["node"] == JOINS for node in topology["nodes"])


def voters(cluster):
    """The status once each shard has its voters, and none of them lags behind the load by much."""
    status = cluster.status()
    if not status:
        return None
    wanted = set(range(1, 1 + cluster.nodes)) - {DEAD} | {JOINS}
    for shard in status["shards"]:
        if {member["node"] for member in shard["members"] if member["counts"]} != wanted or len(shard["members"]) != len(wanted):
            return None
        if max(replica["lag"] for replica in shard["replicas"]) > 1_000:
            return None
    return status


def slow_steps(cluster):
    """Steps so far that took longer than they may, by process."""
    found = {}
    for what in cluster.processes:
        if not what.startswith("node-"):
            continue
        metrics = cluster.metrics(int(what.removeprefix("node-")))
        buckets = {float(name.split('le="')[1].split('"')[0]): value for name, value in metrics.items()
                   if name.startswith(f"{STEP}_bucket")}
        within = max(value for bound, value in buckets.items() if bound <= STEP_MAX_MS / 1000 * 1.03)
        found[cluster.pid(what)] = max(buckets.values()) - within
    return found


def more(before, after):
    """Slow steps since, over all processes. A process that ended in between has none."""
    return sum(count - before.get(process, 0) for process, count in after.items())


def tokens(cluster):
    """The tokens of some of the held locks, by name."""
    code, listed = cluster.command("ls", "--limit", 1000)
    if code != 0:
        raise Failed(f"no locks were listed: {listed}")
    return {grant["resource_name"]: grant["fencing_token"] for grant in listed["grants"] if grant["ttl_ms"] == 86_400_000}
