//! The caller of an operation.

use access::Identity;
use std::sync::Arc;
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

    /// The caller with the identity that it has proven now. The trace of its call stays.
    pub fn proven(self, identity: Arc<Identity>) -> Caller {
        match self {
            Caller::Anyone | Caller::Client(_) => Caller::Client(identity),
            Caller::Traced(mut traced) => {
                traced.0 = Caller::Client(identity);
                Caller::Traced(traced)
            }
        }
    }

    /// Writes the identity of the caller and its quota on an operation.
    ///
    /// Only an acquire is compared with the quota. All operations have it, so that a frame and a
    /// log entry name each identity once.
    pub(super) fn sign(&self, operation: &mut Operation) {
        if let Caller::Traced(traced) = self {
            operation.trace = traced.1.to_vec();
            return traced.0.sign(operation);
        }
        let Caller::Client(identity) = self else { return };
        identity.principal.as_str().clone_into(&mut operation.principal);
        let quota = identity.quota();
        let bound = |bound: Option<std::num::NonZeroU32>| bound.map_or(0, u32::from);
        operation.quota = Some(Quota {
            locks: bound(quota.locks_per_shard),
            sessions: bound(quota.sessions_per_shard),
            waits: bound(quota.waits_per_shard),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::Quota as Bounds;
    use std::num::NonZeroU32;
    use wire::internal::v1::operation::Op;
    use wire::v1::AcquireRequest;

    fn alice() -> Arc<Identity> {
        let quota = Bounds { locks_per_shard: NonZeroU32::new(7), ..Bounds::default() };
        Arc::new(Identity::unrestricted("alice".parse().unwrap(), quota))
    }

    fn signed(caller: &Caller) -> Operation {
        let op = Some(Op::Acquire(AcquireRequest::default()));
        let mut operation = Operation { op, ..Operation::default() };
        caller.sign(&mut operation);
        operation
    }

    #[test]
    fn a_traced_call_is_of_the_same_identity_with_the_same_quota() {
        let plain = Caller::Client(alice());
        let traced = Caller::Traced(Box::new((plain.clone(), [9; 25])));
        assert_eq!(traced.identity().unwrap().principal.as_str(), "alice");
        let operation = signed(&traced);
        assert_eq!(operation.trace, [9; 25]);
        assert_eq!(operation.quota.as_ref().unwrap().locks, 7);
        assert_eq!(Operation { trace: Vec::new(), ..operation }, signed(&plain));
    }

    #[test]
    fn an_identity_that_is_proven_again_leaves_the_trace() {
        for former in [Caller::Anyone, Caller::Client(alice())] {
            let again = Caller::Traced(Box::new((former, [9; 25]))).proven(alice());
            let operation = signed(&again);
            assert_eq!((operation.principal.as_str(), operation.trace), ("alice", vec![9; 25]));
        }
        assert!(signed(&Caller::Anyone.proven(alice())).trace.is_empty());
    }
}
