//! The processes of a cluster: this module starts them, applies faults to them and heals them.
//!
//! * [`Cluster::heal`] undoes every fault, because it restores a sound cluster without a record of
//!   the damage.
//! * Every process is killed and reaped when the [`Cluster`] is dropped.
//!
//! The module does not know the kinds of faults. A fault that needs more than a signal is given as
//! a [`Launch`].

use crate::delay::SlowWay;
use crate::error::{Because, Error};
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

/// The number of nodes at the beginning. They are numbered from 1.
pub const NODES: u64 = 5;
/// The number of shards. Each node has a replica of every shard, except one that has just joined.
pub const SHARDS: u32 = 4;
/// The number of gateways. They are numbered from 1.
pub const GATEWAYS: u64 = 2;

/// The size of the last node's disk.
const SMALL_DISK_BYTES: u64 = 512 << 20;

/// The wait for a status. A gateway waits for nodes that do not answer, so it needs the time to
/// report them.
const STATUS_WITHIN: Duration = Duration::from_secs(4);
/// The longest time that a process may take to stop. A longer time is a failure.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// A cluster of real processes in a network of its own.
#[derive(Debug)]
pub struct Cluster {
    /// The network that the processes live in.
    pub network: Network,
    /// The shard map of the cluster file.
    pub map: Arc<ShardMap>,
    /// The detours that connections take now.
    pub slow_ways: Vec<SlowWay>,
    /// The processes and their files.
    pub processes: Processes,
    /// The processes that run with an unusual configuration or environment.
    unusual: BTreeSet<Member>,
    /// The nodes with a damaged data directory. They must be started again with an empty one.
    damaged: BTreeSet<u64>,
    /// The nodes that are in the cluster now.
    nodes: BTreeSet<u64>,
    /// The highest id that any node has had.
    last_id: u64,
}

impl Cluster {
    /// All hosts of a cluster at its beginning.
    pub fn hosts() -> Vec<Member> {
        (1..=NODES).map(Member::Node).chain((1..=GATEWAYS).map(Member::Gateway)).collect()
    }

    /// Writes the cluster file and starts every process.
    ///
    /// # Errors
    /// The reason why the cluster could not start, for people.
    pub fn start(dir: &Path, network: Network, settings: Settings) -> Result<Cluster, Error> {
        let at = |host| Addresses::only(network.address(host));
        let nodes: Vec<Addresses> = (1..=NODES).map(|id| at(Member::Node(id))).collect();
        let gateways: Vec<Addresses> =
            (1..=GATEWAYS).map(|number| at(Member::Gateway(number))).collect();
        let mut config = cluster_config("chaos", SHARDS, &nodes, &gateways);
        config.settings = settings;
        config.validate().map_err(Error::other)?;
        let map = Arc::new(config.shard_map());
        let processes = Processes::new(dir, config).map_err(Error::other)?;
        if network.can_cut() {
            // The last node has a small disk that a fault can fill up. Like the network, this disk
            // disappears with this process.
            let disk = processes.disk(NODES);
            run("mount", &format!("-t tmpfs -o size={SMALL_DISK_BYTES} chaos {}", disk.display()))?;
        }
        let (unusual, damaged) = (BTreeSet::new(), BTreeSet::new());
        let (slow_ways, nodes) = (Vec::new(), (1..=NODES).collect());
        let mut cluster =
            Cluster { network, map, slow_ways, processes, unusual, damaged, nodes, last_id: NODES };
        cluster.start_all();
        Ok(cluster)
    }

    /// The nodes that are in the cluster now.
    pub fn nodes(&self) -> &BTreeSet<u64> {
        &self.nodes
    }

    /// All members of the cluster now.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.nodes.iter().copied().map(Member::Node);
        nodes.chain((1..=GATEWAYS).map(Member::Gateway)).collect()
    }

    /// All members that ever were.
    pub fn all_members(&self) -> Vec<Member> {
        let nodes = (1..=self.last_id).map(Member::Node);
        nodes.chain((1..=GATEWAYS).map(Member::Gateway)).collect()
    }

    /// Starts a node that no cluster file has, under an id that no node has had. It is one of the
    /// cluster once it is taken.
    ///
    /// # Errors
    /// If it gets no address or directory.
    pub fn let_join(&mut self) -> Result<u64, Error> {
        self.last_id += 1;
        let (id, host) = (self.last_id, Member::Node(self.last_id));
        self.network.add(host)?;
        let address = self.network.address(host).to_owned();
        self.processes.let_join(id, address).map_err(Error::other)?;
        self.nodes.insert(id);
        self.start_one(host);
        Ok(id)
    }

    /// The topology has removed a node, which does not come back.
    pub fn forget(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    /// Gives all nodes other addresses, in the cluster file and for those that join. Their
    /// processes go on with the old ones until they are started again.
    ///
    /// # Errors
    /// If there are no addresses, or the file cannot be written.
    pub fn move_all_nodes(&mut self) -> Result<(), Error> {
        let mut config = self.processes.config().clone();
        for id in self.nodes.clone() {
            let host = Member::Node(id);
            self.network.move_elsewhere(host)?;
            let address = self.network.address(host).to_owned();
            match config.nodes.iter_mut().find(|node| node.id.0 == id) {
                Some(node) => node.address = address,
                None => self.processes.let_join(id, address).map_err(Error::other)?,
            }
        }
        self.processes.replace_config(config).map_err(Error::other)
    }

    /// A client of all gateways that gives up after `timeout`.
    pub fn client(&self, timeout: Duration) -> Client {
        let options = ClientOptions::new().timeout(timeout).owner("conductor");
        Client::with_options(self.processes.endpoints(), options)
    }

    /// Ends all processes, and returns their network without any fault.
    pub fn into_network(self) -> Network {
        let mut network = self.network;
        network.heal();
        network
    }

    fn start_all(&mut self) {
        for host in self.members() {
            if !self.processes.runs(host) {
                self.start_one(host);
            }
        }
    }

    /// Starts a process in the usual way. The process must not be running.
    pub fn start_one(&mut self, host: Member) {
        self.launch(host, &Launch::default());
    }

    /// Starts a process. The process must not be running.
    pub fn launch(&mut self, host: Member, launch: &Launch) {
        let program = self.network.command(host, palisade_binary());
        // Without the program there is nothing to test.
        self.processes.start(host, program, launch).expect("start palisade");
        if launch.config.is_some() || !launch.env.is_empty() {
            self.unusual.insert(host);
        }
    }

    /// Sends SIGKILL, and waits until the process is gone. A process that is not running stays as
    /// it is.
    pub fn kill(&mut self, host: Member) {
        self.processes.kill(host);
        self.unusual.remove(&host);
    }

    /// Sends SIGKILL at once. The process is reaped later.
    pub fn strike(&self, host: Member) {
        self.processes.signal(host, Signal::SIGKILL);
    }

    /// Sends SIGTERM, and waits until the process is gone.
    ///
    /// # Errors
    /// If the process does not stop, or does not stop cleanly. It is killed then.
    pub async fn stop(&mut self, host: Member) -> Result<(), Error> {
        self.unusual.remove(&host);
        self.processes.stop(host, STOPS_WITHIN).await.map_err(Error::other)
    }

    /// Reaps the processes that ended by themselves since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        let ended = self.processes.ended();
        for ended in &ended {
            self.unusual.remove(&ended.member);
        }
        ended
    }

    /// Marks a node's data directory as damaged. Healing discards the directory and re-seeds the
    /// node.
    pub fn mark_damaged(&mut self, id: u64) {
        self.damaged.insert(id);
    }

    /// The path of the file that fills the disk beside a node's data.
    pub fn ballast(&self, id: u64) -> PathBuf {
        self.processes.disk(id).join("ballast")
    }

    /// The path of the file that makes a disk hang. The disk hangs while the file exists, for a
    /// node that was started with the library for it.
    pub fn hang(&self) -> PathBuf {
        self.processes.dir().join("hang")
    }

    /// Undoes every fault: all processes hear each other, run in the usual way, and have sound
    /// data.
    ///
    /// # Errors
    /// The faults that could not be undone, for people.
    pub async fn heal(&mut self) -> Result<(), Error> {
        self.network.heal();
        self.network.apply()?;
        self.slow_ways.clear(); // open connections break, and new ones go straight
        self.processes.resume_all();
        for id in 1..=NODES {
            // Most nodes have no such file.
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

    /// Follows the operator's page: the old directory is removed, and the node starts with an empty
    /// one and `--reseed`.
    fn reseed(&mut self, id: u64) -> Result<(), Error> {
        self.kill(Member::Node(id));
        let data = self.processes.data(id);
        std::fs::remove_dir_all(&data).because(data.display())?;
        // The start needs `--force`, because the peers have just heard from this node with its
        // removed directory.
        let args = vec!["--reseed".to_owned(), "--force".to_owned()];
        self.launch(Member::Node(id), &Launch { args, ..Launch::default() });
        Ok(())
    }

    /// The status that the cluster reports. `None` if no gateway answers in time.
    pub async fn status(&self) -> Option<ClusterStatus> {
        self.client(STATUS_WITHIN).cluster_status().await.ok()
    }

    /// The leader of each shard, if all shards have one.
    pub async fn leaders(&self) -> Option<BTreeMap<u32, Leader>> {
        let leaders = leaders(&self.status().await?);
        (leaders.len() == SHARDS as usize).then_some(leaders)
    }
}
