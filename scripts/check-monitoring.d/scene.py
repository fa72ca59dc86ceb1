"""The cluster that is checked: three nodes and a gateway, with TLS, identities and quotas, and what hurts them.

Node 3 has a small disk of its own, a file with a file system. All nodes have a disk that can be made to hang, and a wall clock that
can be set. Knows nothing of Prometheus.
"""
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time

from harness import METRICS_OFFSET, ROOT, Cluster, Failed
from load import IDENTITIES, POLICY, Client

NODES, SHARDS = 3, 2
DISK_BYTES = 3 << 30
# A queue that a load of this machine can fill, and a disk that may hang for as long as an alert needs.
SETTINGS = {"queue_ops_max": 64, "disk_hang_exit_ms": 600_000}
LEVEL_WITHIN_S = 120
TOOLS = {"prometheus": "prometheus", "setpriv": "util-linux", "cc": "gcc", "mkfs.ext4": "e2fsprogs", "mount": "mount"}


def missing():
    """What this machine lacks, for a reader."""
    tools = [f"{tool} (Debian's {package})" for tool, package in TOOLS.items() if not shutil.which(tool)]
    return tools + ([] if os.geteuid() == 0 else ["root, to mount the disk that fills up"])


@contextlib.contextmanager
def small_disk(directory):
    """A file system of its own that takes hardly any room here, mounted below `directory`."""
    image, mounted = directory / "disk.img", directory / "disk"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=False)


class Scene(Cluster):
    """A cluster that can be hurt. `clock_ahead_s` holds for processes that are started from then on."""

    def __init__(self, run, disk):
        for name in ["hang", "wall_clock"]:
            shim = ROOT / "tests" / "shim" / f"{name}.c"
            subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", run.work / f"{name}.so", shim, "-ldl"], check=True)
        super().__init__(run, "checked", run.free_ports(), nodes=NODES, replicas=NODES, shards=SHARDS, settings=SETTINGS,
                         wrap=self.preload, identities=IDENTITIES, policy=POLICY)
        self.disk, self.clock_ahead_s = disk, 0
        self.data(NODES).symlink_to(disk / "data")
        (disk / "data").mkdir()
        self.operator = Client(self, "operator")

    def preload(self, what):
        if not what.startswith("node-"):
            return []
        shims = ["hang", *(["wall_clock"] if self.clock_ahead_s else [])]
        return ["env", "LD_PRELOAD=" + ":".join(str(self.run.work / f"{shim}.so") for shim in shims),
                f"PALISADE_HANG_WHILE={self.switch(what)}", f"WALL_CLOCK_AHEAD_S={self.clock_ahead_s}"]

    def metrics_addresses(self):
        return [f"127.0.0.1:{self.port + METRICS_OFFSET + n}" for n in range(1, NODES + 1)]

    def gateway_metrics_address(self):
        return f"127.0.0.1:{self.port + METRICS_OFFSET}"

    def level_again(self):
        """Waits until all nodes take part and have applied everything."""
        self.wait(self.level, LEVEL_WITHIN_S, "the replicas were not level")

    # Processes.

    def end_node(self, n, number=signal.SIGKILL):
        self.signal_node(n, number)
        del self.processes[f"node-{n}"]

    def answers(self, n):
        """The metrics of a node, or None if it does not answer."""
        with contextlib.suppress(OSError):
            return self.metrics(n)

    def leader(self, shard):
        """The node that leads, or None."""
        leads = f'palisade_raft_is_leader{{shard="{shard}"}}'
        return next((n for n in range(1, NODES + 1) if (self.answers(n) or {}).get(leads)), None)

    def pause_leader(self):
        """Longer than it takes to elect another one."""
        if leader := self.leader(0):
            os.kill(self.pid(f"node-{leader}"), signal.SIGSTOP)
            try:
                time.sleep(1.2)
            finally:
                os.kill(self.pid(f"node-{leader}"), signal.SIGCONT)

    def restart_nodes(self, clock_ahead_s):
        """One after the other, with their wall clocks set ahead."""
        self.clock_ahead_s = clock_ahead_s
        for n in range(1, NODES + 1):
            self.end_node(n, signal.SIGTERM)
            self.start_node(n)
            self.level_again()

    # Data directories and disks.

    def lose_data(self, n):
        for entry in self.data(n).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def replace_by_copy(self, n):
        """A copy has all bytes, and is another directory."""
        copy = self.data(n).with_suffix(".copy")
        shutil.copytree(self.data(n), copy)
        shutil.rmtree(self.data(n))
        copy.rename(self.data(n))

    def switch(self, what):
        return self.directory / f"{what}.hangs"

    def hang_disk(self, n):
        self.switch(f"node-{n}").touch()

    def disk_goes_on(self, n):
        self.switch(f"node-{n}").unlink(missing_ok=True)

    def slow_syncs(self, n):
        """Holds writes for a quarter of a second at a time, which is less than counts as a hang."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            self.hang_disk(n)
            time.sleep(0.25)
            self.disk_goes_on(n)
            time.sleep(0.1)

    def fill_disk(self):
        """All but 80 MiB. Blocks are reserved and not written."""
        free = shutil.disk_usage(self.disk).free
        with open(self.disk / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - (80 << 20))

    def empty_disk(self):
        (self.disk / "filler").unlink(missing_ok=True)

    # Clients and certificates.

    def flood(self):
        command = [self.run.palisade, "bench", "--endpoint", self.endpoint, *self.own, "--clients", 4_000, "--streams", 4,
                   "--duration", "10m", "--names", 100_000]
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *(str(part) for part in command)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def take_descriptors(self):
        """Leaves the gateway none, and connects; the answer is what has to be given back."""
        pid = self.pid("gateway")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        count = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
        return before, [socket.create_connection(("127.0.0.1", self.port), timeout=5) for _ in range(20)]

    def give_descriptors(self, taken):
        before, connections = taken
        resource.prlimit(self.pid("gateway"), resource.RLIMIT_NOFILE, before)
        for connection in connections:
            connection.close()

    def take(self, name, ttl):
        """The grant, whatever has to be waited for."""
        def tried():
            status, grant = self.operator.acquire(name, ttl=ttl)
            return grant if status == 200 else None
        return self.wait(tried, 60, f"{name} was not granted")

    def end_hold(self, grant):
        self.operator.call("POST", "/v1/release", {"name": grant["resource_name"], "fencing_token": grant["fencing_token"]})

    def break_lock(self):
        token = self.take("broken/lock", "1m")["fencing_token"]
        wanted = {"name": "broken/lock", "fencing_token": token, "reason": "to see the alert"}
        status, said = self.operator.call("POST", "/v1/break", wanted)
        if status != 200:
            raise Failed(f"the break was answered {status}: {said}")

    def issue_gateway_certificate(self, days):
        command = [self.run.palisade, "cert", "issue", "--dir", self.directory / "certs", "--config", self.config, "--gateway",
                   "gateway", "--days", days, "--force"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)

    def spoil_certificate(self, n):
        path = self.directory / "certs" / f"node-{n}.pem"
        before = path.read_bytes()
        path.write_text("not a certificate\n")
        return path, before
