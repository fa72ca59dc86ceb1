//! Peers' messages, checked before raft-rs gets to see them.

use super::Replica;
use crate::api::Fatal;
use crate::raft::peer_id::node_of;
use crate::raft::peer_message::{Rejection, check_peer_message};
use crate::snapshot::LoadedSnapshot;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use std::sync::Arc;

impl Replica {
    /// A peer's bytes. Whatever is not for this replica, comes from one that has been replaced, or only a local caller may
    /// say, is dropped: Raft tolerates loss.
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
        // A damaged one will be sent again.
        match LoadedSnapshot::of(message) {
            Ok(loaded) => self.receive_snapshot(Arc::new(loaded)),
            Err(what) => drop(0, &what),
        }
    }

    pub(super) fn receive_snapshot(&mut self, loaded: Arc<LoadedSnapshot>) -> Result<(), Fatal> {
        match Arc::into_inner(loaded) {
            Some(loaded) => self.receive_message(loaded.message.clone(), Some(loaded)),
            None => Ok(()),
        }
    }

    fn receive_message(&mut self, mut message: Message, snapshot: Option<LoadedSnapshot>) -> Result<(), Fatal> {
        let (shard, node) = (self.config.shard.0, self.config.node.0);
        let drop = |from: u64, what: &dyn std::fmt::Display| {
            tracing::warn!(shard, node, from = node_of(from).0, "dropped a peer's message: {what}");
            Ok(())
        };
        let from = message.from;
        if message.to != self.raw.raft.id || !self.incarnations.is_current(from) {
            // Nothing strange: until a replica that was lost is removed, what is meant for it comes to who takes its place.
            let (from, to) = (node_of(from).0, message.to);
            tracing::debug!(shard, node, from, to, "dropped a message for or from somebody else");
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
            leader.note_contact(from, self.now.mono_ms);
        }
        if self.raw.raft.leader_id == from {
            self.leader_contact_ms = self.now.mono_ms;
        }
        self.seed_election_timeout();
        Ok(())
    }

    /// A snapshot took the place of the log and is not on disk yet, so raft-rs counts its state as not applied. Should
    /// an election begin, it would look for the entries that led there, and panic.
    pub(super) fn awaits_snapshot(&self) -> bool {
        self.raw.raft.raft_log.applied + 1 < self.raw.store().first()
    }
}
