//! One load on a cluster, and the counters during the load.
//!
//! The module draws no conclusions from the counters.

use super::cluster::{Cluster, GATEWAY, nodes};
use super::error::CalibrateError;
use super::usage::{Cpu, cpu, idle_us};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time of a load before its window begins.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// The usual length of a window.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Time of a load after its window, so that the load does not end first.
const RUN_OUT: Duration = Duration::from_secs(1);
/// Counter of the operations that a node answered. They belong to the shards that it leads.
const ANSWERED: &str = "palisade_operations_total";

/// The counts of one load in its window.
#[derive(Clone, Debug)]
pub struct Window {
    /// Length of the window.
    pub seconds: f64,
    /// Number of shards of the cluster.
    pub shards: usize,
    /// The counts of each node.
    pub nodes: Vec<NodeWindow>,
    /// Processor time of the gateway.
    pub gateway_us: f64,
    /// Processor time of the load generator.
    pub client_us: f64,
    /// Idle time of all cores together.
    pub idle_us: f64,
}

/// The counts of one node in a window.
#[derive(Clone, Copy, Debug)]
pub struct NodeWindow {
    /// Operations of shards that it leads.
    pub answered: f64,
    /// Operations of all shards.
    pub applied: f64,
    /// Entries of all shards.
    pub entries: f64,
    /// Syncs of its log.
    pub syncs: f64,
    /// Time that its writes and syncs took.
    pub sync_s: f64,
    /// Bytes sent to the peers of the node.
    pub sent_bytes: f64,
    /// Processor time of its threads.
    pub cpu: Cpu,
}

impl Window {
    /// Computes the counts between two moments.
    pub fn between(began: &Moment, ended: &Moment) -> Window {
        let node = |before: &(BTreeMap<String, f64>, Cpu), after: &(BTreeMap<String, f64>, Cpu)| {
            let count = |name: &str| {
                let of =
                    |metrics: &BTreeMap<String, f64>| metrics.get(name).copied().unwrap_or(0.0);
                of(&after.0) - of(&before.0)
            };
            NodeWindow {
                answered: count(ANSWERED),
                applied: count("palisade_commands_applied_total"),
                entries: count("palisade_entries_applied_total"),
                syncs: count("palisade_fsync_seconds_count"),
                sync_s: count("palisade_fsync_seconds_sum"),
                sent_bytes: count("palisade_peer_sent_bytes_total"),
                cpu: after.1.since(&before.1),
            }
        };
        Window {
            seconds: (ended.at - began.at).as_secs_f64(),
            shards: ended.shards,
            nodes: began
                .nodes
                .iter()
                .zip(&ended.nodes)
                .map(|(before, after)| node(before, after))
                .collect(),
            gateway_us: ended.gateway.since(&began.gateway).total_us(),
            client_us: ended.client.since(&began.client).total_us(),
            idle_us: ended.idle_us - began.idle_us,
        }
    }

    fn mean(&self, of: impl Fn(&NodeWindow) -> f64) -> f64 {
        self.nodes.iter().map(of).sum::<f64>() / self.nodes.len().max(1) as f64
    }

    /// Operations in the log, as the mean over nodes.
    pub fn ops(&self) -> f64 {
        self.mean(|node| node.applied)
    }

    /// Entries in the log, as the mean over nodes.
    pub fn entries(&self) -> f64 {
        self.mean(|node| node.entries)
    }

    /// Mean number of operations that shared an entry.
    pub fn operations_per_entry(&self) -> f64 {
        self.ops() / self.entries().max(1.0)
    }

    /// The node that answered the most operations.
    pub fn leader(&self) -> NodeWindow {
        let most = self.nodes.iter().max_by(|left, right| left.answered.total_cmp(&right.answered));
        *most.expect("a cluster has nodes")
    }

    /// The use by other programs, in cores.
    pub fn taken_cores(&self, cores: u64) -> f64 {
        (cores as f64 - self.busy_cores() - self.idle_us / 1e6 / self.seconds).max(0.0)
    }

    /// The use of all processes together, in cores.
    fn busy_cores(&self) -> f64 {
        let nodes = self.nodes.iter().map(|node| node.cpu.total_us()).sum::<f64>();
        (nodes + self.gateway_us + self.client_us) / 1e6 / self.seconds
    }

    /// One line about the window, for people.
    pub fn shown(&self) -> String {
        let syncs = self.mean(|node| node.syncs);
        format!(
            "{:.0} operations/s, {:.1} per entry; {:.0} syncs/s of a node, {:.2} ms each; {:.2} \
             cores busy",
            self.ops() / self.seconds,
            self.operations_per_entry(),
            syncs / self.seconds,
            self.mean(|node| node.sync_s) * 1e3 / syncs.max(1.0),
            self.busy_cores(),
        )
    }
}

/// The counters at one moment.
#[derive(Debug)]
pub struct Moment {
    at: Instant,
    shards: usize,
    nodes: Vec<(BTreeMap<String, f64>, Cpu)>,
    gateway: Cpu,
    client: Cpu,
    idle_us: f64,
}

impl Moment {
    /// Reads the counters of a cluster, and of its load if there is one.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub fn now(cluster: &Cluster, client: Option<u32>) -> Result<Moment, CalibrateError> {
        let node = |node| Ok((cluster.metrics(node)?, cpu(cluster.pid(node))?));
        Ok(Moment {
            at: Instant::now(),
            shards: cluster.shards,
            nodes: nodes().map(node).collect::<Result<_, CalibrateError>>()?,
            gateway: cpu(cluster.pid(GATEWAY))?,
            client: client.map(cpu).transpose()?.unwrap_or_default(),
            idle_us: idle_us()?,
        })
    }
}

/// Runs a load, and returns the counts of a window of this length.
///
/// # Errors
/// If the load cannot be run, or leaders change meanwhile.
pub async fn load(
    cluster: &Cluster,
    options: &[&str],
    span: Duration,
) -> Result<Window, CalibrateError> {
    let leads = cluster.leads()?;
    let answered = || -> Result<f64, CalibrateError> {
        nodes().map(|node| Ok(cluster.metrics(node)?.get(ANSWERED).copied().unwrap_or(0.0))).sum()
    };
    let before = answered()?;
    let duration = format!("{}ms", (WARM_UP + span + RUN_OUT).as_millis());
    let mut options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    options.extend(["--warmup", "0", "--duration", &duration].map(str::to_owned));
    let bench = cluster.bench(&options)?;
    // Mixes that hold locks from the start acquire them first. The load has begun when further
    // answers come.
    let held = options
        .iter()
        .position(|option| option == "--names")
        .and_then(|at| options[at + 1].parse::<f64>().ok());
    let until = Instant::now() + Duration::from_secs(60);
    while answered()? - before <= held.unwrap_or(0.0) {
        if Instant::now() > until {
            return Err(CalibrateError::Overloaded("the load did not begin within a minute"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let began = Moment::now(cluster, bench.id())?;
    tokio::time::sleep(span).await;
    let ended = Moment::now(cluster, bench.id())?;
    let outcome = bench.wait_with_output().await.map_err(CalibrateError::LoadLost)?;
    if !outcome.status.success() {
        let said = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
        return Err(CalibrateError::LoadFailed(said));
    }
    if cluster.leads()? != leads {
        return Err(CalibrateError::Overloaded("leaders changed meanwhile"));
    }
    Ok(Window::between(&began, &ended))
}
