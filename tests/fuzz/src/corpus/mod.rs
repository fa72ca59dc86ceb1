//! The corpus: small inputs of every target, made of real encodings. Mutations start from them.
//!
//! The corpus is committed (`corpus/TARGET/*`), so that every run uses the same inputs. When an
//! encoding changes, `cargo run --release -p palisade-fuzz --bin corpus` generates it again. Files
//! named `regression-…` are not generated: each of them once broke a promise, and stays.

mod access;
mod streams;
mod topology;

use crate::group::Group;
use crate::sections::join;
use crate::targets::CLAIMANT;
use ::topology::{Proposal, Seed};
use locks::{
    BatchBuilder, Caller, Command, Effects, Ended, LeaseId, LockTable, Mode, Quota, RequestId,
    Stamp, Token,
};
use prost::Message;
use routing::{AddressVersion, ClusterConfig, META, NodeId, RouteTable};
use std::collections::BTreeMap;
use std::path::PathBuf;
use storage::fuzzing;
use wire::internal::v1 as internal;
use wire::internal::v1::install_snapshot_request::Part;
use wire::internal::v1::{
    DeliverRequest, Hello, HistoryChunk, HistoryRecord, InstallSnapshotRequest, PeerMessage,
    SnapshotHeader,
};

/// The certificate, authority and key of a node that there is not, in one file.
const PAIR: &[u8] = include_bytes!("pair.pem");
const ROLES: [&str; 4] = [
    "palisade://prod/node/1",
    "palisade://prod/node/18446744073709551615",
    "palisade://a%20b%2Fc/gateway/%C3%BC",
    "palisade://p/gateway/a",
];

/// The directory of a target's inputs.
pub fn dir(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}

/// The committed inputs of a target, by file name.
pub fn committed(target: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = dir(target);
    let files =
        std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    files
        .map(|file| {
            let path = file.expect("a file of the corpus").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("it can be read"))
        })
        .collect()
}

/// The generated inputs of a target, by file name.
pub fn generate(target: &str) -> BTreeMap<String, Vec<u8>> {
    match target {
        "operation_frame" => streams::operation_frames(),
        "result_frame" => streams::result_frames(),
        "operate_request" => streams::operate_requests(),
        "operate_response" => streams::operate_responses(),
        "route_table" => route_tables(),
        "peer_frame" => peer_frames(),
        "snapshot_chunk" => snapshot_chunks(),
        "role" => numbered(ROLES.map(|role| role.as_bytes().to_vec())),
        "pem" => pem_files(),
        "command" => numbered(commands().iter().map(encoded)),
        "log_entry" => log_entries(),
        "tenure" => numbered(
            lives().iter().flat_map(|life| life.ended.iter().map(|ended| ended.record.clone())),
        ),
        "table_snapshot" => numbered(lives().iter().map(|life| life.table.snapshot())),
        "table_records" => numbered(lives().into_iter().map(|mut life| records(&mut life.table))),
        "group_entry" => wishes(),
        "proposal" => numbered(topology::proposals()),
        "topology_state" => numbered(topology::states_and_deltas().0),
        "topology_delta" => numbered(topology::states_and_deltas().1),
        "recovered" => recovered(),
        "stored_record" => stored_records(),
        "journal_record" => journal_records(),
        "cluster_yaml" => yaml_files("config"),
        "workload_yaml" => workloads(),
        "policy_yaml" => numbered(access::policies()),
        "tokens_yaml" => numbered(access::tokens()),
        other => panic!("no inputs are known for {other}"),
    }
}

/// The blocks of [`PAIR`] in orders that all mean the same.
fn pem_files() -> BTreeMap<String, Vec<u8>> {
    let text = std::str::from_utf8(PAIR).expect("PEM");
    let blocks: Vec<&str> = text.split_inclusive("-----\n").collect();
    // Each block has two lines with dashes, around its bytes.
    let blocks: Vec<String> = blocks.chunks(2).map(<[&str]>::concat).collect();
    let [leaf, authority, key] = &blocks[..] else { panic!("{} blocks", blocks.len()) };
    let orders = [[leaf, authority, key], [leaf, key, authority], [key, leaf, authority]];
    let files = orders.map(|order| order.map(String::as_str).concat().into_bytes());
    numbered(files.into_iter().chain([[b"of node 1\n", PAIR].concat()]))
}

fn numbered(inputs: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = inputs.into_iter().collect();
    inputs.sort_unstable();
    inputs.dedup();
    (0..).zip(inputs).map(|(nth, input): (u32, _)| (format!("{nth:02}"), input)).collect()
}

// ---- commands, entries, tables ------------------------------------------------------------------

/// A command with its caller.
type Asked = (Caller<'static>, Command<'static>);

/// One command of each kind and mode, on few names, so that the commands meet. At first no command
/// has a caller, then each has one.
fn commands() -> Vec<Asked> {
    let acquire = |id: u128, name, mode, wait, session| Command::Acquire {
        request_id: RequestId(id << 64 | id),
        name,
        owner: "pod-42",
        ttl_ms: 30_000,
        mode,
        wait,
        session,
        metadata: if wait { "zone=a" } else { "" },
        claim_ttl_ms: if wait && id.is_multiple_of(2) { 5_000 } else { 0 },
    };
    let permits = |count| Mode::Permits { count, limit: 3 };
    let without_caller = vec![
        acquire(1, "a", Mode::Exclusive, false, ""),
        acquire(2, "a", Mode::Exclusive, true, ""),
        acquire(3, "a", Mode::Shared, true, "s-1"),
        acquire(4, "ü/{tag}", Mode::Shared, false, "s-1"),
        acquire(5, "ü/{tag}", Mode::Shared, false, "s-2"),
        acquire(6, "pool", permits(2), false, "s-2"),
        acquire(7, "pool", permits(2), true, ""),
        acquire(8, "c", Mode::Exclusive, false, ""),
        Command::Renew { name: "a", token: Token(1) },
        Command::Heartbeat { session: "s-1", life: LeaseId(0), broken_seen: 0 },
        Command::CancelWait { name: "a", request_id: RequestId(2 << 64 | 2), given_up: false },
        Command::Release { name: "c", token: Token(5), by: None },
        Command::ExpireLease { lease: LeaseId(1), renewal_seq: 1 },
        Command::Break { name: "ü/{tag}", token: Token(3), by: "alice", reason: "INC-31" },
        Command::Heartbeat { session: "s-1", life: LeaseId(2), broken_seen: 1 },
        Command::CancelWait { name: "a", request_id: RequestId(3 << 64 | 3), given_up: true },
        acquire(3, "a", Mode::Shared, true, "s-1"),
        Command::Release { name: "ü/{tag}", token: Token(4), by: Some(LeaseId(0)) },
        Command::CloseSession { session: "s-2" },
        acquire(9, "a", Mode::Exclusive, false, ""),
        acquire(1, "a", Mode::Exclusive, false, ""),
    ];
    let quota = Quota { locks: 3, sessions: 1, waits: 2 };
    let ann = Caller { principal: "spiffe://example/ann", quota };
    let bob = Caller::of("bob");
    let with_caller = [
        (ann, acquire(20, "p", Mode::Exclusive, false, "")),
        (bob, acquire(21, "p", Mode::Exclusive, true, "")),
        (bob, acquire(20, "p", Mode::Exclusive, true, "")),
        (ann, acquire(22, "q", Mode::Shared, false, "s-3")),
        (ann, acquire(23, "r", Mode::Shared, false, "s-4")),
        (bob, Command::Heartbeat { session: "s-3", life: LeaseId::NONE, broken_seen: 0 }),
        (ann, acquire(24, "p", Mode::Shared, true, "s-3")),
        (ann, acquire(25, "r", Mode::Exclusive, false, "")),
        (bob, Command::CancelWait { name: "p", request_id: RequestId(26), given_up: true }),
        (bob, Command::Renew { name: "p", token: Token(6) }),
        (bob, Command::Break { name: "p", token: Token(7), by: "bob", reason: "INC-32" }),
        (ann, Command::CloseSession { session: "s-3" }),
        (ann, Command::CloseSession { session: "s-5" }),
    ];
    let without_caller = without_caller.into_iter().map(|command| (Caller::default(), command));
    without_caller.chain(with_caller).collect()
}

fn encoded((caller, command): &Asked) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode_as(*caller, &mut bytes);
    bytes
}

fn stamp(nth: usize) -> Stamp {
    Stamp { wall_ms: 1_700_000_000_000 + nth as u64, shard_ms: 1_000 * nth as u64 }
}

fn log_entries() -> BTreeMap<String, Vec<u8>> {
    let all = commands();
    let entry = |commands: &[Asked]| {
        let mut builder = BatchBuilder::new(stamp(commands.len()));
        commands.iter().for_each(|command| builder.push(&encoded(command)));
        builder.finish()
    };
    numbered(all.chunks(1).chain(all.chunks(4)).chain([&all[..], &[]]).map(entry))
}

struct Life {
    table: LockTable,
    ended: Vec<Ended>,
}

/// A table after the first commands, after some more, and so on.
fn lives() -> Vec<Life> {
    let live = |commands: &[Asked]| {
        let (mut table, mut effects) = (LockTable::new(), Effects::default());
        for (nth, (caller, command)) in commands.iter().enumerate() {
            table.apply_as(stamp(nth), *caller, command, &mut effects);
        }
        Life { table, ended: effects.ended }
    };
    let all = commands();
    (0..=all.len()).map(|count| live(&all[..count])).collect()
}

fn records(table: &mut LockTable) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = table
        .checkpoint()
        .into_iter()
        .filter_map(|change| Some((change.key, change.value?)))
        .collect();
    records.sort_unstable();
    let parts: Vec<&[u8]> =
        records.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]).collect();
    join(&parts)
}

// ---- nodes --------------------------------------------------------------------------------------

/// Maps of several sizes, with the addresses of a cluster file and with announced ones.
fn route_tables() -> BTreeMap<String, Vec<u8>> {
    let of = |shards, nodes| {
        let config = ClusterConfig::dev(shards, nodes, 20_000).expect("valid");
        RouteTable::of(&config)
    };
    let announced = AddressVersion { incarnation: 1, starts: 300 };
    let moved = of(2, 3).with_address(NodeId(2), "[::1]:7400", announced).expect("newer");
    let message = |routes: &RouteTable| internal::RouteTable::from(routes).encode_to_vec();
    numbered([of(1, 1), of(1, 3), of(2, 3), of(16, 5), moved].iter().map(message))
}

// ---- peers and the disk -------------------------------------------------------------------------

/// Real messages of each kind to the replica of each situation that a target starts from. They come
/// from before the situation and from after it.
fn peer_frames() -> BTreeMap<String, Vec<u8>> {
    let mut group = Group::new();
    group.live();
    let seen = group.messages.len();
    group.live_on();
    let mut frames = BTreeMap::new();
    for (situation, node, name) in [
        (0u8, 1, "leader"),
        (1, 2, "follower"),
        (2, 3, "candidate"),
        (3, 2, "fresh"),
        (4, 2, "restarted"),
    ] {
        let mut of_kind: BTreeMap<u8, Vec<&Vec<u8>>> = BTreeMap::new();
        for (when, (_, _, bytes)) in
            group.messages.iter().enumerate().filter(|(_, (_, to, _))| *to == node)
        {
            // The kind is field 1, and no message has the kind 0.
            let [8, kind, ..] = bytes[..] else { panic!("a Raft message begins with its kind") };
            let messages = of_kind.entry(kind).or_default();
            if messages.is_empty() || when >= seen {
                messages.push(bytes);
            }
        }
        for (kind, mut messages) in of_kind {
            messages.truncate(4);
            let messages =
                messages.iter().map(|bytes| PeerMessage { shard: 0, raft: bytes.to_vec().into() });
            let frame =
                DeliverRequest { messages: messages.collect(), ..DeliverRequest::default() };
            // Every second input has a disk that does not keep up.
            let first = situation | if kind % 2 == 0 { 0x80 } else { 0 };
            let bytes: Vec<u8> = [first].into_iter().chain(frame.encode_to_vec()).collect();
            frames.insert(format!("{name}_{kind:02}"), bytes);
        }
    }
    frames
}

/// Wishes for few and for many members.
fn wishes() -> BTreeMap<String, Vec<u8>> {
    let wish = |(version, births): (u64, &[u32])| {
        let members = (1..).map(NodeId).zip(births.iter().copied());
        shard::Wanted::new(version, members).expect("a wish that can be").encode()
    };
    let of_one: &[u32] = &[0];
    let all = [
        (1, of_one),
        (2, &[0, 0, 0]),
        (300, &[7, 1_767_225_600, u32::MAX]),
        (u64::MAX, &[0, 9, 0, 9, 0, 9, 0]),
    ];
    numbered(all.map(wish))
}

fn snapshot_chunks() -> BTreeMap<String, Vec<u8>> {
    let mut group = Group::new();
    group.live();
    let hello = || Some(Hello { node: 1, ..Default::default() });
    let of_meta =
        group.snapshots.first().map(|(raft, _)| (META.0, raft.clone(), founded_topology()));
    let of_locks = group.snapshots.into_iter().map(|(raft, data)| (0, raft, data));
    let headers = of_locks.chain(of_meta).map(|(shard, raft, data)| {
        let header = SnapshotHeader { hello: hello(), shard, raft, data_bytes: data.len() as u64 };
        (Part::Header(header), data)
    });
    let record = HistoryRecord {
        day: 20_000,
        name: "a".to_owned(),
        token: 9,
        index: 17,
        tenure: vec![1, 2, 3],
    };
    let others = [
        Part::Data(vec![7; 100].into()),
        Part::History(HistoryChunk { records: vec![record.clone()] }),
        Part::History(HistoryChunk { records: vec![record; 20] }),
        Part::End(true),
    ];
    numbered(headers.chain(others.map(|part| (part, vec![9; 10]))).map(|(part, data)| {
        let chunk = InstallSnapshotRequest { part: Some(part) }.encode_to_vec();
        join(&[&chunk, &data])
    }))
}

/// The topology of a small cluster.
fn founded_topology() -> Vec<u8> {
    let seed = Seed::of(&ClusterConfig::dev(2, 3, 7_400).expect("a cluster"));
    let mut topology = ::topology::Topology::default();
    let founding = Proposal::new(1_700_000_000, ::topology::Command::Bootstrap { seed });
    topology.apply(&founding).expect("it is founded");
    topology.encode()
}

fn recovered() -> BTreeMap<String, Vec<u8>> {
    let mut group = Group::new();
    let mut found = Vec::new();
    for life in 0..3 {
        match life {
            0 => {}
            1 => group.live(),
            _ => group.live_on(),
        }
        found.extend([1, 2, 3].map(|node| group.recovered(node)));
    }
    numbered(found.into_iter().map(|recovered| {
        let (hard_state, applied) =
            (recovered.hard_state.unwrap_or_default(), recovered.applied.unwrap_or_default());
        let first = recovered.entries.first().map_or(0, |(index, _)| *index);
        let mut span = vec![u8::try_from(recovered.entries.len()).expect("few entries")];
        span.extend_from_slice(&first.to_le_bytes());
        let mut parts: Vec<&[u8]> = vec![&hard_state, &applied, &span];
        parts.extend(recovered.entries.iter().map(|(_, bytes)| bytes.as_slice()));
        parts.extend(
            recovered.table.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]),
        );
        join(&parts)
    }))
}

fn stored_records() -> BTreeMap<String, Vec<u8>> {
    let mut group = Group::new();
    group.live();
    let recovered = group.recovered(1);
    let shard = 0u32.to_be_bytes();
    let log = recovered
        .entries
        .into_iter()
        .take(4)
        .map(|(index, bytes)| ([&shard[..], &index.to_be_bytes()].concat(), bytes));
    // The tags of table records and of the applied record.
    let table = recovered
        .table
        .into_iter()
        .take(8)
        .map(|(key, value)| ([&shard[..], &[1], &key].concat(), value));
    let applied = recovered.applied.map(|bytes| ([&shard[..], &[2]].concat(), bytes));
    let history = lives().into_iter().flat_map(|life| life.ended).map(|ended| {
        let key = fuzzing::history_key(0, 20_000, &ended.name, ended.token.0);
        (key, [17u64.to_le_bytes().to_vec(), ended.record].concat())
    });
    let sealed = log.chain(table).chain(applied).chain(history).map(|(key, bytes)| {
        let value = fuzzing::seal(&key, &bytes);
        (key, value)
    });
    let identity = fuzzing::identity_record(&CLAIMANT);
    let node = [identity].into_iter().chain(fuzzing::life_records(0, 9, 7));
    numbered(sealed.chain(node).map(|(key, value)| join(&[&key, &value])))
}

fn journal_records() -> BTreeMap<String, Vec<u8>> {
    let mut group = Group::new();
    group.live();
    let recovered = group.recovered(1);
    let write = |count: usize| storage::ShardWrite {
        shard: routing::ShardId(count as u32),
        entries: recovered.entries.iter().take(count).cloned().collect(),
        delete_after: count.is_multiple_of(2).then_some(7),
        hard_state: recovered.hard_state.clone().filter(|_| count != 1),
        ..Default::default()
    };
    let records = [&[0][..], &[1], &[2, 3], &[1, 4]].map(|counts| {
        let writes: Vec<_> = counts.iter().map(|count| write(*count)).collect();
        [&9u32.to_le_bytes()[..], &fuzzing::journal_record(counts.len() as u64, 9, &writes)]
            .concat()
    });
    numbered(records)
}

// ---- files --------------------------------------------------------------------------------------

/// The example files of the repository.
fn yaml_files(dir: &str) -> BTreeMap<String, Vec<u8>> {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", dir].iter().collect();
    let files =
        std::fs::read_dir(dir).expect("the examples").map(|file| file.expect("an example").path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("it can be read"))
    })
    .collect()
}

fn workloads() -> BTreeMap<String, Vec<u8>> {
    let mut files = yaml_files("config/workloads");
    files.insert("template.yaml".to_owned(), planner::TEMPLATE.into());
    files
}
