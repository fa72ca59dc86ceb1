"""Cost per operation at 1, 4 and 16 shards, at the same load.

Acquire and release through the gateway, five replicas: in an open loop, well below saturation; in a closed loop; and in a closed
loop whose clients grow with the shards. At the same load more shards have fewer operations for each entry; in the last they have
as many, so it shows what shards as such cost. The cost is that of all server processes, gateway included, over the middle of the
measured span: instructions in user mode where this machine counts them, and otherwise processor time from /proc/PID/stat.
"""
import subprocess
import time

from harness import counts_instructions, cpu_s, median

COUNTS = (1, 4, 16)
GROWTH_MAX = 0.10
TARGETS = [f"within {GROWTH_MAX:.0%} from 1 to 16 shards"]
RATE, CLIENTS, CLIENTS_PER_SHARD = 10_000, 1024, 256


def measure(run):
    counted, (rounds, seconds) = counts_instructions(), run.choose((2, 3), (1, 2))
    run.say("instructions in user mode" if counted else "this machine does not count instructions: processor time")
    loads = {
        f"open loop, {RATE:,}/s": lambda _: ["--clients", CLIENTS, "--rate", RATE],
        f"closed loop, {CLIENTS:,} clients": lambda _: ["--clients", CLIENTS],
        f"closed loop, {CLIENTS_PER_SHARD} clients per shard": lambda shards: ["--clients", CLIENTS_PER_SHARD * shards],
    }
    found = {}
    for turn in range(rounds):
        for shards in COUNTS:
            with run.cluster(f"shards-{shards}-{turn}", shards=shards) as cluster:
                for load, options in loads.items():
                    found.setdefault((load, shards), []).append(one(cluster, options(shards), seconds, counted))
    for load in loads:
        cost = {}
        for shards in COUNTS:
            results = found[load, shards]
            cost[shards] = median([result["cost"] for result in results])
            run.row(load=load, shards=shards, writes_per_s=median([result["writes_per_s"] for result in results]),
                    **{"kilo_instructions_per_write" if counted else "cpu_us_per_write": cost[shards]},
                    against_1_shard=f"× {cost[shards] / cost[1]:.2f}",
                    writes_per_entry=median([result["writes_per_s"] / result["entries_per_s"] for result in results]))
        growth = max(cost[shards] / cost[1] - 1 for shards in COUNTS)
        run.judge(f"growth of cost per operation from 1 to 16 shards, {load}", 100 * growth, f"≤ {GROWTH_MAX:.0%}",
                  growth <= GROWTH_MAX, "%")


def one(cluster, options, seconds, counted):
    """Thousands of instructions or µs per write."""
    def during(span_s):
        applied = entries(cluster)
        began = time.monotonic()
        if counted:
            counting = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "-p", ",".join(map(str, cluster.pids())),
                                       "--", "sleep", str(span_s)], capture_output=True, text=True, check=True)
            spent = int(counting.stderr.split(",")[0]) / 1e3
        else:
            before = cpu_s(cluster.pids())
            time.sleep(span_s)
            spent = (cpu_s(cluster.pids()) - before) * 1e6
        took_s = time.monotonic() - began
        return {"spent_per_s": spent / took_s, "entries_per_s": (entries(cluster) - applied) / took_s}
    result = cluster.bench(*options, duration_s=seconds, while_it_runs=during)
    return {**result, "cost": result["spent_per_s"] / result["writes_per_s"]}


def entries(cluster):
    """Log entries that node 1 has applied: it has a replica of every shard."""
    return sum(value for name, value in cluster.metrics(1).items() if name.startswith("palisade_entries_applied_total"))
