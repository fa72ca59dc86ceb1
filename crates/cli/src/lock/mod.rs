//! `palisade lock`: runs a command for as long as a lock is held, and no longer.
//!
//! Three processes share the work, so that one is always left to end the job:
//!
//! ```text
//! front   the process that was started; passes signals on and exits with the command's code
//!  └ guard   takes, renews and releases the lock; in its own process group, every signal blocked
//!     └ job     the command and all that it starts, in the front's process group
//! ```
//!
//! * The job is every process that descends from the guard. The guard is a subreaper, so that a
//!   process cannot leave by `setsid`, by a process group of its own, or by losing its parent. The
//!   lock is held until the last process of the job is gone.
//! * The terminal sees the front and the job as one group, as if there were no wrapper: Ctrl-Z
//!   stops both, and the shell shows its prompt again. The guard is outside that group, so it
//!   continues to renew and can end a job that is stopped.
//! * Front and guard each end the job if the other is killed. The front is a subreaper as well: it
//!   inherits the job from a dead guard. If both are killed at one moment, only the parent-death
//!   signal of the command itself is left.
//! * Signals come before messages. No process here waits for standard error ([`crate::voice`]).

pub mod at_start;
mod control;
pub mod exec;
mod front;
pub mod guard;
mod job;
mod reach;
pub mod signals;
mod watch;

pub use front::run;

use crate::failure::Failure;
use crate::voice;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

/// Time limit for the last messages of a process that ends.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How often the guard polls state that sends no notice when it changes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Makes a panic end this process at once, so that its counterpart ends the job. Unwinding could
/// hang, and so could a message.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        voice::say(format!("palisade: {panic}\n"));
        voice::flush(LAST_WORDS);
        std::process::abort();
    }));
}

/// Prints a failure like [`Failure::print`], without waiting for a reader.
fn tell(failure: &Failure) {
    voice::say(failure.for_people());
}

/// The command's own code, or 128 + N if signal N ended it, as in shells.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Names processes: `process 5`, `processes 5, 6`, or `some process` if none could be seen.
fn list_processes(pids: &[i32]) -> String {
    const SHOWN: usize = 8;
    if pids.is_empty() {
        return "some process".into();
    }
    let shown: Vec<String> = pids.iter().take(SHOWN).map(i32::to_string).collect();
    let word = if pids.len() == 1 { "process" } else { "processes" };
    let more = if pids.len() > SHOWN {
        format!(" and {} more", pids.len() - SHOWN)
    } else {
        String::new()
    };
    format!("{word} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn exit_codes_pass_through() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(exit_code(ExitStatus::from_raw(9)), ExitCode::from(137));
        assert_eq!(exit_code(ExitStatus::from_raw(40)), ExitCode::from(168), "a real-time signal");
    }

    #[test]
    fn processes_are_listed_in_words() {
        assert_eq!(list_processes(&[]), "some process");
        assert_eq!(list_processes(&[5]), "process 5");
        assert_eq!(list_processes(&[5, 6]), "processes 5, 6");
        let ten: Vec<i32> = (1..=10).collect();
        assert_eq!(list_processes(&ten), "processes 1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }
}
