//! `palisade __guard`: takes the lock, starts the command, renews the lock while any process of the
//! job lives, and ends the job when the lock ends.
//!
//! * The job is dead before another request can hold the lock. Its [`watch`] decides when the job
//!   is asked to end and when it is killed.
//! * The command starts only under a lock that stays valid for long enough to end the command
//!   again.
//! * A valid lock is never released while a process of the job lives, even one that cannot be
//!   ended. If such a process is left when the lock is lost, the lock is left to its TTL.
//! * The guard listens to its front only. It blocks every signal, so that no terminal and no
//!   `killall` ends it before the job.
//! * It cannot keep its promise while it is stopped together with its front (a frozen container).
//!   Then fencing must protect the resource.
//!
//! The guard knows no protocol: renewal and validity belong to the SDK's guard.
//!
//! [`watch`]: crate::lock::watch

use crate::args::{self, Cli};
use crate::failure::{Exit, Failure};
use crate::lock::control::Control;
use crate::lock::job::{Job, Process};
use crate::lock::signals::{self, Heard, Signals, send};
use crate::lock::watch::{Ended, Margins, Watch};
use crate::lock::{LAST_WORDS, LOOK_AGAIN, abort_on_panic, exit_code, list_processes, reach, tell};
use crate::queue;
use crate::shown::shown;
use crate::verbs;
use crate::voice;
use client::{AcquireOptions, Client, Held, LockGuard, LostReason, RequestId};
use nix::sys::prctl;
use nix::unistd::getppid;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Time limit for the release of a lock that is lost, or about to be. It is short, because the
/// servers did not answer before either.
const LOST_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// The share of `--timeout` that is kept for leaving the queue; [`CANCEL_MAX`] limits it.
const CANCEL_SHARE: u32 = 5;
const CANCEL_MAX: Duration = Duration::from_secs(1);

/// Runs the guard as the front has started it.
pub fn run(guard: &args::Guard) -> ExitCode {
    abort_on_panic();
    let code = match start(guard) {
        Ok(code) => code,
        Err(failure) => {
            tell(&failure);
            failure.exit.into()
        }
    };
    voice::flush(LAST_WORDS);
    // A front that the terminal has stopped must see this end.
    if getppid().as_raw() == guard.front {
        let _ = send(guard.front, libc::SIGCONT);
    }
    code
}

fn start(guard: &args::Guard) -> Result<ExitCode, Failure> {
    let cannot = |what: &str, error: io::Error| {
        Failure::new(Exit::Error, "CANNOT_RUN", format!("{what}: {error}"), "")
    };
    Signals::ALL.block().map_err(|error| cannot("cannot block signals", error.into()))?;
    // The process gets another name, so that `killall palisade` does not end front and guard at
    // once.
    let _ = prctl::set_name(c"lock-guard");
    prctl::set_child_subreaper(true)
        .map_err(|error| cannot("cannot adopt orphans", error.into()))?;
    let words = std::iter::once(OsString::from("palisade")).chain(guard.words.iter().cloned());
    let Ok(Cli { command: args::Command::Lock(args) }) = args::parse(words) else {
        return Err(Failure::new(
            Exit::Usage,
            "INVALID_ARGUMENT",
            "the guard runs `palisade lock` only",
            "",
        ));
    };
    crate::logging::start_with("warn", voice::say);
    // This comes before the guard starts any process, so that no child counts as a stranger.
    let job = Job::of_this_process().map_err(|error| cannot("cannot see processes", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot("cannot start", error))?;
    let outcome = runtime.block_on(async {
        let control =
            Control::open(guard.control).map_err(|error| cannot("cannot hear the front", error))?;
        let children = Heard::listen(Signals::of(&[libc::SIGCHLD]));
        let children = children.map_err(|error| cannot("cannot wait for children", error))?;
        hold(guard, &args, job, control, children).await
    });
    runtime.shutdown_background();
    outcome
}

/// Holds the lock for one run of the command, from the acquire to the release.
async fn hold(
    guard: &args::Guard,
    args: &args::Lock,
    job: Job,
    mut control: Control,
    children: Heard,
) -> Result<ExitCode, Failure> {
    let all = args.gateways.timeout;
    let until = Instant::now() + Duration::from_millis(args.wait.into()) + all;
    let for_cancel = (all / CANCEL_SHARE).min(CANCEL_MAX);
    let client = verbs::connect_within(&args.gateways, all - for_cancel)?;
    let request_id = verbs::new_request_id();
    let owner = args.owner.clone().unwrap_or_else(|| args::owner_of(guard.front as u32));
    let options = options(args, &owner, request_id)?;
    let acquiring = acquire(&client, options, until - for_cancel, until);
    let acquiring = queue::shown_while(&client, &args.name, &owner, voice::say, acquiring);
    let lock = tokio::select! {
        lock = acquiring => match lock {
            Ok(lock) => lock,
            Err(failure) if failure.exit == Exit::Held => {
                tell(&failure);
                return Ok(ExitCode::from(args.conflict_exit_code));
            }
            Err(failure) => return Err(failure),
        },
        number = control.told_to_end() => {
            verbs::let_go(&client, &args.name, request_id, Instant::now() + all).await;
            return Ok(ExitCode::from(number.map_or(1, |number| 128 + number as u8)));
        }
    };
    let margins = Margins::of(Duration::from_millis(args.ttl.into()));
    match may_start(&lock, margins, guard.front, &mut control).await {
        Start::Now => {}
        Start::Lost(reason) => {
            let message = format!(
                "the lock on {} is lost ({reason}) before the command was started",
                shown(&args.name)
            );
            return Err(Failure::new(Exit::Fenced, "LOCK_LOST", message, "run it again"));
        }
        Start::Never(number) => {
            release(lock, all).await;
            return Ok(ExitCode::from(128 + number as u8));
        }
    }
    let first = match spawn(guard, args, lock.token()) {
        Ok(pid) => pid,
        Err(error) => {
            release(lock, all).await;
            return Err(Failure::new(
                Exit::Error,
                "CANNOT_RUN",
                format!("cannot start the command: {error}"),
                "",
            ));
        }
    };
    let mut watch = Watch::new(&lock, margins, job, first, guard.front);
    let ended = watch.run(&mut control, &children).await;
    let (status, refused): (_, Vec<i32>) = (watch.status, watch.refused.iter().copied().collect());
    drop(control);
    match ended {
        // A release, even one by drop, would give the lock away while these processes work.
        Ended::Outlived(_) => lock.abandon(),
        Ended::Gone { lost, .. } => {
            release(lock, if lost { LOST_RELEASE_TIMEOUT } else { all }).await
        }
    }
    let name = shown(&args.name);
    let escaped = match &ended {
        Ended::Outlived(left) => Some(format!(
            "the lock on {name} is not held any more, and {} of its command could not be ended",
            list_processes(left)
        )),
        Ended::Gone { held_for: Some(left), .. } => Some(format!(
            "{} of the command could not be ended; the lock on {name} was held until all of it had ended",
            list_processes(left)
        )),
        Ended::Gone { .. } if !refused.is_empty() => Some(format!(
            "a signal did not reach {}, which ran as another user",
            list_processes(&refused)
        )),
        Ended::Gone { .. } => None,
    };
    if let Some(message) = escaped {
        let next = "see which user runs it, or which device holds it, and end it as root; its token fences what it does";
        return Err(Failure::new(Exit::Escaped, "ESCAPED", message, next));
    }
    if let Ended::Gone { lost: true, .. } = ended {
        let how = status.map_or_else(|| "it still runs".into(), |status| status.to_string());
        return Err(Failure::new(
            Exit::Fenced,
            "LOCK_LOST",
            format!("the lock on {name} could not be kept; the command was ended ({how})"),
            "see why with `palisade history NAME` and `palisade cluster status`; what the command did is fenced by its token",
        ));
    }
    Ok(status.map_or(ExitCode::from(128 + libc::SIGKILL as u8), exit_code))
}

/// Whether the command may be started.
enum Start {
    Now,
    /// Another request holds the lock, or may hold it.
    Lost(LostReason),
    /// This signal ended the wrapper before the command started.
    Never(i32),
}

/// Waits until the command may be started, or until it is too late to start it.
///
/// * If a shell's user has stopped the front in the queue, the command starts when the front
///   continues, as it would without the wrapper.
/// * The lock must stay valid for longer than its watch needs to end the command. A lock that was
///   granted late does not qualify, and neither does a lock with failing renewals.
async fn may_start(lock: &LockGuard, margins: Margins, front: i32, control: &mut Control) -> Start {
    loop {
        let is_stopped = Process::look(front).is_some_and(|front| front.is_stopped());
        if !is_stopped && lock.valid_for() > margins.term {
            return Start::Now;
        }
        tokio::select! {
            biased;
            reason = lock.lost() => return Start::Lost(reason),
            event = control.next() => match event {
                Some(event) if !signals::ends(event.number) => {}
                event => return Start::Never(event.map_or(libc::SIGKILL, |event| event.number)),
            },
            // A front that ignores SIGCONT continues without a message.
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Takes the lock. On failure it cancels the request, as far as `until` allows, so that no later
/// grant comes from it.
async fn acquire(
    client: &Client,
    options: (AcquireOptions, String, RequestId),
    answered_until: Instant,
    until: Instant,
) -> Result<LockGuard, Failure> {
    let (options, name, request_id) = options;
    let failure = match timeout_at(answered_until, client.lock(options)).await {
        Ok(Ok(lock)) => return Ok(lock),
        // The request changed nothing.
        Ok(Err(error)) if error.is_held() || error.is_retryable() || error.is_invalid() => {
            let _ = timeout(verbs::LET_GO_WITHIN, client.let_go_of_all()).await;
            return Err(error.into());
        }
        Ok(Err(error)) => error.into(),
        Err(_) => {
            let message = format!("no answer in time about the lock on {}", shown(&name));
            Failure::new(
                Exit::Error,
                "OUTCOME_UNKNOWN",
                message,
                "try again, or allow more time with --timeout",
            )
        }
    };
    // The lock may have been granted, or may still be. No other process knows of this grant, so the
    // lock would be held for its whole TTL.
    if !verbs::let_go(client, &name, request_id, until).await {
        tracing::warn!(
            "{} may have been granted, and nothing answers that could take it back: it ends with its TTL",
            shown(&name)
        );
    }
    Err(failure)
}

fn options(
    args: &args::Lock,
    owner: &str,
    request_id: RequestId,
) -> Result<(AcquireOptions, String, RequestId), Failure> {
    let options = AcquireOptions::new(&args.name)
        .owner(owner)
        .ttl(Duration::from_millis(args.ttl.into()))
        .wait(Duration::from_millis(args.wait.into()))
        .metadata(args.metadata.clone().unwrap_or_else(|| verbs::as_metadata(&args.command)))
        .request_id(request_id);
    Ok((verbs::held_as(options, &args.held)?, args.name.clone(), request_id))
}

fn spawn(guard: &args::Guard, args: &args::Lock, token: u64) -> io::Result<i32> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("palisade").arg("__exec").arg("--parent").arg(std::process::id().to_string());
    command
        .arg("--group")
        .arg(guard.group.to_string())
        .arg("--at-start")
        .arg(guard.at_start.to_string());
    if reach::is_limited() && !args.allow_setuid {
        command.arg("--no-new-privs");
    }
    command.arg("--").args(&args.command);
    command.env("PALISADE_TOKEN", token.to_string()).env("PALISADE_RESOURCE", &args.name);
    Ok(command.spawn()?.id() as i32)
}

async fn release(lock: LockGuard, within: Duration) {
    if let Ok(Err(error)) = timeout(within, lock.release()).await {
        tracing::info!(%error, "the lock was not released; it ends with its TTL");
    }
}
