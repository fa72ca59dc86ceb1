//! The result of an operation that reaches no replica.

use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1::Error;

/// The result of an operation that reaches no replica. It is boxed because it is large and rare.
pub type Refused = Box<OpResult>;

/// The error as a result.
pub fn refused(error: Error) -> Refused {
    Box::new(OpResult::Error(error))
}

pub(crate) fn invalid(message: impl Into<String>) -> Refused {
    refused(Error::invalid(message))
}
