//! The targets, sorted by whose bytes they take.

mod config;
mod locks;
mod shard;
mod storage;
mod wire;

pub(crate) use self::storage::CLAIMANT;
use crate::Target;

/// All of them.
///
/// The multiples are stated, not guessed: a protobuf list can name an element in two bytes, and an [`Operation`](::wire::v1::Operation)
/// takes some 250 in memory, in a vector that grows by doubling; a command takes ten bytes in an entry and some 120 in memory. Each
/// target checks what it decoded, by encoding it again or by using it, and that counts, too.
pub const TARGETS: &[Target] = &[
    // Clients and gateways.
    Target { name: "operation_frame", run: wire::operation_frame, bytes_per_byte: 1_024, bytes_at_least: 1 << 16 },
    Target { name: "result_frame", run: wire::result_frame, bytes_per_byte: 1_024, bytes_at_least: 1 << 16 },
    // Peers.
    Target { name: "peer_frame", run: shard::peer_frame, bytes_per_byte: 256, bytes_at_least: 4 << 20 },
    Target { name: "snapshot_chunk", run: shard::snapshot_chunk, bytes_per_byte: 256, bytes_at_least: 1 << 16 },
    // The log and the table.
    Target { name: "command", run: locks::command, bytes_per_byte: 64, bytes_at_least: 1 << 12 },
    Target { name: "log_entry", run: locks::log_entry, bytes_per_byte: 512, bytes_at_least: 1 << 18 },
    Target { name: "tenure", run: locks::tenure, bytes_per_byte: 64, bytes_at_least: 1 << 12 },
    Target { name: "table_snapshot", run: locks::table_snapshot, bytes_per_byte: 512, bytes_at_least: 1 << 18 },
    Target { name: "table_records", run: locks::table_records, bytes_per_byte: 512, bytes_at_least: 1 << 18 },
    // The disk.
    Target { name: "recovered", run: shard::recovered, bytes_per_byte: 256, bytes_at_least: 4 << 20 },
    Target { name: "stored_record", run: storage::stored_record, bytes_per_byte: 64, bytes_at_least: 1 << 12 },
    // Files that people write.
    Target { name: "cluster_yaml", run: config::cluster_yaml, bytes_per_byte: 4_096, bytes_at_least: 8 << 20 },
    Target { name: "workload_yaml", run: config::workload_yaml, bytes_per_byte: 4_096, bytes_at_least: 8 << 20 },
];
