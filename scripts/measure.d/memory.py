"""A million held locks: memory of each, restarts and failovers with them.

Names of 100 bytes, owners of 50, TTL 24 h, taken through the gateway, five replicas of four shards; once on private leases (each
lock its own), once on 256 sessions. Memory is the growth of each node's RssAnon from the idle, empty cluster to five seconds after
the last checkpoint, so buffers of RocksDB and the kept end of the log count as if they were the locks'; what the second half of the
locks added is shown beside it. It is divided by locks: every node has a replica of each. What restarted nodes take is stated too:
what a heap has kept from the time when the locks were taken is not in it.

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
TARGETS = [f"at most {BYTES_PER_LOCK_MAX} B of resident memory per lock and replica",
           f"restart to serving in at most {RESTART_MAX_S} s",
           f"median failover no more than {FAILOVER_SLACK_S} s above that of an empty cluster"]
LEVEL_WITHIN_S = 120
STEADY_S = 3
# Heaps give back what they no longer need with some delay.
SETTLES_S = 5


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
    """Takes the locks in two halves and weighs them: what the second half adds is free of what is there once and for all."""
    weights, began = [settled(cluster)], time.monotonic()
    for names in (locks - locks // 2, locks // 2):
        cluster.bench(*mix, "--names", names, "--ttl", "24h", "--keep", duration_s=0.5, warmup_s=0.1, patience_s=600)
        weights.append(settled(cluster))
    held = locks_held(cluster)
    if held < locks:
        raise Failed(f"{locks:,} locks were to be held, and {held:,} are")
    before, half, after = weights
    each = [(after[pid] - before[pid]) / locks for pid in after]
    second = [(after[pid] - half[pid]) / (locks // 2) for pid in after]
    run.row(measured=f"locks on {what}", locks=locks, in_s=time.monotonic() - began, B_per_lock=sum(each) / len(each),
            of_the_largest_node=max(each), of_the_second_half=sum(second) / len(second),
            MiB_before=sum(before.values()) / len(before) / 2**20, MiB_after=sum(after.values()) / len(after) / 2**20)
    run.judge(f"memory per lock and replica, {what}, the largest node", max(each), f"≤ {BYTES_PER_LOCK_MAX} B",
              max(each) <= BYTES_PER_LOCK_MAX, "B")


def settled(cluster):
    """RssAnon of each node by pid, once everything is checkpointed."""
    def checkpointed():
        status = cluster.level()
        return status and all(replica["checkpoint_index"] == replica["applied_index"]
                              for shard in status["shards"] for replica in shard["replicas"])
    cluster.wait(checkpointed, LEVEL_WITHIN_S, "not everything was checkpointed", pause_s=0.5)
    time.sleep(cluster.run.choose(SETTLES_S, 1))
    return {pid: rss_anon_bytes(pid) for pid in cluster.node_pids()}


def locks_held(cluster):
    return sum(shard["active_locks"] for shard in cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")["shards"])


def failovers(run, cluster, tags, kills, what):
    """Seconds from the SIGKILL of a shard's leader to the next acquire on it, one for each kill."""
    times = []
    for kill in range(kills):
        shard = kill % cluster.shards
        node = steady_leaders(cluster)[shard]
        cluster.acquire_within(tags[shard], f"before-{kill}-{what}")
        killed = time.monotonic()
        cluster.signal_node(node, signal.SIGKILL)
        times.append(cluster.acquire_within(tags[shard], f"after-{kill}-{what}") - killed)
        cluster.start_node(node)
    run.row(measured=f"failover, {what}", in_s=median(times), least_s=min(times), most_s=max(times))
    return times


def steady_leaders(cluster):
    """The node that leads each shard of a whole cluster, once that has not changed for a while: after a node has come back,
    leaderships go to where the map wants them."""
    deadline, seen, since = time.monotonic() + LEVEL_WITHIN_S, None, 0
    while time.monotonic() < deadline:
        status = cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")
        leaders = {shard["shard"]: shard["leader"] for shard in status["shards"]}
        if leaders != seen:
            seen, since = leaders, time.monotonic()
        elif time.monotonic() - since >= STEADY_S:
            return leaders
        time.sleep(0.2)
    raise Failed(f"leaderships were still on the move after {LEVEL_WITHIN_S} s")


def restarts(run, cluster, tags, locks):
    for what, number in [("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)]:
        cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")
        cluster.stop_nodes(number)
        stopped = time.monotonic()
        for n in range(1, cluster.nodes + 1):
            cluster.start_node(n)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            serve_s = max(pool.map(lambda tag: cluster.acquire_within(tag, f"restart-{what}"), tags.values())) - stopped
        cluster.wait(cluster.level, LEVEL_WITHIN_S, "replicas lag")
        all_level_s, held = time.monotonic() - stopped, locks_held(cluster)
        run.row(measured=f"all nodes: {what}, start, until all shards serve", locks=held, in_s=serve_s)
        # All of it, without what a node has when it is empty taken off.
        sizes = settled(cluster).values()
        run.row(measured=f"all nodes: {what}, start, until all replicas are level", locks=held, in_s=all_level_s,
                B_per_lock=sum(sizes) / len(sizes) / held, of_the_largest_node=max(sizes) / held,
                MiB_after=sum(sizes) / len(sizes) / 2**20)
        if held < locks:
            raise Failed(f"after {what} {held:,} of {locks:,} locks are held")
        run.judge(f"all nodes stopped by {what}: from their start until all shards serve", serve_s, f"≤ {RESTART_MAX_S} s",
                  serve_s <= RESTART_MAX_S, "s")
    cluster.signal_node(1, signal.SIGKILL)
    began = time.monotonic()
    cluster.start_node(1)
    cluster.wait(lambda: cluster.level(1), LEVEL_WITHIN_S, "node 1 did not come back level")
    back_s = time.monotonic() - began
    run.row(measured="one node: SIGKILL, start, until its replicas are level", locks=locks, in_s=back_s)
    run.judge("one node killed: from its start until its replicas are level", back_s, f"≤ {RESTART_MAX_S} s",
              back_s <= RESTART_MAX_S, "s")
