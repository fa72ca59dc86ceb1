//! The level of the group: how a leader raises it, and how every replica follows
//! (`parts/level.rs`).

use super::Replica;
use crate::api::Fatal;
use crate::parts::level::{self, Reached};
use crate::planted_bugs;
use raft::eraftpb::Entry;
use topology::KNOWN_LEVELS;

impl Replica {
    /// The level that the group has reached, as of the applied index.
    pub fn level(&self) -> u32 {
        self.kept.level()
    }

    /// Keeps the level of the host for the log, if this replica leads.
    pub(super) fn raise_level(&mut self, level: u32) {
        if let Some(leader) = &mut self.leader_state {
            leader.level = leader.level.max(level);
        }
    }

    /// Proposes the level that the host gave, once per tick on a leader, unless the group has reached
    /// it or it is in flight.
    pub(super) fn propose_level(&mut self) {
        let (applied, reached) = (self.applied_index, self.kept.level());
        let Some(leader) = &mut self.leader_state else { return };
        let level = planted_bugs::level_told(leader.level);
        // Entries of former leaders must be committed first, because this level could be among them.
        if level <= reached
            || leader.level_index > applied
            || !self.raw.raft.commit_to_current_term()
            || self.handover.is_under_way()
        {
            return;
        }
        // raft-rs refuses while leadership is handed on, or too much is uncommitted. The next tick
        // tries again.
        if self.raw.propose(Vec::new(), level::entry(level)).is_ok() {
            leader.level_index = self.raw.raft.raft_log.last_index();
            let (shard, node) = (self.config.shard.0, self.config.node.0);
            tracing::info!(shard, node, level, "proposed a level of formats and commands");
        }
    }

    /// Checks that an entry is of no level above the group's.
    ///
    /// # Errors
    /// [`Fatal`], with what to do. That stops every replica of such a build at the same entry.
    pub(super) fn check_level(&self, entry: &Entry) -> Result<(), Fatal> {
        level::check(&entry.data, self.kept.level(), KNOWN_LEVELS)
            .map_err(|why| self.fatal(format!("entry {}: {why}", entry.index)))
    }

    /// Applies the entry by which the group reaches a level, on every replica at the same place in
    /// the log. One that the group has reached changes nothing.
    ///
    /// # Errors
    /// [`Fatal`] if the entry is damaged.
    pub(super) fn apply_level(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let level = level::decode(&entry.data)
            .map_err(|e| self.fatal(format!("entry {}: {e}", entry.index)))?;
        if level <= self.kept.level() {
            return Ok(());
        }
        if self.kept.reached.is_none() {
            // Until now each replica took the index at which it was loaded. From here on all have
            // the same, and it is above those.
            self.conf_index = entry.index;
        }
        self.kept.reached = Some(Reached { level, conf_index: self.conf_index });
        Ok(())
    }

    /// The members have changed by the entry at this index.
    pub(super) fn note_conf_change(&mut self, index: u64) {
        self.conf_index = index;
        if let Some(reached) = &mut self.kept.reached {
            reached.conf_index = index;
        }
    }
}
