//! What history costs a node's store: processor time of its threads per tenure, bytes on disk, and
//! the time to find the tenures of a name.
//!
//! `history-cost DIR [--tenures N] [--per-write N] [--days N] [--single]` writes tenures of random
//! names to a new store in DIR, to four shards in turn, and waits until its merges rest. With
//! `--single` each tenure has a record of its own, as before level 2.

use clap::Parser;
use routing::ShardId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use storage::{Engine, FORMATS, HistoryRecord, Identity, RocksEngine, ShardWrite, StorageError};

const SHARDS: u64 = 4;
/// As many names for each tenure, so that most names have one or none.
const NAMES_PER_TENURE: u64 = 2;
const LOOKUPS: u32 = 40;
/// Linux counts processor time in these units, for programs.
const TICKS_PER_S: f64 = 100.0;

#[derive(Parser)]
struct Args {
    /// A directory that does not exist yet.
    dir: PathBuf,
    #[arg(long, default_value_t = 10_000_000)]
    tenures: u64,
    /// Tenures that end with one entry.
    #[arg(long, default_value_t = 250)]
    per_write: u64,
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// A record for each tenure.
    #[arg(long)]
    single: bool,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("history-cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), StorageError> {
    let engine = RocksEngine::open(&args.dir)?;
    engine.claim(&Identity { fingerprint: [7; 16], node: 1 })?;
    if !args.single {
        engine.raise_format(*FORMATS.end())?;
    }
    let mut random = random();
    let name = {
        let names = args.tenures * NAMES_PER_TENURE;
        move |random: u64| format!("payment:order:{:08x}", random % names)
    };
    let (began, mut making) = (Instant::now(), Duration::ZERO);
    let writes = args.tenures / args.per_write;
    for write in 0..writes {
        let at = Instant::now();
        let record = |of_write: u64| {
            let (a, b) = (random(), random());
            let owner = format!("worker-{}@host-{}", b % 64, b / 64 % 16);
            HistoryRecord {
                day: 20_000 + (write * args.days / writes) as u32,
                name: name(a),
                token: write * args.per_write + of_write + 1,
                index: 1 + write / SHARDS,
                tenure: [&b.to_le_bytes(), &write.to_le_bytes(), owner.as_bytes()].concat(),
            }
        };
        let history = (0..args.per_write).map(record).collect();
        let shard = ShardId((write % SHARDS) as u32);
        making += at.elapsed();
        engine.write(&[ShardWrite { shard, history, ..ShardWrite::default() }])?;
    }
    println!("written in {:.1} s", began.elapsed().as_secs_f64());
    let per_tenure = 1e6 / (writes * args.per_write) as f64;
    println!("making tenures (in main) {:.2} µs per tenure", making.as_secs_f64() * per_tenure);
    for (thread, seconds) in rests() {
        println!("{thread:16} {:.2} µs per tenure", seconds * per_tenure);
    }
    let bytes = size(&args.dir.join("rocksdb")) as f64;
    println!("on disk {:.1} B per tenure", bytes / 1e6 * per_tenure);
    let (began, mut found) = (Instant::now(), 0);
    for _ in 0..LOOKUPS {
        let shard = ShardId((random() % SHARDS) as u32);
        found += engine.history(shard, &name(random()), 20)?.len();
    }
    let each = began.elapsed() / LOOKUPS;
    println!("a name's tenures {:.2} ms ({found} found in {LOOKUPS})", each.as_secs_f64() * 1e3);
    Ok(())
}

/// Xorshift: the same numbers in each run.
fn random() -> impl FnMut() -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Processor time by the name of threads in s, once none of them takes any.
fn rests() -> BTreeMap<String, f64> {
    let mut before = processor_s();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = processor_s();
        if now == before {
            return now;
        }
        before = now;
    }
}

fn processor_s() -> BTreeMap<String, f64> {
    let mut by_name = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let ticks: f64 = tail.split(' ').skip(11).take(2).flat_map(str::parse::<f64>).sum();
        *by_name.entry(name).or_insert(0.0) += ticks / TICKS_PER_S;
    }
    by_name
}

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}
