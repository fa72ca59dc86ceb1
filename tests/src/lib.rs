//! The harness of the whole-system tests: real `palisade` processes on loopback, with faults on
//! request.
//!
//! [`local_cluster::Processes`] runs the processes. This crate waits for them, and turns a failed
//! process into a failed test.
//!
//! * Every process that was started is killed and reaped when its [`Cluster`] is dropped, also when
//!   a test fails.
//! * Only one cluster of a test binary runs at a time, because a small machine should not time out
//!   for being small.
//! * A failing test prints the end of each process's log.
//!
//! Tests wait for conditions, with a limit that only a broken system reaches ([`eventually`]). No
//! test asserts speed.

pub mod authority;
mod binary;
mod cluster;
pub mod files;
pub mod handshake;
mod hang;
mod locked;
mod program;
pub mod tools;

pub use binary::palisade_binary;
pub use cluster::{Cluster, Secured, Spec};
pub use hang::HangingDisk;
pub use local_cluster::{Launch, Process};
pub use locked::{Locked, process_state, runs};
pub use program::compile_c;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest wait of [`eventually`]. It is far longer than a healthy system needs on a slow
/// machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer, and returns it. Panics with `what` in the message if there is no
/// answer within [`LIMIT`].
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

/// Lets the command start in a process group of its own.
///
/// A job under `palisade lock` has its parent, the guard, in another group. When the last such
/// member of a group ends, the kernel sends SIGHUP to the group if one of its members is stopped,
/// as a node is that a test pauses. That would end the test run.
pub fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Whether a process ignores a signal. Its children inherit that: a job that a script starts in the
/// background ignores SIGINT, and so does all that it starts.
///
/// # Panics
/// If there is no such process.
pub fn ignores(process: &str, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hex");
    mask & 1 << (signal - 1) != 0
}
