"""Throughput from 1 to 8 shards where latency binds, not the processor: every sync takes 10 ms longer.

LATENCY-BOUND: fsync and fdatasync of all nodes take 10 ms each: they are delayed by that (delay-sync.c, preloaded), and the nodes' data
are in memory (/dev/shm), so that up to forty nodes do not wait for the one disk of this machine on top. That the delay takes effect
is seen in the nodes' own histogram of syncs. Entries in flight are bounded. This says how shards add up where each of them
waits for its disk and its peers, as on machines of their own; it says nothing of what this machine's processor can do.

What one shard can do is bounded by operations per entry × entries in flight ÷ the time of a commit. For the growth, that bound is
made small enough that eight shards stay below what the processor allows: entries of 16 KiB, one in flight, and names of 500 and
owners of 250 bytes, so that about 24 operations fill an entry. There are 256 closed-loop clients for each shard: far more than
one entry holds, so every entry is full. Twice:

  nodes of its own for each shard   three replicas (with five, the processes of eight shards would take two whole cores). This is how shards
                                    add up when each has its disks for itself.
  the same five nodes for all       all shards of a node share its log writer, and so its syncs: the same syncs per second carry more
                                    entries. The entry of one shard alone never waits for a sync that began before it came, while
                                    those of many come at any moment: a commit takes one to two syncs instead of one. That is lost
                                    once, from one shard to a few, not with every further shard.

That one shard passes 10,000 writes/s is shown with the default settings, five replicas, names of 100 bytes and 2,048 clients.
"""
import os
import subprocess
import tempfile
import time
from pathlib import Path

from harness import Failed, cpu_s

DELAY_MS, MEMORY = 10, "/dev/shm"
COUNTS = (1, 2, 4, 8)
GROWTH_MIN, ONE_SHARD_MIN = 7, 10_000
TARGETS = [f"from 1 to 8 shards at least {GROWTH_MIN} times the writes/s", f"one shard alone more than {ONE_SHARD_MIN:,} writes/s"]
BOUNDED = {"entry_bytes_max": 16 << 10, "entries_in_flight_max": 1}
CLIENTS_PER_SHARD = 256


def measure(run):
    shim = run.work / "delay-sync.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-DDELAY_MS={DELAY_MS}", "-o", shim, Path(__file__).with_name("delay-sync.c")],
                   check=True)
    if not os.access(MEMORY, os.W_OK):
        raise Failed(f"there is no {MEMORY}")
    run.say(f"latency-bound: every sync takes {DELAY_MS} ms, data are in {MEMORY}")
    with tempfile.TemporaryDirectory(prefix="palisade-measure-", dir=MEMORY) as under:
        measure_in(run, shim, Path(under))


def measure_in(run, shim, under):
    for what, dedicated in [("nodes of its own for each shard", True), ("the same five nodes for all", False)]:
        writes = {}
        for shards in COUNTS:
            options = ["--name-bytes", 500, "--owner-bytes", 250, "--clients", CLIENTS_PER_SHARD * shards]
            writes[shards] = one(run, shim, under, shards, what, dedicated, BOUNDED, options)
        growth = writes[COUNTS[-1]] / writes[1]
        run.judge(f"LATENCY-BOUND, {what}, writes/s with {COUNTS[-1]} shards over those with 1", growth, f"≥ {GROWTH_MIN} ×",
                  growth >= GROWTH_MIN, "×")
    alone = one(run, shim, under, 1, "default settings, 100 B names", False, {}, ["--clients", 2048])
    run.judge("LATENCY-BOUND, writes/s of one shard alone", alone, f"> {ONE_SHARD_MIN:,}", alone > ONE_SHARD_MIN)


def one(run, shim, under, shards, what, dedicated, settings, options):
    """Writes per second."""
    replicas, groups = (3, shards) if dedicated else (5, 1)
    placement = [[replicas * group + n for n in range(1, replicas + 1)] for group in range(groups)] if dedicated else None
    with run.cluster("latency-bound", nodes=replicas * groups, replicas=replicas, shards=shards, settings=settings,
                     placement=placement, node_env={"LD_PRELOAD": str(shim)}, under=under) as cluster:
        def during(span_s):
            pids = cluster.pids()
            before, cpu = counters(cluster), cpu_s(pids)
            time.sleep(span_s)
            after = counters(cluster)
            return {"cores": (cpu_s(pids) - cpu) / span_s, **{key: after[key] - before[key] for key in after}, "span_s": span_s}
        result = cluster.bench(*options, duration_s=run.choose(5, 2), warmup_s=2, while_it_runs=during)
    sync_ms = 1000 * result["sync_s"] / max(1, result["syncs"])
    if sync_ms < DELAY_MS:
        raise Failed(f"a sync takes {sync_ms:.1f} ms: the delay of {DELAY_MS} ms takes no effect")
    if result["errors"]:
        raise Failed(f"{shards} shards: {result['errors']}")
    writes, here = result["writes_per_s"], shards // groups
    run.row(bound=what, shards=shards, writes_per_s=writes, p50_ms=result["latency"]["all"]["p50_ms"],
            writes_per_entry=writes / shards * here * result["span_s"] / max(1, result["entries"]),
            entries_per_sync=result["synced_entries"] / max(1, result["syncs"]),
            syncs_per_s_of_a_node=result["syncs"] / result["span_s"], sync_ms=sync_ms, server_cores=result["cores"], load_cores=result["generator_cpu_s"] / result["seconds"])
    return writes


def counters(cluster):
    """Of node 1, which has a replica of shard 0, and of all shards that share its nodes."""
    metrics = cluster.metrics(1)
    entries = sum(value for name, value in metrics.items() if name.startswith("palisade_entries_applied_total"))
    return {"syncs": metrics["palisade_fsync_seconds_count"], "sync_s": metrics["palisade_fsync_seconds_sum"],
            "synced_entries": metrics["palisade_fsync_entries_sum"], "entries": entries}
