"""Single calls: unary gRPC beside gRPC's own echo, and HTTP/1.1 beside unary gRPC.

The echo is a tonic server that answers every call at once. It has the same calls, names and owners, in a process of its own. Each
round starts the echo server, loads and ends it, and then a cluster. All loads are closed, with 256 clients that acquire and release.
gRPC has four connections, as in scripts/compare-peers, and once one for each client, as HTTP/1.1 has.

Shares are ratios of rates of one round, and the median over the rounds is judged. The load runs on the same cores as the servers, so
its own cost is part of a rate. Unary calls are those of the SDK, and the loads of the echo and of HTTP/1.1 are cheaper. So the processor
time of servers and load for each operation is stated, too. Both need an idle machine: other work takes less from a cluster of many
processes than from an echo of two, and makes batches smaller.
"""
import json
import socket
import subprocess
import time

from harness import Failed, can_bind, cpu_s, median

CLIENTS, CONNECTIONS = 256, 4
UNARY_SHARE, HTTP_SHARE = 0.40, 0.80
ECHO, UNARY, UNARY_EACH, HTTP = "gRPC echo", "unary gRPC", "unary gRPC, a connection each", "HTTP/1.1, a connection each"
TARGETS = [f"unary gRPC, {CLIENTS} clients on {CONNECTIONS} connections: {UNARY_SHARE:.0%} of the echo's rate",
           f"HTTP/1.1, {CLIENTS} clients: {HTTP_SHARE:.0%} of the rate of unary gRPC over as many connections"]


def measure(run):
    found = {}
    for number in range(run.choose(5, 1)):
        halves = [echoed, served]
        for half in halves if number % 2 == 0 else halves[::-1]:
            for load, result in half(run, number).items():
                found.setdefault(load, []).append(result)
    for load in (ECHO, UNARY, UNARY_EACH, HTTP):
        keys = dict.fromkeys(key for result in found[load] for key in result)
        run.row(load=load, rounds=len(found[load]), **{key: median([result[key] for result in found[load]]) for key in keys})
    for load, of, least in [(UNARY, ECHO, UNARY_SHARE), (HTTP, UNARY_EACH, HTTP_SHARE)]:
        reached = ratio(found[load], found[of], "operations_per_s")
        run.judge(f"{load}, of the rate of {of}", 100 * reached, f"≥ {least:.0%}", reached >= least, "%")
        run.say(f"{load}: {ratio(found[load], found[of], 'server_us'):.2f} times the processor time per call of {of} "
                "(gateway or echo server)")
    run.say(f"{HTTP}: {ratio(found[HTTP], found[UNARY], 'operations_per_s'):.0%} of the rate of {UNARY} on {CONNECTIONS} connections")


def ratio(these, those, key):
    return median([one[key] / other[key] for one, other in zip(these, those)])


def span(run):
    """Warm-up and measured span, in s."""
    return run.choose((2, 8), (1, 2))


def echoed(run, number):
    """The echo server, under load."""
    port = free_port()
    echo = run.program("palisade-benches", "echo")
    log = run.work / f"echo-{number}.log"
    with open(log, "wb") as out:
        server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", str(echo), "serve", "--listen", f"127.0.0.1:{port}"],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_for(port, server, log)
        command = [echo, "load", "--unary", "--endpoint", f"127.0.0.1:{port}", "--clients", CLIENTS, "--connections", CONNECTIONS]
        return {ECHO: loaded(run, command, server=[server.pid], behind=[])}
    finally:
        server.kill()
        server.wait()


def served(run, number):
    """A cluster, under each load in turn."""
    found = {}
    with run.cluster(f"unary-{number}") as cluster:
        gateway, nodes = [cluster.pid("gateway")], cluster.node_pids()
        warmup_s, seconds = span(run)
        bench = [run.palisade, "bench", "--json", "--unary", "--endpoint", cluster.endpoint, "--clients", CLIENTS,
                 "--duration", f"{seconds}s", "--warmup", f"{warmup_s}s"]
        loads = {UNARY: [*bench, "--streams", CONNECTIONS], UNARY_EACH: [*bench, "--streams", CLIENTS],
                 HTTP: [run.program("palisade-benches", "http-load"), "--endpoint", cluster.endpoint, "--clients", CLIENTS]}
        names = list(loads)
        for load in names[number % 3:] + names[:number % 3]:
            found[load] = loaded(run, loads[load], server=gateway, behind=nodes)
        cluster.check()
    return found


def loaded(run, command, server, behind):
    """Runs a load: its rate, and processor time per operation of the server, of the nodes behind it, and of the load itself."""
    warmup_s, seconds = span(run)
    if "bench" not in command:
        command = [*command, "--seconds", seconds, "--warmup", warmup_s]
    load = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    try:
        # The load's own span lies around this one.
        time.sleep(warmup_s + 0.3)
        groups = {"server_us": server, "nodes_us": behind, "load_us": [load.pid]}
        before, began = [cpu_s(pids) for pids in groups.values()], time.monotonic()
        time.sleep(seconds - 0.6)
        took_s, after = time.monotonic() - began, [cpu_s(pids) for pids in groups.values()]
        out, errors = load.communicate(timeout=60)
    except (subprocess.TimeoutExpired, OSError):
        raise Failed(f"{command[0]} did not run as long as it should") from None
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if load.returncode != 0 or not lines:
        raise Failed(f"the load failed: {(out + errors).strip()[-300:]}")
    result = json.loads(lines[-1])
    rate = result["operations_per_s"]
    if result["errors"] or not rate:
        raise Failed(f"{command[0]}: {rate} operations per second, errors: {result['errors']}")
    took = zip(groups, before, after)
    return {"operations_per_s": rate, **{group: 1e6 * (end - start) / took_s / rate for group, start, end in took},
            "p50_ms": result["latency"]["all"]["p50_ms"], "p99_ms": result["latency"]["all"]["p99_ms"]}


def free_port():
    for port in range(32_001, 32_100):
        if can_bind(port):
            return port
    raise Failed("no port is free for the echo server")


def wait_for(port, server, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"the echo server does not serve: {log.read_text(errors='replace').strip()[-300:]}")
