//! Bugs on purpose, and the number of seeds until each is caught.
//!
//! The crates themselves contain the bugs, behind their feature `planted-bugs`. Without this
//! feature no bug can be chosen.

use std::fmt;

/// One planted bug of any crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A bug in the lock table or the replica.
    Server(locks::planted::Bug),
    /// A bug in the SDK, parts of which belong to the gateway.
    Client(client::planted::Bug),
}

impl Bug {
    /// All planted bugs that the simulator can catch.
    pub fn all() -> Vec<Bug> {
        // The omitted bug needs a shard that is idle for a whole TTL, and no simulated shard is. A
        // story of the shard crate shows it.
        let shows = |bug: &locks::planted::Bug| *bug != locks::planted::Bug::StampBeforeClock;
        let server = locks::planted::Bug::ALL.into_iter().filter(shows).map(Bug::Server);
        server.chain(client::planted::Bug::ALL.map(Bug::Client)).collect()
    }

    /// Finds a bug by the name that its `Display` gives.
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

/// Whether this build contains planted bugs.
pub const AVAILABLE: bool = cfg!(feature = "planted-bugs");

/// From now on, this thread's clusters have this bug and no other.
#[cfg(feature = "planted-bugs")]
pub fn choose(bug: Option<Bug>) {
    locks::planted::choose(if let Some(Bug::Server(bug)) = bug { Some(bug) } else { None });
    client::planted::choose(if let Some(Bug::Client(bug)) = bug { Some(bug) } else { None });
}

/// Panics if a bug is chosen, because this build has none.
#[cfg(not(feature = "planted-bugs"))]
pub fn choose(bug: Option<Bug>) {
    assert!(bug.is_none(), "this build has no planted bugs: build with --features planted-bugs");
}
