//! The state of a node: its replicas, its disk, its clock, and what it knows of others.

use crate::rng::Rng;
use crate::world::clock::Clock;
use crate::world::disk::Disk;
use crate::world::network::Place;
use crate::world::state::following::Following;
use routing::ShardId;
use shard::{Input, RaftSettings, Replica, Role, Ticket};
use std::collections::{BTreeMap, BTreeSet};
use wire::{Lateness, OperationKind};

/// The settings in the cluster file. They are equal on all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub tick_ms: u64,
    pub raft: RaftSettings,
    pub election_seed: u64,
}

impl Settings {
    pub(crate) fn choose(rng: &mut Rng, seed: u64) -> Settings {
        Settings {
            tick_ms: *rng.pick(&[50, 100, 100, 150]),
            raft: RaftSettings {
                heartbeat_ticks: 2,
                election_ticks: rng.range(8, 10) as usize,
                entry_bytes_max: *rng.pick(&[128, 1 << 10, 64 << 10]),
                entries_in_flight_max: rng.range(1, 4) as usize,
                append_hold_ms: *rng.pick(&[0, 3, 20]),
                queue_ops_max: if rng.percent(5) { 3 } else { 1_000 },
                checkpoint_log_bytes: *rng.pick(&[1 << 10, 4 << 10, 16 << 10]),
                log_keep_bytes: *rng.pick(&[0, 512, 4 << 10]),
                waiter_grace_ms: *rng.pick(&[1_000, 3_000]),
                take_over_rows: rng.range(1, 4) as u32,
            },
            election_seed: seed,
        }
    }
}

/// An operation that waits for its replica's reply.
pub(crate) struct Pending {
    pub from: Place,
    pub shard: ShardId,
    pub kind: OperationKind,
    /// The number of the request, if this is an acquire.
    pub request: Option<u64>,
    pub taken_us: u64,
}

/// Whether a node is one of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It may join.
    Outside,
    In,
    /// It was removed, and knows that.
    Removed,
}

/// One life of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub birth: u32,
    /// No other life in the run has this number. No replica knows it.
    pub number: u64,
}

/// * `replicas` is empty while the node is down. Else it has one for each of `lives`, without those
///   that are being destroyed.
/// * `boot` rises with each start and each stop, so that events of a former run can be told apart.
pub(crate) struct Node {
    pub id: u64,
    pub settings: Settings,
    pub clock: Clock,
    pub disk: Disk,
    pub up: bool,
    pub replicas: BTreeMap<ShardId, Replica>,
    /// The life of each replica that the node hosts. Its birth is on the disk.
    pub lives: BTreeMap<ShardId, Life>,
    /// The last birth that a replica on this node was given.
    pub last_birth: u32,
    pub inbox: BTreeMap<ShardId, Vec<Input>>,
    pub step_due: BTreeSet<ShardId>,
    pub pending: BTreeMap<Ticket, Pending>,
    /// The lateness of each gateway's stream.
    pub lateness: BTreeMap<Place, Lateness>,
    pub boot: u64,
    pub paused_until_us: u64,
    /// Whether the node stopped by itself. Then it stays down.
    pub failed: bool,
    /// The incarnation of the node's disk, which is durable there.
    pub incarnation: u32,
    /// The highest incarnation that each other node stated. This is durable, too.
    pub incarnations: BTreeMap<u64, u32>,
    /// Whether the disk is known to be damaged, so that the node waits for an empty one.
    pub awaits_reseed: bool,
    pub part: Part,
    /// The machine is away until then.
    pub absent_until_us: u64,
    pub following: Following,
    pub ticks: u64,
}

impl Node {
    pub(crate) fn new(id: u64, settings: Settings, rate: f64, sync_us: u64) -> Node {
        Node {
            id,
            settings,
            clock: Clock::new(0, rate, 1_000 * id),
            disk: Disk::new(sync_us),
            up: false,
            replicas: BTreeMap::new(),
            lives: BTreeMap::new(),
            last_birth: 0,
            inbox: BTreeMap::new(),
            step_due: BTreeSet::new(),
            pending: BTreeMap::new(),
            lateness: BTreeMap::new(),
            boot: 0,
            paused_until_us: 0,
            failed: false,
            incarnation: 0,
            incarnations: BTreeMap::new(),
            awaits_reseed: false,
            part: Part::In,
            absent_until_us: 0,
            following: Following::default(),
            ticks: 0,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// Whether the node has all the data that it ever confirmed, or can come back with it.
    pub(crate) fn has_data(&self) -> bool {
        let is_sound = !self.failed && !self.awaits_reseed && !self.disk.is_flipped();
        is_sound && self.part == Part::In
    }

    pub(crate) fn leads(&self, shard: ShardId) -> bool {
        self.replicas.get(&shard).is_some_and(|replica| replica.status().role == Role::Leader)
    }
}
