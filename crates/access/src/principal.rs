//! The name of an identity.

use std::fmt;
use std::sync::Arc;

/// The principal of a client that has proven no identity.
pub const ANONYMOUS: &str = "anonymous";
/// Most bytes of a principal.
const BYTES_MAX: usize = 256;

/// The name of an identity: 1 to 256 bytes without control characters. Cheap to clone.
///
/// ```
/// use palisade_access::Principal;
/// let alice: Principal = "alice".parse()?;
/// assert_eq!(alice.as_str(), "alice");
/// assert!("".parse::<Principal>().is_err());
/// # Ok::<(), palisade_access::PrincipalError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

/// A text that is no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// It has no characters.
    #[error("the identity is empty: name one")]
    Empty,
    /// It has more than 256 bytes.
    #[error("the identity has {bytes} bytes: at most {BYTES_MAX} are possible")]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
    /// It has a control character.
    #[error("the identity has a control character at byte {at}: take it out")]
    Control {
        /// The place of the first one, in bytes.
        at: usize,
    },
}

impl Principal {
    /// The principal of a client that has proven no identity.
    pub fn anonymous() -> Principal {
        Principal(ANONYMOUS.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no identity was proven.
    pub fn is_anonymous(&self) -> bool {
        &*self.0 == ANONYMOUS
    }
}

impl std::str::FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Principal, PrincipalError> {
        if text.is_empty() {
            return Err(PrincipalError::Empty);
        }
        if text.len() > BYTES_MAX {
            return Err(PrincipalError::TooLong { bytes: text.len() });
        }
        match text.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, _)) => Err(PrincipalError::Control { at }),
            None => Ok(Principal(text.into())),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_one_to_256_bytes_without_control_characters() {
        let parse = str::parse::<Principal>;
        assert!(parse("spiffe://corp/payments/worker").is_ok() && parse(&"x".repeat(256)).is_ok());
        assert_eq!(parse(""), Err(PrincipalError::Empty));
        assert_eq!(parse(&"x".repeat(257)), Err(PrincipalError::TooLong { bytes: 257 }));
        assert_eq!(parse("a\nb"), Err(PrincipalError::Control { at: 1 }));
    }
}
