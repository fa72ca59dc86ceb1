//! The kind of an operation, and its size on the wire.

use crate::limits::DEFAULT_TIMEOUT_MS;
use crate::v1::operation_result::Result as Answer;
use crate::v1::{AcquireResponse, Error, ErrorCode, Grant, Operation, operation::Op};

/// The kinds of operations, for policies and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OperationKind {
    /// Takes a lock, at once or after a wait.
    Acquire,
    /// Extends a private lease by another TTL.
    Renew,
    /// Releases a lock by its token.
    Release,
    /// Shows the holders of a lock.
    Check,
    /// Makes a new session id.
    OpenSession,
    /// Extends a session by another TTL.
    Heartbeat,
    /// Ends a session and releases its locks.
    CloseSession,
    /// Takes a waiting acquire out of its queue.
    CancelWait,
    /// Ends another owner's hold by force.
    Break,
    /// Shows the tenures of a name.
    History,
    /// Lists grants by prefix.
    List,
    /// Shows the state of one replica.
    ShardStatus,
    /// Shows the state of all replicas.
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

    /// The name in lower case with underscores, as metrics show it.
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

    /// Whether the operation changes nothing, so that a lost attempt leaves no doubt.
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
        }
    }

    /// The name of the resource. `None` if the operation concerns a session or a prefix.
    pub fn name(&self) -> Option<&str> {
        match self {
            Op::Acquire(r) => Some(&r.name),
            Op::Renew(r) => Some(&r.name),
            Op::Release(r) => Some(&r.name),
            Op::Check(r) => Some(&r.name),
            Op::CancelWait(r) => Some(&r.name),
            Op::BreakLock(r) => Some(&r.name),
            Op::History(r) => Some(&r.name),
            Op::Heartbeat(_) | Op::CloseSession(_) | Op::List(_) => None,
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
    /// An operation without id and timeout, which are set when it is sent.
    pub fn of(op: Op) -> Operation {
        Operation { op: Some(op), ..Operation::default() }
    }

    /// Takes the time that an operation was held up off its wait first, and then off its timeout.
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

impl Answer {
    /// An acquire that was granted.
    pub fn granted(grant: Grant) -> Answer {
        Answer::Acquire(AcquireResponse { grant: Some(grant) })
    }

    /// The code of an error. `None` for all other answers.
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Answer::Error(error) => Some(error.code()),
            _ => None,
        }
    }

    /// The grant of an acquire. `None` for all other answers.
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Answer::Acquire(acquired) => acquired.grant.as_ref(),
            _ => None,
        }
    }

    /// The grant of an acquire, by value. `None` for all other answers.
    pub fn into_grant(self) -> Option<Grant> {
        match self {
            Answer::Acquire(acquired) => acquired.grant,
            _ => None,
        }
    }
}

/// The arithmetic of [`Operation::held_up`].
pub(crate) fn take_off(
    mut late_ms: u64,
    wait_ms: Option<&mut u32>,
    timeout_ms: &mut u32,
) -> Result<(), Box<Error>> {
    if late_ms == 0 {
        return Ok(());
    }
    if let Some(wait_ms) = wait_ms.filter(|wait_ms| **wait_ms > 0) {
        // At least 1 is left, because with 0 a waiting acquire would turn into one that does not
        // wait.
        let off_ms = late_ms.min(u64::from(*wait_ms - 1));
        *wait_ms -= off_ms as u32;
        late_ms -= off_ms;
    }
    let all_ms = if *timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { *timeout_ms };
    if late_ms >= u64::from(all_ms) {
        let message = "this was held up on its way for longer than its sender waits, and was not done: try again";
        return Err(Box::new(Error::busy(message, 0)));
    }
    *timeout_ms = all_ms - late_ms as u32;
    Ok(())
}

/// The size of a message on the wire, in bytes.
pub fn encoded_bytes(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{AcquireRequest, ErrorCode, RenewRequest};

    #[test]
    fn what_its_sender_has_given_up_is_refused() {
        let renew = |timeout_ms| Operation {
            timeout_ms,
            ..Operation::of(Op::Renew(RenewRequest::default()))
        };
        for (timeout_ms, late_ms, left_ms) in [
            (0, 0, Some(0)),
            (0, 1, Some(4_999)),
            (0, 5_000, None),
            (700, 699, Some(1)),
            (700, 700, None),
        ] {
            let mut operation = renew(timeout_ms);
            let taken = operation.held_up(late_ms);
            assert_eq!(
                taken.as_ref().ok().map(|()| operation.timeout_ms),
                left_ms,
                "{timeout_ms} {late_ms}"
            );
            assert!(taken.is_ok() || taken.is_err_and(|error| error.code() == ErrorCode::Busy));
        }
    }

    #[test]
    fn a_wait_is_the_shorter_for_what_it_was_held_up() {
        let wait = Op::Acquire(AcquireRequest { wait_ms: 10_000, ..Default::default() });
        for (late_ms, wait_ms, timeout_ms) in
            [(4_000, 6_000, 1_000), (9_999, 1, 1_000), (10_500, 1, 499)]
        {
            let mut operation = Operation { timeout_ms: 1_000, ..Operation::of(wait.clone()) };
            operation.held_up(late_ms).expect("its sender waits still");
            assert_eq!(
                (operation.op.as_ref().map(Op::wait_ms), operation.timeout_ms),
                (Some(wait_ms), timeout_ms)
            );
        }
        let mut operation = Operation { timeout_ms: 1_000, ..Operation::of(wait) };
        operation.held_up(10_999).expect_err("given up");
    }
}
