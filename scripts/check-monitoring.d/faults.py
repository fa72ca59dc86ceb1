"""For each alert the fault that it is for, and how that ends.

A fault begins (`begin`), may have to be done again and again (`again`), and ends (`end`), which gets what `begin` returned. Each one
leaves a cluster that is whole. Knows no rule and no threshold.
"""
import dataclasses
import signal
import time
from typing import Callable

from load import wait_long

DAY_S = 86_400
# Beyond 65.5 s, where the last bucket below 60 s ends: within a bucket Prometheus takes the waits as spread evenly.
WAIT_S, WAITS, WAITS_APART_S = 68, 80, 0.4


@dataclasses.dataclass
class Fault:
    what: str
    alerts: list
    begin: Callable
    end: Callable = lambda scene, begun: None
    again: Callable = None
    # How long after its beginning the alerts have to fire.
    within_s: float = 90


def lose_node(scene):
    scene.end_node(3)


def bring_back(*nodes):
    def end(scene, _):
        for n in nodes:
            scene.start_node(n)
        scene.level_again()
    return end


def lose_majority(scene):
    for n in (2, 3):
        scene.end_node(n)


def reseed_on_hanging_disk(scene):
    scene.end_node(3)
    scene.lose_data(3)
    scene.start_node(3, "--reseed")
    # It answers once its peers have let it begin.
    scene.wait(lambda: scene.answers(3), 60, "node 3 did not begin its re-seed", pause_s=0.01)
    scene.hang_disk(3)


def end_reseed(scene, _):
    scene.disk_goes_on(3)
    scene.level_again()


def start_on_copy(scene):
    scene.end_node(2, signal.SIGTERM)
    scene.end_node(3, signal.SIGTERM)
    scene.replace_by_copy(2)
    scene.start_node(2)


def end_flood(scene, flood):
    flood.kill()
    flood.wait()
    scene.level_again()


def let_grants_expire(scene):
    for _ in range(5):
        scene.operator.acquire(f"expires/{time.monotonic_ns()}", ttl="500ms")
    time.sleep(0.2)


def grow_old(scene):
    grant = scene.take("old/lock", "24h")
    scene.restart_nodes(clock_ahead_s=2 * DAY_S)
    return grant


def end_old(scene, grant):
    scene.end_hold(grant)
    scene.restart_nodes(clock_ahead_s=0)


def restore(scene, spoilt):
    path, before = spoilt
    path.write_bytes(before)


FAULTS = [
    Fault("a lock is broken", ["PalisadeBreakUsed"], lambda scene: scene.break_lock()),
    Fault("grants end by their TTL", ["PalisadeManyGrantsExpire"], lambda scene: None, again=let_grants_expire),
    Fault("a certificate for three days", ["PalisadeCertificateEnds"], lambda scene: scene.issue_gateway_certificate(3),
          lambda scene, _: scene.issue_gateway_certificate(365)),
    Fault("a certificate file of node 1 is spoilt", ["PalisadeCertificateRefused"], lambda scene: scene.spoil_certificate(1), restore),
    Fault("the gateway has no descriptors left", ["PalisadeOutOfDescriptors"], lambda scene: scene.take_descriptors(),
          lambda scene, taken: scene.give_descriptors(taken)),
    Fault("4,000 clients, and queues of 64 operations", ["PalisadeQueueFull"], lambda scene: scene.flood(), end_flood),
    Fault("syncs of node 1 take up to 0.25 s", ["PalisadeSyncsAreSlow"], lambda scene: None,
          again=lambda scene: scene.slow_syncs(1)),
    Fault("the disk of node 1 hangs", ["PalisadeWriteHangs"], lambda scene: scene.hang_disk(1),
          lambda scene, _: scene.disk_goes_on(1), within_s=25),
    Fault("the disk of node 3 fills up", ["PalisadeDiskFillsUp", "PalisadeDiskNearlyFull"], lambda scene: scene.fill_disk(),
          lambda scene, _: scene.empty_disk()),
    Fault("one node is killed", ["PalisadeMemberDown", "PalisadeNodeUnreachable", "PalisadeReplicaBehind"], lose_node, bring_back(3)),
    Fault("the leader is paused again and again", ["PalisadeLeadersChange"], lambda scene: None,
          again=lambda scene: scene.pause_leader()),
    Fault("two of three nodes are killed",
          ["PalisadeShardHasNoLeader", "PalisadeShardUnreachable", "PalisadeClientsSeeFailures"], lose_majority, bring_back(2, 3)),
    Fault("node 3 is re-seeded on a disk that hangs", ["PalisadeReplicaReseeds"], reseed_on_hanging_disk, end_reseed, within_s=150),
    Fault("node 2 is on a copy of its directory while node 3 is down", ["PalisadeNodeStandsBy"], start_on_copy, bring_back(3)),
    Fault(f"acquires wait for {WAIT_S} s", ["PalisadeWaitsAreLong"],
          lambda scene: wait_long(scene, WAITS, WAIT_S, WAITS_APART_S), within_s=WAIT_S + WAITS * WAITS_APART_S + 30),
    Fault("the nodes' clocks say that a hold is two days old", ["PalisadeHoldIsOld"], grow_old, end_old),
]
