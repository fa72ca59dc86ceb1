"""Processor time of the servers for each operation: without protection, with TLS, and with identities, permissions and quotas too.

Counted are nodes and gateway, and not the load, which is a process of its own. Each round starts one cluster after the other, in
another order each time, and loads it with each number of clients. A ratio is that of two clusters of one round, and the median over
the rounds is judged. So slow changes of the machine have no part in it. The load is closed, with clients on one connection, and the
clusters have the default settings. No quota is reached.
"""
import time

from harness import Failed, cpu_s, median

TLS_MAX, REST_MAX = 1.20, 1.03
CLIENTS = (2_048, 256)
TARGETS = [f"with TLS at most {TLS_MAX} times the processor time of an operation without protection",
           f"with identities, permissions and quotas at most {REST_MAX} times that with TLS"]
POLICY = """\
roles: { bench: { hold: ["b/"], read: ["b/"], observe: true } }
bindings: [{ identities: [bench], roles: [bench], quota: large }]
quotas:
  large: { operations_per_second: 1000000, locks_per_shard: 1000000, sessions_per_shard: 1000, waits_per_shard: 1000, waits: 1000,
           streams: 1000 }
"""
NOTHING, TLS, ALL = "nothing", "TLS", "all"
PROTECTION = {NOTHING: {}, TLS: {"identities": ["bench"]}, ALL: {"identities": ["bench"], "policy": POLICY}}


def measure(run):
    rounds, clients = run.choose((7, CLIENTS), (1, (64,)))
    found = {}
    for number in range(rounds):
        kinds = list(PROTECTION)
        for kind in kinds[number % 3:] + kinds[:number % 3]:
            for count, result in one(run, kind, clients).items():
                found.setdefault((count, kind), []).append(result)
    for (count, kind), results in sorted(found.items(), key=lambda item: (item[0][0], list(PROTECTION).index(item[0][1]))):
        values = {key: median([result[key] for result in results]) for key in results[0]}
        run.row(protection=kind, clients=count, rounds=len(results), **values)
    for count in clients:
        for what, over, most in [(TLS, NOTHING, TLS_MAX), (ALL, TLS, REST_MAX)]:
            pairs = zip(found[count, what], found[count, over])
            ratio = median([more["cpu_us_per_operation"] / less["cpu_us_per_operation"] for more, less in pairs])
            run.judge(f"{count:,} clients, processor time with {what} over that with {over}", ratio, f"≤ {most} ×", ratio <= most, "×")


def one(run, kind, clients):
    """What a cluster takes, by number of clients."""
    found = {}
    with run.cluster(f"security-{kind}", **PROTECTION[kind]) as cluster:
        for count in clients:
            def during(span_s):
                gateway, nodes = [cluster.pid("gateway")], cluster.node_pids()
                before, began = [cpu_s(gateway), cpu_s(nodes)], time.monotonic()
                time.sleep(span_s)
                took_s = time.monotonic() - began
                after = [cpu_s(gateway), cpu_s(nodes)]
                return {"gateway_cores": (after[0] - before[0]) / took_s, "node_cores": (after[1] - before[1]) / took_s}
            result = cluster.bench("--clients", count, duration_s=run.choose(10, 3), warmup_s=2, while_it_runs=during)
            if result["errors"]:
                raise Failed(f"{kind}, {count} clients: {result['errors']}")
            rate = result["operations_per_s"]
            found[count] = {
                "operations_per_s": rate, "cpu_us_per_operation": 1e6 * (result["gateway_cores"] + result["node_cores"]) / rate,
                "gateway_us": 1e6 * result["gateway_cores"] / rate, "nodes_us": 1e6 * result["node_cores"] / rate,
                "load_us": result["generator_cpu_us_per_operation"], "p99_ms": result["latency"]["all"]["p99_ms"]}
    return found
