//! `palisade bench --calibrate`: what this service costs on this machine, for `palisade plan --calibration`.
//!
//! It starts a cluster of its own (five nodes, one shard, a gateway), loads it with `palisade bench` at several levels, and looks
//! at what each process and thread used, as `/proc` and the nodes' metrics say. Everything is on this machine, so capacities
//! are those of a leader that shares its processors with four followers, a gateway and the load: less than a leader carries
//! alone. Costs by thread do not have that error, and simulations compute with these.

mod cluster;
mod disk;
mod fit;
mod history;
mod usage;

use super::args::Bench;
use crate::failure::Failure;
use cluster::{Cluster, NODES, Server, cannot, failed};
use fit::{Point, least_squares};
use planner::Calibration;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use usage::{Cpu, cpu, idle_us, memory_bytes};

/// Clients of the loads from which costs are taken: from hardly any batching to very much.
const LEVELS: [u32; 4] = [12, 90, 700, 3_000];
/// Before a load is looked at.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// How long it is looked at.
const WINDOW: Duration = Duration::from_secs(5);
/// Beyond that the load goes on, so that it does not end before it was looked at.
const RUN_OUT: Duration = Duration::from_secs(1);
/// Held at the same time to see how much memory that takes.
const HELD: u32 = 200_000;
/// What loads lock, as `palisade bench` has it by default.
const NAME_BYTES: f64 = 100.0;
const OWNER_BYTES: f64 = 50.0;
/// Kernel threads and the like; what is more disturbs.
const TAKEN_CORES_MAX: f64 = 0.15;
/// Costs per operation and per entry are told apart by how full entries are: the fullest load's by so much, at least.
const SPREAD_MIN: f64 = 10.0;
/// A disk that syncs faster than this is none.
const SYNC_MIN_MS: f64 = 0.02;

/// Calibrates, and writes the file.
///
/// # Errors
/// If something that is measured cannot be.
pub async fn run(args: &Bench, out: &Path) -> Result<(), Failure> {
    tokio::select! {
        done = calibrate(args, out) => done,
        () = crate::serve::told_to_stop() => {
            Err(failed("stopped before it was done; nothing was written".to_owned(), "run it again, to its end"))
        }
    }
}

async fn calibrate(args: &Bench, out: &Path) -> Result<(), Failure> {
    // First, so that a long measurement is not lost for a name.
    std::fs::File::options().append(true).create(true).open(out).map_err(|error| cannot("write", out, &error))?;
    cpu(std::process::id())?;
    let parent = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir =
        TempDir::with_prefix_in("palisade-calibrate-", &parent).map_err(|error| cannot("use", &parent, &error))?;
    say("the disk");
    let syncs = disk::measure(dir.path()).map_err(|error| cannot("sync in", dir.path(), &error))?;
    if syncs.p50_ms < SYNC_MIN_MS {
        eprintln!("warning: a sync takes {:.3} ms here: this is memory, not a disk; use --data-dir", syncs.p50_ms);
    }
    let mut cluster = Cluster::start(dir.path()).await?;
    let mut calibration = Calibration {
        measured: true,
        fsync_low_ms: rounded(syncs.p1_ms),
        fsync_p50_ms: rounded(syncs.p50_ms),
        fsync_high_ms: rounded(syncs.p99_ms),
        syncs_in_parallel: syncs.in_parallel,
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
        ..Calibration::default()
    };
    let mut windows = Vec::new();
    for clients in LEVELS {
        say(&format!("{clients} clients"));
        let window = load(&cluster, &["--clients", &clients.to_string()]).await?;
        eprintln!("  {}", window.shown());
        windows.push(window);
    }
    costs(&mut calibration, &windows);
    let (least, most) = operations_per_entry(&windows);
    if most < SPREAD_MIN * least {
        eprintln!(
            "warning: entries had {least:.0} to {most:.0} operations: too alike to tell costs per operation from costs per entry"
        );
    }
    let taken = windows.iter().map(|window| window.taken_cores(calibration.cores)).fold(0.0, f64::max);
    if taken > TAKEN_CORES_MAX {
        eprintln!(
            "warning: other programs used up to {taken:.1} cores meanwhile: capacities and syncs look worse than they are"
        );
    }
    say("checks");
    let checks = load(&cluster, &["--mix", "check", "--clients", "700", "--names", "2000"]).await?;
    let check_us = checks.leader.network_us + checks.leader.shards_us;
    calibration.costs.check_us_per_op = rounded(check_us / checks.answered.max(1.0));
    say("heartbeats");
    let beats = load(&cluster, &["--mix", "heartbeat", "--clients", "700", "--names", "7000"]).await?;
    calibration.renewals_per_s_per_leader = (beats.ops / beats.seconds).round();
    say("history on disk");
    let leader = cluster.leader()?;
    let data = cluster.stop((leader + 1) % NODES).await?;
    if let Some(history) = history::measure(&data).await? {
        calibration.tenure_overhead_bytes = (history.record_bytes - NAME_BYTES - OWNER_BYTES).max(0.0).round() as u64;
        calibration.history_stored_ratio = rounded(history.stored_ratio);
    }
    say("memory");
    calibration.lock_overhead_bytes = lock_overhead(&cluster, leader).await?;
    cluster.end().await;
    calibration.source = source(&calibration, &syncs, &windows, taken);
    let comment = "# Made by `palisade bench --calibrate`; for `palisade plan --calibration`.\n";
    std::fs::write(out, format!("{comment}{}", calibration.to_yaml())).map_err(|error| cannot("write", out, &error))?;
    eprintln!("{}: {}", out.display(), calibration.source);
    Ok(())
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}

/// What one load came to in its window.
struct Window {
    seconds: f64,
    /// Operations in the log, entries, and syncs by leader and follower.
    ops: f64,
    entries: f64,
    leader_syncs: f64,
    follower_syncs: f64,
    /// Time that the followers' writes and syncs took, on average over them.
    follower_sync_s: f64,
    /// Operations that the leader answered.
    answered: f64,
    /// From the leader to its followers.
    sent_bytes: f64,
    leader: Cpu,
    /// A follower, on average.
    follower: Cpu,
    gateway_us: f64,
    client_us: f64,
    /// Of all cores.
    idle_us: f64,
}

impl Window {
    /// What other programs used, in cores.
    fn taken_cores(&self, cores: u64) -> f64 {
        (cores as f64 - self.busy_cores() - self.idle_us / 1e6 / self.seconds).max(0.0)
    }

    /// Of all processes together, in cores.
    fn busy_cores(&self) -> f64 {
        let nodes = self.leader.total_us() + self.follower.total_us() * (NODES - 1) as f64;
        (nodes + self.gateway_us + self.client_us) / 1e6 / self.seconds
    }

    fn shown(&self) -> String {
        format!(
            "{:.0} operations/s, {:.1} per entry; {:.0} and {:.0} syncs/s of leader and follower, {:.2} ms each; \
             {:.2} cores busy",
            self.ops / self.seconds,
            self.ops / self.entries.max(1.0),
            self.leader_syncs / self.seconds,
            self.follower_syncs / self.seconds,
            self.follower_sync_s * 1e3 / self.follower_syncs.max(1.0),
            self.busy_cores(),
        )
    }
}

/// Counters of one moment.
struct Moment {
    at: Instant,
    nodes: Vec<(std::collections::BTreeMap<String, f64>, Cpu)>,
    gateway: Cpu,
    client: Cpu,
    idle_us: f64,
}

impl Moment {
    fn now(cluster: &Cluster, client: u32) -> Result<Moment, Failure> {
        let node = |node: &Server| Ok((node.metrics()?, cpu(node.pid())?));
        Ok(Moment {
            at: Instant::now(),
            nodes: cluster.nodes.iter().map(node).collect::<Result<_, Failure>>()?,
            gateway: cpu(cluster.gateway.pid())?,
            client: cpu(client)?,
            idle_us: idle_us()?,
        })
    }
}

/// Runs a load, and looks at it for a while.
async fn load(cluster: &Cluster, options: &[&str]) -> Result<Window, Failure> {
    let leader = cluster.leader()?;
    let duration = format!("{}ms", (WARM_UP + WINDOW + RUN_OUT).as_millis());
    let mut options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    options.extend(["--warmup", "0", "--duration", &duration].map(str::to_owned));
    let bench = cluster.bench(&options)?;
    let client = bench.id().unwrap_or_default();
    // Mixes that hold locks from the start take them first: the load is there once answers come.
    let before = cluster.nodes[leader].metrics()?.get(OPERATIONS).copied().unwrap_or(0.0);
    let held = options.iter().position(|option| option == "--names").and_then(|at| options[at + 1].parse::<f64>().ok());
    let until = Instant::now() + Duration::from_secs(60);
    while cluster.nodes[leader].metrics()?.get(OPERATIONS).copied().unwrap_or(0.0) - before <= held.unwrap_or(0.0) {
        if Instant::now() > until {
            return Err(failed(
                "the load did not begin within a minute".to_owned(),
                "try on a machine that has less to do",
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let began = Moment::now(cluster, client)?;
    tokio::time::sleep(WINDOW).await;
    let ended = Moment::now(cluster, client)?;
    let outcome = bench.wait_with_output().await.map_err(|error| failed(format!("the load was lost: {error}"), ""))?;
    if !outcome.status.success() {
        let said = String::from_utf8_lossy(&outcome.stdout).trim().to_owned();
        return Err(failed(format!("the load failed: {said}"), "try on a machine that has less to do"));
    }
    if cluster.leader()? != leader {
        return Err(failed("the leader changed meanwhile".to_owned(), "try on a machine that has less to do"));
    }
    Ok(window(&began, &ended, leader))
}

const OPERATIONS: &str = "palisade_operations_total";

fn window(began: &Moment, ended: &Moment, leader: usize) -> Window {
    let count = |node: usize, name: &str| {
        let of = |moment: &Moment| moment.nodes[node].0.get(name).copied().unwrap_or(0.0);
        of(ended) - of(began)
    };
    let used = |node: usize| ended.nodes[node].1.since(&began.nodes[node].1);
    let followers: Vec<usize> = (0..ended.nodes.len()).filter(|node| *node != leader).collect();
    let mean = |of: &dyn Fn(usize) -> f64| followers.iter().map(|node| of(*node)).sum::<f64>() / followers.len() as f64;
    const SYNCS: &str = "palisade_fsync_seconds_count";
    Window {
        seconds: (ended.at - began.at).as_secs_f64(),
        ops: count(leader, "palisade_commands_applied_total"),
        entries: count(leader, "palisade_entries_applied_total"),
        leader_syncs: count(leader, SYNCS),
        follower_syncs: mean(&|node| count(node, SYNCS)),
        follower_sync_s: mean(&|node| count(node, "palisade_fsync_seconds_sum")),
        answered: count(leader, OPERATIONS),
        sent_bytes: count(leader, "palisade_peer_sent_bytes_total"),
        leader: used(leader),
        follower: Cpu {
            network_us: mean(&|node| used(node).network_us),
            shards_us: mean(&|node| used(node).shards_us),
            writer_us: mean(&|node| used(node).writer_us),
            background_us: mean(&|node| used(node).background_us),
        },
        gateway_us: ended.gateway.since(&began.gateway).total_us(),
        client_us: ended.client.since(&began.client).total_us(),
        idle_us: ended.idle_us - began.idle_us,
    }
}

/// In the load with the fewest, and in that with the most.
fn operations_per_entry(windows: &[Window]) -> (f64, f64) {
    let each = windows.iter().map(|w| w.ops / w.entries.max(1.0));
    each.fold((f64::INFINITY, 0.0), |(least, most), ops| (least.min(ops), most.max(ops)))
}

/// Costs by thread, capacity, and bytes per operation.
///
/// Each thread is given one cost per operation and one per entry (or sync) that explain its processor time under all loads. They
/// can be told apart because entries of the heaviest load hold some hundred times as many operations as those of the lightest,
/// whose time is nearly all per entry as the heaviest's is nearly all per operation.
fn costs(calibration: &mut Calibration, windows: &[Window]) {
    let fit = |batches: &dyn Fn(&Window) -> f64, us: &dyn Fn(&Window) -> f64| {
        let points = windows.iter().map(|w| Point { ops: w.ops, batches: batches(w), us: us(w) });
        let (per_op, per_batch) = least_squares(&points.collect::<Vec<_>>());
        (rounded(per_op), rounded(per_batch))
    };
    let entries = |w: &Window| w.entries;
    let c = &mut calibration.costs;
    (c.leader_network_us_per_op, c.leader_network_us_per_entry) = fit(&entries, &|w| w.leader.network_us);
    (c.leader_shard_us_per_op, c.leader_shard_us_per_entry) = fit(&entries, &|w| w.leader.shards_us);
    (c.leader_writer_us_per_op, c.leader_writer_us_per_sync) = fit(&|w| w.leader_syncs, &|w| w.leader.writer_us);
    (c.follower_network_us_per_op, c.follower_network_us_per_entry) = fit(&entries, &|w| w.follower.network_us);
    (c.follower_shard_us_per_op, c.follower_shard_us_per_entry) = fit(&entries, &|w| w.follower.shards_us);
    (c.follower_writer_us_per_op, c.follower_writer_us_per_sync) =
        fit(&|w| w.follower_syncs, &|w| w.follower.writer_us);
    (c.gateway_us_per_op, c.gateway_us_per_entry) = fit(&entries, &|w| w.gateway_us);
    (c.client_us_per_op, c.client_us_per_entry) = fit(&entries, &|w| w.client_us);
    let sum = |of: &dyn Fn(&Window) -> f64| windows.iter().map(of).sum::<f64>();
    let followers = (NODES - 1) as f64;
    let ops = sum(&|w| w.ops).max(1.0);
    let background = sum(&|w| w.leader.background_us + w.follower.background_us * followers);
    c.background_us_per_op = rounded(background / ops / NODES as f64);
    let capacity = windows.iter().map(|w| w.ops / w.seconds).fold(1.0, f64::max);
    calibration.writes_per_s_per_leader = capacity.round();
    // Half are acquires, with name and owner; half are releases, with the name.
    let carried = NAME_BYTES + OWNER_BYTES / 2.0;
    // Large batches, so that what goes with each message does not count.
    let last = windows.iter().max_by(|left, right| (left.ops / left.entries).total_cmp(&(right.ops / right.entries)));
    if let Some(w) = last.filter(|w| w.ops > 0.0) {
        calibration.operation_overhead_bytes = (w.sent_bytes / followers / w.ops - carried).max(0.0).round() as u64;
    }
}

/// Memory that a held lock takes beyond its name and owner.
async fn lock_overhead(cluster: &Cluster, leader: usize) -> Result<u64, Failure> {
    let pid = cluster.nodes[leader].pid();
    let before = memory_bytes(pid)?;
    let names = HELD.to_string();
    let options =
        ["--mix", "renew", "--clients", "700", "--names", &names, "--warmup", "0", "--duration", "1s", "--keep"];
    let bench = cluster.bench(&options.map(str::to_owned))?;
    let outcome = bench.wait_with_output().await.map_err(|error| failed(format!("the load was lost: {error}"), ""))?;
    if !outcome.status.success() {
        return Err(failed("many locks could not be taken".to_owned(), "try on a machine that has less to do"));
    }
    let each = (memory_bytes(pid)? - before) / f64::from(HELD);
    Ok((each - NAME_BYTES - OWNER_BYTES).max(0.0).round() as u64)
}

fn source(calibration: &Calibration, syncs: &disk::Syncs, windows: &[Window], taken_cores: f64) -> String {
    let days = crate::output::wall_ms() / 86_400_000;
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let (least, most) = operations_per_entry(windows);
    format!(
        "palisade bench --calibrate {} on {host}, {}: {NODES} nodes, gateway and load on {} cores; the disk does {:.0} syncs/s, {:.0} \
         by {NODES} writers; {least:.0} to {most:.0} operations per entry; other programs used up to {taken_cores:.1} cores",
        env!("CARGO_PKG_VERSION"),
        date(days),
        calibration.cores,
        syncs.alone_per_s,
        syncs.together_per_s,
    )
}

/// Four digits that count; costs are no better known.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A day since 1970 as `2026-11-23` (Howard Hinnant's `civil_from_days`, for days that are not before).
fn date(days: u64) -> String {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, shown) in [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_780, "2026-11-23")] {
            assert_eq!(date(days), shown);
        }
    }

    #[test]
    fn costs_come_out_of_what_was_used() {
        let window = |ops: f64, entries: f64| {
            let cpu = |network: f64, shards: f64, writer: f64, batches: f64| Cpu {
                network_us: network * ops + 10.0 * batches,
                shards_us: shards * ops + 20.0 * batches,
                writer_us: writer * ops + 30.0 * batches,
                background_us: 2.0 * ops,
            };
            Window {
                seconds: 2.0,
                ops,
                entries,
                leader_syncs: entries,
                follower_syncs: entries,
                follower_sync_s: 0.001 * entries,
                answered: ops,
                sent_bytes: 4.0 * ops * 175.0,
                leader: cpu(4.0, 5.0, 6.0, entries),
                follower: cpu(1.0, 2.0, 3.0, entries),
                gateway_us: 7.0 * ops + 70.0 * entries,
                client_us: 8.0 * ops + 80.0 * entries,
                idle_us: 0.0,
            }
        };
        let mut calibration = Calibration::default();
        let windows = [window(20_000.0, 1_000.0), window(2_000.0, 1_000.0), window(50_000.0, 500.0)];
        costs(&mut calibration, &windows);
        assert_eq!(operations_per_entry(&windows), (2.0, 100.0));
        let c = &calibration.costs;
        assert_eq!((c.leader_network_us_per_op, c.leader_network_us_per_entry), (4.0, 10.0));
        assert_eq!((c.follower_writer_us_per_op, c.follower_writer_us_per_sync), (3.0, 30.0));
        assert_eq!((c.gateway_us_per_op, c.client_us_per_entry, c.background_us_per_op), (7.0, 80.0, 2.0));
        assert_eq!((calibration.writes_per_s_per_leader, calibration.operation_overhead_bytes), (25_000.0, 50));
        assert_eq!(Calibration::parse(&calibration.to_yaml()), Ok(calibration));
    }
}
