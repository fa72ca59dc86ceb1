"""The group of the topology without a quorum: what failovers of shards cost with it, and without it.

Eight nodes. Shard 0 lies on nodes 1 to 3, and the group of the topology with it; shards 1 to 3 lie on the others. Nodes that lead
one of shards 1 to 3 are killed and started again, one after the other: for a while with all nodes, and then for ten minutes while
nodes 1 and 2 are down, so that the topology has no quorum. A failover counts from SIGKILL to the next acquire on the shard. Clients of the SDK
keep locks on shards 1 to 3 all the while.
"""
import signal
import time

from harness import Failed, median

SHARDS, DOWN = (1, 2, 3), (1, 2)
PLACEMENT = [[1, 2, 3], [4, 5, 6], [5, 6, 7], [6, 7, 8]]
FAILOVER_SLACK_S, PAUSE_S = 0.3, 6
TARGETS = [f"median failover of a shard at most {FAILOVER_SLACK_S} s above that with the topology's group", "no lock is lost"]


def measure(run):
    with run.cluster("topology-out", nodes=8, replicas=3, placement=PLACEMENT) as cluster:
        tags = cluster.shard_tags()
        kept = {shard: [take(cluster, f"{tags[shard]}kept-{n}") for n in range(20)] for shard in SHARDS}
        with_it = failovers(run, cluster, tags, "with", run.choose(60, 15))
        for node in DOWN:
            cluster.kill(f"node-{node}")
        code, answer = cluster.command("cluster", "drain", 5, "--within", "5s", timeout_s=30)
        run.say(f"a verb without a quorum: exit code {code}, {answer}")
        refused = code != 0
        without = failovers(run, cluster, tags, "without", run.choose(600, 15))
        lost = [name for names in kept.values() for name, token in names if holder(cluster, name) != token]
        for node in DOWN:
            cluster.start_node(node)
        cluster.wait(lambda: cluster.command("cluster", "drain", 5, "--within", "60s")[0] == 0, 60, "no verb succeeded")
    run.judge("failover without a quorum of the topology, median", median(without), f"≤ {median(with_it) + FAILOVER_SLACK_S:.2f} s",
              median(without) <= median(with_it) + FAILOVER_SLACK_S, "s")
    run.judge("verbs that change the topology are refused meanwhile", refused, "True", refused)
    run.judge("locks lost", len(lost), "0", not lost)


def failovers(run, cluster, tags, what, seconds):
    """Seconds of each failover, one after the other until the time is over."""
    times, deadline, number = [], time.monotonic() + seconds, 0
    while not times or time.monotonic() < deadline:
        shard = SHARDS[number % len(SHARDS)]
        number += 1
        node = leader(cluster, shard)
        cluster.acquire_within(tags[shard], f"{what}-before-{number}")
        killed = time.monotonic()
        cluster.kill(f"node-{node}")
        times.append(cluster.acquire_within(tags[shard], f"{what}-after-{number}") - killed)
        cluster.start_node(node)
        time.sleep(PAUSE_S)
    run.row(failovers=f"{what} the topology's group", count=len(times), median_s=median(times), least_s=min(times), most_s=max(times))
    return times


def leader(cluster, shard):
    """The node that leads a shard. `cluster status` fails while a shard has no leader, and one has none here."""
    def asked():
        found = cluster.command("cluster", "status")[1].get("shards", [])
        return next((row["leader"] for row in found if row["shard"] == shard), None)
    return cluster.wait(asked, 60, f"shard {shard} had no leader")


def take(cluster, name):
    code, grant = cluster.command("acquire", name, "--ttl", "1h")
    if code != 0:
        raise Failed(f"{name} was not granted: {grant}")
    return name, grant["fencing_token"]


def holder(cluster, name):
    """The token under which a name is held."""
    return cluster.command("check", name)[1].get("fencing_token")
