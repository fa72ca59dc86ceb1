"""Throughput from 1 to 8 shards where latency binds, not the processor: every sync takes 10 ms longer.

LATENCY-BOUND: fsync and fdatasync of all nodes are delayed by 10 ms each (delay-sync.c, preloaded), and entries in flight are
bounded. That the delay takes effect is seen in the nodes' own histogram of syncs. This says how shards add up where each of them
waits for its disk and its peers, as on machines of their own; it says nothing of what this machine's processor can do.

All shards of a node share its log writer, so they share its syncs too: with more shards, the same syncs per second carry more
entries. What one shard can do is bounded by operations per entry × entries in flight ÷ the time of a commit. For the growth, that
bound is made small enough that eight shards stay below what the processor allows: entries of 16 KiB, two in flight (one is
synced while the next comes), and names of 500 and owners of 250 bytes, so that few operations fill an entry. There
are 4,096 closed-loop clients at any number of shards: far more than are in flight, so every entry is full. That one shard passes
10,000 writes/s is shown with the default settings and names of 100 bytes.
"""
import subprocess
import time
from pathlib import Path

from harness import Failed, cpu_s

DELAY_MS = 10
COUNTS = (1, 2, 4, 8)
GROWTH_MIN, ONE_SHARD_MIN = 7, 10_000
TARGETS = [f"from 1 to 8 shards at least {GROWTH_MIN} times the writes/s", f"one shard alone more than {ONE_SHARD_MIN:,} writes/s"]
BOUNDED = {"entry_bytes_max": 16 << 10, "entries_in_flight_max": 2}
LONG = ["--name-bytes", 500, "--owner-bytes", 250]


def measure(run):
    shim = run.work / "delay-sync.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-DDELAY_MS={DELAY_MS}", "-o", shim, Path(__file__).parent / "delay-sync.c"], check=True)
    run.say(f"latency-bound: every sync is delayed by {DELAY_MS} ms")
    bounded = {}
    for shards in COUNTS:
        bounded[shards] = one(run, shim, shards, BOUNDED, LONG, "2 × 16 KiB in flight, 500 B names")
    alone = one(run, shim, 1, {}, [], "default settings, 100 B names")
    growth = bounded[COUNTS[-1]] / bounded[1]
    run.judge(f"LATENCY-BOUND, writes/s with {COUNTS[-1]} shards over those with 1", growth, f"≥ {GROWTH_MIN} ×", growth >= GROWTH_MIN, "×")
    run.judge("LATENCY-BOUND, writes/s of one shard alone", alone, f"> {ONE_SHARD_MIN:,}", alone > ONE_SHARD_MIN)


def one(run, shim, shards, settings, options, what):
    """Writes per second."""
    name = f"latency-{shards}-{len(settings)}"
    with run.cluster(name, shards=shards, settings=settings, node_env={"LD_PRELOAD": str(shim)}) as cluster:
        def during(span_s):
            pids = cluster.pids()
            before, cpu = counters(cluster), cpu_s(pids)
            time.sleep(span_s)
            after = counters(cluster)
            return {"cores": (cpu_s(pids) - cpu) / span_s, **{key: after[key] - before[key] for key in after}, "span_s": span_s}
        result = cluster.bench("--clients", 4096, "--streams", 4, *options, duration_s=run.choose(6, 2), warmup_s=2, while_it_runs=during)
    sync_ms = 1000 * result["sync_s"] / max(1, result["syncs"])
    if sync_ms < DELAY_MS:
        raise Failed(f"a sync takes {sync_ms:.1f} ms: the delay of {DELAY_MS} ms takes no effect")
    if result["errors"]:
        run.say(f"{shards} shards: errors {result['errors']}")
    writes = result["writes_per_s"]
    run.row(bound=what, shards=shards, writes_per_s=writes, p50_ms=result["latency"]["all"]["p50_ms"],
            writes_per_entry=writes * result["span_s"] / max(1, result["entries"]),
            entries_per_sync=result["synced_entries"] / max(1, result["syncs"]), syncs_per_s_of_a_node=result["syncs"] / result["span_s"],
            sync_ms=sync_ms, server_cores=result["cores"], load_cores=result["generator_cpu_s"] / result["seconds"])
    return writes


def counters(cluster):
    """Of node 1, which has a replica of every shard."""
    metrics = cluster.metrics(1)
    entries = sum(value for name, value in metrics.items() if name.startswith("palisade_entries_applied_total"))
    return {"syncs": metrics["palisade_fsync_seconds_count"], "sync_s": metrics["palisade_fsync_seconds_sum"],
            "synced_entries": metrics["palisade_fsync_entries_sum"], "entries": entries}
