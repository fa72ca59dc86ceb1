//! What waits to be sent to each peer.
//!
//! * An outbox holds at most [`OUTBOX_BYTES_MAX`] of messages; what comes on top is refused, the newest first lost, and the
//!   caller told whose it was.
//! * Frames hold whole messages, in order, and are as full as what waits allows.

use crate::limits::{OUTBOX_BYTES_MAX, PEER_FRAME_BYTES};
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use wire::v1::PeerMessage;

/// What a message costs in a frame beside its bytes, at most.
const MESSAGE_OVERHEAD_BYTES: usize = 16;

/// For one peer. Any number of threads fill it, one task empties it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    heard_from: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
}

impl Outbox {
    /// Returns the shards of the messages for which there was no room, each once.
    pub(crate) fn push(&self, messages: Vec<PeerMessage>) -> Vec<ShardId> {
        let mut refused = Vec::new();
        {
            let mut queue = self.lock();
            for message in messages {
                let bytes = size_bytes(&message);
                if queue.bytes + bytes > OUTBOX_BYTES_MAX && !queue.messages.is_empty() {
                    let shard = ShardId(message.shard);
                    if !refused.contains(&shard) {
                        refused.push(shard);
                    }
                    continue;
                }
                queue.bytes += bytes;
                queue.messages.push_back(message);
            }
        }
        self.filled.notify_one();
        refused
    }

    /// Waits until there is something, and takes a frame's worth of it. Dropping the future loses nothing.
    pub(crate) async fn next_frame(&self) -> Vec<PeerMessage> {
        loop {
            let frame = self.take_frame();
            if !frame.is_empty() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    /// Drops everything: the peer cannot be reached, and old messages are of no use to it.
    pub(crate) fn clear(&self) {
        *self.lock() = Queue::default();
    }

    /// The peer has just connected to this node, so it is worth trying the other way.
    pub(crate) fn peer_is_there(&self) {
        self.heard_from.notify_one();
    }

    /// Returns once the peer is there, if it was not heard from since the last call.
    pub(crate) async fn heard_from_peer(&self) {
        self.heard_from.notified().await;
    }

    fn take_frame(&self) -> Vec<PeerMessage> {
        let mut queue = self.lock();
        let mut frame = Vec::new();
        let mut bytes = 0;
        while let Some(message) = queue.messages.front() {
            bytes += size_bytes(message);
            if bytes > PEER_FRAME_BYTES && !frame.is_empty() {
                break;
            }
            queue.bytes -= size_bytes(message);
            frame.extend(queue.messages.pop_front());
        }
        frame
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_bytes(message: &PeerMessage) -> usize {
    message.raft.len() + MESSAGE_OVERHEAD_BYTES
}

/// One outbox per peer.
#[derive(Debug)]
pub(crate) struct Outboxes {
    by_peer: BTreeMap<NodeId, Arc<Outbox>>,
}

impl Outboxes {
    pub(crate) fn new(peers: impl IntoIterator<Item = NodeId>) -> Self {
        Outboxes { by_peer: peers.into_iter().map(|peer| (peer, Arc::default())).collect() }
    }

    /// `None`: no such peer.
    pub(crate) fn of(&self, peer: NodeId) -> Option<Arc<Outbox>> {
        self.by_peer.get(&peer).cloned()
    }

    /// See [`Outbox::push`]. Messages to a node that is no peer are lost.
    pub(crate) fn push(&self, peer: NodeId, messages: Vec<PeerMessage>) -> Vec<ShardId> {
        match self.by_peer.get(&peer) {
            Some(outbox) => outbox.push(messages),
            None => {
                debug_assert!(false, "a replica has a message for node {peer}, which is no peer");
                Vec::new()
            }
        }
    }
}
