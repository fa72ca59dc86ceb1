//! The state of a simulated world. Only the files beside this directory move it: they add their
//! methods to [`World`].

pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod event;
pub(crate) mod following;
pub(crate) mod gateway;
pub(crate) mod members;
pub(crate) mod meta;
pub(crate) mod node;

use super::agenda::Agenda;
use super::ask::Shown;
use super::identities::Identities;
use super::network::Network;
use super::route_tables::RouteTables;
use super::trace::Trace;
use super::watches::Watches;
use crate::checker::{History, Sample, Violation};
use crate::rng::Rng;
use chaos::{Chaos, FaultCounts};
use client::Client;
use event::Event;
use gateway::Gateway;
use locks::Mode;
use members::Members;
use meta::Meta;
use node::Node;
use routing::{ShardId, ShardMap};
use std::collections::{BTreeMap, BTreeSet};

/// The client that acquires every name at the end.
pub(crate) const AUDITOR: u32 = 999;

/// A name and the way it is used.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub name: String,
    pub shard: ShardId,
    pub modes: Vec<Mode>,
}

#[derive(Default)]
pub(crate) struct Ending {
    /// Whether clients start no new operations.
    pub silent: bool,
    /// The time until which leadership moves. By then abandoned locks must be gone. `terms` are the
    /// terms at the start, and `abandoned` the tokens then, by shard.
    pub restless_until_us: u64,
    pub terms: BTreeMap<ShardId, u64>,
    pub abandoned: BTreeMap<ShardId, u64>,
    /// The names that the auditor has not acquired yet.
    pub open: BTreeSet<usize>,
    /// The names for which a client died in the queue. `once_more` has those that the auditor must
    /// then acquire once more.
    pub died: BTreeSet<usize>,
    pub held: BTreeMap<usize, u64>,
    pub once_more: BTreeSet<usize>,
    /// The time by which every check must pass.
    pub until_us: u64,
    /// The time by which the replicas must stand level.
    pub converged_by_us: u64,
}

pub(crate) struct World {
    pub now_us: u64,
    pub rng: Rng,
    pub trace: Trace,
    pub agenda: Agenda<Event>,
    pub network: Network,
    /// The map that all processes begin with.
    pub map: ShardMap,
    pub route_tables: RouteTables,
    pub members: Members,
    pub meta: Meta,
    pub nodes: BTreeMap<u64, Node>,
    pub gateways: BTreeMap<u32, Gateway>,
    pub clients: BTreeMap<u32, Client>,
    pub identities: Identities,
    pub names: Vec<Name>,
    pub history: History,
    pub samples: Vec<Sample>,
    pub violations: Vec<Violation>,
    /// Those of META alone.
    pub of_meta: Vec<Violation>,
    /// The requests with a cancel that was answered without a grant.
    pub given_up: BTreeSet<u64>,
    pub shown: Shown,
    pub watches: Watches,
    pub faults: FaultCounts,
    pub chaos: Chaos,
    pub ending: Ending,
    pub seed: u64,
    pub next_number: u64,
    pub over: bool,
    pub events: u64,
}
