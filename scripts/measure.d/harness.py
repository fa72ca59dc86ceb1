"""What all parts of scripts/measure share: clusters of real processes, what they take, what a load reports, targets and verdicts.

Promises: every process that is started here is ended by its own handle, and dies with this script however that ends. Servers
listen on loopback only. Knows nothing of what is measured.
"""
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# What is deployed: Cargo.toml says how that is built.
PROFILE = "dist"
BUILT = TARGET / PROFILE
TICKS = os.sysconf("SC_CLK_TCK")
PORT_FIRST, PORT_LAST, PORTS_PER_CLUSTER = 24_000, 32_000, 200
METRICS_OFFSET = 100
READY_WITHIN_S = 120
STOPS_WITHIN_S = 30


class Failed(Exception):
    """A part cannot be measured, and why."""


class Run:
    """One call of scripts/measure: the program under test, a place for data, what was found."""

    def __init__(self, args, work):
        self.args, self.quick, self.work, self.rows, self.verdicts = args, args.quick, work, [], []
        self.clusters, self.next_port = [], PORT_FIRST
        work.mkdir(parents=True)
        built = BUILT / "palisade"
        if "PALISADE_BIN" in os.environ:
            built = Path(os.environ["PALISADE_BIN"])
        else:
            build("palisade-cli", "palisade")
        # Nodes are started again and again: always as the program that the run began with, whatever is built meanwhile.
        self.palisade = Path(shutil.copy(built, work / "palisade"))

    def example(self, package, name):
        """An example of a package, built like the program under test."""
        return self.program(package, name, "--example", "examples")

    def program(self, package, name, kind="--bin", within="."):
        """Another program of ours, built like the program under test and lying beside it."""
        if "PALISADE_BIN" in os.environ:
            built = Path(os.environ["PALISADE_BIN"]).parent / within / name
            if not built.exists():
                raise Failed(f"there is no {built}: build it with `cargo build -p {package} {kind} {name}` in the same profile")
            return built
        build(package, name, kind)
        return BUILT / within / name

    def begin(self):
        # The clusters of the part before have ended, so their ports can be used again.
        self.rows, self.verdicts, self.next_port = [], [], PORT_FIRST

    def choose(self, full, quick):
        return quick if self.quick else full

    def say(self, text):
        print(f"  {text}", flush=True)

    def row(self, **values):
        """One line of a part's table."""
        self.rows.append(values)

    def judge(self, what, reached, target, passed, unit=""):
        """Target and what was reached."""
        self.verdicts.append({"what": what, "target": target, "reached": reached, "unit": unit, "pass": bool(passed)})

    def cluster(self, name, **options):
        cluster = Cluster(self, name, self.free_ports(), **options)
        self.clusters.append(cluster)
        return cluster

    def free_ports(self):
        while self.next_port + PORTS_PER_CLUSTER <= PORT_LAST:
            base = self.next_port
            self.next_port += PORTS_PER_CLUSTER
            if all(can_bind(base + offset) for offset in range(PORTS_PER_CLUSTER)):
                return base
        raise Failed(f"no ports are free between {PORT_FIRST} and {PORT_LAST}")

    def end(self):
        for cluster in self.clusters:
            cluster.stop()
        shutil.rmtree(self.work, ignore_errors=True)


class Cluster:
    """Nodes and gateways on loopback, each a process of its own. The first gateway is that of `command` and `bench`.

    With identities there is TLS on all connections, and each identity has a certificate. The first of them is that of `command` and
    `bench`. With a policy in addition, there is access control.
    """

    def __init__(self, run, name, port, nodes=5, replicas=5, shards=4, settings=None, placement=None, node_env=None,
                 wrap=None, under=None, identities=(), policy=None, gateways=1):
        assert nodes + gateways <= METRICS_OFFSET, f"{nodes} nodes and {gateways} gateways have no ports"
        self.run, self.port, self.nodes, self.shards = run, port, nodes, shards
        # What processes start as from now on.
        self.palisade = run.palisade
        self.node_env, self.wrap = node_env or {}, wrap or (lambda what: [])
        self.directory = (under or run.work) / name
        self.directory.mkdir()
        self.processes = {}
        listed = [f'  - {{id: {n}, address: "127.0.0.1:{port + n}", metrics: "127.0.0.1:{port + METRICS_OFFSET + n}"}}'
                  for n in range(1, nodes + 1)]
        endpoints = [f"127.0.0.1:{port}", *(f"127.0.0.1:{port + METRICS_OFFSET - n}" for n in range(1, gateways))]
        self.endpoints = {f"gateway-{n}" if n > 1 else "gateway": address for n, address in enumerate(endpoints, 1)}
        self.config = self.directory / "cluster.yaml"
        self.config.write_text("\n".join([
            "cluster: measure", f"shards: {shards}", f"replicas: {replicas}", "nodes:", *listed,
            "gateways:", f'  - {{address: "{endpoints[0]}", metrics: "127.0.0.1:{port + METRICS_OFFSET}"}}',
            *(f'  - {{address: "{address}"}}' for address in endpoints[1:]),
            *(["placement:"] if placement else []),
            *(f"  - {{shard: {shard}, nodes: {on}}}" for shard, on in enumerate(placement or [])),
            *(["settings:"] if settings else []), *(f"  {key}: {value}" for key, value in (settings or {}).items()), ""]))
        self.endpoint = endpoints[0]
        self.own = []
        if identities:
            self.secure(identities, policy)

    def secure(self, identities, policy):
        """Makes the certificates, and adds them to the cluster file."""
        certs = self.directory / "certs"
        sections = ["tls:", '  inside: {cert: "certs/{process}.pem", key: "certs/{process}.key", ca: certs/inside-ca.pem}',
                    '  clients: {cert: "certs/{process}-server.pem", key: "certs/{process}-server.key",',
                    "            client_ca: certs/clients-ca.pem, client_certs: require}"]
        if policy:
            (self.directory / "policy.yaml").write_text(policy)
            sections.append("access: {policy: policy.yaml}")
        with open(self.config, "a") as config:
            config.write("\n".join([*sections, ""]))
        for command in (["ca"], ["issue", "--config", self.config], *(["issue", "--client", identity] for identity in identities)):
            command = [self.run.palisade, "cert", *command, "--dir", certs]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        self.own = self.identity(identities[0])

    def identity(self, name):
        """The options of a client that show this identity."""
        certs = self.directory / "certs"
        return ["--ca", certs / "clients-ca.pem", "--cert", certs / f"{name}.pem", "--key", certs / f"{name}.key"]

    def __enter__(self):
        for n in range(1, self.nodes + 1):
            self.start_node(n)
        for gateway in self.endpoints:
            self.start_gateway(gateway)
        self.wait(lambda: self.status() is not None, READY_WITHIN_S, "not every shard had a leader")
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_node(self, n, *options):
        self._start(f"node-{n}", ["node", "--config", self.config, "--id", n, "--data-dir", self.data(n), *options], self.node_env)

    def start_gateway(self, gateway):
        self._start(gateway, ["gateway", "--config", self.config, "--listen", self.endpoints[gateway]], {})

    def kill(self, what):
        """Kills a process, and forgets it until it is started again."""
        process = self.processes.pop(what)
        process.kill()
        process.wait()

    def data(self, n):
        return self.directory / f"node-{n}"

    def _start(self, what, command, env):
        command = ["setpriv", "--pdeathsig", "KILL", *self.wrap(what), self.palisade, *command]
        with open(self.directory / f"{what}.log", "ab") as log:
            self.processes[what] = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                env={**os.environ, "PALISADE_LOG": "warn", "NO_COLOR": "1", **env}, preexec_fn=os.setpgrp)

    def pid(self, what):
        return self.processes[what].pid

    def node_pids(self):
        return [process.pid for what, process in self.processes.items() if what.startswith("node-")]

    def pids(self):
        return [process.pid for process in self.processes.values()]

    def signal_node(self, n, number):
        """Sends it and waits for the end."""
        self.signal_process(f"node-{n}", number)

    def signal_process(self, what, number):
        """Sends it and waits for the end, whose code is returned."""
        process = self.processes[what]
        process.send_signal(number)
        return process.wait(STOPS_WITHIN_S)

    def is_ready(self, what):
        """Whether a node or a gateway says so at /readyz."""
        number = what.removeprefix("node-")
        address = self.endpoints.get(what) or f"127.0.0.1:{self.port + METRICS_OFFSET + int(number)}"
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop_nodes(self, number=signal.SIGTERM):
        """All at once, and waits for all."""
        nodes = [process for what, process in self.processes.items() if what.startswith("node-")]
        for process in nodes:
            process.send_signal(number)
        for process in nodes:
            process.wait(STOPS_WITHIN_S)

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOPS_WITHIN_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = {}

    def check(self):
        for what, process in self.processes.items():
            if process.poll() is not None:
                end = (self.directory / f"{what}.log").read_text(errors="replace").splitlines()[-5:]
                raise Failed(f"{what} stopped with {process.returncode}: " + " | ".join(end))

    def wait(self, ready, within_s, otherwise, pause_s=0.1):
        """Until `ready()`, whose answer is returned; how long that took is for the caller's clock."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.check()
            if answer := ready():
                return answer
            time.sleep(pause_s)
        logs = {what: (self.directory / f"{what}.log").read_text(errors="replace").splitlines()[-1:] for what in self.processes}
        raise Failed(f"{otherwise} within {within_s} s; last lines of the logs: {logs}")

    def command(self, *parts, timeout_s=60):
        """A client verb of the program; its exit code and JSON."""
        command = [self.run.palisade, *parts, "--json", "--endpoint", self.endpoint, *self.own]
        try:
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout_s)
            return done.returncode, json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return -1, {}

    def status(self):
        """The cluster's state, or None if a shard has no leader."""
        code, status = self.command("cluster", "status")
        return status if code == 0 else None

    def level(self, node=None):
        """The cluster's state if all nodes are up and all replicas (or those of one node) have applied everything."""
        status = self.status()
        if not status or not all(row["reachable"] for row in status["nodes"] if node in (None, row["node"])):
            return None
        lags = [replica["lag"] for shard in status["shards"] for replica in shard["replicas"]
                if node in (None, replica["node"])]
        return status if lags and not any(lags) else None

    def shard_tags(self):
        """For each shard, what in braces makes a name one of its own."""
        tags = {}
        for n in range(64 * self.shards):
            code, grant = self.command("acquire", f"{{probe-{n}}}", "--ttl", "1s")
            if code == 0:
                tags.setdefault(grant["shard"], f"{{probe-{n}}}")
            if len(tags) == self.shards:
                return tags
        raise Failed(f"no name was found for some of {self.shards} shards: {tags}")

    def acquire_within(self, tag, prefix, within_s=60):
        """Takes fresh names of a shard until one is granted; the moment when it was."""
        deadline = time.monotonic() + within_s
        for n in range(1_000_000):
            if self.command("acquire", f"{tag}{prefix}-{n}", "--ttl", "5s", "--timeout", "5s")[0] == 0:
                return time.monotonic()
            if time.monotonic() > deadline:
                raise Failed(f"{tag}{prefix}: no acquire succeeded within {within_s} s")

    def metrics(self, n):
        """A node's metrics by their full name, labels included."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + METRICS_OFFSET + n}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}

    def finalize(self):
        """Activates the last level that the nodes know. A new cluster is at the first one."""
        self.wait(lambda: self.command("cluster", "upgrade", "finalize", "--within", "30s")[0] == 0, 60, "no level was activated")

    def bench(self, *options, duration_s, warmup_s=1, patience_s=180, while_it_runs=None):
        """`palisade bench`; its report. `while_it_runs` is called at the start of the measured span, with its length in s."""
        command = [self.run.palisade, "bench", "--json", "--endpoint", self.endpoint, *self.own,
                   "--duration", f"{int(1000 * duration_s)}ms", "--warmup", f"{int(1000 * warmup_s)}ms", *options]
        load = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            if while_it_runs:
                # A little less at both ends: the load's own span lies around this one.
                time.sleep(warmup_s + 0.3)
                during = while_it_runs(max(0.5, duration_s - 0.6))
            out, errors = load.communicate(timeout=duration_s + warmup_s + patience_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"the load did not end within {patience_s} s after its span") from None
        finally:
            if load.poll() is None:
                load.kill()
                load.wait()
        self.check()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if load.returncode != 0 or not lines:
            raise Failed(f"the load failed: {(out + errors).strip()[-300:]}")
        report = json.loads(lines[-1])
        return {**report, **during} if while_it_runs else report


def build(package, program, kind="--bin"):
    subprocess.run(["cargo", "build", "--profile", PROFILE, "-q", "-p", package, kind, program], cwd=ROOT, check=True)


def can_bind(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def cpu_s(pids):
    """User and system time of processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_anon_bytes(pid):
    """Resident memory that is no file's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"this kernel shows no RssAnon for process {pid}")


def counts_instructions():
    """Whether this machine has the hardware counters for it, and lets us use them."""
    if not shutil.which("perf"):
        return False
    tried = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "true"], capture_output=True, text=True)
    return tried.returncode == 0 and tried.stderr.split(",")[0].isdigit()


def median(values):
    return statistics.median(values)


def number(value):
    """For people: 12,345 or 1.23."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"


def table(rows):
    """Lines of a table with a column for each key of the rows."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[key.replace("_", " ") for key in keys], *([number(row.get(key, "–")) for key in keys] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(keys))]
    return ["  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths)))
            for row in cells]
