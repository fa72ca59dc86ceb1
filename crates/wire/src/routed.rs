//! Operations between gateways and nodes: the kinds of clients' operations, each on one shard.

use crate::internal::v1::operation::Op;
use crate::internal::v1::{Operation, Route};
use crate::operation::{OperationKind, take_off};
use crate::v1::Error;

impl Op {
    /// The kind of this operation.
    pub fn kind(&self) -> OperationKind {
        match self {
            Op::Acquire(_) => OperationKind::Acquire,
            Op::Renew(_) => OperationKind::Renew,
            Op::Release(_) => OperationKind::Release,
            Op::Check(_) => OperationKind::Check,
            Op::Heartbeat(_) => OperationKind::Heartbeat,
            Op::CloseSession(_) => OperationKind::CloseSession,
            Op::CancelWait(_) => OperationKind::CancelWait,
            Op::BreakLock(_) => OperationKind::Break,
            Op::History(_) => OperationKind::History,
            Op::List(_) => OperationKind::List,
            Op::ReadStatus(_) => OperationKind::ShardStatus,
        }
    }

    /// The name of the resource. `None` if the operation concerns a session, a prefix or a replica.
    pub fn name(&self) -> Option<&str> {
        match self {
            Op::Acquire(r) => Some(&r.name),
            Op::Renew(r) => Some(&r.name),
            Op::Release(r) => Some(&r.name),
            Op::Check(r) => Some(&r.name),
            Op::CancelWait(r) => Some(&r.name),
            Op::BreakLock(r) => Some(&r.name),
            Op::History(r) => Some(&r.name),
            Op::Heartbeat(_) | Op::CloseSession(_) | Op::List(_) | Op::ReadStatus(_) => None,
        }
    }

    /// How long an acquire may wait in its queue. 0 for everything else.
    pub fn wait_ms(&self) -> u32 {
        match self {
            Op::Acquire(r) => r.wait_ms,
            _ => 0,
        }
    }
}

impl Operation {
    /// An operation for the shard of this route, without id and timeout, which are set when it is
    /// sent.
    pub fn routed(op: Op, route: Route) -> Operation {
        Operation { op: Some(op), route: Some(route), ..Operation::default() }
    }

    /// Like [`v1::Operation::held_up`](crate::v1::Operation::held_up).
    ///
    /// # Errors
    /// BUSY if the sender has given the operation up, because it must not be done then.
    pub fn held_up(&mut self, late_ms: u64) -> Result<(), Box<Error>> {
        let wait_ms = match &mut self.op {
            Some(Op::Acquire(acquire)) => Some(&mut acquire.wait_ms),
            _ => None,
        };
        take_off(late_ms, wait_ms, &mut self.timeout_ms)
    }
}
