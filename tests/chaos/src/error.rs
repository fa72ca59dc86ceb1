//! The error of the conductor and of its client processes: what could not be done, and why.
//!
//! It is for people. No caller decides by its kind, so there is one type for all.

use std::error::Error as StdError;
use std::fmt::Display;

/// What could not be done, with its cause if another error is the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The whole reason.
    #[error("{0}")]
    Reason(String),
    /// What could not be done, or where, because of another error.
    #[error("{what}: {cause}")]
    Caused {
        /// What could not be done, or where.
        what: String,
        /// The error that is the cause.
        #[source]
        cause: Box<dyn StdError + Send + Sync>,
    },
    /// Another error that says by itself what could not be done.
    #[error("{0}")]
    Other(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// The error of `what`, because of another error.
    pub fn caused(what: impl Display, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Caused { what: what.to_string(), cause: cause.into() }
    }

    /// An error of another kind, which says by itself what could not be done.
    pub fn other(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Other(cause.into())
    }
}

impl From<String> for Error {
    fn from(reason: String) -> Error {
        Error::Reason(reason)
    }
}

impl From<&str> for Error {
    fn from(reason: &str) -> Error {
        Error::Reason(reason.to_owned())
    }
}

/// Says of an error what could not be done because of it.
///
/// ```
/// use palisade_chaos::error::Because;
///
/// let read = std::fs::read("/no/such/file").because("the record");
/// assert!(read.unwrap_err().to_string().starts_with("the record: "));
/// ```
pub trait Because<T> {
    /// The error of `what`, with this error as its cause.
    ///
    /// # Errors
    /// If this is an error.
    fn because(self, what: impl Display) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Because<T> for Result<T, E> {
    fn because(self, what: impl Display) -> Result<T, Error> {
        self.map_err(|cause| Error::caused(what, cause))
    }
}
