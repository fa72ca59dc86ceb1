//! Typed errors: the caller's next step, and the conversion to a gRPC status and back.

use crate::details;
use crate::v1::{Error, ErrorCode};
use tonic::{Code, Status};

/// The next step for the caller of a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The same request will never succeed.
    FixInput,
    /// Another holds the lock: wait for it, or try later.
    TryLater,
    /// Stop acting on this lock at once.
    Fenced,
    /// Nothing was done: retry, perhaps elsewhere.
    Retry,
    /// The operation may or may not have been done: retry with the same ids, or check.
    Unknown,
    /// The caller's identity is not known, or may not do this: nothing was done.
    Denied,
    /// A defect of the service.
    Internal,
}

impl ErrorCode {
    /// The next step for the caller.
    pub fn class(self) -> ErrorClass {
        match self {
            ErrorCode::InvalidArgument | ErrorCode::VersionMoved => ErrorClass::FixInput,
            ErrorCode::Held | ErrorCode::WaitTimeout | ErrorCode::WaitCancelled => {
                ErrorClass::TryLater
            }
            ErrorCode::NotOwner | ErrorCode::Expired | ErrorCode::SessionLost => ErrorClass::Fenced,
            ErrorCode::Busy | ErrorCode::NoLeader | ErrorCode::ShuttingDown => ErrorClass::Retry,
            ErrorCode::OutcomeUnknown => ErrorClass::Unknown,
            ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => ErrorClass::Denied,
            ErrorCode::Unspecified | ErrorCode::Internal => ErrorClass::Internal,
        }
    }

    /// The name without the enum's prefix, as in `HELD`. Used in JSON, logs and
    /// `google.rpc.ErrorInfo`.
    pub fn name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_CODE_").unwrap_or(name)
    }

    /// The gRPC code of the status for this error.
    pub fn status_code(self) -> Code {
        match self {
            ErrorCode::InvalidArgument => Code::InvalidArgument,
            ErrorCode::Held | ErrorCode::WaitTimeout | ErrorCode::WaitCancelled => Code::Aborted,
            ErrorCode::VersionMoved
            | ErrorCode::NotOwner
            | ErrorCode::Expired
            | ErrorCode::SessionLost => Code::FailedPrecondition,
            ErrorCode::Busy => Code::ResourceExhausted,
            ErrorCode::NoLeader | ErrorCode::ShuttingDown => Code::Unavailable,
            ErrorCode::OutcomeUnknown => Code::Unknown,
            ErrorCode::Unauthenticated => Code::Unauthenticated,
            ErrorCode::PermissionDenied => Code::PermissionDenied,
            ErrorCode::Unspecified | ErrorCode::Internal => Code::Internal,
        }
    }
}

impl Error {
    /// An error with only a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error { code: code.into(), message: message.into(), ..Error::default() }
    }

    /// The input can never succeed. `message` says how to change it.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidArgument, message)
    }

    /// Another holds the name.
    pub fn held(
        message: impl Into<String>,
        current_token: u64,
        holder: impl Into<String>,
    ) -> Error {
        Error { current_token, holder: holder.into(), ..Error::new(ErrorCode::Held, message) }
    }

    /// The token does not hold the name. `current_token` does, or 0 if the name is free.
    pub fn not_owner(message: impl Into<String>, current_token: u64) -> Error {
        Error { current_token, ..Error::new(ErrorCode::NotOwner, message) }
    }

    /// A queue or limit is full, and nothing was done.
    pub fn busy(message: impl Into<String>, retry_after_ms: u32) -> Error {
        Error { retry_after_ms, ..Error::new(ErrorCode::Busy, message) }
    }

    /// The shard has no leader, or no quorum, right now.
    pub fn no_leader(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::NoLeader, message)
    }

    /// The operation may or may not have been done.
    pub fn outcome_unknown(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::OutcomeUnknown, message)
    }

    /// A defect of the service itself.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::Internal, message)
    }

    /// The next step for the caller. Codes of a later version count as [`ErrorClass::Internal`].
    pub fn class(&self) -> ErrorClass {
        self.code().class()
    }

    /// Whether the same request may be sent again. Nothing was done, or the ids of the operation
    /// make a second time harmless.
    pub fn is_retryable(&self) -> bool {
        matches!(self.class(), ErrorClass::Retry | ErrorClass::Unknown)
    }

    /// The typed error in the details of a status. `None` for gRPC's own statuses: a lost
    /// connection, an unknown method, a message over the size limit.
    pub fn from_status(status: &Status) -> Option<Error> {
        details::decode(status.details()).filter(|error| error.code() != ErrorCode::Unspecified)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code().name(), self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let details = details::encode(&error);
        Status::with_details(error.code().status_code(), error.message, details.into())
    }
}
