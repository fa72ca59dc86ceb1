"""Operations of the SDK while all nodes and gateways are restarted one by one, by SIGTERM.

tools/load/examples/rolling.rs runs clients with connections of their own. Each keeps a lock, and takes, renews and releases another
one. They pause between rounds, so that they leave some of the machine to the processes that start. The restart begins with the first
SIGTERM, and ends when the last process is ready again. A process is restarted once the one before is ready by /readyz, as
docs/operate/upgrade.md says. Before and during are phases of one run of the clients, and there are three rounds of both, because one
stall of a shared disk is a large part of a restart that takes five seconds. With PALISADE_NEXT the processes start again as that
program in the first and the last round, and as the one that the run began with in the round between.
"""
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

from harness import READY_WITHIN_S, Failed

CLIENTS, RATIO_MAX, PAUSE_MS, ROUNDS = 256, 3, 100, 3
GATEWAYS = 2
TARGETS = ["no operation fails, and no lock that is kept is lost", f"p99 during the restart at most {RATIO_MAX} times that before, median of {ROUNDS} rounds"]
# The SDK gives an operation 5 s.
ENDS_WITHIN_S = 30


def measure(run):
    program, clients, calm_s = run.example("palisade-load", "rolling"), run.choose(CLIENTS, 64), run.choose(10, 4)
    # As of the program that the run began with: whatever is built meanwhile, all processes become the same one.
    following = os.environ.get("PALISADE_NEXT")
    following = Path(shutil.copy(following, run.work / "palisade-next")) if following else run.palisade
    run.say(f"from {version(run.palisade)} to {version(following)}" + ("" if following != run.palisade else ", the same program"))
    with run.cluster("rolling", gateways=GATEWAYS) as cluster:
        command = ["setpriv", "--pdeathsig", "KILL", program, "--endpoints", ",".join(cluster.endpoints.values()),
                   "--clients", clients, "--pause-ms", PAUSE_MS]
        load = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def begin(phase):
            load.stdin.write(phase + "\n")
            load.stdin.flush()
        try:
            time.sleep(calm_s / 2)
            os.sync()  # what was written before this run
            for number in range(1, ROUNDS + 1):
                begin(f"before {number}")
                time.sleep(calm_s)
                begin(f"during {number}")
                cluster.palisade = following if number % 2 else run.palisade
                for what in [*(f"node-{n}" for n in range(1, cluster.nodes + 1)), *cluster.endpoints]:
                    restart(run, cluster, what)
                begin("between")
                time.sleep(calm_s / 2)
            out = load.communicate(timeout=ENDS_WITHIN_S)[0]
        except (subprocess.TimeoutExpired, BrokenPipeError):
            raise Failed("the clients did not go on to their end") from None
        finally:
            if load.poll() is None:
                load.kill()
                load.wait()
        cluster.check()
    *phases, kept = [json.loads(line) for line in out.splitlines()]
    for phase in phases:
        for failure in phase["failures"]:
            run.say(f"failed {phase['phase']}: {failure}")
    failed = sum(phase["failed"] for phase in phases)
    phases = {phase["phase"]: phase for phase in phases if phase["phase"] != "between"}
    for name, phase in phases.items():
        run.row(phase=name, clients=clients, seconds=phase["seconds"], operations=phase["operations"],
                operations_per_s=phase["operations"] / phase["seconds"], failed=phase["failed"],
                **{key: phase["latency"][key] for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")})

    def ratio(key):
        of = lambda phase, number: phases[f"{phase} {number}"]["latency"][key]
        return statistics.median(of("during", number) / of("before", number) for number in range(1, ROUNDS + 1))
    run.say(f"p50 during the restart over that before: {ratio('p50_ms'):.2f} ×")
    run.judge("operations that failed", failed, "0", failed == 0)
    run.judge("locks that were kept, and lost", kept["lost"], "0", kept["lost"] == 0)
    run.judge("p99 during the restart over that before", ratio("p99_ms"), f"≤ {RATIO_MAX} ×", ratio("p99_ms") <= RATIO_MAX, "×")


def restart(run, cluster, what):
    """Ends a process, starts it again, and waits until it is ready."""
    began = time.monotonic()
    code = cluster.signal_process(what, signal.SIGTERM)
    if code != 0:
        raise Failed(f"{what} ended with {code}")
    ended = time.monotonic()
    if what in cluster.endpoints:
        cluster.start_gateway(what)
    else:
        cluster.start_node(what.removeprefix("node-"))
    cluster.wait(lambda: cluster.is_ready(what), READY_WITHIN_S, f"{what} was not ready again", pause_s=0.05)
    run.say(f"{what}: ended {ended - began:.2f} s after SIGTERM, ready {time.monotonic() - ended:.2f} s after its start")


def version(program):
    """What a program says that it is."""
    return subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout.strip()
