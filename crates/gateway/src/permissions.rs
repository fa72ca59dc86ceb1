//! The permission that each method and each operation needs: one table.
//!
//! A method that is not in the table is not served. A test walks the descriptors of both protocols
//! and fails for any method, or operation of a stream, without a row.

use access::Verb;
use wire::OperationKind;

/// What a method is, for the question who may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// All clients may call it.
    Open,
    /// Every identity may call it.
    Known,
    /// One operation. It needs what [`need`] says of its kind.
    Operation(OperationKind),
    /// A stream of operations, each with its own need. Identities that may do nothing get none.
    Stream,
    /// Between processes of the cluster. A gateway never serves it.
    Inside,
}

/// The permission that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The verb on the operation's name.
    Name(Verb),
    /// The verb on all names that begin with the operation's prefix.
    Prefix(Verb),
    /// The verb on anything: the operation names no lock.
    Anything(Verb),
}

/// All methods.
pub(crate) const METHODS: &[(&str, Method)] = &[
    ("/palisade.v1.LockService/Acquire", Method::Operation(OperationKind::Acquire)),
    ("/palisade.v1.LockService/Renew", Method::Operation(OperationKind::Renew)),
    ("/palisade.v1.LockService/Release", Method::Operation(OperationKind::Release)),
    ("/palisade.v1.LockService/Check", Method::Operation(OperationKind::Check)),
    ("/palisade.v1.LockService/OpenSession", Method::Operation(OperationKind::OpenSession)),
    ("/palisade.v1.LockService/Heartbeat", Method::Operation(OperationKind::Heartbeat)),
    ("/palisade.v1.LockService/CloseSession", Method::Operation(OperationKind::CloseSession)),
    ("/palisade.v1.LockService/CancelWait", Method::Operation(OperationKind::CancelWait)),
    ("/palisade.v1.LockService/BreakLock", Method::Operation(OperationKind::Break)),
    ("/palisade.v1.LockService/History", Method::Operation(OperationKind::History)),
    ("/palisade.v1.LockService/List", Method::Operation(OperationKind::List)),
    ("/palisade.v1.LockService/ClusterStatus", Method::Operation(OperationKind::ClusterStatus)),
    ("/palisade.v1.LockService/Stream", Method::Stream),
    ("/grpc.health.v1.Health/Check", Method::Open),
    ("/grpc.health.v1.Health/List", Method::Open),
    ("/grpc.health.v1.Health/Watch", Method::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Method::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Method::Known),
    ("/palisade.internal.v1.ShardService/Operate", Method::Inside),
    ("/palisade.internal.v1.ShardService/Cluster", Method::Inside),
    ("/palisade.internal.v1.ShardService/Topology", Method::Inside),
    ("/palisade.internal.v1.PeerService/Greet", Method::Inside),
    ("/palisade.internal.v1.PeerService/Deliver", Method::Inside),
    ("/palisade.internal.v1.PeerService/InstallSnapshot", Method::Inside),
];

/// The row of a method, by its path. `None` if it is in no row, so that nothing may call it.
pub(crate) fn method(path: &str) -> Option<Method> {
    METHODS.iter().find(|(known, _)| *known == path).map(|(_, method)| *method)
}

/// The permission that an operation needs, as a call or in a stream.
pub(crate) const fn need(kind: OperationKind) -> Need {
    match kind {
        OperationKind::Acquire
        | OperationKind::Renew
        | OperationKind::Release
        | OperationKind::CancelWait => Need::Name(Verb::Hold),
        OperationKind::Check | OperationKind::History => Need::Name(Verb::Read),
        OperationKind::Break => Need::Name(Verb::Break),
        OperationKind::List => Need::Prefix(Verb::Read),
        OperationKind::OpenSession | OperationKind::Heartbeat | OperationKind::CloseSession => {
            Need::Anything(Verb::Hold)
        }
        OperationKind::ClusterStatus | OperationKind::ShardStatus => Need::Anything(Verb::Observe),
    }
}
