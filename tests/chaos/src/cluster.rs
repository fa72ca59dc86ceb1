//! The processes of a cluster: started, hurt, healed.
//!
//! * `processes` has an entry for each process that was started and has not been killed or reaped.
//! * Whatever was done to it, [`Cluster::heal`] undoes: it knows what a sound cluster is, not what was broken.
//! * Every process is killed and reaped when this is dropped.
//!
//! It knows nothing of which faults there are; those that need more than a signal are given as a [`Launch`].

use crate::delay::SlowWay;
use crate::network::{Host, Network, run};
use client::{Client, ClientOptions, ClusterStatus};
use nix::sys::signal::Signal;
use palisade_tests::{Process, palisade_binary};
use routing::{ClusterConfig, ShardMap};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes, numbered from 1.
pub const NODES: u64 = 5;
/// Each on every node.
pub const SHARDS: u32 = 4;
/// Gateways, numbered from 1.
pub const GATEWAYS: u64 = 2;

/// The last node's disk.
const SMALL_DISK_BYTES: u64 = 512 << 20;

/// A gateway waits for nodes that do not answer, and must be left the time to say so.
const STATUS_WITHIN: Duration = Duration::from_secs(4);
/// A process that is told to stop does so within this time, or something is wrong.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// How a node is started, where not in the usual way.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// For its environment.
    pub env: Vec<(String, String)>,
    /// Another cluster file.
    pub config: Option<PathBuf>,
    /// More arguments.
    pub args: Vec<String>,
}

impl Launch {
    fn is_usual(&self) -> bool {
        self.env.is_empty() && self.config.is_none()
    }
}

/// A process that ended by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Which.
    pub host: Host,
    /// How.
    pub status: ExitStatus,
    /// The last line that it wrote.
    pub last_words: String,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    /// Where the processes live.
    pub network: Network,
    /// By the cluster file.
    pub map: Arc<ShardMap>,
    /// What connections are led through now.
    pub slow_ways: Vec<SlowWay>,
    dir: PathBuf,
    processes: BTreeMap<Host, Process>,
    paused: BTreeSet<Host>,
    /// Nodes that run in another way than usual.
    unusual: BTreeSet<Host>,
    /// Nodes whose data directory is damaged: to be started anew, empty.
    damaged: BTreeSet<u64>,
}

impl Cluster {
    /// All hosts.
    pub fn hosts() -> Vec<Host> {
        (1..=NODES).map(Host::Node).chain((1..=GATEWAYS).map(Host::Gateway)).collect()
    }

    /// Writes the cluster file and starts everything. `settings`: lines of the cluster file.
    ///
    /// # Errors
    /// What kept it from starting, for people.
    pub fn start(dir: &Path, network: Network, settings: &[(&str, u64)]) -> Result<Cluster, String> {
        let mut yaml = format!("cluster: chaos\nshards: {SHARDS}\nreplicas: {NODES}\nnodes:\n");
        for id in 1..=NODES {
            let _ = writeln!(yaml, "  - {{ id: {id}, address: \"{}\" }}", network.address(Host::Node(id)));
        }
        yaml.push_str("gateways:\n");
        for number in 1..=GATEWAYS {
            let _ = writeln!(yaml, "  - {{ address: \"{}\" }}", network.address(Host::Gateway(number)));
        }
        if !settings.is_empty() {
            yaml.push_str("settings:\n");
        }
        for (key, value) in settings {
            let _ = writeln!(yaml, "  {key}: {value}");
        }
        let map = ClusterConfig::parse(&yaml).map_err(|error| error.to_string())?.0.shard_map();
        let (map, dir) = (Arc::new(map), dir.to_owned());
        let mut cluster = Cluster {
            network,
            map,
            slow_ways: Vec::new(),
            dir,
            processes: BTreeMap::new(),
            paused: BTreeSet::new(),
            unusual: BTreeSet::new(),
            damaged: BTreeSet::new(),
        };
        std::fs::write(cluster.config(), yaml).map_err(|error| format!("the cluster file: {error}"))?;
        for id in 1..=NODES {
            let disk = cluster.disk(id);
            std::fs::create_dir_all(&disk).map_err(|error| format!("{}: {error}", disk.display()))?;
            if id == NODES && cluster.network.can_cut() {
                // A small disk that can be filled up. Like the network, it is gone with this process.
                run("mount", &format!("-t tmpfs -o size={SMALL_DISK_BYTES} chaos {}", disk.display()))?;
            }
        }
        cluster.start_all();
        Ok(cluster)
    }

    /// The cluster file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    /// What stands for a node's disk: its data is in a directory below.
    pub fn disk(&self, id: u64) -> PathBuf {
        self.dir.join(format!("disk-{id}"))
    }

    /// A node's data directory.
    pub fn data(&self, id: u64) -> PathBuf {
        self.disk(id).join("data")
    }

    /// A process' log.
    pub fn log(&self, host: Host) -> PathBuf {
        self.dir.join(format!("{host}.log"))
    }

    /// The gateways, as clients name them.
    pub fn endpoints(&self) -> Vec<String> {
        (1..=GATEWAYS).map(|number| self.network.address(Host::Gateway(number)).to_owned()).collect()
    }

    /// A client of all gateways that gives up after `timeout`.
    pub fn client(&self, timeout: Duration) -> Client {
        Client::with_options(self.endpoints(), ClientOptions::new().timeout(timeout).owner("conductor"))
    }

    fn start_all(&mut self) {
        for host in Self::hosts() {
            if !self.processes.contains_key(&host) {
                self.start_one(host);
            }
        }
    }

    /// Starts a process in the usual way. It must not run.
    pub fn start_one(&mut self, host: Host) {
        self.launch(host, &Launch::default());
    }

    /// Starts a process. It must not run.
    pub fn launch(&mut self, host: Host, launch: &Launch) {
        assert!(!self.processes.contains_key(&host), "{host} runs already");
        let mut command = self.network.command(host, palisade_binary());
        let config = launch.config.clone().unwrap_or_else(|| self.config());
        match host {
            Host::Node(id) => {
                command.args(["node", "--id", &id.to_string(), "--data-dir"]).arg(self.data(id));
            }
            Host::Gateway(_) => {
                command.args(["gateway", "--listen", self.network.address(host)]);
            }
        }
        command.arg("--config").arg(config).args(&launch.args);
        command.envs(launch.env.iter().map(|(key, value)| (key, value)));
        self.processes.insert(host, Process::spawn(command, &self.log(host)));
        if !launch.is_usual() {
            self.unusual.insert(host);
        }
    }

    /// SIGKILL, and waits until it is gone. Nothing happens to one that does not run.
    pub fn kill(&mut self, host: Host) {
        if let Some(mut process) = self.processes.remove(&host) {
            process.kill();
        }
        self.paused.remove(&host);
        self.unusual.remove(&host);
    }

    /// SIGKILL, at once; it is reaped later.
    pub fn strike(&self, host: Host) {
        if let Some(process) = self.processes.get(&host) {
            process.signal(Signal::SIGKILL);
        }
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not stop, or not cleanly; it is killed then.
    pub async fn stop(&mut self, host: Host) -> Result<(), String> {
        let Some(mut process) = self.processes.remove(&host) else { return Ok(()) };
        self.paused.remove(&host);
        self.unusual.remove(&host);
        process.signal(Signal::SIGCONT);
        process.signal(Signal::SIGTERM);
        let asked = Instant::now();
        loop {
            match process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{host} was told to stop and ended with {status}")),
                None if asked.elapsed() > STOPS_WITHIN => {
                    return Err(format!("{host} was told to stop and did not within {STOPS_WITHIN:?}: killed"));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self, host: Host) {
        if let Some(process) = self.processes.get(&host) {
            process.signal(Signal::SIGSTOP);
            self.paused.insert(host);
        }
    }

    /// SIGCONT for a process that was paused.
    pub fn resume(&mut self, host: Host) {
        if self.paused.remove(&host)
            && let Some(process) = self.processes.get(&host)
        {
            process.signal(Signal::SIGCONT);
        }
    }

    /// Whether a process runs, as far as is known here.
    pub fn runs(&self, host: Host) -> bool {
        self.processes.contains_key(&host)
    }

    /// The pid of a process that runs.
    pub fn pid(&self, host: Host) -> Option<u32> {
        self.processes.get(&host).map(Process::id)
    }

    /// Reaps what ended by itself since last asked.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut found = Vec::new();
        for host in Self::hosts() {
            if let Some(status) = self.processes.get_mut(&host).and_then(Process::ended) {
                self.processes.remove(&host);
                self.paused.remove(&host);
                self.unusual.remove(&host);
                found.push(Ended { host, status, last_words: last_lines(&self.log(host), 1) });
            }
        }
        found
    }

    /// Its data directory will be thrown away when it is healed, and the node re-seeded.
    pub fn mark_damaged(&mut self, id: u64) {
        self.damaged.insert(id);
    }

    /// Where a file stands that takes all the room there is beside a node's data.
    pub fn ballast(&self, id: u64) -> PathBuf {
        self.disk(id).join("ballast")
    }

    /// While there is a file at this path, the disk of a node that was started with the library for it hangs.
    pub fn hang(&self) -> PathBuf {
        self.dir.join("hang")
    }

    /// Undoes whatever was done: everybody hears, runs in the usual way, on sound data.
    ///
    /// # Errors
    /// What could not be undone, for people.
    pub async fn heal(&mut self) -> Result<(), String> {
        self.network.mend();
        self.network.apply()?;
        self.slow_ways.clear(); // their connections break, and new ones go straight
        for host in std::mem::take(&mut self.paused) {
            if let Some(process) = self.processes.get(&host) {
                process.signal(Signal::SIGCONT);
            }
        }
        for id in 1..=NODES {
            // Most nodes have none.
            let _ = std::fs::remove_file(self.ballast(id));
        }
        let _ = std::fs::remove_file(self.hang());
        for host in std::mem::take(&mut self.unusual) {
            self.kill(host);
        }
        for id in std::mem::take(&mut self.damaged) {
            self.reseed(id)?;
        }
        self.start_all();
        Ok(())
    }

    /// As the operator's page says: the old directory goes away, and the node is started with an empty one and `--reseed`.
    fn reseed(&mut self, id: u64) -> Result<(), String> {
        self.kill(Host::Node(id));
        let data = self.data(id);
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        // By force: its peers have just heard of it with the directory that is gone.
        let args = vec!["--reseed".to_owned(), "--force".to_owned()];
        self.launch(Host::Node(id), &Launch { args, ..Launch::default() });
        Ok(())
    }

    /// What the cluster says of itself; `None` if no gateway tells in time.
    pub async fn status(&self) -> Option<ClusterStatus> {
        self.client(STATUS_WITHIN).cluster_status().await.ok()
    }

    /// Who leads each shard, and in which term, if all are led.
    pub async fn leaders(&self) -> Option<BTreeMap<u32, (u64, u64)>> {
        let status = self.status().await?;
        let mut leaders = BTreeMap::new();
        for shard in status.shards.iter().filter(|shard| shard.role == "leader") {
            let known = leaders.entry(shard.shard).or_insert((shard.node, shard.term));
            // The highest term: a deposed leader that was paused or cut off may still call itself one.
            if shard.term > known.1 {
                *known = (shard.node, shard.term);
            }
        }
        (leaders.len() == SHARDS as usize).then_some(leaders)
    }
}

/// The end of a log.
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
