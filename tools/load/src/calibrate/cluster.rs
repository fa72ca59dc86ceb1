//! A cluster for measuring: five nodes and a gateway, as processes on loopback that end with this
//! one.
//!
//! It knows nothing of the measurements.

use super::error::CalibrateError;
use client::Client;
use local_cluster::{
    Addresses, Ended, Launch, Member, Processes, cluster_config, free_addresses, leaders, metric_sums, page,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Nodes, each with a replica.
pub const NODES: u64 = 5;
/// The only gateway.
pub const GATEWAY: Member = Member::Gateway(1);
/// For the cluster to have its leaders.
const READY_MAX: Duration = Duration::from_secs(30);
/// Time after that for followers to catch up with elections and moves of leaders.
const SETTLE: Duration = Duration::from_secs(2);
/// For a node to stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(15);

/// All nodes, in order.
pub fn nodes() -> impl Iterator<Item = Member> {
    (1..=NODES).map(Member::Node)
}

/// The processes. Killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    processes: Processes,
    palisade: Vec<OsString>,
    /// The number of shards.
    pub shards: usize,
}

impl Cluster {
    /// Starts it in an empty directory, and waits for the leader of each shard. `palisade`: the
    /// words that run this program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(dir: &Path, shards: usize, palisade: &[OsString]) -> Result<Cluster, CalibrateError> {
        let addresses = Addresses::pairs(&free_addresses(2 * (NODES as usize + 1))?);
        let (nodes, gateways) = addresses.split_at(NODES as usize);
        let processes = Processes::new(dir, cluster_config("calibration", shards as u32, nodes, gateways))?;
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
            // Leaderships move for a while after the start, to where the map wants them.
            let most = self.shards.div_ceil(NODES as usize);
            let spread = self
                .leads()
                .is_ok_and(|leads| leads.iter().sum::<usize>() == self.shards && leads.iter().all(|n| *n <= most));
            if spread && client.cluster_status().await.is_ok_and(|status| leaders(&status).len() == self.shards) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(CalibrateError::Overloaded("the cluster did not get its leaders"))
    }

    /// A process's counters and gauges: the sum over the labels, by name.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self, member: Member) -> Result<BTreeMap<String, f64>, CalibrateError> {
        let address = self.processes.metrics_address(member).expect("each process has a page of metrics");
        Ok(metric_sums(&page(address, "/metrics")?))
    }

    /// A process's pid; 0 for one that has ended.
    pub fn pid(&self, member: Member) -> u32 {
        self.processes.pid(member).unwrap_or_default()
    }

    /// How many shards each node leads.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn leads(&self) -> Result<Vec<usize>, CalibrateError> {
        let count = |node| Ok(self.metrics(node)?.get("palisade_raft_is_leader").map_or(0, |leads| *leads as usize));
        nodes().map(count).collect()
    }

    /// Runs `palisade bench` against it with these options more.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn bench(&self, options: &[String]) -> Result<Child, CalibrateError> {
        let mut command = Command::from(std_command(&self.palisade));
        command.args(["bench", "--json", "--endpoint", self.processes.address(GATEWAY)]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().map_err(CalibrateError::LoadNotStarted)
    }

    /// Stops a node cleanly, and returns its data directory.
    ///
    /// # Errors
    /// If it does not stop.
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
