//! The leader as raft-rs sees it, and the leader state that begins and ends with leading.

use super::Replica;
use crate::api::{Leadership, Reply, Role, Ticket};
use crate::parts::leader::LeaderState;
use crate::parts::reads::Scope;
use crate::planted_bugs;
use crate::raft::peer_id::node_of;
use raft::StateRole;

impl Replica {
    /// Compares Raft's view of leadership with the one known here.
    ///
    /// A replica that ceases to lead drops its leader state and fails its proposals. If it handed
    /// leadership over, those that are queued wait until the successor is known. A replica that
    /// begins to lead takes over the table in the steps that follow.
    pub(super) fn note_leadership(&mut self) {
        let raft = &self.raw.raft;
        let leader = (raft.leader_id != 0).then(|| node_of(raft.leader_id));
        let is_me = raft.state == StateRole::Leader;
        let known = Leadership { leader, term: raft.term, is_me };
        if known == self.leadership {
            return;
        }
        let leader_changed = known.leader != self.leadership.leader;
        self.leadership = known;
        self.out.leadership = Some(known);
        if self.leader_state.as_ref().is_some_and(|leader| !is_me || leader.term != known.term) {
            let reply = self.not_leading();
            let waiters = planted_bugs::told_deposed(&Reply::Unknown, &reply);
            self.leader_state.take().expect("just seen").end(waiters, &mut self.out.replies);
            match self.handover.deposed() {
                true => self.proposals.keep_queued(&mut self.out.replies),
                false => self.proposals.fail_all(&reply, &mut self.out.replies),
            }
        }
        if leader.is_some() && self.handover.found() && !is_me {
            self.proposals.refuse_queued(&self.not_leading(), &mut self.out.replies);
        }
        if is_me && self.leader_state.is_none() {
            if self.members_doubted_at.is_some() {
                // The last entry is the first one of this term. It is sent with a commit index that
                // covers the members as they are here.
                self.members_doubted_at = Some(self.raw.raft.raft_log.last_index() - 1);
            }
            self.leader_state = Some(LeaderState::new(
                known.term,
                (self.now.mono_ms, self.stats.ticks),
                &self.config.raft,
                self.machine.locks(),
            ));
        }
        if leader_changed && leader.is_some() {
            self.stats.leader_changes += 1;
            self.retry_reads = true;
        }
    }

    /// Ends this replica, because its node hosts the shard no longer. Returns the replies to all
    /// operations under way here: "unknown" to those that may yet be done, and "not done" to the
    /// others.
    pub fn retire(mut self) -> Vec<(Ticket, Reply)> {
        let (not_done, mut replies) = (Reply::NoLeader, Vec::new());
        if let Some(leader) = self.leader_state.take() {
            leader.end(&Reply::Unknown, &mut replies);
        }
        self.proposals.fail_all(&not_done, &mut replies);
        self.reads.fail_all(&not_done, &mut replies);
        self.reads.confirm(u64::MAX);
        for scope in [Scope::OneName, Scope::WholeTable] {
            while let Some((_, read)) = self.reads.take_ready(scope) {
                replies.push((read.ticket, not_done.clone()));
            }
        }
        replies
    }

    /// The refusal of an operation, with a hint at the leader if it is known.
    pub(super) fn not_leading(&self) -> Reply {
        match self.leadership.leader {
            Some(hint) if hint != self.config.node => {
                Reply::NotLeader { hint: Some(hint), term: self.leadership.term }
            }
            _ => Reply::NoLeader,
        }
    }

    pub(super) fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// How old this replica's state may be, in milliseconds.
    ///
    /// * For a follower: the time since the last message from its leader.
    /// * For a leader, which may have been deposed since: the time since a majority last answered.
    ///   Until it has applied an entry of its own term, it may lack entries that its predecessor
    ///   acknowledged, so it counts as a follower.
    ///
    /// This is a hint and no bound. A message that waited in a socket counts from when it is read,
    /// and a spare follower gets heartbeats before the entries that are delayed for it.
    pub(super) fn stale_by_ms(&self) -> u64 {
        let raft = &self.raw.raft;
        let since_ms = match &self.leader_state {
            Some(leader) if self.applied_term == raft.term => {
                let voters = raft.prs().conf().voters().ids();
                let others = voters.iter().filter(|id| *id != raft.id);
                let mut contact_ms: Vec<u64> =
                    others.map(|id| leader.last_contact_ms(id)).collect();
                contact_ms.sort_unstable_by(|a, b| b.cmp(a));
                // This many others are a majority together with the leader.
                match contact_ms.len().div_ceil(2) {
                    0 => self.now.mono_ms,
                    others => contact_ms[others - 1],
                }
            }
            _ => self.leader_contact_ms,
        };
        self.now.mono_ms.saturating_sub(since_ms)
    }

    /// Sets the election timeout in a simulation: from the seed, because raft-rs would draw it from
    /// a thread-local generator.
    pub(super) fn seed_election_timeout(&mut self) {
        let Some(seed) = self.config.election_seed else { return };
        let parts = [seed, self.config.node.0, u64::from(self.config.shard.0), self.raw.raft.term];
        let mixed = parts.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, part| {
            let hash = (hash ^ part).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^ (hash >> 33)
        });
        let ticks = self.config.raft.election_ticks;
        self.raw.raft.set_randomized_election_timeout(ticks + (mixed % ticks as u64) as usize);
    }
}
