"""Processor time of a node with a thousand idle shards.

Three nodes, three replicas of each shard: each node has a thousand replicas and leads a third of them.
"""
import time

from harness import cpu_s, rss_anon_bytes

PERCENT_MAX = 10
TARGETS = [f"less than {PERCENT_MAX} % of one core"]


def measure(run):
    shards, settle_s, span_s = run.choose((1_000, 20, 30), (1_000, 5, 8))
    with run.cluster("idle", nodes=3, replicas=3, shards=shards) as cluster:
        time.sleep(settle_s)
        leads = {node["node"]: node["leads"] for node in cluster.wait(cluster.status, 60, "not every shard had a leader")["nodes"]}
        time.sleep(2)
        pids = {what: cluster.pid(what) for what in cluster.processes}
        before, began = {what: cpu_s([pid]) for what, pid in pids.items()}, time.monotonic()
        time.sleep(span_s)
        took_s = time.monotonic() - began
        percent = {what: 100 * (cpu_s([pid]) - before[what]) / took_s for what, pid in pids.items()}
        for what, pid in pids.items():
            run.row(process=what, shards=shards, leads=leads.get(int(what[5:]), "–") if what != "gateway" else "–",
                    percent_of_a_core=percent[what], MiB=rss_anon_bytes(pid) / 2**20)
        cluster.check()
    most = max(percent[what] for what in percent if what != "gateway")
    run.judge(f"{shards:,} idle shards, the busiest node", most, f"< {PERCENT_MAX} % of a core", most < PERCENT_MAX, "%")
