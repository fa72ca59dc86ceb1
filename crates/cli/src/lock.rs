//! `palisade lock`: runs a command for as long as a lock is held, and no longer.
//!
//! * The command is dead before the lock can be another's: it gets SIGTERM while [`Margins::term`] of validity is left,
//!   its whole process group SIGKILL when [`Margins::kill`] is left, whatever the cluster or the network do.
//! * A lock that is lost all at once (broken by somebody) leaves [`LOST_GRACE`] between the two.
//! * It cannot keep this promise while this process itself is stopped (SIGSTOP): then fencing must.
//!
//! It knows no protocol: renewal and validity are the SDK guard's.

use crate::args;
use crate::exec;
use crate::failure::{Exit, Failure};
use crate::verbs;
use client::{AcquireOptions, LockGuard, RequestId};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// Between SIGTERM and SIGKILL when the lock is gone already.
const LOST_GRACE: Duration = Duration::from_millis(250);
/// How long the release at the end may take; without it the lock ends with its TTL.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a lock that is lost, or about to be: whoever could be asked did not answer before.
const LOST_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// A TTL below this leaves no time to end a command in.
const TTL_MIN_MS: u32 = 1_000;

/// How much validity must be left, before the command is asked to end and before it is made to.
///
/// * `kill < term <= ttl / 3`: a healthy guard renews every third of its TTL, so it never comes near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Margins {
    term: Duration,
    kill: Duration,
}

impl Margins {
    fn of(ttl: Duration) -> Margins {
        let margins = Margins {
            term: (ttl / 3).min(Duration::from_secs(5)), //
            kill: (ttl / 10).min(Duration::from_secs(1)),
        };
        assert!(margins.kill < margins.term, "{margins:?} of {ttl:?}");
        margins
    }
}

/// Runs `palisade lock`. The exit code is the command's, unless the lock was lost.
///
/// # Errors
/// Whatever kept the command from running, or from running to its own end.
pub async fn run(args: &args::Lock) -> Result<ExitCode, Failure> {
    if args.ttl < TTL_MIN_MS {
        let next = "use a --ttl of at least 1s: below that there is no time to end the command in";
        return Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", "the TTL is too short for `palisade lock`", next));
    }
    let client = verbs::connect(&args.gateways);
    let request_id = verbs::new_request_id();
    let mut signals = Forwarded::listen();
    let guard = tokio::select! {
        guard = client.lock(options(args, request_id)) => guard,
        signal = signals.next() => {
            verbs::let_go(&client, &args.name, request_id).await;
            return Ok(ExitCode::from(128 + signal as u8));
        }
    };
    let guard = match guard {
        Ok(guard) => guard,
        Err(error) => {
            // It may have been granted, or may yet be: nobody else knows of it, so it would be held for its whole TTL. Unless
            // nobody was asked.
            if !error.is_held() && !error.is_unreachable() {
                verbs::let_go(&client, &args.name, request_id).await;
            }
            return Err(error.into());
        }
    };
    let mut child = match spawn(args, guard.token()) {
        Ok(child) => child,
        Err(error) => {
            release(guard, RELEASE_TIMEOUT).await;
            return Err(Failure::new(Exit::Error, "CANNOT_RUN", format!("cannot start the command: {error}"), ""));
        }
    };
    let margins = Margins::of(Duration::from_millis(args.ttl.into()));
    let (status, lost) = watch(&mut child, &guard, margins, &mut signals).await;
    if stdin_was_ours() {
        exec::take_foreground();
    }
    release(guard, if lost { LOST_RELEASE_TIMEOUT } else { RELEASE_TIMEOUT }).await;
    if lost {
        return Err(Failure::new(
            Exit::Fenced,
            "LOCK_LOST",
            format!("the lock on {} could not be kept; the command was ended ({status})", args.name),
            "see why with `palisade history NAME` and `palisade cluster status`; what the command did is fenced by its token",
        ));
    }
    Ok(exit_code(status))
}

/// Waits for the command, passing signals on, and ends it when the lock's validity does. Returns whether it came to that.
async fn watch(child: &mut Child, guard: &LockGuard, margins: Margins, signals: &mut Forwarded) -> (ExitStatus, bool) {
    let group = Pid::from_raw(child.id().expect("a child that was not waited for") as i32);
    let send = |signal| {
        // Fails only if the group is gone, which wait() reports.
        let _ = killpg(group, signal);
    };
    let mut kill_at = None;
    loop {
        let wake_at = kill_at.unwrap_or_else(|| Instant::now() + guard.valid_for().saturating_sub(margins.term));
        tokio::select! {
            biased;
            status = child.wait() => {
                if kill_at.is_some() {
                    send(Signal::SIGKILL); // what the command left behind in its group
                }
                return (status.expect("wait for a child"), kill_at.is_some());
            }
            reason = guard.lost(), if kill_at.is_none() => {
                eprintln!("palisade: the lock is lost ({reason}); ending the command");
                send(Signal::SIGTERM);
                kill_at = Some(Instant::now() + LOST_GRACE);
            }
            () = sleep_until(wake_at) => match kill_at {
                Some(_) => {
                    send(Signal::SIGKILL);
                    return (child.wait().await.expect("wait for a child"), true);
                }
                None => {
                    let left = guard.valid_for();
                    if left <= margins.term {
                        eprintln!("palisade: the lock could not be renewed; ending the command while it is still held");
                        send(Signal::SIGTERM);
                        kill_at = Some(Instant::now() + left.saturating_sub(margins.kill));
                    }
                }
            },
            signal = signals.next() => send(signal),
        }
    }
}

fn options(args: &args::Lock, request_id: RequestId) -> AcquireOptions {
    AcquireOptions::new(&args.name)
        .owner(args.owner.clone().unwrap_or_else(args::user_at_host))
        .ttl(Duration::from_millis(args.ttl.into()))
        .wait(Duration::from_millis(args.wait.into()))
        .mode(verbs::mode(args.mode))
        .metadata(args.metadata.clone().unwrap_or_else(|| verbs::as_metadata(&args.command)))
        .request_id(request_id)
}

fn spawn(args: &args::Lock, token: u64) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("__exec").arg("--parent").arg(std::process::id().to_string());
    if stdin_was_ours() {
        command.arg("--foreground");
    }
    command.arg("--").args(&args.command);
    command.env("PALISADE_TOKEN", token.to_string()).env("PALISADE_RESOURCE", &args.name);
    command.process_group(0).kill_on_drop(true).spawn()
}

/// Whether the terminal's foreground was this process's group, or the command's that inherited it.
fn stdin_was_ours() -> bool {
    use std::sync::OnceLock;
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp()))
}

async fn release(guard: LockGuard, timeout: Duration) {
    if let Ok(Err(error)) = tokio::time::timeout(timeout, guard.release()).await {
        tracing::info!(%error, "the lock was not released; it ends with its TTL");
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Signals that are passed on to the command.
struct Forwarded {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Forwarded {
    fn listen() -> Forwarded {
        let listen = |kind| signal(kind).expect("listen for a signal");
        Forwarded {
            interrupt: listen(SignalKind::interrupt()),
            terminate: listen(SignalKind::terminate()),
            hangup: listen(SignalKind::hangup()),
        }
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_leave_time_for_both_signals_and_never_meet_a_healthy_renewal() {
        for ttl_ms in [1_000, 2_000, 10_000, 30_000, 86_400_000] {
            let ttl = Duration::from_millis(ttl_ms);
            let margins = Margins::of(ttl);
            assert!(margins.kill >= Duration::from_millis(100), "{margins:?}");
            assert!(margins.term <= ttl / 3 && margins.kill < margins.term, "{margins:?}");
        }
        assert_eq!(Margins::of(Duration::from_secs(30)).term, Duration::from_secs(5));
    }

    #[test]
    fn exit_codes_pass_through() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(exit_code(ExitStatus::from_raw(9)), ExitCode::from(137));
    }
}
