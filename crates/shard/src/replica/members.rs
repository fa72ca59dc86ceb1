//! The group's members as this replica knows them, and how a leader changes them. Which change is next is decided in
//! `parts/membership.rs`.

use super::Replica;
use crate::api::{Fatal, Member};
use crate::parts::membership::next_change;
use crate::raft::conf_state::{check_conf, members};
use crate::raft::peer_id::{incarnation_of, node_of};
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType};
use raft_prost::Message as _;
use routing::NodeId;

impl Replica {
    /// As of the applied index.
    pub(super) fn members(&self) -> Vec<Member> {
        let conf = self.raw.store().conf_state();
        let member =
            |id| Member { node: node_of(id), incarnation: incarnation_of(id), learner: conf.learners.contains(&id) };
        let mut members: Vec<Member> = members(conf).map(member).collect();
        members.sort_unstable();
        members
    }

    /// The members on this node: while it is being re-seeded there may be two, who is replaced and who comes.
    pub(super) fn members_on(&self, node: NodeId) -> Vec<u64> {
        members(self.raw.store().conf_state()).filter(|id| node_of(*id) == node).collect()
    }

    /// Which member on this node has a vote.
    pub(super) fn voter_on(&self, node: NodeId) -> Option<u64> {
        self.raw.store().conf_state().voters.iter().copied().find(|id| node_of(*id) == node)
    }

    /// Whether a member that is heard of has as good as all of the log, as far as a leader knows.
    ///
    /// It is measured against what was committed a tick ago, or up to two: on a busy shard nobody is ever level with this very
    /// moment, and spare followers (`spare.rs`) on purpose. It decides only how long a group waits for its new voter's log, and
    /// how long a new leader's takes to become complete, not what is safe.
    pub(super) fn is_caught_up(&self, progress: &raft::Progress) -> bool {
        progress.recent_active && progress.matched > 0 && progress.matched >= self.committed_at_ticks[0]
    }

    /// On a leader, once per tick: proposes the next change, if one is due and none is under way.
    pub(super) fn change_membership(&mut self) {
        let raft = &self.raw.raft;
        // What stands in the log of former leaders must be settled first: a change of theirs could be among it.
        if self.leader_state.is_none() || raft.has_pending_conf() || !raft.commit_to_current_term() {
            return;
        }
        let caught_up = |id| raft.prs().get(id).is_some_and(|progress| self.is_caught_up(progress));
        let Some(change) = next_change(self.raw.store().conf_state(), &self.incarnations, caught_up) else { return };
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let (of, incarnation) = (node_of(change.node_id).0, incarnation_of(change.node_id));
        match self.raw.propose_conf_change(Vec::new(), change.clone()) {
            Ok(()) => {
                tracing::info!(shard, node, of, incarnation, change = ?change.change_type(), "proposed a change of members");
            }
            // Leadership is being handed on, or too much is uncommitted: the next tick tries again.
            Err(error) => tracing::debug!(shard, node, of, incarnation, "no change of members for now: {error}"),
        }
    }

    /// A committed change takes effect, on every replica at the same place in the log.
    pub(super) fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let malformed = |what: &dyn std::fmt::Display| format!("entry {}, a change of members: {what}", entry.index);
        let applied = match entry.entry_type() {
            EntryType::EntryConfChangeV2 => {
                let change = ConfChangeV2::decode(entry.data.as_ref()).map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
            _ => {
                let change = ConfChange::decode(entry.data.as_ref()).map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
        };
        let mut conf = applied.map_err(|e| self.fatal(malformed(&e)))?;
        check_conf(&conf).map_err(|e| self.fatal(malformed(&e)))?;
        // Out of a hash table; these bytes are stored, and should not differ between replicas.
        conf.voters.sort_unstable();
        conf.learners.sort_unstable();
        self.incarnations.learn_members(&conf);
        self.raw.mut_store().set_conf_state(conf);
        Ok(())
    }
}
