"""Rates of the other mixes, as scripts/compare-peers measures them in one run, against their targets.

This starts scripts/compare-peers with one round against etcd and gRPC alone, and judges what it measured; its own table and method
are in docs/performance.md. Not with --quick, where there is nothing else to see than that it runs.
"""
import json
import subprocess

from harness import ROOT, Failed

TARGETS = ["heartbeats keep at least 1,000,000 locks alive/s", "single renewals at least 100,000/s", "linearizable checks at least 100,000/s",
           "stale checks at least 200,000/s", "one client alone: p50 no worse than etcd's", "22,000/s open loop: p99 below 10 ms",
           "unary at least 60 % of gRPC's echo"]


def measure(run):
    out = run.work / "compare.json"
    spans = run.choose(["--seconds", 4, "--warmup", 1], ["--seconds", 3, "--warmup", 1, "--clients", "64,128"])
    command = [ROOT / "scripts/compare-peers", "--systems", "palisade,etcd", "--rounds", 1, *spans, "--palisade", run.palisade, "--out", out]
    done = subprocess.run([str(part) for part in ["setpriv", "--pdeathsig", "TERM", *command]], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"scripts/compare-peers: {done.stderr.strip()[-300:]}")
    found = {(row["load"], row["system"]): row["rounds"][0] for row in json.loads(out.read_text())["results"]}
    for (load, system), result in found.items():
        run.row(load=load, system=system, operations_per_s=result["operations_per_s"], p50_ms=latency(result, "p50_ms"),
                p99_ms=latency(result, "p99_ms"), errors=errors(result))

    def of(start, system="palisade"):
        return next(result for (load, by), result in found.items() if load.startswith(start) and by == system)

    def at_least(what, reached, least):
        run.judge(what, reached, f"≥ {least:,}", reached >= least, "/s")
    at_least("locks kept alive by heartbeats", of("heartbeat")["kept_alive_per_s"], 1_000_000)
    at_least("single renewals", of("renew,")["operations_per_s"], 100_000)
    at_least("linearizable checks", of("linearizable check")["operations_per_s"], 100_000)
    at_least("stale checks", of("stale check")["operations_per_s"], 200_000)
    ours, etcds = (latency(of("acquire+release, 1 clients", system), "p50_ms") for system in ("palisade", "etcd"))
    run.judge("one client alone, p50", ours, f"≤ etcd's {etcds:.2f} ms", ours <= etcds, "ms")
    p99 = latency(of("22,000/s"), "p99_ms")
    run.judge("22,000/s open loop, p99", p99, "< 10 ms", p99 < 10, "ms")
    share = 100 * of("unary")["operations_per_s"] / of("gRPC unary echo", "echo")["operations_per_s"]
    run.judge("unary, share of gRPC's echo", share, "≥ 60 %", share >= 60, "%")


def latency(result, key):
    return result["latency"]["all"][key] if "latency" in result else "–"


def errors(result):
    """Some loads count them by kind."""
    found = result.get("errors", 0)
    return sum(found.values()) if isinstance(found, dict) else found
