//! What went wrong, sorted by what to do next.

use std::time::Duration;
use wire::ErrorClass;
use wire::v1::ErrorCode;

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Error {
    /// What happened.
    pub code: ErrorCode,
    /// For people: what happened and what to do next.
    pub message: String,
    /// The fencing token that holds the name now, if one does and the server said so.
    pub current_token: Option<u64>,
    /// The owner of one current holder, if the lock is held by another. May be empty: the protocol does not ask who acquires.
    pub holder: Option<String>,
    /// How long to wait before the next try, if the server said so.
    pub retry_after: Option<Duration>,
    unreachable: bool,
}

impl Error {
    /// No gateway could be connected to, so this says nothing about the cluster, and nothing was done. Is one running there?
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// The lock is another's, and is still so after the wait, if there was one. Wait (longer), or try later.
    pub fn is_held(&self) -> bool {
        self.code.class() == ErrorClass::TryLater
    }

    /// The lock is lost: stop acting on it at once.
    pub fn is_fenced(&self) -> bool {
        self.code.class() == ErrorClass::Fenced
    }

    /// Nothing was done, and later it may be: the cluster is busy, or has no quorum.
    pub fn is_retryable(&self) -> bool {
        self.code.class() == ErrorClass::Retry
    }

    /// It may or may not have been done: try again with the same ids, or look.
    pub fn is_outcome_unknown(&self) -> bool {
        self.code.class() == ErrorClass::Unknown
    }

    /// The request can never succeed as it is.
    pub fn is_invalid(&self) -> bool {
        self.code.class() == ErrorClass::FixInput
    }

    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            current_token: None,
            holder: None,
            retry_after: None,
            unreachable: false,
        }
    }

    /// No try got through to any of the gateways at `addresses`; `why` is what the last one failed with.
    pub(crate) fn unreachable(addresses: &[String], within_ms: u128, why: &str) -> Error {
        let who = match addresses {
            [only] => format!("the gateway at {only} could not be reached"),
            several => format!("none of the gateways at {} could be reached", several.join(", ")),
        };
        let message = format!("{who} within {within_ms} ms (last: {why}): is a gateway running there?");
        Error { unreachable: true, ..Error::new(ErrorCode::NoLeader, message) }
    }

    /// Of what follows a grant: whatever was not done there, the grant was. Only the loss of the lock is told as it is.
    pub(crate) fn after_grant(self, token: u64) -> Error {
        if self.is_fenced() {
            return self;
        }
        let why = self.message;
        Error::new(
            ErrorCode::OutcomeUnknown,
            format!("granted with token {token}, but its lease could not be confirmed: {why}"),
        )
    }

    /// Of an acquire that was refused, while an earlier try of it could not be cancelled (`why`).
    pub(crate) fn in_doubt(self, why: &Error) -> Error {
        let message = format!(
            "an earlier try may be granted yet, and could not be cancelled ({why}), though the last one was refused ({self}): \
             try again with the same request id"
        );
        Error::new(ErrorCode::OutcomeUnknown, message)
    }

    /// Of an acquire that found a grant of an earlier one.
    pub(crate) fn being_released(token: u64) -> Error {
        let message = format!(
            "this request id was granted token {token} before, and that is being released: try again, or with another request id"
        );
        Error::new(ErrorCode::OutcomeUnknown, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidArgument, message)
    }

    /// The server answered something else than what was asked for.
    pub(crate) fn confused(asked: &str) -> Error {
        Error::new(
            ErrorCode::Internal,
            format!("the answer to {asked} is of another kind: are client and server of one version?"),
        )
    }
}

impl From<wire::v1::Error> for Error {
    fn from(error: wire::v1::Error) -> Error {
        let code = error.code();
        Error {
            code,
            message: error.message,
            current_token: (error.current_token != 0).then_some(error.current_token),
            holder: matches!(code, ErrorCode::Held | ErrorCode::WaitTimeout).then_some(error.holder),
            retry_after: (error.retry_after_ms != 0).then(|| Duration::from_millis(error.retry_after_ms.into())),
            unreachable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_grant_only_its_loss_is_told_as_it_is() {
        let nobody = Error::unreachable(&["127.0.0.1:1".into()], 5, "refused");
        assert!(nobody.is_unreachable() && nobody.is_retryable());
        let in_doubt = nobody.after_grant(7);
        assert!(in_doubt.is_outcome_unknown() && !in_doubt.is_unreachable() && !in_doubt.is_retryable(), "{in_doubt}");
        assert!(in_doubt.message.contains("granted with token 7"), "{in_doubt}");
        assert!(Error::new(ErrorCode::Expired, "over").after_grant(7).is_fenced());
    }
}
