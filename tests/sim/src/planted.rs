//! Bugs on purpose, and the number of seeds until each is caught.
//!
//! The crates themselves contain the bugs, behind a feature of the crate `planted`. Without this
//! feature no bug can be chosen.

pub use ::planted::{AVAILABLE, Bug};

/// All planted bugs that the simulator can catch.
pub fn all() -> Vec<Bug> {
    // `StampBeforeClock` needs a shard that is idle for a whole TTL, and no simulated shard is. A
    // story of the shard crate shows it. `OlderTopologyTaken` needs a second topology, and a
    // simulated cluster keeps its first. A test of the routing crate shows it.
    let omitted = [Bug::StampBeforeClock, Bug::OlderTopologyTaken];
    Bug::ALL.iter().copied().filter(|bug| !omitted.contains(bug)).collect()
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
