//! `palisade bench --calibrate`: measures the costs of this service on this machine. The file is
//! for `palisade plan --calibration`.
//!
//! The module starts two clusters of its own, each with five nodes and a gateway. One has a shard
//! for each node to lead, and the other has one shard. It loads them with `palisade bench` at
//! several levels. It reads the use of each process and thread from `/proc` and from the nodes'
//! metrics.
//!
//! All processes are on this machine. A measured capacity is therefore that of a leader that shares
//! its processors with four followers, a gateway and the load. A leader alone carries more. Costs
//! by thread do not have that error, and simulations compute with these costs.

mod cluster;
mod disk;
mod error;
mod fit;
mod history;
mod usage;
mod window;

pub use error::CalibrateError;

use cluster::{Cluster, NODES};
use fit::{Point, least_squares};
use local_cluster::Member;
use planner::quantity::counted;
use planner::{Calibration, Costs};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use usage::{Cpu, cpu, memory_bytes};
use window::{Moment, NodeWindow, WINDOW, Window, load};

/// Clients of the loads that yield the costs: from hardly any batching to very much.
const LEVELS: [u32; 4] = [12, 90, 700, 3_000];
/// Clients of one more load. It lasts until nodes have merged their flushed files, because history
/// is merged in sixteen files or more.
const SUSTAINED_CLIENTS: u32 = 1_500;
/// Length of this load.
const SUSTAINED: Duration = Duration::from_secs(60);
/// Locks held at the same time, to measure their memory.
const HELD: u32 = 200_000;
/// Sizes of names and owners; they equal the defaults of `palisade bench`.
const NAME_BYTES: f64 = 100.0;
const OWNER_BYTES: f64 = 50.0;
/// Limit of use by kernel threads and the like. A greater use disturbs the measurement.
const TAKEN_CORES_MAX: f64 = 0.15;
/// Smallest ratio between the fullest and the emptiest entries of the loads. Otherwise the costs
/// per operation and per entry could not be told apart.
const SPREAD_MIN: f64 = 10.0;
/// Steps of the search for the extra cost of other shards' work, which lies between zero and the
/// cost itself.
const EXTRA_TRIES: u32 = 50;
/// Shortest credible sync time; a faster sync does not reach a disk.
const SYNC_MIN_MS: f64 = 0.02;

/// The options of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The file that the calibration writes.
    pub out: PathBuf,
    /// The directory for the nodes' data meanwhile; `None` means the temporary directory.
    pub data_dir: Option<PathBuf>,
    /// The command that runs `palisade` as a process that ends with this one.
    pub palisade: Vec<OsString>,
    /// The name of this machine, for the file.
    pub host: String,
    /// Today's date, for the file.
    pub today: String,
}

/// Calibrates, and writes the file. `stop` ends the calibration early.
///
/// # Errors
/// If a figure cannot be measured, or `stop` came first. In both cases no result is written.
pub async fn run(
    options: &CalibrateOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), CalibrateError> {
    tokio::select! {
        done = calibrate(options) => done,
        () = stop => Err(CalibrateError::Stopped),
    }
}

async fn calibrate(options: &CalibrateOptions) -> Result<(), CalibrateError> {
    let out = &options.out;
    // The check of the file comes first, so that a bad name does not waste a long measurement.
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(out)
        .map_err(CalibrateError::file("write", out))?;
    cpu(std::process::id())?;
    let parent = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = TempDir::with_prefix_in("palisade-calibrate-", &parent)
        .map_err(CalibrateError::file("use", &parent))?;
    say("the disk");
    let syncs = disk::measure(dir.path()).map_err(CalibrateError::file("sync in", dir.path()))?;
    if syncs.p50_ms < SYNC_MIN_MS {
        eprintln!(
            "warning: a sync takes {:.3} ms here: this is memory, not a disk; use --data-dir",
            syncs.p50_ms
        );
    }
    let mut calibration = Calibration {
        measured: true,
        fsync_low_ms: rounded(syncs.p1_ms),
        fsync_p50_ms: rounded(syncs.p50_ms),
        fsync_high_ms: rounded(syncs.p99_ms),
        syncs_in_parallel: syncs.in_parallel,
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
        ..Calibration::default()
    };
    let own_dir = |shards: usize| dir.path().join(format!("{shards}-shards"));
    let start = async |shards: usize| {
        let own = own_dir(shards);
        std::fs::create_dir(&own).map_err(CalibrateError::file("create", &own))?;
        Cluster::start(&own, shards, &options.palisade).await
    };
    // On the first cluster all nodes lead and follow, as in ordinary use. On the second, one node
    // leads and has no other task. Each level runs on both, one after the other, so that the time
    // of day makes no difference between them.
    let shared = start(NODES as usize).await?;
    let mut cluster = start(1).await?;
    let began = Moment::now(&shared, None)?;
    let (mut windows, mut one_shard) = (Vec::new(), Vec::new());
    for clients in LEVELS {
        windows.push(level(&shared, "a shard for each node", clients, WINDOW).await?);
        one_shard.push(level(&cluster, "one shard", clients, WINDOW).await?);
    }
    level(&shared, "a shard for each node, for a minute", SUSTAINED_CLIENTS, SUSTAINED).await?;
    let whole = Window::between(&began, &Moment::now(&shared, None)?);
    drop(shared); // this also ends its processes
    // Files that cannot be removed now are removed later, with the whole directory.
    let _ = std::fs::remove_dir_all(own_dir(NODES as usize));
    leader_alone(&mut calibration, &one_shard);
    windows.extend(one_shard);
    costs(&mut calibration, &windows, &whole);
    if calibration.other_shard_extra >= 1.0 {
        eprintln!(
            "warning: five shards came out nearly twice as dear as one, or more: the machine was \
             not the same for both"
        );
    }
    let (least, most) = operations_per_entry(&windows);
    if most < SPREAD_MIN * least {
        eprintln!(
            "warning: entries had {least:.0} to {most:.0} operations: too alike to tell costs per \
             operation from costs per entry"
        );
    }
    let taken =
        windows.iter().map(|window| window.taken_cores(calibration.cores)).fold(0.0, f64::max);
    if taken > TAKEN_CORES_MAX {
        eprintln!(
            "warning: other programs used up to {taken:.1} cores meanwhile: capacities and syncs \
             look worse than they are"
        );
    }
    say("checks");
    let checks =
        load(&cluster, &["--mix", "check", "--clients", "700", "--names", "2000"], WINDOW).await?;
    let leader = checks.leader();
    calibration.costs.check_us_per_op =
        rounded((leader.cpu.network_us + leader.cpu.shards_us) / leader.answered.max(1.0));
    say("heartbeats");
    let beats =
        load(&cluster, &["--mix", "heartbeat", "--clients", "700", "--names", "7000"], WINDOW)
            .await?;
    calibration.renewals_per_s_per_leader = (beats.ops() / beats.seconds).round();
    say("history on disk");
    let leader = cluster.leads()?.iter().position(|leads| *leads > 0).unwrap_or(0);
    // Nodes are numbered from 1, so this is the node after the leader.
    let data = cluster.stop((leader as u64 + 1) % NODES + 1).await?;
    if let Some(history) = history::measure(data).await? {
        calibration.tenure_overhead_bytes =
            (history.record_bytes - NAME_BYTES - OWNER_BYTES).max(0.0).round() as u64;
        calibration.history_stored_ratio = rounded(history.stored_ratio);
    }
    say("memory");
    calibration.lock_overhead_bytes = lock_overhead(&cluster, leader).await?;
    drop(cluster);
    calibration.source = source(options, &calibration, &syncs, &windows, taken);
    let comment = "# Made by `palisade bench --calibrate`; for `palisade plan --calibration`.\n";
    std::fs::write(out, format!("{comment}{}", calibration.to_yaml()))
        .map_err(CalibrateError::file("write", out))?;
    eprintln!("{}: {}", out.display(), calibration.source);
    Ok(())
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}

/// Runs one load on a cluster, and returns its figures.
async fn level(
    cluster: &Cluster,
    what: &str,
    clients: u32,
    span: Duration,
) -> Result<Window, CalibrateError> {
    say(&format!("{what}, {}", counted(clients.into(), "client")));
    let window = load(cluster, &["--clients", &clients.to_string()], span).await?;
    eprintln!("  {}", window.shown());
    Ok(window)
}

/// Operations per entry in the load with the fewest, and in the load with the most.
fn operations_per_entry(windows: &[Window]) -> (f64, f64) {
    let each = windows.iter().map(Window::operations_per_entry);
    each.fold((f64::INFINITY, 0.0), |(least, most), ops| (least.min(ops), most.max(ops)))
}

/// Computes the costs by thread.
///
/// Each thread gets a cost per operation, a cost per root of the operations of an entry, and a cost
/// per awakening (sync, entry). Together these explain its processor time under all loads
/// ([`planner::Costs`] says why). The costs can be told apart for three reasons:
///
/// * Entries of the heaviest load hold some hundred times as many operations as those of the
///   lightest.
/// * Awakenings differ from entries, because several shards share an awakening.
/// * Leading differs from following, because with one shard one node does nothing else.
///
/// With several shards on a machine the same work costs more, because another shard's work has
/// displaced its data from the caches. The extra cost is chosen so that the costs of one and of
/// five shards come out alike.
///
/// Background work of nodes is taken from all of `whole`, because it comes later than its
/// operations.
fn costs(calibration: &mut Calibration, windows: &[Window], whole: &Window) {
    let tries = (0..=EXTRA_TRIES).map(|step| f64::from(step) / f64::from(EXTRA_TRIES));
    let fits = tries.map(|extra| (extra, fit(&calibration.costs, windows, extra)));
    let (extra, (mut costs, _)) =
        fits.min_by(|left, right| left.1.1.total_cmp(&right.1.1)).expect("one is tried");
    let (mut background_us, mut applied) = (0.0, 0.0);
    for node in &whole.nodes {
        (background_us, applied) = (background_us + node.cpu.background_us, applied + node.applied);
    }
    costs.background_us_per_op = rounded(background_us / f64::max(applied, 1.0));
    (calibration.costs, calibration.other_shard_extra) = (costs, extra);
}

/// Costs of one shard if other shards add this extra cost, and the remaining sum of squares.
fn fit(assumed: &Costs, windows: &[Window], extra: f64) -> (Costs, f64) {
    let mut left = 0.0;
    let mut node = |shared: &dyn Fn(&NodeWindow) -> f64, us: &dyn Fn(&Cpu) -> f64| {
        let mut points = Vec::new();
        for window in windows {
            let more = 1.0 + extra * (1.0 - 1.0 / window.shards as f64);
            for node in &window.nodes {
                let followed = (node.applied - node.answered).max(0.0);
                let roots = (node.applied * node.entries).sqrt();
                let us = us(&node.cpu) / more;
                points.push(Point { counts: [node.answered, followed, roots, shared(node)], us });
            }
        }
        let (costs, squares) = least_squares(&points);
        left += squares;
        costs.map(rounded)
    };
    let mut c = assumed.clone();
    [
        c.leader_network_us_per_op,
        c.follower_network_us_per_op,
        c.network_us_per_entry_root,
        c.network_us_per_wake,
    ] = node(&|node| node.cpu.network_wakes, &|cpu| cpu.network_us);
    [
        c.leader_shard_us_per_op,
        c.follower_shard_us_per_op,
        c.shard_us_per_entry_root,
        c.shard_us_per_wake,
    ] = node(&|node| node.cpu.shards_wakes, &|cpu| cpu.shards_us);
    [
        c.leader_writer_us_per_op,
        c.follower_writer_us_per_op,
        c.writer_us_per_entry_root,
        c.writer_us_per_sync,
    ] = node(&|node| node.syncs, &|cpu| cpu.writer_us);
    let other = |us: &dyn Fn(&Window) -> f64| {
        let point = |window: &Window| {
            let (ops, entries) = (window.ops(), window.entries());
            Point { counts: [ops, (ops * entries).sqrt(), entries], us: us(window) }
        };
        least_squares(&windows.iter().map(point).collect::<Vec<_>>()).0.map(rounded)
    };
    [c.gateway_us_per_op, c.gateway_us_per_entry_root, c.gateway_us_per_entry] =
        other(&|window| window.gateway_us);
    [c.client_us_per_op, c.client_us_per_entry_root, c.client_us_per_entry] =
        other(&|window| window.client_us);
    (c, left)
}

/// Computes the capacity of a leader that has the cluster to itself, and bytes per operation.
fn leader_alone(calibration: &mut Calibration, windows: &[Window]) {
    let capacity = windows.iter().map(|window| window.ops() / window.seconds).fold(1.0, f64::max);
    calibration.writes_per_s_per_leader = capacity.round();
    // Half of the operations are acquires, with name and owner; half are releases, with the name.
    let carried = NAME_BYTES + OWNER_BYTES / 2.0;
    // Large batches are used, so that the fixed cost of a message does not count.
    let fullest = windows
        .iter()
        .max_by(|left, right| left.operations_per_entry().total_cmp(&right.operations_per_entry()));
    if let Some(leader) = fullest.map(Window::leader).filter(|leader| leader.applied > 0.0) {
        let sent = leader.sent_bytes / (NODES - 1) as f64 / leader.applied;
        calibration.operation_overhead_bytes = (sent - carried).max(0.0).round() as u64;
    }
}

/// Measures the memory of a held lock beyond its name and owner.
async fn lock_overhead(cluster: &Cluster, leader: usize) -> Result<u64, CalibrateError> {
    let pid = cluster.pid(Member::Node(leader as u64 + 1));
    let before = memory_bytes(pid)?;
    let names = HELD.to_string();
    let options = [
        "--mix",
        "renew",
        "--clients",
        "700",
        "--names",
        &names,
        "--warmup",
        "0",
        "--duration",
        "1s",
        "--keep",
    ];
    let bench = cluster.bench(&options.map(str::to_owned))?;
    let outcome = bench.wait_with_output().await.map_err(CalibrateError::LoadLost)?;
    if !outcome.status.success() {
        return Err(CalibrateError::Overloaded("many locks could not be taken"));
    }
    let each = (memory_bytes(pid)? - before) / f64::from(HELD);
    Ok((each - NAME_BYTES - OWNER_BYTES).max(0.0).round() as u64)
}

fn source(
    options: &CalibrateOptions,
    calibration: &Calibration,
    syncs: &disk::Syncs,
    windows: &[Window],
    taken_cores: f64,
) -> String {
    let (least, most) = operations_per_entry(windows);
    format!(
        "palisade bench --calibrate {} on {}, {}: {NODES} nodes, gateway and load on {}; the disk \
         does {:.0} syncs/s, {:.0} by {NODES} writers; {least:.0} to {most:.0} operations per \
         entry; other programs used up to {taken_cores:.1} cores",
        env!("CARGO_PKG_VERSION"),
        options.host,
        options.today,
        counted(calibration.cores, "core"),
        syncs.alone_per_s,
        syncs.together_per_s,
    )
}

/// Rounds to four significant digits, because costs are no better known.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a window with shards that are led by the first node, or in equal parts by all nodes.
    /// In the second case work of nodes costs 0.3 more for four of five shards.
    fn window(ops: f64, entries: f64, shared: bool) -> Window {
        let more = if shared { 1.24 } else { 1.0 };
        let node = |at: usize| {
            let led = match (shared, at) {
                (true, _) => ops / NODES as f64,
                (false, 0) => ops,
                (false, _) => 0.0,
            };
            let (followed, roots) = (ops - led, (ops * entries).sqrt());
            // With several shards, one awakening serves more than one entry.
            let wakes = if shared { entries } else { 3.0 * entries };
            let cpu = Cpu {
                network_us: (4.0 * led + followed + 7.0 * roots + 10.0 * wakes) * more,
                network_wakes: wakes,
                shards_us: (5.0 * led + 2.0 * followed + 8.0 * roots + 20.0 * wakes) * more,
                shards_wakes: wakes,
                writer_us: (6.0 * led + 3.0 * followed + 9.0 * roots + 30.0 * entries) * more,
                background_us: 2.0 * ops,
            };
            let sent_bytes = 4.0 * led * 175.0;
            NodeWindow {
                answered: led,
                applied: ops,
                entries,
                syncs: entries,
                sync_s: 0.001 * entries,
                sent_bytes,
                cpu,
            }
        };
        Window {
            seconds: 2.0,
            shards: if shared { NODES as usize } else { 1 },
            nodes: (0..NODES as usize).map(node).collect(),
            gateway_us: 7.0 * ops + 5.0 * (ops * entries).sqrt() + 70.0 * entries,
            client_us: 8.0 * ops + 80.0 * entries,
            idle_us: 0.0,
        }
    }

    #[test]
    fn costs_come_out_of_what_was_used() {
        let mut calibration = Calibration::default();
        let windows = [
            window(20_000.0, 1_000.0, false),
            window(2_000.0, 1_000.0, false),
            window(50_000.0, 500.0, false),
            window(30_000.0, 2_000.0, true),
            window(40_000.0, 700.0, true),
        ];
        costs(&mut calibration, &windows, &windows[0]);
        leader_alone(&mut calibration, &windows[..3]);
        assert_eq!(operations_per_entry(&windows), (2.0, 100.0));
        let c = &calibration.costs;
        assert_eq!((c.leader_network_us_per_op, c.follower_network_us_per_op), (4.0, 1.0));
        assert_eq!((c.network_us_per_entry_root, c.network_us_per_wake), (7.0, 10.0));
        assert_eq!((c.leader_shard_us_per_op, c.follower_shard_us_per_op), (5.0, 2.0));
        assert_eq!((c.shard_us_per_entry_root, c.shard_us_per_wake), (8.0, 20.0));
        assert_eq!((c.leader_writer_us_per_op, c.follower_writer_us_per_op), (6.0, 3.0));
        assert_eq!((c.writer_us_per_entry_root, c.writer_us_per_sync), (9.0, 30.0));
        assert_eq!(
            (c.gateway_us_per_op, c.gateway_us_per_entry_root, c.gateway_us_per_entry),
            (7.0, 5.0, 70.0)
        );
        assert_eq!(
            (c.client_us_per_op, c.client_us_per_entry_root, c.client_us_per_entry),
            (8.0, 0.0, 80.0)
        );
        assert_eq!(c.background_us_per_op, 2.0);
        assert_eq!(calibration.other_shard_extra, 0.3);
        assert_eq!(
            (calibration.writes_per_s_per_leader, calibration.operation_overhead_bytes),
            (25_000.0, 50)
        );
        assert_eq!(Calibration::parse(&calibration.to_yaml()), Ok(calibration));
    }
}
