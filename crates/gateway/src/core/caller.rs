//! Whose operation it is.

use access::Identity;
use std::sync::Arc;
use wire::internal::v1::operation::Op;
use wire::internal::v1::{Operation, Quota};

/// The caller of an operation. It stands beside every operation on its way through the gateway, and
/// the gateway cleans up after a lost client in its name.
#[derive(Clone, Debug, Default)]
pub enum Caller {
    /// A client of a cluster without identities.
    #[default]
    Anyone,
    /// A client with this identity.
    Client(Arc<Identity>),
    /// Either of these, with the trace of its call as the nodes are told it.
    Traced(Box<(Caller, [u8; 25])>),
}

impl Caller {
    /// The identity, in a cluster with identities.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Caller::Anyone => None,
            Caller::Client(identity) => Some(identity),
            Caller::Traced(traced) => traced.0.identity(),
        }
    }

    /// Writes on an operation whose it is, and on an acquire what its identity may have there.
    pub(super) fn sign(&self, operation: &mut Operation) {
        if let Caller::Traced(traced) = self {
            operation.trace = traced.1.to_vec();
            return traced.0.sign(operation);
        }
        let Caller::Client(identity) = self else { return };
        identity.principal.as_str().clone_into(&mut operation.principal);
        if let Some(Op::Acquire(_)) = &operation.op {
            let quota = identity.quota();
            let bound = |bound: Option<std::num::NonZeroU32>| bound.map_or(0, u32::from);
            operation.quota = Some(Quota {
                locks: bound(quota.locks_per_shard),
                sessions: bound(quota.sessions_per_shard),
                waits: bound(quota.waits_per_shard),
            });
        }
    }
}
