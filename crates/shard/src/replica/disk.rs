//! Leading without a disk: handing leadership on while the node's disk hangs, and elections on a
//! disk that is slow.
//!
//! A leader needs its own disk to answer, but not to hand leadership on: its messages leave before
//! its own sync, and its followers commit without it. So while the disk hangs:
//!
//! 1. A leader refuses new operations at once, because it can answer none of them.
//! 2. It offers leadership to one caught-up voter after the other, each for half an election
//!    timeout.
//! 3. If none takes it within an election timeout, the leader steps down. Its heartbeats end, and
//!    the others elect.
//! 4. A replica that does not lead is silent, and takes no part in elections, because it cannot
//!    write a vote. Its silence tells the leader not to count on it.
//!
//! If the usual sync of a disk takes as long as an election timeout, an election could never end,
//! because a vote is a sync. There the timers of elections run slower (`stretch`), while heartbeats
//! keep their rate.
//!
//! This knows nothing of the disk itself: the host watches it, and reports.

use super::Replica;
use crate::api::Reply;
use raft::eraftpb::MessageType;
use std::cmp::Reverse;

impl Replica {
    /// Takes the host's report of the disk.
    pub(super) fn on_disk(&mut self, hangs: bool, stretch: u32) {
        let changed = self.disk.report(hangs, stretch);
        if changed && hangs {
            // An operation that is in an entry may still be done. One that only queued was not.
            self.handover.end();
            self.proposals.refuse_queued(&Reply::NoLeader, &mut self.out.replies);
            self.leave_leadership();
        }
    }

    /// Holds back the timers of elections on a slow disk. Called before each of Raft's own ticks.
    ///
    /// raft-rs counts the ticks of the election timeout in a public field. A tick that is taken off
    /// before raft-rs adds it leaves the heartbeats alone.
    pub(super) fn stretch_election_timeout(&mut self, tick: u64) {
        if self.disk.skips(tick) {
            let raft = &mut self.raw.raft;
            raft.election_elapsed = raft.election_elapsed.saturating_sub(1);
        }
    }

    /// One tick while the disk hangs.
    pub(super) fn tick_without_disk(&mut self) {
        self.disk.tick();
        if self.leader_state.is_some() {
            self.raw.tick(); // heartbeats, so that no election begins before another replica leads
            self.leave_leadership();
        }
    }

    /// Offers leadership to the next voter if it is time, or steps down after an election timeout.
    fn leave_leadership(&mut self) {
        if self.leader_state.is_none() || self.raw.raft.state != raft::StateRole::Leader {
            return;
        }
        let own = self.raw.raft.id;
        let voters = &self.raw.store().conf_state().voters;
        let others: Vec<u64> = voters.iter().copied().filter(|id| *id != own).collect();
        if others.is_empty() {
            return; // no other replica could lead
        }
        let patience = self.config.raft.election_ticks.div_ceil(2);
        if self.disk.ticks() < patience * self.disk.offered().len() {
            return;
        }
        let heard = |id: u64| self.raw.raft.prs().get(id).map(|p| (p.recent_active, p.matched));
        let untried = others.into_iter().filter(|id| !self.disk.offered().contains(id));
        let next = untried.max_by_key(|id| (self.is_caught_up(*id), heard(*id), Reverse(*id)));
        let given_up = self.disk.ticks() >= self.config.raft.election_ticks;
        match next.filter(|_| !given_up) {
            Some(to) => {
                self.disk.offer(to);
                self.raw.transfer_leader(to);
            }
            // All were asked, and the last may still take it: heartbeats go on.
            None if !given_up => {}
            None => {
                let (shard, node) = (self.config.shard.0, self.config.node.0);
                tracing::warn!(
                    shard,
                    node,
                    "no other replica took leadership from this one, whose disk hangs: stepping \
                     down"
                );
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, raft::INVALID_ID);
            }
        }
    }

    /// Whether a peer's message must be dropped, because answering it would need the disk.
    pub(super) fn needs_disk(&self, kind: MessageType) -> bool {
        use MessageType::{MsgRequestPreVote, MsgRequestVote, MsgTimeoutNow};
        self.disk.hangs() && matches!(kind, MsgRequestVote | MsgRequestPreVote | MsgTimeoutNow)
    }

    /// Whether this replica sends nothing to its peers.
    pub(super) fn is_silent(&self) -> bool {
        self.disk.hangs() && self.raw.raft.state != raft::StateRole::Leader
    }
}
