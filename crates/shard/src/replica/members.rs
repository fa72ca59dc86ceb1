//! The group's members as this replica knows them, and how a leader changes them. The next change
//! is chosen in `parts/membership.rs`.

use super::Replica;
use crate::api::{Fatal, Member};
use crate::parts::group::Wanted;
use crate::parts::membership::{Next, Seen, Targets, next_change};
use crate::planted_bugs;
use crate::raft::conf_state::{check_conf, members};
use crate::raft::peer_id::{incarnation_of, node_of};
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType};
use raft::{Progress, StateRole};
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

    /// Whether another member is caught up: it was heard of, and has the log up to the commit index
    /// of a tick or two ago, as far as a leader knows.
    ///
    /// The present commit index would be no measure. On a busy shard no follower has reached it
    /// yet, and spare followers are behind on purpose (`parts/spares.rs`). Nor would raft-rs's
    /// `recent_active`, which begins anew with each election timeout. Safety does not depend on
    /// this: it only decides how long a group waits for the log of a new voter, or of its next
    /// leader.
    pub(super) fn is_caught_up(&self, id: u64) -> bool {
        let committed = self.committed_at_ticks[0];
        let has_log = |progress: &Progress| progress.matched > 0 && progress.matched >= committed;
        self.is_heard(id) == Some(true) && self.raw.raft.prs().get(id).is_some_and(has_log)
    }

    /// Whether another member was heard of within an election timeout, on a leader that knows.
    fn is_heard(&self, id: u64) -> Option<bool> {
        let patience = self.config.raft.election_ticks as u64;
        self.leader_state.as_ref()?.is_heard(id, self.stats.ticks, patience)
    }

    /// Proposes the next change of members, once per tick on a leader, if none is under way.
    pub(super) fn change_membership(&mut self) {
        planted_bugs::forget_change_under_way(&mut self.raw.raft);
        let raft = &self.raw.raft;
        let Some(leader) = &self.leader_state else { return };
        // Entries of former leaders must be committed first, because a change could be among them.
        // While a later wish is in flight, the one before is not acted on.
        if raft.has_pending_conf()
            || !raft.commit_to_current_term()
            || leader.wish_index > self.applied_index
        {
            return;
        }
        let (conf, own) = (raft.store().conf_state(), raft.id);
        let nodes = &self.config.voters;
        let targets = Targets::new(self.kept.wanted.as_ref(), nodes, &self.incarnations, own);
        let patience = self.config.raft.election_ticks;
        let seen = Seen {
            caught_up: |id| self.is_caught_up(id),
            heard: |id| self.is_heard(id),
            offered: self.handover.last_offered(),
        };
        match next_change(conf, &targets, &self.incarnations, own, &seen) {
            Some(Next::Change(change)) => self.propose_change(change),
            Some(Next::HandOver(to)) if self.handover.offers(to, patience) => {
                let (shard, node, to) = (self.config.shard.0, self.config.node.0, node_of(to));
                tracing::info!(shard, node, to = to.0, "hands over: its replica is to leave");
                self.hand_over(to);
            }
            Some(Next::HandOver(_)) | None => {}
        }
    }

    /// The nodes that may lead in place of this one.
    pub(super) fn successors(&self) -> Vec<NodeId> {
        self.successor_ids().into_iter().map(node_of).collect()
    }

    /// The replica on this node, by Raft's id, if it may lead in place of this one.
    pub(super) fn successor_on(&self, node: NodeId) -> Option<u64> {
        self.successor_ids().into_iter().find(|id| node_of(*id) == node)
    }

    /// Other voters that are wanted and caught up, as far as a leader knows. Another one might be
    /// removed next, or would have to be sent the log first.
    ///
    /// If there is none, those that are caught up and not wanted, as long as this replica is to leave
    /// or its host is about to end. Otherwise the group would have no leader until an election.
    fn successor_ids(&self) -> Vec<u64> {
        let (raft, incarnations) = (&self.raw.raft, &self.incarnations);
        let targets =
            Targets::new(self.kept.wanted.as_ref(), &self.config.voters, incarnations, raft.id);
        let voters = raft.store().conf_state().voters.iter().copied();
        let able = voters.filter(|id| *id != raft.id && self.is_caught_up(*id));
        let (wanted, others): (Vec<u64>, Vec<u64>) = able.partition(|id| targets.contains(*id));
        let ends = self.stands_aside || !targets.contains(raft.id);
        if wanted.is_empty() && ends { others } else { wanted }
    }

    fn propose_change(&mut self, change: ConfChange) {
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

    /// Keeps a wish of the host for the log, if this replica leads and the log has no later one.
    pub(super) fn want(&mut self, wanted: Wanted) {
        if let Some(leader) = &mut self.leader_state
            && takes(self.kept.wanted.as_ref(), &wanted)
            && takes(leader.wish.as_ref(), &wanted)
        {
            leader.wish = Some(wanted);
        }
    }

    /// Proposes the wish that the host gave, once per tick on a leader, unless one is in flight.
    pub(super) fn propose_wish(&mut self) {
        let (applied, known) = (self.applied_index, self.kept.wanted.as_ref());
        let Some(leader) = &mut self.leader_state else { return };
        // Entries of former leaders must be committed first, because this wish could be among them.
        if leader.wish_index > applied || !self.raw.raft.commit_to_current_term() {
            return;
        }
        leader.wish.take_if(|wish| !takes(known, wish));
        let Some(wish) = &leader.wish else { return };
        // raft-rs refuses while leadership is handed on, or too much is uncommitted. The next tick
        // tries again.
        if !self.handover.is_under_way() && self.raw.propose(Vec::new(), wish.encode()).is_ok() {
            leader.wish_index = self.raw.raft.raft_log.last_index();
            let (shard, node) = (self.config.shard.0, self.config.node.0);
            tracing::info!(shard, node, version = wish.version(), "proposed a wish for members");
        }
    }

    /// Applies a committed wish, on every replica at the same place in the log.
    ///
    /// # Errors
    /// [`Fatal`] if the entry is damaged.
    pub(super) fn apply_wish(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let wanted = Wanted::decode(&entry.data)
            .map_err(|e| self.fatal(format!("entry {}: {e}", entry.index)))?;
        if takes(self.kept.wanted.as_ref(), &wanted) {
            self.kept.wanted = Some(wanted);
        }
        Ok(())
    }

    /// Steps down if this replica leads and has been removed. A former leader can have proposed
    /// that, and raft-rs would let it lead on (`parts/membership.rs`). This comes right after the
    /// change is applied: raft-rs panics if a write of a leader that is no member ends, and without
    /// others such a leader would answer reads by itself.
    pub(super) fn leave_if_removed(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        let is_removed = !raft.prs().conf().voters().contains(raft.id);
        if planted_bugs::steps_down(is_removed) {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
    }

    /// On a leader: sees whether a majority of the members know from their disks that they are the
    /// members, and proposes an empty entry if nothing else is there to carry it.
    ///
    /// An entry that is sent after a change was applied comes with a commit index that covers the
    /// change, and both are in one write (`ready.rs`). So once such an entry is committed, a majority
    /// of the new members have the change as committed on disk. How it goes wrong if a replica that
    /// was removed is destroyed before that:
    ///
    /// 1. Nodes 1, 2, 4 and 5 have votes. The removal of 5 is committed, and no entry follows.
    /// 2. Node 5 is destroyed, and node 1 loses its disk.
    /// 3. The power fails. Nodes 2 and 4 start with the removal in their logs. That it is committed,
    ///    neither has on disk, so each needs three votes of four, and the shard never has a leader
    ///    again. Two of the three members live.
    pub(super) fn confirm_members(&mut self) {
        let Some(doubted_at) = self.members_doubted_at else { return };
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || !raft.commit_to_current_term() {
            return;
        }
        if raft.raft_log.committed > doubted_at {
            self.members_doubted_at = None;
        } else if raft.raft_log.last_index() <= doubted_at
            && !self.handover.is_under_way()
            && !self.disk.hangs()
        {
            // raft-rs refuses while too much is uncommitted. The next step tries again.
            let _ = self.raw.propose(Vec::new(), Vec::new());
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
        let former = &self.raw.store().conf_state().voters;
        if former.iter().any(|id| !conf.voters.contains(id)) {
            self.members_doubted_at = Some(self.raw.raft.raft_log.last_index());
        }
        self.raw.mut_store().set_conf_state(conf);
        self.note_conf_change(entry.index);
        Ok(())
    }
}

/// Whether a group that has `known` takes a wish.
fn takes(known: Option<&Wanted>, wish: &Wanted) -> bool {
    planted_bugs::takes_wish(wish.supersedes(known), known.is_some_and(|known| known != wish))
}
