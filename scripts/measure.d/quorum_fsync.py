"""Proof from system calls that nothing is acknowledged before a quorum has it on disk.

All five nodes and the gateway run under strace, and one client takes and releases locks through the gateway, one operation after
the other, each name used once. For every operation three things are found in the traces:

  arrival   the gateway has received bytes with the operation's name on a client's connection (when that call returned)
  on disk   in a node: a write to the journal that has the name in it, begun after the arrival, and after that write an fdatasync
            of the same file that returned 0 (when it returned)
  answer    the first HTTP/2 frame with data that the gateway sent on that connection after the arrival (when that call began)

Counted are the nodes whose "on disk" is before the answer. This is stricter than counting syncs: each counted node had synced a write
with this very operation. The answer can only be later than the first frame with data, so no node is counted wrongly.

Clocks: strace takes all times from one clock, that of this machine.
"""
import re
import shutil
from bisect import bisect_left
from collections import defaultdict, namedtuple

from harness import Failed

OPERATIONS_MIN, QUORUM = 50, 3
TARGETS = [f"over at least {OPERATIONS_MIN} operations: never fewer than {QUORUM} of 5 nodes synced one before its answer"]
# What a name ends in is padding.
NAME = re.compile(rb"b/[0-9a-f]{8}/c[0-9]{10}")
# HTTP/2, RFC 9113.
FRAME_HEADER_BYTES, FRAME_DATA = 9, 0

Call = namedtuple("Call", "began ended name path data result")
CALLS = "fdatasync,fsync,write,pwrite64,writev,pwritev,sendto,sendmsg,recvfrom,recvmsg,read"
# 12.345678 write(5</path>, "\x41…", 12) = 12 <0.000012>
LINE = re.compile(r'^(\d+\.\d+) (\w+)\(\d+<(.*?)>[,)](.*)\s= (-?\d+).*<(\d+\.\d+)>$')
QUOTED = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def measure(run):
    if not shutil.which("strace"):
        raise Failed("there is no strace; install Debian's strace")
    rate, seconds = 20, run.choose(6, 4)
    traces = run.work / "traces"
    traces.mkdir()

    def traced(what):
        # In every thread, from the start, stopping for nothing but these calls; strace ends with the program.
        return ["strace", "-D", "-f", "-ff", "--seccomp-bpf", "-qq", "-ttt", "-T", "-yy", "-xx", "-s", 1 << 20, "-e", f"trace={CALLS}",
                "-e", "signal=none", "-o", traces / what]
    with run.cluster("quorum-fsync", wrap=traced) as cluster:
        report = cluster.bench("--clients", 1, "--streams", 1, "--rate", rate, duration_s=seconds, warmup_s=1)
        port, nodes = cluster.port, [what for what in cluster.processes if what.startswith("node-")]
    if report["errors"]:
        raise Failed(f"operations failed: {report['errors']}")
    operations = gateway_operations([call for calls in threads(traces, "gateway") for call in calls], port)
    synced = {node: synced_names([call for calls in threads(traces, node) for call in calls]) for node in nodes}
    shutil.rmtree(traces)
    counts = []
    for arrival, answer, name in operations:
        on_disk = [min((end for began, end in synced[node][name] if began > arrival), default=None) for node in nodes]
        counts.append(sum(end is not None and end < answer for end in on_disk))
    for count in sorted(set(counts)):
        run.row(nodes_that_had_synced_before_the_answer=count, operations=counts.count(count))
    least = min(counts, default=None)
    spans = [1000 * (answer - arrival) for arrival, answer, _ in operations]
    run.say(f"{len(counts)} operations; under strace, {min(spans, default=0):.1f} to {max(spans, default=0):.1f} ms from arrival to answer")
    run.judge("operations observed", len(counts), f"≥ {OPERATIONS_MIN}", len(counts) >= OPERATIONS_MIN)
    run.judge("nodes that had synced an operation before its answer, the fewest of any", least, f"≥ {QUORUM} of {len(nodes)}",
              least is not None and least >= QUORUM)


def threads(traces, what):
    """The calls of each thread of a process, in order."""
    for path in sorted(traces.glob(f"{what}.*")):
        calls = []
        with open(path, errors="replace") as lines:
            for line in lines:
                if found := LINE.match(line):
                    began, name, where, arguments, result, took = found.groups()
                    data = b"".join(map(unescaped, QUOTED.findall(arguments)))
                    # Paths of files are escaped like data, names of sockets are not.
                    path = unescaped(where).decode(errors="replace") if where.startswith("\\x") else where
                    calls.append(Call(float(began), float(began) + float(took), name, path, data, int(result)))
        yield calls


def unescaped(text):
    return bytes.fromhex("".join(re.findall(r"\\x([0-9a-f]{2})", text)))


def gateway_operations(calls, port):
    """(arrival, answer, name) of each operation, in order of arrival."""
    received, sent = defaultdict(list), defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        # Connections that clients opened: the gateway's end has its own port.
        if call.result <= 0 or not re.match(rf"TCP:\[127\.0\.0\.1:{port}->", call.path):
            continue
        way = received if call.name in ("recvfrom", "recvmsg", "read") else sent
        way[call.path].append(call)
    operations = []
    for connection, calls_in in received.items():
        answers = data_frames(sent[connection])
        for call in calls_in:
            for name in NAME.findall(call.data[:call.result]):
                at = bisect_left(answers, call.ended)
                if at < len(answers):
                    operations.append((call.ended, answers[at], name))
    return sorted(operations)


def data_frames(calls):
    """When the calls began that sent the frames with data of one connection, in order."""
    stream, starts = bytearray(), []
    for call in calls:
        starts.append((len(stream), call.began))
        stream += call.data[:call.result]
    at, times = 0, []
    while at + FRAME_HEADER_BYTES <= len(stream):
        length, kind = int.from_bytes(stream[at:at + 3], "big"), stream[at + 3]
        if kind == FRAME_DATA and length > 0:
            times.append(max(start for start in starts if start[0] <= at)[1])
        at += FRAME_HEADER_BYTES + length
    return times


def synced_names(calls):
    """For each name the (begin of the write, end of the sync) of each time that it was written to the journal and synced."""
    written, synced = defaultdict(list), defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        if not call.path.endswith(".journal"):
            continue
        if call.name in ("write", "pwrite64", "writev", "pwritev") and call.result > 0:
            written[call.path].append(call)
        elif call.name in ("fdatasync", "fsync") and call.result == 0:
            # What was written before the sync began is on disk when it has returned.
            for write in [write for write in written[call.path] if write.ended <= call.began]:
                written[call.path].remove(write)
                for name in set(NAME.findall(write.data)):
                    synced[name].append((write.began, call.ended))
    return synced
