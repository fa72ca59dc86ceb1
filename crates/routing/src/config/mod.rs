//! The cluster file, `cluster.yaml`: the members and settings of a cluster, checked before anything
//! starts.
//!
//! A configuration that passed [`ClusterConfig::validate`] can be placed and run. An error says
//! what to change in the file. Only [`ClusterConfig::load`] reads a file.

mod fingerprint;
mod generate;
mod parse;
mod placement;
mod security;
mod validate;

pub use generate::{Addresses, NodeLayout};
pub use security::{
    AccessConfig, AuditConfig, ClientCerts, ClientTls, InsideTls, JwtConfig, TlsConfig, for_process,
};
pub(crate) use validate::NODE_ID_MAX;

use crate::ids::*;
use serde::{Deserialize, Serialize};

/// The content of a cluster file. Unknown keys are refused.
///
/// *Frozen* keys are part of the [`Fingerprint`]: changing one makes another cluster.
///
/// ```
/// use palisade_routing::ClusterConfig;
///
/// let yaml = "
/// cluster: example
/// shards: 4
/// replicas: 1
/// nodes:
///   - { id: 1, address: '127.0.0.1:7411' }
/// ";
/// let (config, warnings) = ClusterConfig::parse(yaml).unwrap();
/// assert_eq!(config.settings.tick_ms, 50);
/// assert!(warnings.is_empty());
///
/// let error = ClusterConfig::parse(&yaml.replace("shards", "shard")).unwrap_err();
/// assert!(error.to_string().ends_with("did you mean `shards`?"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Name of the cluster. Frozen.
    pub cluster: String,
    /// All nodes of the cluster. Their ids are frozen.
    pub nodes: Vec<NodeConfig>,
    /// Gateways, for `cluster start` and for people. Clients are given the endpoints separately.
    #[serde(default, deserialize_with = "parse::empty_is_default")]
    pub gateways: Vec<GatewayConfig>,
    /// Number of shards. Frozen.
    pub shards: u32,
    /// Number of replicas of each shard at the beginning. Frozen in the file; `palisade cluster
    /// replicas` changes it later.
    pub replicas: u32,
    /// Explicit placement. Without it, shards are spread over zones and leaders are balanced. The
    /// resulting placement is frozen.
    #[serde(
        default,
        deserialize_with = "parse::empty_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub placement: Vec<PlacementConfig>,
    /// Timing and limits of each process. They may differ between nodes.
    #[serde(default, deserialize_with = "parse::empty_is_default")]
    pub settings: Settings,
    /// TLS of both sides. Relative paths in this and the following sections begin at the cluster
    /// file's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Identities of clients, and what they may do. Without it, any client may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessConfig>,
    /// The audit log of each gateway and node. Without it none is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditConfig>,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Id of the node, unique, from 1.
    pub id: NodeId,
    /// `host:port` on which it listens. Peers and gateways dial exactly this.
    pub address: String,
    /// `host:port` of its `/metrics`. Without it, the node serves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Failure zone. A node without one is a zone of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// One gateway of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// `host:port` on which it listens for clients.
    pub address: String,
    /// `host:port` of its `/metrics`. Without it, the gateway serves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// Explicit placement of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementConfig {
    /// Id of the shard.
    pub shard: ShardId,
    /// Nodes of its replicas. The first is the preferred leader.
    pub nodes: Vec<NodeId>,
}

/// Settings of one process. All have defaults, and units are in the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Duration of one Raft tick.
    pub tick_ms: u64,
    /// Interval of a leader's heartbeats, in ticks.
    pub heartbeat_ticks: usize,
    /// Shortest election timeout, in ticks. The longest is twice that.
    pub election_ticks: usize,
    /// Number of threads that run shards. 0 means one per two cores, because the other cores serve
    /// the network and the disk; but no more than shards.
    pub shard_threads: usize,
    /// Most bytes of commands in one log entry.
    pub entry_bytes_max: usize,
    /// Most entries of a shard that are proposed and not yet applied.
    pub entries_in_flight_max: usize,
    /// Longest time that a leader delays an append to a follower that no quorum needs.
    ///
    /// A leader sends an entry at once to as many followers as a quorum needs. For the others the
    /// entry waits this long at most, and goes together with the entries after it. That is less
    /// work for all nodes, and leaves these followers slightly behind. 0 delays nothing.
    pub append_hold_ms: u64,
    /// Most operations queued for a shard. Beyond that it answers BUSY.
    pub queue_ops_max: usize,
    /// Bytes of applied entries after which the lock table is checkpointed, approximately. Each
    /// replica draws its own value, from 3/4 to 5/4 of this.
    pub checkpoint_log_bytes: u64,
    /// Bytes of entries of a shard that are kept after a checkpoint, for followers that lag.
    pub log_keep_bytes: u64,
    /// Days for which history is kept.
    pub history_days: u32,
    /// How long a waiter keeps its place in the queue after its stream is gone.
    pub waiter_grace_ms: u64,
    /// How long a write to the disk may take before the node ends its process. It hands its
    /// leaderships over long before that.
    pub disk_hang_exit_ms: u64,
    /// Room on the disk that a node keeps for itself, in bytes. With it the node can start again on
    /// a disk that other programs have filled.
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

/// Hash of the frozen part of a cluster: name, shards, replicas, placement, node ids, slot count.
/// Addresses and settings are not in it.
///
/// Placement counts as the resulting map. Without an explicit placement the map follows from the
/// zones. So moving a node to another zone changes the hash exactly if it moves a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// The reason why a cluster file cannot be used, and the change to make.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ClusterConfig {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeConfig> {
        self.nodes.iter().find(|n| n.id == id)
    }
}
