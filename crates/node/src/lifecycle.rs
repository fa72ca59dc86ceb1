//! Where a node stands between its start and its end, known to every thread and task of it.
//!
//! * The phase only rises: running, draining, stopped, failed.
//! * The first failure is the one that is kept, and it is logged here, once.

use crate::error::NodeError;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use tokio::sync::watch;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serves.
    Running,
    /// Takes no new operations; answers what it has.
    Draining,
    /// Everything ends.
    Stopped,
    /// Everything ends, and nothing is answered.
    Failed,
}

/// Shared by all of a node.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// The watch's value again, for hot paths.
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

    /// Ends the node: nothing is answered from here on.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        let is_first = self.failure.set(what.clone()).is_ok();
        // First: where the log cannot be written to (its disk hangs, its pipe is full), the node ends all the same.
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

    /// Goes to `phase`, unless already further.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.watch.send_if_modified(|current| {
            let rises = phase > *current;
            *current = phase.max(*current);
            rises
        });
    }

    /// Something fatal happened: say nothing more.
    pub(crate) fn failed(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Failed as u8
    }

    /// Everything ends.
    pub(crate) fn stopped(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Stopped as u8
    }

    /// Take nothing new.
    pub(crate) fn draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) >= Phase::Draining as u8
    }

    /// What went wrong, if anything did.
    pub(crate) fn failure(&self) -> Option<NodeError> {
        let what = self.failure.get().cloned()?;
        let kind = if self.disk_hangs.load(Ordering::SeqCst) { NodeError::DiskHangs } else { NodeError::Failed };
        Some(kind(what))
    }

    /// Returns once the phase is `phase` or later.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.watch.subscribe();
        // The sender lives in `self`, so this can only end by reaching the phase.
        let _ = watch.wait_for(|current| *current >= phase).await;
    }
}

/// Held by a thread for as long as it works: one that unwinds takes the node down with it.
pub(crate) struct PanicGuard<'a> {
    pub(crate) lifecycle: &'a Lifecycle,
    pub(crate) thread: &'a str,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lifecycle.fail(format!("thread {} panicked; this is a bug: report its backtrace", self.thread));
        }
    }
}
