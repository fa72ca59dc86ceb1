//! When spare followers get what a leader holds back for them. Which followers are spare is decided in `parts/spares.rs`.

use super::Replica;
use raft::ProgressState;
use raft::eraftpb::Message;

impl Replica {
    /// Looks who is active and who is spare, for the messages that raft-rs has ready.
    ///
    /// Nobody is spare while leadership is handed on, so that who takes it over is level, nor while the members are about to
    /// change, a new leader's first entries included. A learner never is, nor one that raft-rs does not just send what comes:
    /// what it is sent is to find out something, or waits for nothing but its answer.
    pub(super) fn choose_spares(&mut self) {
        let Some(leader) = &mut self.leader_state else { return };
        let raft = &self.raw.raft;
        if self.config.append_hold_ms == 0 || raft.lead_transferee.is_some() || raft.has_pending_conf() {
            leader.spares.choose_none();
            return;
        }
        let voters = &self.raw.store().conf_state().voters;
        let followers = raft.prs().iter().filter(|(id, progress)| {
            **id != raft.id && progress.state == ProgressState::Replicate && voters.contains(id)
        });
        let followers = followers.map(|(id, progress)| (*id, progress.matched));
        leader.spares.choose(raft.id, followers, voters.len() / 2, self.now.mono_ms);
    }

    /// At the end of a step: sends what is held, if it is time, or says when to look again.
    pub(super) fn send_delayed(&mut self) -> Option<u64> {
        self.leader_state.as_ref()?.spares.due_ms(None)?;
        self.choose_spares();
        let (raft, now_ms) = (&self.raw.raft, self.now.mono_ms);
        let committed = raft.raft_log.committed;
        let uncommitted = self.proposals.oldest_after(committed);
        let spares = &mut self.leader_state.as_mut()?.spares;
        let due_ms = spares.due_ms(uncommitted)?;
        if now_ms < due_ms && !spares.is_empty() {
            return spares.wake_at_ms(now_ms, due_ms);
        }
        if let Some((index, _)) = uncommitted.filter(|uncommitted| spares.is_late(*uncommitted, now_ms)) {
            let behind = raft.prs().iter().filter(|(_, progress)| progress.matched < index);
            spares.mark_slow(behind.map(|(id, _)| *id), now_ms);
        }
        let released: Vec<Message> = spares.take_delayed(committed).collect();
        released.iter().for_each(|message| self.post(message));
        None
    }
}
