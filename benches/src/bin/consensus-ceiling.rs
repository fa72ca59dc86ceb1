//! The consensus path alone: the limits of raft-rs, RocksDB and this disk, without a lock service
//! around them.
//!
//! Five nodes run as threads, each with its own RocksDB. Messages go through channels. Each loop
//! makes one write batch and one fsync for all shards of a node. Every leader proposes all waiting
//! operations as one entry. There is no RPC, no lock table and no checkpoint. The service's
//! throughput is stated as a share of this figure, measured in the same run.
//!
//! `consensus-ceiling [--shards 4] [--outstanding 256] [--seconds 5] [--op-bytes 130] [--no-sync]`

use raft::eraftpb::{ConfState, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use raft_prost::Message as _;
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const NODES: u64 = 5;
const TICK: Duration = Duration::from_millis(50);
const ENTRY_OPS_MAX: usize = 1_000;
const ENTRIES_IN_FLIGHT_MAX: usize = 4;

struct Settings {
    shards: usize,
    outstanding: usize,
    seconds: u64,
    op_bytes: usize,
    sync: bool,
}

struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    entries: AtomicU64,
    syncs: AtomicU64,
}

struct Group {
    raw: RawNode<MemStorage>,
    waiting_ops: usize,
    in_flight: VecDeque<usize>,
    led: bool,
}

fn main() {
    let settings = parse();
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        operations: AtomicU64::new(0),
        entries: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
    });
    let settings = Arc::new(settings);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..NODES).map(|_| channel()).unzip();
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(i, inbox)| {
            let (settings, shared, senders) = (settings.clone(), shared.clone(), senders.clone());
            std::thread::spawn(move || node(i as u64 + 1, &settings, &shared, &inbox, &senders))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let read = || {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&shared.operations), load(&shared.entries), load(&shared.syncs), Instant::now())
    };
    let before = read();
    std::thread::sleep(Duration::from_secs(settings.seconds));
    let after = read();
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a node thread panicked");
    }
    let seconds = (after.3 - before.3).as_secs_f64();
    let (operations, entries, syncs) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    println!(
        "{{\"shards\":{},\"outstanding\":{},\"sync\":{},\"operations_per_s\":{:.0},\"operations_per_entry\":{:.1},\
         \"fsyncs_per_s\":{:.0},\"operations_per_fsync\":{:.1}}}",
        settings.shards,
        settings.outstanding,
        settings.sync,
        operations as f64 / seconds,
        operations as f64 / entries.max(1) as f64,
        syncs as f64 / seconds,
        operations as f64 / syncs.max(1) as f64,
    );
}

fn parse() -> Settings {
    let mut settings =
        Settings { shards: 4, outstanding: 256, seconds: 5, op_bytes: 130, sync: true };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--no-sync" {
            settings.sync = false;
            continue;
        }
        let value: usize = args.next().and_then(|v| v.parse().ok()).unwrap_or_else(|| usage(&flag));
        match flag.as_str() {
            "--shards" => settings.shards = value,
            "--outstanding" => settings.outstanding = value,
            "--seconds" => settings.seconds = value as u64,
            "--op-bytes" => settings.op_bytes = value,
            _ => usage(&flag),
        }
    }
    settings
}

fn usage(flag: &str) -> ! {
    eprintln!("bad argument {flag}; see the head of benches/src/bin/consensus-ceiling.rs");
    std::process::exit(2)
}

fn node(
    id: u64,
    settings: &Settings,
    shared: &Shared,
    inbox: &Receiver<(usize, Vec<u8>)>,
    peers: &[Sender<(usize, Vec<u8>)>],
) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, dir.path()).expect("RocksDB opens");
    let mut write_options = WriteOptions::default();
    write_options.set_sync(settings.sync);
    let mut groups: Vec<Group> =
        (0..settings.shards).map(|shard| group(id, shard, settings)).collect();
    let mut next_tick = Instant::now() + TICK;
    let mut ticks = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let wait = next_tick.saturating_duration_since(Instant::now());
        let mut next = inbox.recv_timeout(wait).ok();
        while let Some((shard, bytes)) = next {
            let message = Message::decode(bytes.as_slice()).expect("our own message");
            let _ = groups[shard].raw.step(message);
            next = inbox.try_recv().ok();
        }
        if Instant::now() >= next_tick {
            next_tick += TICK;
            ticks += 1;
            for (shard, group) in groups.iter_mut().enumerate() {
                group.raw.tick();
                if ticks == 3 && shard as u64 % NODES == id - 1 {
                    let _ = group.raw.campaign();
                }
            }
        }
        let mut batch = WriteBatch::default();
        let mut held_back = Vec::new();
        let mut readies = Vec::new();
        for (shard, group) in groups.iter_mut().enumerate() {
            propose(group, settings);
            if !group.raw.has_ready() {
                continue;
            }
            let mut ready = group.raw.ready();
            for message in ready.take_messages() {
                send(peers, shard, &message);
            }
            apply(group, &ready.take_committed_entries(), settings, shared);
            for entry in ready.entries() {
                batch.put(
                    [&(shard as u32).to_be_bytes()[..], &entry.index.to_be_bytes()].concat(),
                    entry.encode_to_vec(),
                );
            }
            if let Some(hard_state) = ready.hs().filter(|_| ready.must_sync()) {
                batch.put(
                    [&b"h"[..], &(shard as u32).to_be_bytes()].concat(),
                    hard_state.encode_to_vec(),
                );
            }
            group.raw.store().wl().append(ready.entries()).expect("appends");
            if let Some(hard_state) = ready.hs() {
                group.raw.store().wl().set_hardstate(hard_state.clone());
            }
            held_back.extend(ready.take_persisted_messages().into_iter().map(|m| (shard, m)));
            readies.push((shard, ready.number()));
            group.raw.advance_append_async(ready);
        }
        if !batch.is_empty() {
            db.write_opt(batch, &write_options).expect("writes");
            shared.syncs.fetch_add(1, Ordering::Relaxed);
        }
        for (shard, number) in readies {
            let group = &mut groups[shard];
            group.raw.on_persist_ready(number);
            group.raw.advance_apply();
        }
        for (shard, message) in held_back {
            send(peers, shard, &message);
        }
        drain(&mut groups, settings, shared, peers);
    }
}

/// Handles the updates that became ready through persisting and need no write of their own: commits
/// and their messages.
fn drain(
    groups: &mut [Group],
    settings: &Settings,
    shared: &Shared,
    peers: &[Sender<(usize, Vec<u8>)>],
) {
    for (shard, group) in groups.iter_mut().enumerate() {
        while group.raw.has_ready() && group.raw.raft.raft_log.unstable_entries().is_empty() {
            let mut ready = group.raw.ready();
            for message in ready.take_messages().into_iter().chain(ready.take_persisted_messages())
            {
                send(peers, shard, &message);
            }
            apply(group, &ready.take_committed_entries(), settings, shared);
            let number = ready.number();
            group.raw.advance_append_async(ready);
            group.raw.on_persist_ready(number);
            group.raw.advance_apply();
        }
    }
}

fn group(id: u64, shard: usize, settings: &Settings) -> Group {
    let config = Config {
        id,
        election_tick: 20,
        heartbeat_tick: 4,
        max_size_per_msg: 1 << 20,
        skip_bcast_commit: true,
        pre_vote: true,
        check_quorum: true,
        ..Default::default()
    };
    let storage = MemStorage::new_with_conf_state(ConfState {
        voters: (1..=NODES).collect(),
        ..Default::default()
    });
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let raw = RawNode::new(&config, storage, &logger).expect("a Raft node");
    let share = settings.outstanding / settings.shards
        + usize::from(shard < settings.outstanding % settings.shards);
    Group { raw, waiting_ops: share, in_flight: VecDeque::new(), led: false }
}

fn propose(group: &mut Group, settings: &Settings) {
    if group.raw.raft.state != StateRole::Leader {
        return;
    }
    group.led = true;
    while group.waiting_ops > 0 && group.in_flight.len() < ENTRIES_IN_FLIGHT_MAX {
        let count = group.waiting_ops.min(ENTRY_OPS_MAX);
        if group.raw.propose(Vec::new(), vec![b'x'; count * settings.op_bytes]).is_err() {
            return;
        }
        group.waiting_ops -= count;
        group.in_flight.push_back(count);
    }
}

fn apply(
    group: &mut Group,
    entries: &[raft::eraftpb::Entry],
    settings: &Settings,
    shared: &Shared,
) {
    for entry in entries.iter().filter(|entry| !entry.data.is_empty() && group.led) {
        let count = entry.data.len() / settings.op_bytes;
        group.in_flight.pop_front();
        group.waiting_ops += count;
        shared.operations.fetch_add(count as u64, Ordering::Relaxed);
        shared.entries.fetch_add(1, Ordering::Relaxed);
    }
    // Keeps the in-memory log small, as truncation would.
    if let Some(last) = entries.last().filter(|last| last.index % 1_024 == 0 && last.index > 8_192)
    {
        let _ = group.raw.store().wl().compact(last.index - 4_096);
    }
}

fn send(peers: &[Sender<(usize, Vec<u8>)>], shard: usize, message: &Message) {
    let _ = peers[message.to as usize - 1].send((shard, message.encode_to_vec()));
}
