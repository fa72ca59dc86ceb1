//! Callers of other clusters, and callers that look for another node. The services for gateways and
//! for topologies refuse them, because their operations would change the wrong cluster.

use crate::context::Context;
use crate::limits::STRANGERS_SAID_EVERY;
use crate::roles::Caller;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tonic::{Request, Status};
use wire::internal::v1::ClusterIdentity;

/// Refuses strangers.
pub(super) struct Strangers {
    context: Arc<Context>,
    /// The time at which a refusal was last logged.
    said: Mutex<Option<Instant>>,
}

impl Strangers {
    pub(super) fn new(context: Arc<Context>) -> Strangers {
        Strangers { context, said: Mutex::default() }
    }

    /// # Errors
    /// If the caller is of another cluster, or looks for another node.
    pub(super) fn check(&self, request: &Request<impl Sized>) -> Result<(), Status> {
        let identity = ClusterIdentity::of(request.metadata());
        self.check_identity(identity.as_ref(), || Caller::of(request.extensions()))
    }

    /// # Errors
    /// As those of [`check`](Self::check).
    pub(super) fn check_identity(
        &self,
        identity: Option<&ClusterIdentity>,
        caller: impl FnOnce() -> Caller,
    ) -> Result<(), Status> {
        let ours = &self.context.identity;
        let why = match (ours.differs(identity), identity.map_or(0, |identity| identity.node)) {
            (Some(why), _) => format!("node {} refuses this caller: {why}", ours.node),
            (None, meant) if meant != 0 && meant != ours.node => {
                format!(
                    "this is node {}, not node {meant}: correct the addresses in the cluster file",
                    ours.node
                )
            }
            (None, _) => return Ok(()),
        };
        let caller = caller();
        if self.says() {
            tracing::warn!(remote = %caller.remote, reason = %why, "refused a caller");
        }
        self.context.audit.record(caller.refused(why.clone()));
        Err(Status::failed_precondition(why))
    }

    /// Whether it is time to log a refusal again.
    fn says(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|at| at.elapsed() >= STRANGERS_SAID_EVERY);
        if is_due {
            *said = Some(Instant::now());
        }
        is_due
    }
}
