"""Watches of many locks over the kill of a leader, the kill of their gateway, and a resync.

A program (tools/load/examples/watchers.rs) watches each lock with a watch of its own, all through one gateway. It acquires and
releases the locks through the other gateway, and compares what each watch was told with what was acknowledged. Each phase changes
each lock at least twice, and its watches are judged after it:

  calm    nothing is hurt
  leader  the node that leads most shards is killed under load, and started again after the phase
  gateway the gateway of the watches is killed under load: they go on through the other one by their positions
  resync  the watches leave, and come back once no node remembers events since then: each must be told the state, as a resync
  after   the watches that were told a resync
"""
import json
import subprocess
import time

from harness import READY_WITHIN_S, Failed, rss_anon_bytes

WATCHES = 10_000
TARGETS = ["no change of a watched lock is missing, double or out of order, over the kill of a leader and of a gateway",
           "each watch with an outdated position is told a resync, with the right state"]
# Nodes forget the recent events of a shard 30 s after its last watch.
FORGOTTEN_WITHIN_S = 120
FAULTS = ("missing", "double", "out_of_order", "unknown")


class Watchers:
    """The program, by its orders."""

    def __init__(self, program, cluster, watches):
        first, second = cluster.endpoints.values()
        command = ["setpriv", "--pdeathsig", "KILL", program, "--watch", f"{first},{second}", "--load", second, "--watches", watches]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the program with the watches ended: see above")
        return json.loads(line)

    def order(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.answer()


def measure(run):
    program, watches = run.example("palisade-load", "watchers"), run.choose(WATCHES, 300)
    load_s = run.choose(8, 2)
    with run.cluster("watchers", gateways=2) as cluster:
        idle = {gateway: rss_anon_bytes(cluster.pid(gateway)) for gateway in cluster.endpoints}
        with Watchers(program, cluster, watches) as watchers:
            began = watchers.answer()
            run.say(f"{began['watches']:,} watches were told their state within {began['began_s']:.1f} s")
            faults = {}

            def phase(name, gateway, hurt=lambda: None):
                """Load, the fault in its midst, and the verdict on the watches, which `gateway` serves at the end."""
                watchers.order("load")
                time.sleep(load_s)
                hurt()
                time.sleep(load_s)
                report = watchers.order("stop")
                memory = rss_anon_bytes(cluster.pid(gateway))
                run.row(phase=name, changes=report["changes"], changes_per_s=report["changes"] / report["load_s"],
                        **{fault: report[fault] for fault in FAULTS}, resyncs=report["resyncs"], caught_up_s=report["caught_up_s"],
                        late_p50_ms=report["late_p50_ms"], late_p99_ms=report["late_p99_ms"], late_max_ms=report["late_max_ms"],
                        gateway_mb=memory / 1e6, gateway_kb_per_watch=(memory - idle[gateway]) / watches / 1e3)
                faults[name] = {fault: report[fault] for fault in FAULTS}
                run.say(f"{name}: {report['changes']:,} changes, " + ", ".join(f"{n} {fault}" for fault, n in faults[name].items())
                        + f", {report['resyncs']} resyncs, all told {report['caught_up_s']:.1f} s after the last change")
                return report

            phase("calm", "gateway")
            leader = most_leading(cluster.wait(cluster.status, READY_WITHIN_S, "no status before the kill of a leader"))
            phase("leader", "gateway", lambda: cluster.kill(f"node-{leader}"))
            cluster.start_node(leader)
            cluster.wait(cluster.level, READY_WITHIN_S, f"node {leader} did not come back")
            phase("gateway", "gateway-2", lambda: cluster.kill("gateway"))
            cluster.start_gateway("gateway")
            cluster.wait(lambda: cluster.status() is not None, READY_WITHIN_S, "the gateway did not come back")

            watchers.order("leave")
            watchers.order("load")
            left = time.monotonic()
            cluster.wait(lambda: not any(cluster.metrics(n)["palisade_watch_rings"] for n in range(1, cluster.nodes + 1)),
                         FORGOTTEN_WITHIN_S, "the nodes did not forget the events")
            missed = watchers.order("stop")["missing"]
            run.say(f"nodes forgot the events {time.monotonic() - left:.0f} s after the last watch; {missed:,} changes were not told")
            returned = watchers.order("return")
            run.say(f"all watches came back within {returned['took_s']:.1f} s, {returned['wrong_states']} with a wrong state")
            after = phase("after", "gateway")
    for fault in FAULTS:
        total = sum(counts[fault] for counts in faults.values())
        run.judge(f"changes {fault.replace('_', ' ')}, all phases", total, "0", total == 0)
    run.judge("watches that came back without a resync, or with a wrong state", returned["wrong_states"], "0",
              returned["wrong_states"] == 0 and after["resyncs"] == watches)


def most_leading(status):
    """The node that leads most shards."""
    leading = [replica["node"] for shard in status["shards"] for replica in shard["replicas"] if replica["role"] == "leader"]
    return max(leading, key=leading.count)
