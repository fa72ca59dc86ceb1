//! What a replica does while the disk of its node hangs, or takes long over every sync.
//!
//! A leader needs its own disk to answer, but not to hand leadership on: its messages leave before its own sync, and its
//! followers commit without it. So while the disk hangs:
//!
//! 1. A leader refuses new operations at once, because none of them can be answered here.
//! 2. It hands leadership to one caught-up voter after the other, each for half an election timeout.
//! 3. If none takes it within an election timeout, the leader steps down. Its heartbeats end, and the others elect.
//! 4. A replica that does not lead is silent, and neither campaigns nor takes part in elections: it cannot write a vote.
//!    Its silence tells the leader not to count on it.
//!
//! On a disk whose usual sync takes as long as an election timeout, an election could never end: a vote is a sync. There
//! the timers of elections run slower (`stretch`), while heartbeats keep their rate.
//!
//! It knows nothing of the disk itself: the host watches that, and tells.

use super::Replica;
use crate::api::Reply;
use raft::eraftpb::MessageType;
use std::cmp::Reverse;

impl Replica {
    /// The host says how the disk does.
    pub(super) fn on_disk(&mut self, hangs: bool, stretch: u32) {
        let changed = self.disk.report(hangs, stretch);
        if changed && hangs {
            // What is in an entry already may be done yet; what only queued was not.
            self.proposals.refuse_queued(&Reply::NoLeader, &mut self.out.replies);
            self.leave_leadership();
        }
    }

    /// Once per tick, before Raft's own: holds back the timers of elections where the disk is slow. raft-rs counts ticks of
    /// the election timeout in a public field; a tick that is taken off before it is added leaves heartbeats alone.
    pub(super) fn stretch_election_timeout(&mut self, tick: u64) {
        if self.disk.skips(tick) {
            let raft = &mut self.raw.raft;
            raft.election_elapsed = raft.election_elapsed.saturating_sub(1);
        }
    }

    /// Once per tick while the disk hangs.
    pub(super) fn tick_without_disk(&mut self) {
        self.disk.tick();
        if self.leader_state.is_some() {
            self.raw.tick(); // heartbeats: until another leads, nobody is to be elected against this one
            self.leave_leadership();
        }
    }

    /// Offers leadership to the next voter, if it is time; steps down if enough were asked.
    fn leave_leadership(&mut self) {
        if self.leader_state.is_none() || self.raw.raft.state != raft::StateRole::Leader {
            return;
        }
        let own = self.raw.raft.id;
        let voters = &self.raw.store().conf_state().voters;
        let others: Vec<u64> = voters.iter().copied().filter(|id| *id != own).collect();
        if others.is_empty() {
            return; // nobody else could lead
        }
        let patience = self.config.election_ticks.div_ceil(2);
        if self.disk.ticks() < patience * self.disk.offered().len() {
            return;
        }
        let level = |id: u64| self.raw.raft.prs().get(id).is_some_and(|progress| self.is_caught_up(progress));
        let heard = |id: u64| self.raw.raft.prs().get(id).map(|p| (p.recent_active, p.matched));
        let untried = others.into_iter().filter(|id| !self.disk.offered().contains(id));
        let next = untried.max_by_key(|id| (level(*id), heard(*id), Reverse(*id)));
        let given_up = self.disk.ticks() >= self.config.election_ticks;
        match next.filter(|_| !given_up) {
            Some(to) => {
                self.disk.offer(to);
                self.raw.transfer_leader(to);
            }
            // Between the last offer and the end of its time, heartbeats go on.
            None if !given_up => {}
            None => {
                let (shard, node) = (self.config.shard.0, self.config.node.0);
                tracing::warn!(
                    shard,
                    node,
                    "no other replica took leadership from this one, whose disk hangs: stepping down"
                );
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, raft::INVALID_ID);
            }
        }
    }

    /// Whether a peer's message is to be dropped, because what follows from it would need the disk.
    pub(super) fn needs_disk(&self, kind: MessageType) -> bool {
        use MessageType::{MsgRequestPreVote, MsgRequestVote, MsgTimeoutNow};
        self.disk.hangs() && matches!(kind, MsgRequestVote | MsgRequestPreVote | MsgTimeoutNow)
    }

    /// Whether nothing is to be said to peers.
    pub(super) fn is_silent(&self) -> bool {
        self.disk.hangs() && self.raw.raft.state != raft::StateRole::Leader
    }
}
