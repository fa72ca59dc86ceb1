"""What scripts/compare-peers measures, against the targets.

It has a method and a table of its own (docs/performance.md); this only judges them. It starts one short round of it, with etcd and
with what gRPC and the consensus path alone allow, or takes the results of an earlier run: --compare FILE. Where that has several
rounds, their medians count.
"""
import json
import statistics
import subprocess
from pathlib import Path

from harness import ROOT, Failed

TARGETS = ["acquire and release, 256 clients: 40,000/s, 14 times etcd, p99 ≤ 20 ms, half of the consensus path alone",
           "the same, 2,048 clients: 100,000/s, p99 ≤ 60 ms, half of the consensus path alone",
           "22,000/s open loop: p99 < 10 ms; one client alone: p50 no worse than etcd's", "unary: 60 % of gRPC's echo",
           "renewals 100,000/s; locks kept alive by heartbeats 1,000,000/s", "checks 100,000/s, stale 200,000/s"]


def measure(run):
    found = load(run.args.compare or compare(run))
    for (row, system), result in found.items():
        run.row(load=row, system=system, **{key: value for key, value in result.items() if value is not None})

    def of(start, system, key):
        """A figure of the row that begins so; None if that was not measured."""
        return next((result[key] for (row, by), result in found.items() if row.startswith(start) and by == system), None)

    def judge(what, reached, target, passed, unit="/s"):
        if reached is None:
            run.say(f"not measured: {what}")
        else:
            run.judge(what, reached, target, passed(reached), unit)

    def at_least(what, reached, least):
        judge(what, reached, f"≥ {least:,}", lambda rate: rate >= least)

    def share(what, reached, whole, least_percent):
        percent = 100 * reached / whole if reached and whole else None
        judge(what, percent, f"≥ {least_percent} %", lambda value: value >= least_percent, "%")
    for clients, least, p99_max_ms in [(256, 40_000, 20), (2048, 100_000, 60)]:
        row = f"acquire+release, {clients} clients"
        rate = of(row, "palisade", "operations_per_s")
        at_least(row, rate, least)
        judge(f"{row}, p99", of(row, "palisade", "p99_ms"), f"≤ {p99_max_ms} ms", lambda ms: ms <= p99_max_ms, "ms")
        share(f"{row}, of the consensus path alone", rate, of(f"consensus path alone, {clients} ", "alone", "operations_per_s"), 50)
        etcd = of(row, "etcd", "operations_per_s")
        if clients == 256:
            judge(f"{row}, against etcd", rate / etcd if rate and etcd else None, "≥ 14 ×", lambda times: times >= 14, "×")
    judge("22,000/s open loop, p99", of("22,000/s", "palisade", "p99_ms"), "< 10 ms", lambda ms: ms < 10, "ms")
    etcd_ms = of("acquire+release, 1 clients", "etcd", "p50_ms")
    if etcd_ms is not None:
        judge("one client alone, p50", of("acquire+release, 1 clients", "palisade", "p50_ms"), f"≤ etcd's {etcd_ms:.2f} ms",
              lambda ms: ms <= etcd_ms, "ms")
    share("unary, of gRPC's echo", of("unary", "palisade", "operations_per_s"), of("gRPC unary", "echo", "operations_per_s"), 60)
    at_least("single renewals", of("renew,", "palisade", "operations_per_s"), 100_000)
    at_least("locks kept alive by heartbeats", of("heartbeat", "palisade", "kept_alive_per_s"), 1_000_000)
    at_least("linearizable checks", of("linearizable check", "palisade", "operations_per_s"), 100_000)
    at_least("stale checks", of("stale check", "palisade", "operations_per_s"), 200_000)


def compare(run):
    """Runs scripts/compare-peers; its results."""
    out = run.work / "compare.json"
    command = [ROOT / "scripts/compare-peers", "--systems", "palisade,etcd", "--rounds", 1, "--seconds", run.choose(5, 3), "--warmup", 1,
               "--palisade", run.palisade, "--out", out]
    done = subprocess.run([str(part) for part in ["setpriv", "--pdeathsig", "TERM", *command]], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"scripts/compare-peers: {done.stderr.strip()[-300:]}")
    return out


def load(path):
    """(row, system) to the medians of its figures."""
    try:
        rows = json.loads(Path(path).read_text())["results"]
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"{path} is no result of scripts/compare-peers: {error!r}") from None
    keys = ["operations_per_s", "kept_alive_per_s", "p50_ms", "p99_ms"]
    return {(row["load"], row["system"]): {key: median([figure(result, key) for result in row["rounds"]]) for key in keys} for row in rows}


def figure(result, key):
    return result.get("latency", {}).get("all", {}).get(key) if key.endswith("_ms") else result.get(key)


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
