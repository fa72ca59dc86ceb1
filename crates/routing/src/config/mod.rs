//! `cluster.yaml`: what a cluster is made of, checked before anything starts.
//!
//! It promises that a configuration which passed [`ClusterConfig::validate`] can be placed and run, and that an error says
//! what to change in the file. It reads the file when asked to ([`ClusterConfig::load`]) and touches nothing else outside.

mod fingerprint;
mod generate;
mod parse;
mod placement;
mod validate;

pub use generate::{Addresses, NodeLayout};

use crate::ids::*;
use serde::{Deserialize, Serialize};

/// The cluster file. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name of the cluster: frozen.
    pub cluster: String,
    /// All nodes.
    pub nodes: Vec<NodeConfig>,
    /// Gateways, for `cluster start` and for people; clients are told their endpoints.
    #[serde(default, deserialize_with = "parse::empty_is_default")]
    pub gateways: Vec<GatewayConfig>,
    /// How many shards: frozen.
    pub shards: u32,
    /// Replicas of each shard: frozen.
    pub replicas: u32,
    /// Explicit placement; without it shards are spread over zones and leaders balanced.
    #[serde(default, deserialize_with = "parse::empty_is_default", skip_serializing_if = "Vec::is_empty")]
    pub placement: Vec<PlacementConfig>,
    /// Timing and limits of each process; may differ between nodes.
    #[serde(default, deserialize_with = "parse::empty_is_default")]
    pub settings: Settings,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// From 1, unique.
    pub id: NodeId,
    /// `host:port` that it listens on and that peers and gateways dial.
    pub address: String,
    /// `host:port` of its `/metrics`; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Failure zone; nodes without one are each their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// One gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// `host:port`.
    pub address: String,
    /// `host:port` of its `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// Where one shard lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementConfig {
    /// Which.
    pub shard: ShardId,
    /// Its replicas; the first is the preferred leader.
    pub nodes: Vec<NodeId>,
}

/// Per-process settings, all with defaults. Units are in the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// One Raft tick.
    pub tick_ms: u64,
    /// Leader heartbeat, in ticks.
    pub heartbeat_ticks: usize,
    /// Election timeout at least, in ticks; at most twice that.
    pub election_ticks: usize,
    /// Threads that run shards; 0: one per two cores (the others serve the network and the disk), at most the number of shards.
    pub shard_threads: usize,
    /// Log entry fills up to this many bytes of commands.
    pub entry_bytes_max: usize,
    /// Entries proposed and not yet applied, per shard.
    pub entries_in_flight_max: usize,
    /// A leader sends its entries at once to no more followers than a quorum needs. For the others they wait so long at most, to go
    /// together with those that follow: less work for all nodes, and these a little behind. 0: nothing waits.
    pub append_hold_ms: u64,
    /// Operations queued per shard before it answers BUSY.
    pub queue_ops_max: usize,
    /// Checkpoint the lock table after about so many bytes of applied entries: three to five quarters, other for each replica.
    pub checkpoint_log_bytes: u64,
    /// Entries kept after a checkpoint for followers that lag, per shard, in bytes.
    pub log_keep_bytes: u64,
    /// Days of history.
    pub history_days: u32,
    /// How long a waiter whose stream is gone keeps its place.
    pub waiter_grace_ms: u64,
    /// A node ends once a write to its disk has been under way for this long. (It hands its leaderships over long before.)
    pub disk_hang_exit_ms: u64,
    /// Room on the disk that a node keeps for itself, in bytes: with it, it can start again after others have filled the disk.
    pub disk_reserve_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tick_ms: 50,
            heartbeat_ticks: 2,
            election_ticks: 8,
            shard_threads: 0,
            entry_bytes_max: 128 << 10,
            entries_in_flight_max: 4,
            append_hold_ms: 20,
            queue_ops_max: 65_536,
            checkpoint_log_bytes: 2 << 20,
            log_keep_bytes: 2 << 20,
            history_days: 30,
            waiter_grace_ms: 5_000,
            disk_hang_exit_ms: 30_000,
            disk_reserve_bytes: 32 << 20,
        }
    }
}

/// Hash of the cluster-frozen part: name, shards, replicas, placement, node ids, slot count. Not of addresses or settings.
///
/// Placement counts as it comes out: without an explicit one, it follows from the zones, so a node's move to another zone
/// changes the hash if it moves a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// A cluster file that cannot be used, and what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ClusterConfig {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeConfig> {
        self.nodes.iter().find(|n| n.id == id)
    }
}
