//! The group's members as this replica knows them, and how a leader changes them. The next change
//! is chosen in `parts/membership.rs`.

use super::Replica;
use crate::api::{Fatal, Member};
use crate::parts::membership::next_change;
use crate::raft::conf_state::{check_conf, members};
use crate::raft::peer_id::{incarnation_of, node_of};
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType};
use raft_prost::Message as _;
use routing::NodeId;

impl Replica {
    /// The members as of the applied index, sorted by node and incarnation.
    pub(super) fn members(&self) -> Vec<Member> {
        let conf = self.raw.store().conf_state();
        let member = |id| Member {
            node: node_of(id),
            incarnation: incarnation_of(id),
            learner: conf.learners.contains(&id),
        };
        let mut members: Vec<Member> = members(conf).map(member).collect();
        members.sort_unstable();
        members
    }

    /// The members on this node, by Raft's id. A node that is being re-seeded may have two: the
    /// replica that is replaced, and its successor.
    pub(super) fn members_on(&self, node: NodeId) -> Vec<u64> {
        members(self.raw.store().conf_state()).filter(|id| node_of(*id) == node).collect()
    }

    /// The member on this node that has a vote, by Raft's id.
    pub(super) fn voter_on(&self, node: NodeId) -> Option<u64> {
        self.raw.store().conf_state().voters.iter().copied().find(|id| node_of(*id) == node)
    }

    /// Whether a member is caught up: it answers, and has the log up to the commit index of a tick
    /// or two ago, as far as a leader knows.
    ///
    /// The present commit index would be no measure. On a busy shard no follower has reached it
    /// yet, and spare followers are behind on purpose (`parts/spares.rs`). Safety does not depend
    /// on this: it only decides how long a group waits for the log of a new voter, or of its next
    /// leader.
    pub(super) fn is_caught_up(&self, progress: &raft::Progress) -> bool {
        progress.recent_active
            && progress.matched > 0
            && progress.matched >= self.committed_at_ticks[0]
    }

    /// Proposes the next change of members, once per tick on a leader, if none is under way.
    pub(super) fn change_membership(&mut self) {
        let raft = &self.raw.raft;
        // Entries of former leaders must be committed first, because a change could be among them.
        if self.leader_state.is_none() || raft.has_pending_conf() || !raft.commit_to_current_term()
        {
            return;
        }
        let caught_up = |id| raft.prs().get(id).is_some_and(|progress| self.is_caught_up(progress));
        let Some(change) =
            next_change(self.raw.store().conf_state(), &self.incarnations, caught_up)
        else {
            return;
        };
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let (of, incarnation) = (node_of(change.node_id).0, incarnation_of(change.node_id));
        match self.raw.propose_conf_change(Vec::new(), change.clone()) {
            Ok(()) => {
                tracing::info!(shard, node, of, incarnation, change = ?change.change_type(), "proposed a change of members");
            }
            // Leadership is being handed on, or too much is uncommitted. The next tick tries again.
            Err(error) => tracing::debug!(
                shard,
                node,
                of,
                incarnation,
                "no change of members for now: {error}"
            ),
        }
    }

    /// Applies a committed change, on every replica at the same place in the log.
    ///
    /// # Errors
    /// [`Fatal`] if the entry is damaged, or leads to a configuration that may not be.
    pub(super) fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let malformed = |what: &dyn std::fmt::Display| {
            format!("entry {}, a change of members: {what}", entry.index)
        };
        let applied = match entry.entry_type() {
            EntryType::EntryConfChangeV2 => {
                let change = ConfChangeV2::decode(entry.data.as_ref())
                    .map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
            _ => {
                let change = ConfChange::decode(entry.data.as_ref())
                    .map_err(|e| self.fatal(malformed(&e)))?;
                self.raw.apply_conf_change(&change)
            }
        };
        let mut conf = applied.map_err(|e| self.fatal(malformed(&e)))?;
        check_conf(&conf).map_err(|e| self.fatal(malformed(&e)))?;
        // They come out of a hash table. The bytes are stored, and should be equal on all replicas.
        conf.voters.sort_unstable();
        conf.learners.sort_unstable();
        self.incarnations.learn_members(&conf);
        self.raw.mut_store().set_conf_state(conf);
        Ok(())
    }
}
