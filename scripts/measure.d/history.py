"""Bytes of history on disk per operation, under the seed mix.

A lock's life under it is an acquire, 20 renewals and a release: 22 operations, and one tenure in the history. When the load has ended
and all is checkpointed, a node is stopped and its RocksDB directory copied; `stored-bytes` (benches/) opens the copy with the
node's own options, compacts it, and says what its column families take.

The names and owners of the load end in padding that compresses well. So the same is also stated without any compression, as
the bytes of keys and values: whatever the names are, it is no more than that and an index.
"""
import json
import shutil
import signal
import subprocess

from harness import BUILT, Failed, build

BYTES_PER_OPERATION_MAX = 20
TARGETS = [f"at most {BYTES_PER_OPERATION_MAX} B on disk per operation after compaction"]
CHECKPOINTED_WITHIN_S = 60


def measure(run):
    build("palisade-benches", "stored-bytes")
    seconds = run.choose(25, 5)
    with run.cluster("history") as cluster:
        cluster.finalize()
        cluster.bench("--mix", "seed", "--clients", 1024, "--ttl", "10m", duration_s=seconds)
        cluster.wait(lambda: checkpointed(cluster), CHECKPOINTED_WITHIN_S, "not everything was checkpointed", pause_s=0.5)
        operations = {kind: count(cluster, kind) for kind in ("acquire", "renew", "release")}
        cluster.signal_node(1, signal.SIGTERM)
        copy = run.work / "history-copy"
        shutil.copytree(cluster.data(1) / "rocksdb", copy)
    try:
        done = subprocess.run([BUILT / "stored-bytes", copy], capture_output=True, text=True)
    finally:
        shutil.rmtree(copy)
    if done.returncode != 0:
        raise Failed(f"stored-bytes: {done.stderr.strip()[-300:]}")
    stored = json.loads(done.stdout)
    for family in ("history", "state", "log"):
        at = stored[family]
        run.row(column_family=family, records=at["entries"], flushed_KiB=at["flushed_bytes"] / 1024,
                compacted_KiB=at["compacted_bytes"] / 1024, keys_and_values_KiB=at["raw_bytes"] / 1024)
    # A record has many tenures, so the release of a lock is counted as one.
    history, total, tenures = stored["history"], sum(operations.values()), operations["release"]
    run.say(f"{total:,.0f} operations ({', '.join(f'{value:,.0f} {kind}' for kind, value in operations.items())}), "
            f"{tenures:,.0f} tenures")
    for what, size in [("on disk, compacted", history["compacted_bytes"]), ("without compression", history["raw_bytes"])]:
        run.say(f"{what}: {size / tenures:.1f} B per tenure, {size / total:.2f} B per operation")
        run.judge(f"history per operation, {what} ({size / tenures:.0f} B per tenure)", size / total,
                  f"≤ {BYTES_PER_OPERATION_MAX} B", size / total <= BYTES_PER_OPERATION_MAX, "B")


def checkpointed(cluster):
    status = cluster.level()
    return status and all(replica["checkpoint_index"] == replica["applied_index"]
                          for shard in status["shards"] for replica in shard["replicas"])


def count(cluster, kind):
    """Operations of this kind that were done, over all nodes."""
    name = f'palisade_operations_total{{kind="{kind}",outcome="ok"}}'
    return sum(cluster.metrics(n).get(name, 0) for n in range(1, cluster.nodes + 1))
