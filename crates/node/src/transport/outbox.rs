//! The messages that wait to be sent to each peer.
//!
//! * An outbox holds at most [`OUTBOX_BYTES_MAX`] of messages. Messages above the bound are
//!   refused, so the newest are lost first, and the caller is told their shards.
//! * Urgent messages have a lane of their own, of at most [`OUTBOX_URGENT_BYTES_MAX`]. They go
//!   before all others, so the others never wait for more than that.
//!   ([`shard::PeerMessage::is_urgent`] says why they may.)
//! * Frames hold whole messages, in order within each lane, and are as full as the waiting messages
//!   allow.

use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_URGENT_BYTES_MAX, PEER_FRAME_BYTES};
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::Notify;
use wire::internal::v1::PeerMessage;

/// The most bytes that a message takes in a frame beside its own.
const MESSAGE_OVERHEAD_BYTES: usize = 16;

/// The outbox for one peer. Any number of threads fill it, one task empties it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    heard_from: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    urgent: Lane,
    usual: Lane,
}

/// * `bytes` is the sum of the messages' sizes.
#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
}

/// The messages of one thread for one peer.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) urgent: Vec<PeerMessage>,
    pub(crate) usual: Vec<PeerMessage>,
}

impl Lanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.usual.is_empty()
    }

    /// The shards of the messages, each once.
    fn shards(&self) -> Vec<ShardId> {
        let messages = self.urgent.iter().chain(&self.usual);
        let shards: BTreeSet<ShardId> = messages.map(|message| ShardId(message.shard)).collect();
        shards.into_iter().collect()
    }
}

impl Lane {
    /// Adds messages. Notes the shards of messages for which there is no room.
    fn push(&mut self, messages: Vec<PeerMessage>, bytes_max: usize, refused: &mut Vec<ShardId>) {
        for message in messages {
            let bytes = size_bytes(&message);
            if self.bytes + bytes > bytes_max && !self.messages.is_empty() {
                let shard = ShardId(message.shard);
                if !refused.contains(&shard) {
                    refused.push(shard);
                }
                continue;
            }
            self.bytes += bytes;
            self.messages.push_back(message);
        }
    }

    /// Takes the next message, unless the frame, which has `taken` bytes, would overflow with it.
    fn pop(&mut self, taken: &mut usize) -> Option<PeerMessage> {
        let bytes = size_bytes(self.messages.front()?);
        if *taken > 0 && *taken + bytes > PEER_FRAME_BYTES {
            return None;
        }
        (*taken, self.bytes) = (*taken + bytes, self.bytes - bytes);
        self.messages.pop_front()
    }
}

impl Outbox {
    /// Adds messages. Returns the shards of the messages for which there was no room, each once.
    pub(crate) fn push(&self, lanes: Lanes) -> Vec<ShardId> {
        let mut refused = Vec::new();
        {
            let mut queue = self.lock();
            queue.urgent.push(lanes.urgent, OUTBOX_URGENT_BYTES_MAX, &mut refused);
            queue.usual.push(lanes.usual, OUTBOX_BYTES_MAX, &mut refused);
        }
        self.filled.notify_one();
        refused
    }

    /// Waits for messages, and takes one frame of them. Dropping the future loses no message.
    pub(crate) async fn next_frame(&self) -> Vec<PeerMessage> {
        loop {
            let frame = self.take_frame();
            if !frame.is_empty() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    /// Drops all messages, because the peer cannot be reached and old messages are of no use to it.
    pub(crate) fn clear(&self) {
        *self.lock() = Queue::default();
    }

    /// Notes that the peer has just connected to this node, so that a connection the other way is
    /// worth trying.
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
        // Urgent messages are few, so the frame takes all of them, and a frame's worth of the
        // others. A large message of the others must not wait for ever.
        let (mut urgent_bytes, mut bytes) = (0, 0);
        frame.extend(std::iter::from_fn(|| queue.urgent.pop(&mut urgent_bytes)));
        frame.extend(std::iter::from_fn(|| queue.usual.pop(&mut bytes)));
        frame
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_bytes(message: &PeerMessage) -> usize {
    message.raft.len() + MESSAGE_OVERHEAD_BYTES
}

/// One outbox per peer. Peers come and go.
#[derive(Debug)]
pub(crate) struct Outboxes {
    by_peer: RwLock<BTreeMap<NodeId, Arc<Outbox>>>,
}

impl Outboxes {
    pub(crate) fn new(peers: impl IntoIterator<Item = NodeId>) -> Self {
        let by_peer = peers.into_iter().map(|peer| (peer, Arc::default())).collect();
        Outboxes { by_peer: RwLock::new(by_peer) }
    }

    /// The outbox of a peer; `None` if there is no such peer.
    pub(crate) fn of(&self, peer: NodeId) -> Option<Arc<Outbox>> {
        self.read().get(&peer).cloned()
    }

    /// The outbox of a peer, which is made if there is none.
    pub(crate) fn admit(&self, peer: NodeId) -> Arc<Outbox> {
        let mut by_peer = self.by_peer.write().unwrap_or_else(PoisonError::into_inner);
        by_peer.entry(peer).or_default().clone()
    }

    /// Drops the outbox of a node that is no peer any more, with all that is in it.
    pub(crate) fn dismiss(&self, peer: NodeId) {
        let mut by_peer = self.by_peer.write().unwrap_or_else(PoisonError::into_inner);
        by_peer.remove(&peer);
    }

    /// Adds messages for a peer: see [`Outbox::push`]. Messages for a node that is no peer are
    /// refused like those for which there is no room. A replica may have a member that this node's
    /// view does not name yet, or names no more.
    pub(crate) fn push(&self, peer: NodeId, lanes: Lanes) -> Vec<ShardId> {
        match self.read().get(&peer) {
            Some(outbox) => outbox.push(lanes),
            None => lanes.shards(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, Arc<Outbox>>> {
        self.by_peer.read().unwrap_or_else(PoisonError::into_inner)
    }
}
