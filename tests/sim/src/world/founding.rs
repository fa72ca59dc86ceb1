//! META begins: shard 0's log chooses its founders, and each node begins as it is told.
//!
//! In some runs that is late, as in a cluster that had no META at first, and members of shard 0
//! have other lives by then than at the beginning. A node begins META some time after shard 0's
//! replica there has told the founders, so disks are lost in between.

use super::clock::SECOND_US;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::members::MovedBy;
use crate::checker::Invariant;
use crate::rng::Rng;
use routing::{META, NodeId, ShardId};
use shard::{Founders, first_write};
use storage::Engine;

/// The shard whose log founds META.
const FOUNDED_BY: ShardId = ShardId(0);

/// When the leaders of shard 0 begin to found META. Where it moves the members, that is soon.
pub(crate) fn founded_from_us(rng: &mut Rng, moved_by: MovedBy) -> u64 {
    let (soon, latest_s) = if moved_by == MovedBy::Topology { (80, 60) } else { (50, 350) };
    if rng.percent(soon) { 0 } else { rng.range(20, latest_s) * SECOND_US }
}

impl World {
    /// Whether leaders of this group found META now.
    pub(crate) fn founds_meta(&self, shard: ShardId) -> bool {
        shard == FOUNDED_BY && self.now_us >= self.meta.founded_from_us
    }

    /// The replica of shard 0 on this node tells META's founders.
    pub(crate) fn take_founders(&mut self, id: u64, founders: &Founders) {
        self.trace
            .line(self.now_us, || format!("node {id}    is told META's founders: {founders:?}"));
        self.meta.told.insert(id);
        match &self.meta.founders {
            Some(known) if known != founders => {
                let what = format!("node {id} is told {founders:?} as founders, and was {known:?}");
                self.violated_in(META, Invariant::Convergence, what);
            }
            Some(_) => {}
            None => {
                if self.meta.founded_from_us > 0 {
                    self.note(FaultKind::MetaLate, format!("{founders:?}"));
                }
                if founders.lives().values().any(|birth| *birth > 0) {
                    self.note(FaultKind::FounderReplaced, format!("{founders:?}"));
                }
                self.judge_founders(founders);
                self.meta.founders = Some(founders.clone());
            }
        }
    }

    /// Each founder is a life that shard 0 has had: another one might never vote.
    fn judge_founders(&mut self, founders: &Founders) {
        let had_log = &self.members.had_log;
        let is_life =
            |(node, birth): &(&NodeId, &u32)| had_log.contains_key(&(FOUNDED_BY, node.0, **birth));
        if let Some((node, birth)) = founders.lives().iter().find(|life| !is_life(life)) {
            let what = format!("node {node} founds with birth {birth}, which shard 0 never had");
            self.violated_in(META, Invariant::OneLife, what);
        }
    }

    /// Founds META when it is time, and begins it on the nodes that know of it.
    pub(crate) fn look_after_meta(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        if self.meta.founders.is_none() {
            if self.founds_meta(FOUNDED_BY) {
                let replicas =
                    self.nodes.values_mut().flat_map(|it| it.replicas.get_mut(&FOUNDED_BY));
                replicas.for_each(|replica| replica.found_meta());
            }
            return;
        }
        ids.into_iter().for_each(|id| self.begin_meta(id));
    }

    /// Begins META on this node, if it is one of the founders' and has none.
    ///
    /// A founder begins by what shard 0's replica told. If shard 0 has left the node before that,
    /// or the founder is lost, the replica begins with nothing, once there is a topology that wants
    /// it.
    fn begin_meta(&mut self, id: u64) {
        let Some(founders) = self.meta.founders.clone() else { return };
        let Some(birth) = founders.lives().get(&NodeId(id)).copied() else { return };
        let node = &self.nodes[&id];
        if !node.is_up()
            || node.paused_until_us > self.now_us
            || node.disk.full
            || node.disk.engine.lives().contains_key(&META)
        {
            return; // META cannot begin here now, or did before
        }
        let has_left = |meta: &topology::Shard| !meta.wanted.members.contains_key(&NodeId(id));
        if node.following.known.shard(META).is_some_and(has_left) {
            return;
        }
        let is_told = self.meta.told.contains(&id);
        if !is_told && self.members.moved_by == MovedBy::Topology {
            return; // it begins when the topology that this node knows wants it here
        }
        let is_lost = node.incarnation > birth;
        if is_told && !is_lost {
            let engine = &node.disk.engine;
            if let Err(error) = engine.write(&[first_write(&founders)]) {
                self.faults.add(FaultKind::SyncFailed);
                return self.stop_for_disk(id, &error);
            }
        } else if !is_told && self.leader_status(META).is_none() {
            return;
        }
        let birth = birth.max(self.nodes[&id].incarnation);
        if self.begin_life(id, META, birth) {
            self.open_replica(id, META);
        }
    }

    /// Whether META can still begin, or goes on, if this node loses its disk now.
    pub(crate) fn meta_outlives(&self, id: u64) -> bool {
        let Some(founders) = &self.meta.founders else { return true };
        let keeps = |(node, birth): (&NodeId, &u32)| {
            let of = &self.nodes[&node.0];
            node.0 != id && of.has_data() && of.incarnation <= *birth
        };
        let kept = founders.lives().iter().filter(|life| keeps(*life)).count();
        kept > founders.lives().len() / 2
    }
}
