//! The end of an acquire after its client is gone: its queue is left, or its grant released.
//!
//! A client that loses its connection may come back with the same request id, here or through
//! another gateway. So the cleanup depends on which side chose the id:
//!
//! 1. The client chose it: its wait is cancelled after a grace period, and its retry must not find
//!    the request ended for good. A grant stays, because the client may hold it by now.
//! 2. This gateway chose it: no client can ever take up the grant. The acquire is cancelled, and a
//!    grant is released.

use super::caller::Caller;
use crate::limits::LEAVE_MISSES;
use link::mux::Answer;
use wire::ErrorClass;
use wire::internal::v1::CancelWait;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::limits::{DEFAULT_TIMEOUT_MS, DEFAULT_TTL_MS};
use wire::v1::{AcquireRequest, AcquireResponse, CancelWaitResponse, Grant, ReleaseRequest};

/// One acquire of a client that is gone.
#[derive(Clone, Debug)]
pub struct Cleanup {
    caller: Caller,
    name: String,
    request_id: Vec<u8>,
    /// This gateway chose the request id.
    ours: bool,
    /// The release to send, if the acquire was granted.
    granted: Option<ReleaseRequest>,
    /// How many more times the acquire is looked for if it is in no queue.
    misses: u32,
    /// The time by which the acquire has ended by itself.
    until_ms: u64,
}

/// The continuation after a try of a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the acquire has ended.
    Done,
    /// The next operation, at once.
    AtOnce,
    /// The next try, after a pause.
    Later,
}

impl Cleanup {
    /// The cleanup of an acquire that is not known to be granted. `ours` says that this gateway
    /// chose its request id.
    pub fn of(
        caller: Caller,
        acquire: &AcquireRequest,
        timeout_ms: u32,
        ours: bool,
        now_ms: u64,
    ) -> Cleanup {
        let ttl_ms = if acquire.ttl_ms == 0 { DEFAULT_TTL_MS } else { acquire.ttl_ms };
        let timeout_ms = if timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { timeout_ms };
        let all_ms = u64::from(acquire.wait_ms) + u64::from(timeout_ms) + u64::from(ttl_ms);
        Cleanup {
            caller,
            name: acquire.name.clone(),
            request_id: acquire.request_id.clone(),
            ours,
            granted: None,
            misses: if ours { 0 } else { LEAVE_MISSES },
            until_ms: now_ms + all_ms,
        }
    }

    /// The cleanup that is left of a wait, once its last try was answered after its client had gone.
    /// `None` if there is nothing to do.
    pub fn after(self, answer: &Answer) -> Option<Cleanup> {
        match answer {
            Answer::Acquire(AcquireResponse { grant: Some(grant) }) if self.ours => {
                Some(Cleanup { granted: Some(release(grant)), ..self })
            }
            // The last try was given up because the client is gone, so the request may still be
            // queued. A request with the client's own id may have been taken up elsewhere, and
            // that place must not be left.
            answer if self.ours && is_unknown(answer) => Some(self),
            _ => None,
        }
    }

    /// The same for a client that may not have the lock any more, or come back for it: the request
    /// ends for good, and a grant is released.
    pub fn for_good(self) -> Cleanup {
        Cleanup { ours: true, misses: 0, ..self }
    }

    /// The client that is gone. All tries are in its name, so that they touch nothing of another.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The name of the lock.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether no client can take up the grant.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// The operation of the next try.
    pub fn operation(&self) -> RoutedOp {
        match &self.granted {
            Some(release) => RoutedOp::Release(release.clone()),
            // If the client may come back, its retry must not find the request ended for good.
            None => RoutedOp::CancelWait(CancelWait {
                name: self.name.clone(),
                request_id: self.request_id.clone(),
                abandoned: !self.ours,
            }),
        }
    }

    /// Takes the answer to [`operation`](Cleanup::operation).
    pub fn on_answer(&mut self, answer: &Answer, now_ms: u64) -> Next {
        match answer {
            Answer::CancelWait(CancelWaitResponse { grant: Some(grant), .. }) if self.ours => {
                self.granted = Some(release(grant));
                Next::AtOnce
            }
            // The cancel may have overtaken the acquire.
            Answer::CancelWait(CancelWaitResponse { cancelled: false, grant: None })
                if self.misses > 0 =>
            {
                self.misses -= 1;
                Next::Later
            }
            Answer::Error(error)
                if matches!(error.class(), ErrorClass::Retry | ErrorClass::Unknown)
                    && now_ms < self.until_ms =>
            {
                Next::Later
            }
            _ => Next::Done,
        }
    }
}

/// The release of a grant that no client took up. It names the session's own life, because the
/// session need not be told that the grant ended.
fn release(grant: &Grant) -> ReleaseRequest {
    ReleaseRequest {
        name: grant.resource_name.clone(),
        fencing_token: grant.fencing_token,
        session_life: grant.session_life,
    }
}

/// Whether an answer leaves the outcome of the operation open.
pub(crate) fn is_unknown(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(error) if error.class() == ErrorClass::Unknown)
}
