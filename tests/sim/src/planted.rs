//! Bugs on purpose, and the number of seeds until each is caught.
//!
//! The crates themselves contain the bugs, behind a feature of the crate `planted`. Without this
//! feature no bug can be chosen.

pub use ::planted::{AVAILABLE, Bug};

/// All planted bugs that the simulator can catch.
pub fn all() -> Vec<Bug> {
    // The omitted bug needs a shard that is idle for a whole TTL, and no simulated shard is. A
    // story of the shard crate shows it.
    Bug::ALL.iter().copied().filter(|bug| *bug != Bug::StampBeforeClock).collect()
}

/// Finds a bug by its name.
pub fn named(name: &str) -> Option<Bug> {
    all().into_iter().find(|bug| format!("{bug:?}") == name)
}

/// From now on, this thread's clusters have this bug and no other.
#[cfg(feature = "planted-bugs")]
pub fn choose(bug: Option<Bug>) {
    ::planted::choose(bug);
}

/// Panics if a bug is chosen, because this build has none.
#[cfg(not(feature = "planted-bugs"))]
pub fn choose(bug: Option<Bug>) {
    assert!(bug.is_none(), "this build has no planted bugs: build with --features planted-bugs");
}
