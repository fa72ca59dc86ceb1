//! The client's error, sorted by the next step of the caller.

use std::time::Duration;
use wire::ErrorClass;
use wire::v1::ErrorCode;

/// The error of a failed operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Error {
    /// The kind of the error.
    pub code: ErrorCode,
    /// A message for people: the event and the next step.
    pub message: String,
    /// The fencing token that holds the name now, if there is one and the server sent it.
    pub current_token: Option<u64>,
    /// The owner of one current holder, if another holds the lock. May be empty, because the
    /// protocol does not require an owner.
    pub holder: Option<String>,
    /// How long to wait before the next try, if the server asked for a delay.
    pub retry_after: Option<Duration>,
    unreachable: bool,
}

impl Error {
    /// No gateway could be reached. Nothing was done, and nothing is known of the cluster. Check
    /// that a gateway runs there.
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Another holds the lock, also after the wait if there was one. Wait longer, or try later.
    pub fn is_held(&self) -> bool {
        self.code.class() == ErrorClass::TryLater
    }

    /// The lock is lost: stop acting on it at once.
    pub fn is_fenced(&self) -> bool {
        self.code.class() == ErrorClass::Fenced
    }

    /// Nothing was done, but a later try may succeed: the cluster is busy, or has no quorum.
    pub fn is_retryable(&self) -> bool {
        self.code.class() == ErrorClass::Retry
    }

    /// The operation may or may not have been done. Try again with the same ids, or check.
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

    /// No try reached any of the gateways at `addresses`. `why` is the failure of the last try.
    pub(crate) fn unreachable(addresses: &[String], within_ms: u128, why: &str) -> Error {
        let who = match addresses {
            [only] => format!("the gateway at {only} could not be reached"),
            several => format!("none of the gateways at {} could be reached", several.join(", ")),
        };
        let message =
            format!("{who} within {within_ms} ms (last: {why}): is a gateway running there?");
        Error { unreachable: true, ..Error::new(ErrorCode::NoLeader, message) }
    }

    /// The error of a step after a grant. The lock was granted even if the step failed, so the
    /// outcome is unknown. Only the loss of the lock is passed on as it is.
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

    /// The error of an acquire that was refused while an earlier try could not be cancelled; `why`
    /// is the error of the cancel.
    pub(crate) fn in_doubt(self, why: &Error) -> Error {
        let message = format!(
            "the last try was refused ({self}), but an earlier one got no answer and could not be \
             cancelled ({why}). The lock may still be granted: try again with the same request id"
        );
        Error::new(ErrorCode::OutcomeUnknown, message)
    }

    /// The error of an acquire that found an earlier grant of its id, which is being released.
    pub(crate) fn being_released(token: u64) -> Error {
        let message = format!(
            "this request id was granted token {token} before, and that is being released: try again, or with another request id"
        );
        Error::new(ErrorCode::OutcomeUnknown, message)
    }

    /// Whether a retry of a release cannot change the answer, because the lock is not held (any
    /// more).
    pub(crate) fn is_final(&self) -> bool {
        self.is_fenced() || self.is_invalid()
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidArgument, message)
    }

    /// The server's answer does not match the operation.
    pub(crate) fn confused(asked: &str) -> Error {
        Error::new(
            ErrorCode::Internal,
            format!(
                "the answer to {asked} is of another kind: are client and server of one version?"
            ),
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
            holder: matches!(code, ErrorCode::Held | ErrorCode::WaitTimeout)
                .then_some(error.holder),
            retry_after: (error.retry_after_ms != 0)
                .then(|| Duration::from_millis(error.retry_after_ms.into())),
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
        assert!(
            in_doubt.is_outcome_unknown() && !in_doubt.is_unreachable() && !in_doubt.is_retryable(),
            "{in_doubt}"
        );
        assert!(in_doubt.message.contains("granted with token 7"), "{in_doubt}");
        assert!(Error::new(ErrorCode::Expired, "over").after_grant(7).is_fenced());
    }
}
