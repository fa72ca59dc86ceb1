//! What a node knows of the topology, and its part in changing it: it reports, and plans where it
//! leads META.

use routing::ShardId;
use shard::Now;
use std::collections::{BTreeMap, VecDeque};
use topology::plan::{Report, Reports};
use topology::{Proposal, Topology};

/// One leadership of META, and what was reported to it. As a real controller, it begins without
/// reports, and its time is the wall time of its beginning, carried on by the monotonic clock.
pub(crate) struct Tenure {
    pub term: u64,
    began: Now,
    pub reports: Reports,
}

impl Tenure {
    pub(crate) fn new(term: u64, began: Now) -> Tenure {
        let reports = Reports { since_ms: began.wall_ms, nodes: BTreeMap::new() };
        Tenure { term, began, reports }
    }

    /// The time of its plans, in milliseconds.
    pub(crate) fn time_ms(&self, now: Now) -> u64 {
        self.began.wall_ms + now.mono_ms.saturating_sub(self.began.mono_ms)
    }
}

/// * `known` is on the node's disk. A stop forgets all else.
/// * `plan` has the rest of a plan while one of its proposals is `awaited`.
#[derive(Default)]
pub(crate) struct Following {
    pub known: Topology,
    /// The last report that was sent, with its time.
    pub reported: Option<(u64, Report)>,
    pub tenure: Option<Tenure>,
    pub plan: VecDeque<Proposal>,
    pub awaited: bool,
    /// The shards that are led here and could be led by the node that the topology prefers, each
    /// with the time since when.
    pub ripe: BTreeMap<ShardId, u64>,
}

impl Following {
    /// The process ends.
    pub(crate) fn stop(&mut self) {
        *self = Following { known: std::mem::take(&mut self.known), ..Following::default() };
    }
}
