//! The targets, sorted by the origin of their bytes.

mod access;
mod config;
mod locks;
mod net;
mod shard;
mod storage;
mod topology;
mod wire;

pub(crate) use self::storage::CLAIMANT;
use crate::Target;

/// All targets of the fuzzer.
///
/// The limits of allocation are close to the measured values. A protobuf list names an element in
/// two bytes. An [`Operation`](::wire::v1::Operation) or its result takes some 190 bytes in memory,
/// and up to twice that in a vector that grows by doubling. It takes twice as much again here,
/// because it is checked by encoding and decoding it. An input's sections are listed, with 16 bytes
/// for two.
///
/// The rest has three reasons: an accepted table is used, a replica runs, and a cluster file of a
/// few lines may ask for [`SHARDS_MAX`](routing::SHARDS_MAX) shards.
pub const TARGETS: &[Target] = &[
    // Clients and gateways.
    Target {
        name: "operation_frame",
        run: wire::operation_frame,
        bytes_per_byte: 512,
        bytes_at_least: 128 << 10,
    },
    Target {
        name: "result_frame",
        run: wire::result_frame,
        bytes_per_byte: 512,
        bytes_at_least: 16 << 10,
    },
    // Gateways and nodes.
    Target {
        name: "operate_request",
        run: wire::operate_request,
        bytes_per_byte: 512,
        bytes_at_least: 128 << 10,
    },
    Target {
        name: "operate_response",
        run: wire::operate_response,
        bytes_per_byte: 512,
        bytes_at_least: 16 << 10,
    },
    Target {
        name: "route_table",
        run: wire::route_table,
        bytes_per_byte: 512,
        bytes_at_least: 512 << 10,
    },
    // Peers.
    Target {
        name: "peer_frame",
        run: shard::peer_frame,
        bytes_per_byte: 64,
        // A whole replica, with what it keeps of each member.
        bytes_at_least: 2 << 20,
    },
    Target {
        name: "snapshot_chunk",
        run: shard::snapshot_chunk,
        bytes_per_byte: 64,
        bytes_at_least: 16 << 10,
    },
    Target { name: "role", run: net::role, bytes_per_byte: 16, bytes_at_least: 1 << 10 },
    Target { name: "pem", run: net::pem, bytes_per_byte: 64, bytes_at_least: 128 << 10 },
    // The log and the table.
    Target { name: "command", run: locks::command, bytes_per_byte: 4, bytes_at_least: 1 << 10 },
    Target {
        name: "log_entry",
        run: locks::log_entry,
        bytes_per_byte: 64,
        bytes_at_least: 128 << 10,
    },
    Target { name: "tenure", run: locks::tenure, bytes_per_byte: 4, bytes_at_least: 1 << 10 },
    Target {
        name: "table_snapshot",
        run: locks::table_snapshot,
        bytes_per_byte: 64,
        bytes_at_least: 128 << 10,
    },
    Target {
        name: "table_records",
        run: locks::table_records,
        bytes_per_byte: 64,
        bytes_at_least: 128 << 10,
    },
    Target {
        name: "group_entry",
        run: shard::group_entry,
        bytes_per_byte: 64,
        bytes_at_least: 4 << 10,
    },
    Target {
        name: "proposal",
        run: topology::proposal,
        bytes_per_byte: 512,
        bytes_at_least: 256 << 10,
    },
    Target {
        name: "topology_state",
        run: topology::topology_state,
        bytes_per_byte: 512,
        bytes_at_least: 64 << 10,
    },
    Target {
        name: "topology_delta",
        run: topology::topology_delta,
        bytes_per_byte: 512,
        bytes_at_least: 128 << 10,
    },
    // The disk.
    Target {
        name: "recovered",
        run: shard::recovered,
        bytes_per_byte: 64,
        bytes_at_least: 128 << 10,
    },
    Target {
        name: "stored_record",
        run: storage::stored_record,
        bytes_per_byte: 32,
        bytes_at_least: 4 << 10,
    },
    Target {
        name: "journal_record",
        run: storage::journal_record,
        bytes_per_byte: 32,
        bytes_at_least: 4 << 10,
    },
    // Files that people write.
    Target {
        name: "cluster_yaml",
        run: config::cluster_yaml,
        bytes_per_byte: 4 << 10,
        bytes_at_least: 1 << 20,
    },
    Target {
        name: "workload_yaml",
        run: config::workload_yaml,
        bytes_per_byte: 64,
        bytes_at_least: 1 << 20,
    },
    Target {
        name: "policy_yaml",
        run: access::policy_yaml,
        bytes_per_byte: 4 << 10,
        bytes_at_least: 1 << 20,
    },
    Target {
        name: "tokens_yaml",
        run: access::tokens_yaml,
        bytes_per_byte: 4 << 10,
        bytes_at_least: 1 << 20,
    },
];
