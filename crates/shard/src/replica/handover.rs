//! Handing leadership on because the host wants it: the host is about to end, or another replica is
//! the preferred leader. The stages are in `parts/handover.rs`.

use super::Replica;
use raft::StateRole;
use routing::NodeId;

impl Replica {
    /// Begins to hand leadership to the replica on this node, if this one leads and that one may.
    pub(super) fn hand_over(&mut self, to: NodeId) {
        // A disk that hangs has a way of its own, which waits for nothing (`disk.rs`).
        if self.leader_state.is_some()
            && self.raw.raft.state == StateRole::Leader
            && !self.disk.hangs()
            && let Some(id) = self.successor_on(to)
        {
            self.handover.begin(id);
            self.ask_successor();
        }
    }

    /// Asks the successor, once nothing is in flight.
    pub(super) fn ask_successor(&mut self) {
        if let Some(to) = self.handover.asks(self.proposals.nothing_in_flight()) {
            self.raw.transfer_leader(to);
        }
    }

    /// One tick of a handover. On a slow disk its stages last longer, as elections do.
    pub(super) fn tick_handover(&mut self) {
        if self.handover.awaits_successor() {
            self.proposals.refuse_late(self.now.mono_ms, &mut self.out.replies);
        }
        // Raft has stepped down in this very step. That is the end of a handover which succeeds.
        let steps_down = self.leader_state.is_some() && self.raw.raft.state != StateRole::Leader;
        if steps_down || self.disk.skips(self.stats.ticks) {
            return;
        }
        let is_asking = self.raw.raft.lead_transferee.is_some();
        if self.handover.tick(is_asking, self.config.raft.election_ticks) {
            self.proposals.refuse_queued(&self.not_leading(), &mut self.out.replies);
        }
    }

    /// Lets a replica that stands aside reach no election timeout. Called before each of Raft's own
    /// ticks.
    ///
    /// The elapsed ticks still exceed the least timeout, so that the replica votes for others once
    /// its leader is gone.
    pub(super) fn ask_for_no_votes(&mut self) {
        let (raft, below) = (&mut self.raw.raft, self.config.election_ticks_below());
        if self.stands_aside && raft.state != raft::StateRole::Leader {
            raft.set_randomized_election_timeout(below - 1);
            raft.election_elapsed = raft.election_elapsed.min(below.saturating_sub(3));
        }
    }
}
