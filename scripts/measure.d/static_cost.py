"""What a cluster costs whose topology nobody changes: this build beside another one.

PALISADE_BEFORE names the other program. Clusters of both take turns; both get the same open loop of acquires and releases. Processor
time of all nodes and the gateway is divided by operations. Memory is RssAnon of a node. Under this load it depends on when RocksDB
happened to begin a new memtable: by 13 of 35 to 50 MiB from node to node of one cluster. So what a build takes more is judged before the
load, where all nodes are within 0.3 MiB, as a share of what a node of the former build has after it. What each lock takes is for the part
`memory`.
"""
import os
import time
from pathlib import Path

from harness import Failed, cpu_s, median, rss_anon_bytes

RATE, CLIENTS, ROUNDS, MORE_MAX = 10_000, 256, 5, 0.02
TARGETS = [f"processor time per operation at most {MORE_MAX:.0%} more, and memory too"]


def measure(run):
    before = os.environ.get("PALISADE_BEFORE")
    if not before:
        raise Failed("PALISADE_BEFORE does not name the program to compare with")
    programs, ours = {"before": Path(before), "this build": run.palisade}, run.palisade
    found = {name: [] for name in programs}
    for number in range(run.choose(ROUNDS, 1)):
        names = list(programs) if number % 2 == 0 else list(programs)[::-1]
        for name in names:
            run.palisade = programs[name]
            found[name].append(loaded(run, f"{name.replace(' ', '-')}-{number}"))
    run.palisade = ours
    for name, rounds in found.items():
        run.row(program=name, rounds=len(rounds), **{key: median([one[key] for one in rounds]) for key in rounds[0]})
    pairs = list(zip(found["this build"], found["before"]))
    loaded_before = median([theirs["loaded_MiB"] for _, theirs in pairs])
    more = {"processor time per operation": median([ours["us_per_operation"] / theirs["us_per_operation"] for ours, theirs in pairs]) - 1,
            "memory of a node": median([ours["idle_MiB"] - theirs["idle_MiB"] for ours, theirs in pairs]) / loaded_before}
    for what, share in more.items():
        run.judge(f"{what}, more than before", 100 * share, f"≤ {MORE_MAX:.0%}", share <= MORE_MAX, "%")


def loaded(run, name):
    with run.cluster(name) as cluster:
        time.sleep(2)
        idle_mib = memory(cluster)
        load = ["--rate", RATE, "--clients", CLIENTS, "--streams", 4, "--names", 100_000]
        used = {}

        def count(seconds):
            began = cpu_s(cluster.pids())
            time.sleep(seconds)
            used["s"], used["span_s"] = cpu_s(cluster.pids()) - began, seconds
            return {}
        report = cluster.bench(*load, duration_s=run.choose(12, 3), warmup_s=3, while_it_runs=count)
        idle = cpu_s(cluster.pids())
        time.sleep(run.choose(5, 1))
        idle_s = (cpu_s(cluster.pids()) - idle) / run.choose(5, 1)
        loaded_mib = memory(cluster)
    return {"us_per_operation": 1e6 * used["s"] / used["span_s"] / report["operations_per_s"], "p99_ms": report["latency"]["all"]["p99_ms"],
            "idle_percent_of_a_core": 100 * idle_s, "idle_MiB": idle_mib, "loaded_MiB": loaded_mib}


def memory(cluster):
    """The median of the nodes."""
    return median([rss_anon_bytes(pid) for pid in cluster.node_pids()]) / 2**20
