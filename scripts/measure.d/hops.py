"""What an entry of a log costs on its way: frames, thread switches and waits for a processor, hop by hop.

Closed loops of 256 and of 2,048 clients on four shards, by `palisade bench`. Everything is divided by the entries that leaders
wrote meanwhile. Frames are counted by the servers. Threads are counted by the kernel: a run is one stay on a processor, a switch is
the end of one, and queueing is the time between being able to run and running. It needs no profiler and no privilege.
"""
import os
import re
import time
from pathlib import Path

CLIENTS, SPAN_S, NAMES = (256, 2048), 12, 100_000
TARGETS = ["none: these figures say where the next gain is"]
# A log entry is applied by each replica, and written once by its leader.
REPLICAS = 5
GATEWAY_FRAMES = {"client_to_gateway": "palisade_gateway_frame_operations", "gateway_to_client": "palisade_gateway_result_frame_operations"}
NODE_FRAMES = {"gateway_to_node": "palisade_frame_operations", "node_to_gateway": "palisade_result_frame_operations"}


def measure(run):
    for clients in CLIENTS:
        with run.cluster(f"hops-{clients}") as cluster:
            def count(seconds):
                before = seen(cluster)
                time.sleep(seconds)
                return {"counted": difference(before, seen(cluster))}
            load = ["--clients", clients, "--streams", 4, "--names", NAMES]
            report = cluster.bench(*load, duration_s=run.choose(SPAN_S, 3), warmup_s=2, while_it_runs=count)
        show(run, clients, report)


def show(run, clients, report):
    counters, threads = report["counted"]
    entries = total(counters, "palisade_entries_applied_total") / REPLICAS
    operations = total(counters, "palisade_commands_applied_total") / REPLICAS
    latency = report["latency"]["all"]
    run.say(f"{clients} clients: {report['operations_per_s']:,.0f} operations/s, p50 {latency['p50_ms']:.1f} ms, p99 {latency['p99_ms']:.1f} ms; "
            f"{operations / entries:.1f} operations an entry")
    for hop, name in {**GATEWAY_FRAMES, **NODE_FRAMES}.items():
        frames, carried = total(counters, f"{name}_count"), total(counters, f"{name}_sum")
        run.row(clients=clients, hop=hop.replace("_", " "), per_entry=frames / entries, operations_each=carried / frames)
    peers = sum(value for name, value in counters.items() if name.startswith("palisade_peer_frames_total") and "sent" in name)
    messages = sum(value for name, value in counters.items() if name.startswith("palisade_peer_messages_total") and "sent" in name)
    run.row(clients=clients, hop="node to node", per_entry=peers / entries, messages_each=messages / peers)
    run.row(clients=clients, hop="synced writes", per_entry=total(counters, "palisade_fsync_seconds_count") / entries)
    for (process, thread), (ran_ns, waited_ns, runs, switches) in sorted(threads.items(), key=lambda each: -each[1][0]):
        if ran_ns / entries >= 5_000:
            run.row(clients=clients, hop=f"{process}: {thread}", switches_per_entry=switches / entries, us_per_entry=ran_ns / 1e3 / entries,
                    queueing_us_per_entry=waited_ns / 1e3 / entries, us_per_run=ran_ns / 1e3 / max(1, runs))
    ran, switches = sum(each[0] for each in threads.values()), sum(each[3] for each in threads.values())
    run.row(clients=clients, hop="all threads", switches_per_entry=switches / entries, us_per_entry=ran / 1e3 / entries,
            queueing_us_per_entry=sum(each[1] for each in threads.values()) / 1e3 / entries)


def seen(cluster):
    """Counters of all servers so far, summed up by name, and what their threads and the load's took."""
    counters = {}
    for n in range(cluster.nodes + 1):
        for name, value in cluster.metrics(n).items():
            counters[name] = counters.get(name, 0) + value
    processes = {pid: what.split("-")[0] for what, pid in ((what, cluster.pid(what)) for what in cluster.processes)}
    processes.update({pid: "load" for pid in loads()})
    threads = {}
    for pid, what in processes.items():
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                name = re.sub(r"[-0-9]+$", "", (task / "comm").read_text().strip())
                ran, waited, runs = map(int, (task / "schedstat").read_text().split())
                switches = sum(int(line.split()[1]) for line in (task / "status").read_text().splitlines() if "ctxt_switches" in line)
            except (OSError, ValueError):
                continue
            of_name = threads.setdefault((what, name), [0, 0, 0, 0])
            for at, value in enumerate((ran, waited, runs, switches)):
                of_name[at] += value
    return counters, threads


def loads():
    """Processes of `palisade bench` that this script started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in children if b"bench" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


def difference(before, after):
    (counters, threads), (later, later_threads) = before, after
    return ({name: value - counters.get(name, 0) for name, value in later.items()},
            {key: [value - old for value, old in zip(values, threads.get(key, [0] * 4))] for key, values in later_threads.items()})


def total(counters, name):
    """Over all labels."""
    return sum(value for full, value in counters.items() if full == name or full.startswith(name + "{"))
