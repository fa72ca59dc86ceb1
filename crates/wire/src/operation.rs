//! What an operation is: its kind, its size on the wire.

use crate::v1::{Operation, operation::Op};

/// The kinds of operations, for policies and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OperationKind {
    /// Take a lock.
    Acquire,
    /// Another TTL for a private lease.
    Renew,
    /// Let go.
    Release,
    /// Who holds it?
    Check,
    /// A fresh session id.
    OpenSession,
    /// Another TTL for a session.
    Heartbeat,
    /// End a session.
    CloseSession,
    /// Leave a queue.
    CancelWait,
    /// Force-release.
    Break,
    /// Tenures of a name.
    History,
    /// Grants by prefix.
    List,
    /// State of one replica.
    ShardStatus,
    /// State of all of them.
    ClusterStatus,
}

impl OperationKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [OperationKind; 13] = [
        OperationKind::Acquire,
        OperationKind::Renew,
        OperationKind::Release,
        OperationKind::Check,
        OperationKind::OpenSession,
        OperationKind::Heartbeat,
        OperationKind::CloseSession,
        OperationKind::CancelWait,
        OperationKind::Break,
        OperationKind::History,
        OperationKind::List,
        OperationKind::ShardStatus,
        OperationKind::ClusterStatus,
    ];

    /// Lower case with underscores, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            OperationKind::Acquire => "acquire",
            OperationKind::Renew => "renew",
            OperationKind::Release => "release",
            OperationKind::Check => "check",
            OperationKind::OpenSession => "open_session",
            OperationKind::Heartbeat => "heartbeat",
            OperationKind::CloseSession => "close_session",
            OperationKind::CancelWait => "cancel_wait",
            OperationKind::Break => "break",
            OperationKind::History => "history",
            OperationKind::List => "list",
            OperationKind::ShardStatus => "shard_status",
            OperationKind::ClusterStatus => "cluster_status",
        }
    }

    /// Changes nothing, so a lost attempt leaves no doubt.
    pub fn is_read(self) -> bool {
        matches!(
            self,
            OperationKind::Check
                | OperationKind::OpenSession
                | OperationKind::History
                | OperationKind::List
                | OperationKind::ShardStatus
                | OperationKind::ClusterStatus
        )
    }
}

impl Op {
    /// Which kind this is.
    pub fn kind(&self) -> OperationKind {
        match self {
            Op::Acquire(_) => OperationKind::Acquire,
            Op::Renew(_) => OperationKind::Renew,
            Op::Release(_) => OperationKind::Release,
            Op::Check(_) => OperationKind::Check,
            Op::Heartbeat(_) => OperationKind::Heartbeat,
            Op::CloseSession(_) => OperationKind::CloseSession,
            Op::CancelWait(_) => OperationKind::CancelWait,
            Op::Break(_) => OperationKind::Break,
            Op::History(_) => OperationKind::History,
            Op::List(_) => OperationKind::List,
            Op::ShardStatus(_) => OperationKind::ShardStatus,
        }
    }

    /// The resource that this is about; `None` for those about a session, a prefix or a replica.
    pub fn name(&self) -> Option<&str> {
        match self {
            Op::Acquire(r) => Some(&r.name),
            Op::Renew(r) => Some(&r.name),
            Op::Release(r) => Some(&r.name),
            Op::Check(r) => Some(&r.name),
            Op::CancelWait(r) => Some(&r.name),
            Op::Break(r) => Some(&r.name),
            Op::History(r) => Some(&r.name),
            Op::Heartbeat(_) | Op::CloseSession(_) | Op::List(_) | Op::ShardStatus(_) => None,
        }
    }

    /// How long an acquire may wait in its queue; 0 for everything else.
    pub fn wait_ms(&self) -> u32 {
        match self {
            Op::Acquire(r) => r.wait_ms,
            _ => 0,
        }
    }
}

impl Operation {
    /// An operation without id, timeout and route: those are set where it is sent.
    pub fn of(op: Op) -> Operation {
        Operation { id: 0, timeout_ms: 0, op: Some(op), route: None }
    }
}

/// How many bytes a message takes on the wire.
pub fn encoded_bytes(message: &impl prost::Message) -> usize {
    message.encoded_len()
}
