//! Bugs on purpose, and how many seeds it takes until each is caught.
//!
//! The bugs stand in the crates themselves, behind their feature `planted-bugs`; without it none can be chosen.

use std::fmt;

/// One bug of any crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// In the lock table or the replica.
    Server(locks::planted::Bug),
    /// In the SDK, parts of which are the gateway's.
    Client(client::planted::Bug),
}

impl Bug {
    /// All of them.
    pub fn all() -> Vec<Bug> {
        // No simulated shard is idle for as long as a TTL, which this one needs: a story of the shard crate shows it.
        let shows = |bug: &locks::planted::Bug| *bug != locks::planted::Bug::StampBeforeClock;
        let server = locks::planted::Bug::ALL.into_iter().filter(shows).map(Bug::Server);
        server.chain(client::planted::Bug::ALL.map(Bug::Client)).collect()
    }

    /// By the name that `Display` gives.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::all().into_iter().find(|bug| bug.to_string() == name)
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Bug::Server(bug) => format!("{bug:?}"),
            Bug::Client(bug) => format!("{bug:?}"),
        };
        f.pad(&name)
    }
}

/// Whether this build has any.
pub const AVAILABLE: bool = cfg!(feature = "planted-bugs");

/// From now on this thread's clusters have this bug, and no other.
#[cfg(feature = "planted-bugs")]
pub fn choose(bug: Option<Bug>) {
    locks::planted::choose(if let Some(Bug::Server(bug)) = bug { Some(bug) } else { None });
    client::planted::choose(if let Some(Bug::Client(bug)) = bug { Some(bug) } else { None });
}

/// Panics if asked for one: this build has none.
#[cfg(not(feature = "planted-bugs"))]
pub fn choose(bug: Option<Bug>) {
    assert!(bug.is_none(), "this build has no planted bugs: build with --features planted-bugs");
}
