//! A cluster for measuring: five nodes and a gateway, as processes on loopback that end with this
//! process.
//!
//! The module knows nothing of the measurements.

use super::error::CalibrateError;
use client::Client;
use local_cluster::{
    Addresses, Ended, Launch, Member, Processes, cluster_config, free_addresses, leaders,
    metric_sums, page,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Number of nodes; each holds a replica of every shard.
pub const NODES: u64 = 5;
/// The only gateway of the cluster.
pub const GATEWAY: Member = Member::Gateway(1);
/// Time limit for the cluster to elect its leaders.
const READY_MAX: Duration = Duration::from_secs(30);
/// Time after the elections for followers to catch up, and for leaders to move.
const SETTLE: Duration = Duration::from_secs(2);
/// Time limit for a node to stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(15);

/// All nodes in the order of their ids.
pub fn nodes() -> impl Iterator<Item = Member> {
    (1..=NODES).map(Member::Node)
}

/// The processes of the cluster. They are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    processes: Processes,
    palisade: Vec<OsString>,
    /// The number of shards.
    pub shards: usize,
}

impl Cluster {
    /// Starts the cluster in an empty directory, and waits for the leader of each shard. `palisade`
    /// is the command that runs this program.
    ///
    /// # Errors
    /// If the cluster cannot be started.
    pub async fn start(
        dir: &Path,
        shards: usize,
        palisade: &[OsString],
    ) -> Result<Cluster, CalibrateError> {
        let addresses = Addresses::pairs(&free_addresses(2 * (NODES as usize + 1))?);
        let (nodes, gateways) = addresses.split_at(NODES as usize);
        let processes =
            Processes::new(dir, cluster_config("calibration", shards as u32, nodes, gateways))?;
        let mut cluster = Cluster { processes, palisade: palisade.to_owned(), shards };
        for member in cluster.processes.members() {
            let program = std_command(&cluster.palisade);
            cluster.processes.start(member, program, &Launch::default())?;
        }
        cluster.ready().await?;
        tokio::time::sleep(SETTLE).await;
        Ok(cluster)
    }

    async fn ready(&mut self) -> Result<(), CalibrateError> {
        let client = Client::connect(self.processes.endpoints());
        let until = Instant::now() + READY_MAX;
        while Instant::now() < until {
            if let Some(Ended { member, status }) = self.processes.ended().into_iter().next() {
                let last_words = self.processes.log_end(member, 1);
                return Err(CalibrateError::Ended { member, status, last_words });
            }
            // After the start, leaderships move for a while to the nodes that the map prefers.
            let most = self.shards.div_ceil(NODES as usize);
            let spread = self.leads().is_ok_and(|leads| {
                leads.iter().sum::<usize>() == self.shards && leads.iter().all(|n| *n <= most)
            });
            if spread
                && client
                    .cluster_status()
                    .await
                    .is_ok_and(|status| leaders(&status).len() == self.shards)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(CalibrateError::Overloaded("the cluster did not get its leaders"))
    }

    /// The counters and gauges of a process by name, each the sum over its labels.
    ///
    /// # Errors
    /// If the process does not answer.
    pub fn metrics(&self, member: Member) -> Result<BTreeMap<String, f64>, CalibrateError> {
        let address =
            self.processes.metrics_address(member).expect("each process has a page of metrics");
        Ok(metric_sums(&page(address, "/metrics")?))
    }

    /// The pid of a process; 0 if the process has ended.
    pub fn pid(&self, member: Member) -> u32 {
        self.processes.pid(member).unwrap_or_default()
    }

    /// The number of shards that each node leads.
    ///
    /// # Errors
    /// If a node does not answer.
    pub fn leads(&self) -> Result<Vec<usize>, CalibrateError> {
        let count = |node| {
            Ok(self
                .metrics(node)?
                .get("palisade_raft_is_leader")
                .map_or(0, |leads| *leads as usize))
        };
        nodes().map(count).collect()
    }

    /// Runs `palisade bench` against the cluster with these additional options.
    ///
    /// # Errors
    /// If the load generator cannot be started.
    pub fn bench(&self, options: &[String]) -> Result<Child, CalibrateError> {
        let mut command = Command::from(std_command(&self.palisade));
        command
            .args(["bench", "--json", "--endpoint", self.processes.address(GATEWAY)])
            .args(options);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command.spawn().map_err(CalibrateError::LoadNotStarted)
    }

    /// Stops a node cleanly, and returns its data directory.
    ///
    /// # Errors
    /// If the node does not stop.
    pub async fn stop(&mut self, node: u64) -> Result<PathBuf, CalibrateError> {
        self.processes.stop(Member::Node(node), STOP_MAX).await?;
        Ok(self.processes.data(node))
    }
}

fn std_command(words: &[OsString]) -> std::process::Command {
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
