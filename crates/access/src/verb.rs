//! What can be permitted.

use std::fmt;

/// One kind of permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Take, renew and release locks, and keep sessions.
    Hold,
    /// See who holds a lock, and its history.
    Read,
    /// Be told of changes of a lock.
    Watch,
    /// End the hold of another.
    Break,
    /// See the state of the cluster.
    Observe,
    /// Change the cluster.
    Operate,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Verb; 6] =
        [Verb::Hold, Verb::Read, Verb::Watch, Verb::Break, Verb::Observe, Verb::Operate];

    /// The verb as files and command lines write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Hold => "hold",
            Verb::Read => "read",
            Verb::Watch => "watch",
            Verb::Break => "break",
            Verb::Observe => "observe",
            Verb::Operate => "operate",
        }
    }

    /// Whether the verb is permitted for names, and not for the cluster as a whole.
    pub fn is_of_names(self) -> bool {
        !matches!(self, Verb::Observe | Verb::Operate)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the verbs are hold, read, watch, break, observe and operate")]
pub struct VerbError;

impl std::str::FromStr for Verb {
    type Err = VerbError;

    fn from_str(word: &str) -> Result<Verb, VerbError> {
        Verb::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or(VerbError)
    }
}
