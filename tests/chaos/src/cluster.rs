//! The processes of a cluster: started, hurt, healed.
//!
//! * Whatever was done to it, [`Cluster::heal`] undoes: it knows what a sound cluster is, not what was broken.
//! * Every process is killed and reaped when this is dropped.
//!
//! It knows nothing of which faults there are; those that need more than a signal are given as a [`Launch`].

use crate::delay::SlowWay;
use crate::network::{Network, run};
use client::{Client, ClientOptions, ClusterStatus};
use local_cluster::{Addresses, Ended, Launch, Leader, Member, Processes, cluster_config, leaders};
use nix::sys::signal::Signal;
use palisade_tests::palisade_binary;
use routing::{Settings, ShardMap};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    /// The network that the processes live in.
    pub network: Network,
    /// By the cluster file.
    pub map: Arc<ShardMap>,
    /// The detours that connections are led through now.
    pub slow_ways: Vec<SlowWay>,
    /// The processes and their files.
    pub processes: Processes,
    /// Nodes that run in another way than usual.
    unusual: BTreeSet<Member>,
    /// Nodes with a damaged data directory: to be started anew, empty.
    damaged: BTreeSet<u64>,
}

impl Cluster {
    /// All hosts.
    pub fn hosts() -> Vec<Member> {
        (1..=NODES).map(Member::Node).chain((1..=GATEWAYS).map(Member::Gateway)).collect()
    }

    /// Writes the cluster file and starts everything.
    ///
    /// # Errors
    /// What kept it from starting, for people.
    pub fn start(dir: &Path, network: Network, settings: Settings) -> Result<Cluster, String> {
        let at = |host| Addresses::only(network.address(host));
        let nodes: Vec<Addresses> = (1..=NODES).map(|id| at(Member::Node(id))).collect();
        let gateways: Vec<Addresses> = (1..=GATEWAYS).map(|number| at(Member::Gateway(number))).collect();
        let mut config = cluster_config("chaos", SHARDS, &nodes, &gateways);
        config.settings = settings;
        config.validate().map_err(|error| error.to_string())?;
        let map = Arc::new(config.shard_map());
        let processes = Processes::new(dir, config).map_err(|error| error.to_string())?;
        if network.can_cut() {
            // A small disk that can be filled up. Like the network, it is gone with this process.
            let disk = processes.disk(NODES);
            run("mount", &format!("-t tmpfs -o size={SMALL_DISK_BYTES} chaos {}", disk.display()))?;
        }
        let (unusual, damaged) = (BTreeSet::new(), BTreeSet::new());
        let mut cluster = Cluster { network, map, slow_ways: Vec::new(), processes, unusual, damaged };
        cluster.start_all();
        Ok(cluster)
    }

    /// A client of all gateways that gives up after `timeout`.
    pub fn client(&self, timeout: Duration) -> Client {
        let options = ClientOptions::new().timeout(timeout).owner("conductor");
        Client::with_options(self.processes.endpoints(), options)
    }

    fn start_all(&mut self) {
        for host in Self::hosts() {
            if !self.processes.runs(host) {
                self.start_one(host);
            }
        }
    }

    /// Starts a process in the usual way. It must not run.
    pub fn start_one(&mut self, host: Member) {
        self.launch(host, &Launch::default());
    }

    /// Starts a process. It must not run.
    pub fn launch(&mut self, host: Member, launch: &Launch) {
        let program = self.network.command(host, palisade_binary());
        // Without the program there is nothing to test.
        self.processes.start(host, program, launch).expect("start palisade");
        if launch.config.is_some() || !launch.env.is_empty() {
            self.unusual.insert(host);
        }
    }

    /// SIGKILL, and waits until it is gone. Nothing happens to one that does not run.
    pub fn kill(&mut self, host: Member) {
        self.processes.kill(host);
        self.unusual.remove(&host);
    }

    /// SIGKILL, at once; it is reaped later.
    pub fn strike(&self, host: Member) {
        self.processes.signal(host, Signal::SIGKILL);
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not stop, or not cleanly; it is killed then.
    pub async fn stop(&mut self, host: Member) -> Result<(), String> {
        self.unusual.remove(&host);
        self.processes.stop(host, STOPS_WITHIN).await.map_err(|error| error.to_string())
    }

    /// Reaps the processes that ended by themselves since last asked.
    pub fn ended(&mut self) -> Vec<Ended> {
        let ended = self.processes.ended();
        for ended in &ended {
            self.unusual.remove(&ended.member);
        }
        ended
    }

    /// Its data directory will be thrown away when it is healed, and the node re-seeded.
    pub fn mark_damaged(&mut self, id: u64) {
        self.damaged.insert(id);
    }

    /// Where a file stands that takes all the room there is beside a node's data.
    pub fn ballast(&self, id: u64) -> PathBuf {
        self.processes.disk(id).join("ballast")
    }

    /// While there is a file at this path, the disk of a node that was started with the library for it hangs.
    pub fn hang(&self) -> PathBuf {
        self.processes.dir().join("hang")
    }

    /// Undoes whatever was done: everybody hears, runs in the usual way, on sound data.
    ///
    /// # Errors
    /// What could not be undone, for people.
    pub async fn heal(&mut self) -> Result<(), String> {
        self.network.mend();
        self.network.apply()?;
        self.slow_ways.clear(); // their connections break, and new ones go straight
        self.processes.resume_all();
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
        self.kill(Member::Node(id));
        let data = self.processes.data(id);
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        // By force: its peers have just heard of it with the directory that is gone.
        let args = vec!["--reseed".to_owned(), "--force".to_owned()];
        self.launch(Member::Node(id), &Launch { args, ..Launch::default() });
        Ok(())
    }

    /// What the cluster says of itself; `None` if no gateway tells in time.
    pub async fn status(&self) -> Option<ClusterStatus> {
        self.client(STATUS_WITHIN).cluster_status().await.ok()
    }

    /// The leader of each shard, if all shards have one.
    pub async fn leaders(&self) -> Option<BTreeMap<u32, Leader>> {
        let leaders = leaders(&self.status().await?);
        (leaders.len() == SHARDS as usize).then_some(leaders)
    }
}
