"""A million held locks: memory of each, restarts and failovers with them.

Names of 100 bytes, owners of 50, TTL 24 h, taken through the gateway, five replicas of four shards; once on private leases (each
lock its own), once on 256 sessions. Memory is the growth of each node's RssAnon from the idle, empty cluster to ten seconds after
the last checkpoint, so buffers of RocksDB and the kept end of the log count as if they were the locks'. It is divided by locks:
every node has a replica of each.

Restarts and failovers are with the locks on private leases. "Serves" is an acquire by `palisade acquire` that succeeds on the shard,
the start of that program included. A failover is timed from SIGKILL of the node that leads a shard; before the locks are
taken, and with them.
"""
import concurrent.futures
import signal
import time

from harness import Failed, median, rss_anon_bytes

BYTES_PER_LOCK_MAX = 400
RESTART_MAX_S = 10
# Elections are random, between 400 and 800 ms of silence: a median of few may differ by so much.
FAILOVER_SLACK_S = 0.5
TARGETS = [f"at most {BYTES_PER_LOCK_MAX} B of resident memory per lock and replica", f"restart to serving in at most {RESTART_MAX_S} s",
           f"median failover no more than {FAILOVER_SLACK_S} s above that of an empty cluster"]
LEVEL_WITHIN_S = 120


def measure(run):
    locks, kills = run.choose(1_000_000, 50_000), run.choose(5, 2)
    with run.cluster("memory-sessions") as cluster:
        hold(run, cluster, locks, "256 sessions", ["--mix", "heartbeat", "--clients", 256])
    with run.cluster("memory-private") as cluster:
        tags = cluster.shard_tags()
        empty = failovers(run, cluster, tags, kills, "empty")
        hold(run, cluster, locks, "private leases", ["--mix", "stale-check", "--clients", 1024])
        held = failovers(run, cluster, tags, kills, f"{locks:,} locks")
        restarts(run, cluster, tags, locks)
    run.judge("failover with the locks held, median", median(held), f"≤ {median(empty) + FAILOVER_SLACK_S:.2f} s",
              median(held) <= median(empty) + FAILOVER_SLACK_S, "s")


def hold(run, cluster, locks, what, mix):
    """Takes the locks and weighs them."""
    before = settled(cluster)
    began = time.monotonic()
    cluster.bench(*mix, "--names", locks, "--ttl", "24h", "--keep", duration_s=0.5, warmup_s=0.1, patience_s=600)
    took_s = time.monotonic() - began
    after = settled(cluster)
    held = locks_held(cluster)
    if held < locks:
        raise Failed(f"{locks:,} locks were to be held, and {held:,} are")
    each = [(after[pid] - before[pid]) / locks for pid in after]
    run.row(measured=f"locks on {what}", locks=locks, taken_in_s=took_s, B_per_lock=sum(each) / len(each),
            most_of_a_node=max(each), node_MiB_before=sum(before.values()) / len(before) / 2**20,
            node_MiB_after=sum(after.values()) / len(after) / 2**20)
    run.judge(f"memory per lock and replica, {what}, the largest node", max(each), f"≤ {BYTES_PER_LOCK_MAX} B",
              max(each) <= BYTES_PER_LOCK_MAX, "B")


def settled(cluster):
    """RssAnon of each node by pid, once everything is checkpointed."""
    def checkpointed():
        status = cluster.level()
        return status and all(replica["checkpoint_index"] == replica["applied_index"]
                              for shard in status["shards"] for replica in shard["replicas"])
    cluster.wait(checkpointed, LEVEL_WITHIN_S, "not everything was checkpointed", pause_s=0.5)
    time.sleep(cluster.run.choose(10, 2))
    return {pid: rss_anon_bytes(pid) for pid in cluster.node_pids()}


def locks_held(cluster):
    return sum(shard["active_locks"] for shard in cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")["shards"])


def failovers(run, cluster, tags, kills, what):
    """Seconds from the SIGKILL of a shard's leader to the next acquire on it, one for each kill."""
    times, usual = [], leaders(cluster)
    for kill in range(kills):
        shard = kill % cluster.shards
        # Between two kills leaderships go back to where the map wants them; they must not be on the move.
        cluster.wait(lambda: leaders(cluster) == usual, LEVEL_WITHIN_S, "leaderships did not go back")
        cluster.acquire_within(tags[shard], f"before-{kill}-{what}")
        node, killed = usual[shard], time.monotonic()
        cluster.signal_node(node, signal.SIGKILL)
        times.append(cluster.acquire_within(tags[shard], f"after-{kill}-{what}") - killed)
        cluster.start_node(node)
        # The tick of a cluster that is whole again.
        cluster.wait(cluster.level, LEVEL_WITHIN_S, f"node {node} did not come back level")
    run.row(measured=f"failover, {what}", kills=kills, median_s=median(times), least_s=min(times), most_s=max(times))
    return times


def leaders(cluster):
    status = cluster.level()
    return status and {shard["shard"]: shard["leader"] for shard in status["shards"]}


def restarts(run, cluster, tags, locks):
    for what, number in [("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)]:
        cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")
        began = time.monotonic()
        cluster.stop_nodes(number)
        stopped = time.monotonic()
        for n in range(1, cluster.nodes + 1):
            cluster.start_node(n)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            serve_s = max(pool.map(lambda tag: cluster.acquire_within(tag, f"restart-{what}"), tags.values())) - stopped
        cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")
        all_level_s, held = time.monotonic() - stopped, locks_held(cluster)
        run.row(measured=f"restart of all nodes, {what}", locks=held, stopping_s=stopped - began, serve_s=serve_s,
                all_level_s=all_level_s)
        if held < locks:
            raise Failed(f"after {what} {held:,} of {locks:,} locks are held")
        run.judge(f"all nodes stopped by {what}: from their start until all shards serve", serve_s, f"≤ {RESTART_MAX_S} s",
                  serve_s <= RESTART_MAX_S, "s")
    cluster.signal_node(1, signal.SIGKILL)
    began = time.monotonic()
    cluster.start_node(1)
    cluster.wait(lambda: cluster.level(1), LEVEL_WITHIN_S, "node 1 did not come back level")
    back_s = time.monotonic() - began
    run.row(measured="restart of one node, SIGKILL", locks=locks, all_level_s=back_s)
    run.judge("one node killed: from its start until its replicas are level", back_s, f"≤ {RESTART_MAX_S} s", back_s <= RESTART_MAX_S, "s")
