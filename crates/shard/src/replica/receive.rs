//! Peers' messages, checked before raft-rs gets to see them.
//!
//! A message is dropped if it is damaged, meant for another replica, sent by a replica that has
//! been replaced, or of a kind that only a local caller may send. Raft tolerates loss.

use super::Replica;
use crate::api::Fatal;
use crate::raft::peer_id::node_of;
use crate::raft::peer_message::{Rejection, check_peer_message};
use crate::snapshot::LoadedSnapshot;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use std::sync::Arc;

impl Replica {
    /// Takes the bytes of a peer's message.
    ///
    /// # Errors
    /// [`Fatal`] if the message shows that this replica lost data that it had acknowledged.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let drop = |from: u64, what: &dyn std::fmt::Display| {
            tracing::warn!(shard, node, from = node_of(from).0, "dropped a peer's message: {what}");
            Ok(())
        };
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return drop(0, &error),
        };
        if message.msg_type() != MessageType::MsgSnapshot {
            return self.receive_message(message, None);
        }
        // A damaged snapshot will be sent again.
        match LoadedSnapshot::of(self.config.shard, message) {
            Ok(loaded) => self.receive_snapshot(Arc::new(loaded)),
            Err(what) => drop(0, &what),
        }
    }

    /// Takes a peer's snapshot that was loaded off this thread.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub(super) fn receive_snapshot(&mut self, loaded: Arc<LoadedSnapshot>) -> Result<(), Fatal> {
        match Arc::into_inner(loaded) {
            Some(loaded) => self.receive_message(loaded.message.clone(), Some(loaded)),
            None => Ok(()),
        }
    }

    fn receive_message(
        &mut self,
        mut message: Message,
        snapshot: Option<LoadedSnapshot>,
    ) -> Result<(), Fatal> {
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let drop = |from: u64, what: &dyn std::fmt::Display| {
            tracing::warn!(shard, node, from = node_of(from).0, "dropped a peer's message: {what}");
            Ok(())
        };
        let from = message.from;
        if message.to != self.raw.raft.id || !self.incarnations.is_current(from) {
            // This is normal: until a lost replica is removed, its messages come to its successor
            // on the same node.
            let (from, to) = (node_of(from).0, message.to);
            tracing::debug!(shard, node, from, to, "dropped a message for or from another replica");
            return Ok(());
        }
        match check_peer_message(&mut message, &self.raw.raft) {
            Ok(()) => {}
            Err(Rejection::Malformed(what)) => return drop(from, &what),
            Err(Rejection::DataLost(what)) => return Err(self.fatal(what)),
        }
        if message.msg_type() == MessageType::MsgTimeoutNow && self.awaits_snapshot()
            || self.needs_disk(message.msg_type())
        {
            return Ok(());
        }
        let term = message.term;
        let told = (message.msg_type() == MessageType::MsgAppend).then_some(message.commit);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(shard, node, from = node_of(from).0, "Raft refused a message: {error}");
        }
        if let Some(loaded) = snapshot {
            self.keep_if_accepted(loaded);
        }
        if let Some(leader) = &mut self.leader_state
            && term == self.raw.raft.term
            && self.raw.raft.prs().get(from).is_some()
        {
            leader.note_contact(from, self.now.mono_ms, self.stats.ticks);
        }
        if self.raw.raft.leader_id == from {
            self.leader_contact_ms = self.now.mono_ms;
            self.told_committed = self.told_committed.max(told.unwrap_or(0));
        }
        self.seed_election_timeout();
        Ok(())
    }

    /// Whether a snapshot has taken the place of the log and is not on disk yet.
    ///
    /// raft-rs counts its state as not applied until then. If an election began, raft-rs would look
    /// for the entries before the snapshot, and panic.
    pub(super) fn awaits_snapshot(&self) -> bool {
        self.raw.raft.raft_log.applied + 1 < self.raw.store().first()
    }
}
