//! The two kinds of patterns in a policy: prefixes of lock names, and patterns of identities.

use crate::principal::{Principal, PrincipalError};
use std::fmt;

/// The characters at which a prefix of names may end.
pub(crate) const SEPARATORS: [char; 4] = [':', '/', '.', '-'];

/// A prefix of lock names that ends at a separator (`:`, `/`, `.` or `-`), or the empty one, which
/// is a prefix of all names.
///
/// Without the separator, `pay` would permit `payroll:1` to the team that only meant `pay:1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(String);

/// A prefix that does not end at a separator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prefix {0:?} does not end at a separator, so it would also permit names such as \
     \"{0}2\": write \"{0}:\" (or end it with `/`, `.` or `-`), or \"\" for all names"
)]
pub struct PrefixError(String);

impl Prefix {
    /// Whether a name, or all names with this prefix, begin with it.
    pub fn covers(&self, name: &str) -> bool {
        // A comparison of no bytes is slow where the C library reads them with a mask: an empty
        // string points to no memory, and the processor takes some 100 ns to suppress the fault.
        self.0.is_empty() || name.starts_with(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        match text.is_empty() || text.ends_with(SEPARATORS) {
            true => Ok(Prefix(text.to_owned())),
            false => Err(PrefixError(text.to_owned())),
        }
    }
}

/// A pattern of identities: an exact text, or a prefix with one `*` at its end.
///
/// ```
/// use palisade_access::Pattern;
/// let workers: Pattern = "spiffe://corp/payments/*".parse()?;
/// assert!(workers.matches("spiffe://corp/payments/worker-1"));
/// assert!(!workers.matches("spiffe://corp/billing"));
/// # Ok::<(), palisade_access::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// This identity.
    Exact(Principal),
    /// All identities that begin with this text.
    Begins(String),
}

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A star stands before the end.
    #[error("the pattern {0:?} has a `*` before its end: a pattern is exact, or ends with one `*`")]
    Star(String),
    /// The text is no identity.
    #[error("the pattern {0:?}: {1}")]
    Principal(String, PrincipalError),
}

impl Pattern {
    /// Whether the pattern matches this text.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(principal) => principal.as_str() == text,
            Pattern::Begins(start) => text.starts_with(start),
        }
    }

    /// Whether the pattern matches a principal. A pattern with a star never matches `anonymous`:
    /// rights of clients without identity must be given by name.
    pub fn matches_principal(&self, principal: &Principal) -> bool {
        match self {
            Pattern::Exact(exact) => exact == principal,
            Pattern::Begins(start) => {
                !principal.is_anonymous() && principal.as_str().starts_with(start)
            }
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        let (start, stars) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if start.contains('*') {
            return Err(PatternError::Star(text.to_owned()));
        }
        if stars && start.is_empty() {
            return Ok(Pattern::Begins(String::new()));
        }
        let principal = start
            .parse::<Principal>()
            .map_err(|error| PatternError::Principal(text.to_owned(), error))?;
        Ok(if stars { Pattern::Begins(start.to_owned()) } else { Pattern::Exact(principal) })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(principal) => principal.fmt(f),
            Pattern::Begins(start) => write!(f, "{start}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_separator() {
        for good in ["", "payment:", "a/b/", "host.", "job-"] {
            assert!(good.parse::<Prefix>().is_ok(), "{good:?}");
        }
        let error = "pay".parse::<Prefix>().unwrap_err().to_string();
        assert!(error.contains("write \"pay:\"") && error.contains("\"pay2\""), "{error}");
    }

    #[test]
    fn a_star_stands_at_the_end_only_and_does_not_cover_anonymous() {
        let all: Pattern = "*".parse().unwrap();
        assert!(all.matches_principal(&"alice".parse().unwrap()));
        assert!(!all.matches_principal(&Principal::anonymous()));
        let anonymous: Pattern = "anonymous".parse().unwrap();
        assert!(anonymous.matches_principal(&Principal::anonymous()));
        for bad in ["a*b", "**", "*a", ""] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
    }
}
