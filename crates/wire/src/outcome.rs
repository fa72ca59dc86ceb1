//! The outcome of an operation, as a label of metrics: one table for nodes and gateways.

use crate::v1::ErrorCode;

/// The outcome of an operation, sorted like [`ErrorCode`], with one word for codes that mean the
/// same to a dashboard.
///
/// ```
/// use palisade_wire::{Outcome, v1::ErrorCode};
///
/// assert_eq!(Outcome::of(None).as_str(), "ok");
/// assert_eq!(Outcome::of(Some(ErrorCode::NotOwner)).as_str(), "fenced");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The operation was done.
    Ok,
    /// The input can never succeed.
    Invalid,
    /// The lock is held by another owner.
    Held,
    /// The wait ran out.
    WaitTimeout,
    /// The wait was cancelled.
    WaitCancelled,
    /// The token, or the session, does not hold the lock any more.
    Fenced,
    /// A queue or limit is full.
    Busy,
    /// No leader, another leader, or a server that stops: nothing was done.
    NotServed,
    /// The operation may or may not have been done.
    Unknown,
    /// The caller's identity is not known, or may not do this.
    Denied,
    /// A defect of the service.
    Internal,
}

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Outcome; 11] = [
        Outcome::Ok,
        Outcome::Invalid,
        Outcome::Held,
        Outcome::WaitTimeout,
        Outcome::WaitCancelled,
        Outcome::Fenced,
        Outcome::Busy,
        Outcome::NotServed,
        Outcome::Unknown,
        Outcome::Denied,
        Outcome::Internal,
    ];

    /// The outcome of an operation that failed with this code; `None`: it did not fail.
    pub fn of(code: Option<ErrorCode>) -> Outcome {
        match code {
            None => Outcome::Ok,
            Some(ErrorCode::InvalidArgument | ErrorCode::VersionMoved) => Outcome::Invalid,
            Some(ErrorCode::Held) => Outcome::Held,
            Some(ErrorCode::WaitTimeout) => Outcome::WaitTimeout,
            Some(ErrorCode::WaitCancelled) => Outcome::WaitCancelled,
            Some(ErrorCode::NotOwner | ErrorCode::Expired | ErrorCode::SessionLost) => {
                Outcome::Fenced
            }
            Some(ErrorCode::Busy) => Outcome::Busy,
            Some(ErrorCode::NoLeader | ErrorCode::ShuttingDown) => Outcome::NotServed,
            Some(ErrorCode::OutcomeUnknown) => Outcome::Unknown,
            Some(ErrorCode::Unauthenticated | ErrorCode::PermissionDenied) => Outcome::Denied,
            Some(ErrorCode::Internal | ErrorCode::Unspecified) => Outcome::Internal,
        }
    }

    /// Whether the service failed its caller. A lock that another holds is no failure.
    pub fn is_failure(self) -> bool {
        matches!(self, Outcome::Busy | Outcome::NotServed | Outcome::Unknown | Outcome::Internal)
    }

    /// The label. Never changed: dashboards and alerts name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Invalid => "invalid",
            Outcome::Held => "held",
            Outcome::WaitTimeout => "wait_timeout",
            Outcome::WaitCancelled => "wait_cancelled",
            Outcome::Fenced => "fenced",
            Outcome::Busy => "busy",
            Outcome::NotServed => "not_served",
            Outcome::Unknown => "outcome_unknown",
            Outcome::Denied => "denied",
            Outcome::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_index_a_table_of_all_of_them() {
        for (nth, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, nth, "{outcome:?}");
        }
    }
}
