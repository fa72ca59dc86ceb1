//! Delayed appends: the messages for spare followers leave a little later than the others. Which
//! followers are spare, and how appends are joined, is decided in `parts/spares.rs`. The place
//! where a message is delayed is `send` in `ready.rs`.

use super::Replica;
use crate::parts::spares::Follower;
use raft::ProgressState;
use raft::eraftpb::Message;

impl Replica {
    /// Chooses the active and the spare followers, for the messages that raft-rs has ready.
    ///
    /// Some followers are never spare:
    ///
    /// * any of them while leadership is handed on, so that the next leader is caught up;
    /// * any of them while members are about to change, a new leader's first entries included;
    /// * a learner, because a change of members waits for its log;
    /// * a follower that raft-rs is probing or sending a snapshot: a probe's answer is waited for.
    pub(super) fn choose_spares(&mut self) {
        let Some(leader) = &mut self.leader_state else { return };
        let raft = &self.raw.raft;
        if self.config.raft.append_hold_ms == 0
            || raft.lead_transferee.is_some()
            || raft.has_pending_conf()
        {
            leader.spares.make_all_active();
            return;
        }
        let voters = &self.raw.store().conf_state().voters;
        let followers = raft.prs().iter().filter(|(id, progress)| {
            **id != raft.id && progress.state == ProgressState::Replicate && voters.contains(id)
        });
        let followers =
            followers.map(|(id, progress)| Follower { raft_id: *id, matched: progress.matched });
        leader.spares.choose(raft.id, followers, voters.len() / 2, self.now.mono_ms);
    }

    /// Sends the delayed appends at the end of a step, if they are due. Otherwise returns when they
    /// will be, on the monotonic clock in milliseconds.
    pub(super) fn send_delayed(&mut self) -> Option<u64> {
        self.leader_state.as_ref()?.spares.due_ms(None)?;
        self.choose_spares();
        let (raft, now_ms) = (&self.raw.raft, self.now.mono_ms);
        let committed = raft.raft_log.committed;
        let uncommitted = self.proposals.oldest_after(committed);
        let spares = &mut self.leader_state.as_mut()?.spares;
        let due_ms = spares.due_ms(uncommitted)?;
        if now_ms < due_ms && !spares.has_no_spare() {
            return spares.arm_wake_up(now_ms, due_ms);
        }
        if let Some((index, _)) =
            uncommitted.filter(|uncommitted| spares.is_late(*uncommitted, now_ms))
        {
            let behind = raft.prs().iter().filter(|(_, progress)| progress.matched < index);
            spares.mark_slow(behind.map(|(id, _)| *id), now_ms);
        }
        let released: Vec<Message> = spares.take_delayed(committed).collect();
        released.iter().for_each(|message| self.post(message));
        None
    }
}
