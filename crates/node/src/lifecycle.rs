//! The phase of a node between its start and its end, known to all its threads and tasks.
//!
//! * The phase only rises: running, leaving, draining, stopped, failed.
//! * The node keeps its first failure, which is logged here, once.

use crate::error::NodeError;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// The phase of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The node serves operations.
    Running,
    /// The node serves operations, and hands its leaderships over.
    Leaving,
    /// The node takes no new operations, and answers those in flight.
    Draining,
    /// All parts of the node end.
    Stopped,
    /// All parts of the node end, and it answers nothing.
    Failed,
}

/// The phase and the first failure, shared by all parts of a node.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// A copy of the watch's value, for hot paths.
    phase: AtomicU8,
    watch: watch::Sender<Phase>,
    failure: OnceLock<String>,
    disk_hangs: AtomicBool,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        let watch = watch::Sender::new(Phase::Running);
        Lifecycle {
            phase: AtomicU8::new(Phase::Running as u8),
            watch,
            failure: OnceLock::new(),
            disk_hangs: AtomicBool::new(false),
        }
    }

    /// Ends the node, which answers nothing from here on.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        let is_first = self.failure.set(what.clone()).is_ok();
        // The phase is entered before the log is written. Otherwise a log that cannot be written to
        // (its disk hangs, its pipe is full) would keep the node from ending.
        self.enter(Phase::Failed);
        if is_first {
            tracing::error!(reason = %what, "node stops: fatal");
        }
    }

    /// Ends the node, because its disk does not end a write.
    pub(crate) fn disk_hangs(&self, what: impl Into<String>) {
        self.disk_hangs.store(true, Ordering::SeqCst);
        self.fail(what);
    }

    /// Moves to `phase`, unless the node is already further.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.watch.send_if_modified(|current| {
            let rises = phase > *current;
            *current = phase.max(*current);
            rises
        });
    }

    /// Whether the node has failed, so that it must answer nothing more.
    pub(crate) fn failed(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Failed as u8
    }

    /// Whether all parts of the node must end.
    pub(crate) fn stopped(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Stopped as u8
    }

    /// Whether the node is about to end, and is not ready any more.
    pub(crate) fn leaving(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Leaving as u8
    }

    /// Whether the node must take no new operations.
    pub(crate) fn draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Draining as u8
    }

    /// The first failure of the node, if there was one.
    pub(crate) fn failure(&self) -> Option<NodeError> {
        let what = self.failure.get().cloned()?;
        let kind = if self.disk_hangs.load(Ordering::SeqCst) {
            NodeError::DiskHangs
        } else {
            NodeError::Failed
        };
        Some(kind(what))
    }

    /// Returns when the node has failed.
    pub(crate) async fn until_failure(&self) -> NodeError {
        self.reached(Phase::Failed).await;
        self.failure().unwrap_or_else(|| NodeError::Failed("the node failed".into()))
    }

    /// Returns once the phase is `phase` or later.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.watch.subscribe();
        // The sender lives in `self`, so only the phase can end the wait.
        let _ = watch.wait_for(|current| *current >= phase).await;
    }
}

/// Ends the parts of a node if its start returns early.
pub(crate) struct StopsOnDrop(pub(crate) Option<Arc<Lifecycle>>);

impl Drop for StopsOnDrop {
    fn drop(&mut self) {
        if let Some(lifecycle) = &self.0 {
            lifecycle.enter(Phase::Stopped);
        }
    }
}

/// Held by a thread while it works, so that a thread that unwinds ends the node.
pub(crate) struct PanicGuard<'a> {
    pub(crate) lifecycle: &'a Lifecycle,
    pub(crate) thread: &'a str,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lifecycle.fail(format!(
                "thread {} panicked; this is a bug: report its backtrace",
                self.thread
            ));
        }
    }
}
