//! One gateway's call, as the task of one shard sees it: its watches, and what is to be sent.

use routing::ShardId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tonic::Status;
use watch::WatcherId;
use wire::internal::v1::{WatchFrame, WatchResponse};
use wire::v1::Error;

/// Names a call of a gateway within this run of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// A call of a gateway, shared by the tasks of the shards that it watches.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: CallId,
    /// The way to the gateway. It holds few messages, so that a gateway that does not read is
    /// noticed.
    pub(crate) outbound: mpsc::Sender<Result<WatchResponse, Status>>,
    open: Mutex<BTreeMap<u64, ShardId>>,
}

impl Handle {
    pub(crate) fn new(
        id: CallId,
        outbound: mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Arc<Handle> {
        Arc::new(Handle { id, outbound, open: Mutex::default() })
    }

    /// The watches that have not ended, by id, with their shards.
    pub(crate) fn open(&self) -> MutexGuard<'_, BTreeMap<u64, ShardId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call with watches of one shard.
///
/// * A watcher stands in `due` at most once, and in `wants` at most once.
pub(super) struct Call {
    pub(super) handle: Arc<Handle>,
    /// By the ids that the gateway chose.
    pub(super) watches: BTreeMap<u64, WatcherId>,
    /// A place in the outbound channel is awaited.
    pub(super) is_blocked: bool,
    /// Watchers for which a page is being read. They are few, so that few pages wait for a gateway
    /// that does not read.
    pub(super) reading: BTreeSet<WatcherId>,
    /// Ends of watches, which go first.
    ended: VecDeque<WatchFrame>,
    /// Watchers that are to be told something.
    due: Line,
    /// Watchers that need a page.
    wants: Line,
}

/// Watchers in their turn, each once.
#[derive(Default)]
struct Line {
    turns: VecDeque<WatcherId>,
    has: BTreeSet<WatcherId>,
}

impl Line {
    fn push(&mut self, watcher: WatcherId) {
        if self.has.insert(watcher) {
            self.turns.push_back(watcher);
        }
    }

    fn pop(&mut self) -> Option<WatcherId> {
        let watcher = self.turns.pop_front()?;
        self.has.remove(&watcher);
        Some(watcher)
    }
}

impl Call {
    pub(super) fn new(handle: Arc<Handle>) -> Call {
        Call {
            handle,
            watches: BTreeMap::new(),
            is_blocked: false,
            reading: BTreeSet::new(),
            ended: VecDeque::new(),
            due: Line::default(),
            wants: Line::default(),
        }
    }

    pub(super) fn push_due(&mut self, watcher: WatcherId) {
        self.due.push(watcher);
    }

    pub(super) fn pop_due(&mut self) -> Option<WatcherId> {
        self.due.pop()
    }

    pub(super) fn due(&self) -> usize {
        self.due.turns.len()
    }

    pub(super) fn push_wants(&mut self, watcher: WatcherId) {
        self.wants.push(watcher);
    }

    pub(super) fn pop_wants(&mut self) -> Option<WatcherId> {
        self.wants.pop()
    }

    /// The watch of this id is over.
    pub(super) fn push_ended(&mut self, id: u64, error: Error) {
        self.handle.open().remove(&id);
        self.ended.push_back(WatchFrame { id, ended: Some(error), ..WatchFrame::default() });
    }

    /// At most so many ends of watches.
    pub(super) fn take_ended(&mut self, most: usize) -> Vec<WatchFrame> {
        let taken = self.ended.len().min(most);
        self.ended.drain(..taken).collect()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.ended.is_empty() || self.due() > 0
    }
}
