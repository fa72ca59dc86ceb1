//! The protocol as stories: scripts of what clients and faults do, each followed by a trace of what
//! the replicas made of it.
//!
//! A script (`scripts/*.txt`) is read top to bottom. Its golden text is its assertion: a change of
//! behaviour changes the text, and the story fails. `REWRITE=1 cargo test -p palisade-shard --test
//! stories` writes the texts anew; a changed one is to be read and explained, not just committed.
//! The words of the language stand in `script.rs`, those of the trace in `words.rs`.

#[path = "../shard/cluster/mod.rs"]
mod cluster;
mod script;
mod stage;
mod twin;
mod words;

use script::Script;

fn tell(story: &str) {
    let mut script = Script::default();
    let mut blocks = 0;
    let path = format!("{}/tests/stories/scripts/{story}.txt", env!("CARGO_MANIFEST_DIR"));
    datadriven::walk(&path, |file| {
        file.run(|block| {
            blocks += 1;
            script.run(block)
        })
    });
    assert!(blocks > 0, "{path} was not run: is RUN set?");
}

/// A story that cannot fail is worth nothing: each bug that is planted in replica and table changes
/// one at least. Other crates have bugs, too, which no replica shows.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_change_the_stories() {
    use planted::{Bug, choose};
    let elsewhere = [
        Bug::UnknownToldAsNotDone,
        Bug::DoubtForgotten,
        Bug::RetriedUnderNewId,
        Bug::ValidityTooLong,
        Bug::OlderRoutesTaken,
        // No table of a story is taken over in several pieces.
        Bug::RowNotTakenOver,
        // Hosts give births, and no story has one.
        Bug::BirthReused,
        // No story takes in two members by snapshots, or has a host that acts by the topology.
        Bug::SnapshotWithoutReceiver,
        Bug::DestroyedByHearsay,
        // No story has META.
        Bug::ProposalToldEarly,
        Bug::FoundersOfTheFile,
        // No story watches.
        Bug::WatchMissesNewTerm,
        Bug::WatchTellsProposed,
        Bug::WatchSkipsOnResume,
    ];
    for bug in Bug::ALL.iter().copied().filter(|bug| !elsewhere.contains(bug)) {
        choose(Some(bug));
        let changed: Vec<&str> = STORIES
            .iter()
            .copied()
            .filter(|story| std::panic::catch_unwind(|| tell(story)).is_err())
            .collect();
        choose(None);
        println!("{bug:?}: {}", changed.join(", "));
        assert!(!changed.is_empty(), "no story changes with {bug:?}");
    }
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            tell(stringify!($name));
        })*

        const STORIES: &[&str] = &[$(stringify!($name)),*];
    };
}

stories! {
    one_acquire
    failover_with_held_locks
    expiry_race
    retry_after_unknown_outcome
    waiter_death
    snapshot_catch_up
    restart_from_checkpoint
    stalled_ex_leader
    follower_read
    session_end
    shared_and_exclusive
    lost_disk
    spare_followers
    handover
    restless_leaders
    idle_then_two_moves
    session_lives
    claimed_grant
    given_up
    identities
    member_replaced
    leader_not_wanted
    level_reached
    older_wish
    five_to_three
}

#[test]
fn every_script_is_told() {
    let dir = format!("{}/tests/stories/scripts", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(dir).expect("the scripts");
    let mut found: Vec<String> = files
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    found.sort_unstable();
    let mut told: Vec<String> = STORIES.iter().map(|story| format!("{story}.txt")).collect();
    told.sort_unstable();
    assert_eq!(found, told);
}
