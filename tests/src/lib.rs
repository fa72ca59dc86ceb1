//! The harness of the whole-system tests: real `palisade` processes on loopback, hurt on request. The processes themselves
//! are [`local_cluster::Processes`]; here they are waited for, and a failure of one is a failed test.
//!
//! * Every process that was started is killed and reaped when its [`Cluster`] is dropped, also when a test fails.
//! * Only one cluster of a test binary runs at a time: a small machine should not time out for being small.
//! * A failing test prints the end of each process's log.
//!
//! Waiting is by condition, with a limit that only a broken system reaches ([`eventually`]); nothing here asserts speed.

mod binary;
mod cluster;
mod hang;
mod locked;
mod program;
pub mod tools;

pub use binary::palisade_binary;
pub use cluster::{Cluster, Spec};
pub use hang::HangingDisk;
pub use local_cluster::{Launch, Process};
pub use locked::{Locked, process_state, runs};
pub use program::compile_c;

use std::time::{Duration, Instant};

/// How long [`eventually`] waits: far beyond what a healthy system takes on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer, and returns it. Panics, naming `what`, if there is none within [`LIMIT`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
