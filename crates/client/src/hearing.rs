//! The state that the guards and sessions of a client share while they hear of ends. The module
//! knows nothing of watches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Guards of one client that are watched. The others hear of an end with their next renewal.
const GUARDS_MAX: usize = 64;
/// How long no watch is tried after one was refused. Each refusal can be a line of an audit log.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// The state that the guards and sessions of a client share.
#[derive(Debug)]
pub(crate) struct Hearing {
    guards: Arc<Semaphore>,
    refused_at: Mutex<Option<Instant>>,
}

impl Default for Hearing {
    fn default() -> Hearing {
        Hearing { guards: Arc::new(Semaphore::new(GUARDS_MAX)), refused_at: Mutex::default() }
    }
}

impl Hearing {
    /// The place of a guard that is watched, if there is one.
    pub(crate) fn guard(&self) -> Option<OwnedSemaphorePermit> {
        self.guards.clone().try_acquire_owned().ok()
    }

    /// Whether a watch was refused lately.
    pub(crate) fn is_refused(&self) -> bool {
        let refused_at = self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
        refused_at.is_some_and(|at| at.elapsed() < REFUSED_FOR)
    }

    /// Notes that a watch was refused.
    pub(crate) fn refused(&self) {
        *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
