//! `palisade __guard`: takes the lock, starts the command, renews while any process of the job lives, and ends the job when
//! the lock ends.
//!
//! * The job is dead before the lock can be another's: it gets SIGTERM while [`Margins::term`] of validity is left, and
//!   SIGKILL when [`Margins::kill`] is left, whatever the cluster or the network do.
//! * A lock that is valid is never released while a process of the job lives, also one that cannot be
//!   ended. If such a process is left when the lock is lost, the lock is left to its TTL.
//! * A lock that is lost all at once (broken by somebody) leaves [`LOST_GRACE`] between the two.
//! * It listens to its front only: every signal is blocked here, so that no terminal and no `killall` ends it before the job.
//! * It cannot keep its promise while it is stopped together with its front (a frozen container): then fencing must.
//!
//! It knows no protocol: renewal and validity are the SDK guard's.

use crate::args::{self, Cli};
use crate::failure::{Exit, Failure};
use crate::lock::front::DELIVERED;
use crate::lock::job::{BETWEEN_ROUNDS, GONE_WITHIN, Job, Process};
use crate::lock::signals::{self, Heard, Signals, send, wait_any};
use crate::lock::{LAST_WORDS, abort_on_panic, exit_code, list_processes, reach, tell};
use crate::shown::{one_line, shown};
use crate::verbs;
use crate::voice;
use client::{AcquireOptions, Client, LockGuard, RequestId};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::getppid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Between SIGTERM and SIGKILL when the lock is gone already.
const LOST_GRACE: Duration = Duration::from_millis(250);
/// How long the release of a lock may take that is lost, or about to be: the servers did not answer before either.
const LOST_RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of `--timeout`, this part and at most so much is kept for leaving the queue.
const CANCEL_SHARE: u32 = 5;
const CANCEL_MAX: Duration = Duration::from_secs(1);
/// How often processes that outlive the command are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How much validity must be left, before the job is asked to end and before it is made to.
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

/// Runs the guard, as the front has started it.
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
    let cannot = |what: &str, error: io::Error| Failure::new(Exit::Error, "CANNOT_RUN", format!("{what}: {error}"), "");
    Signals::ALL.block().map_err(|error| cannot("cannot block signals", error.into()))?;
    // Not ours by name: `killall palisade` shall not end front and guard at once.
    let _ = prctl::set_name(c"lock-guard");
    prctl::set_child_subreaper(true).map_err(|error| cannot("cannot adopt orphans", error.into()))?;
    let words = std::iter::once(OsString::from("palisade")).chain(guard.words.iter().cloned());
    let Ok(Cli { command: args::Command::Lock(args) }) = args::parse(words) else {
        return Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", "the guard runs `palisade lock` only", ""));
    };
    crate::logging::start_with("warn", voice::say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot("cannot start", error))?;
    let outcome = runtime.block_on(async {
        let control = Control::open(guard.control).map_err(|error| cannot("cannot hear the front", error))?;
        let children = Heard::listen(Signals::of(&[libc::SIGCHLD]));
        let children = children.map_err(|error| cannot("cannot wait for children", error))?;
        hold(guard, &args, control, children).await
    });
    runtime.shutdown_background();
    outcome
}

/// From the acquire to the release.
async fn hold(
    guard: &args::Guard,
    args: &args::Lock,
    mut control: Control,
    children: Heard,
) -> Result<ExitCode, Failure> {
    let all = args.gateways.timeout;
    let until = Instant::now() + Duration::from_millis(args.wait.into()) + all;
    let for_cancel = (all / CANCEL_SHARE).min(CANCEL_MAX);
    let client = verbs::connect_within(&args.gateways, all - for_cancel);
    let request_id = verbs::new_request_id();
    let options = options(args, guard.front, request_id)?;
    let lock = tokio::select! {
        lock = acquire(&client, options, until - for_cancel, until) => lock?,
        number = control.told_to_end() => {
            verbs::let_go(&client, &args.name, request_id, Instant::now() + all).await;
            return Ok(ExitCode::from(number.map_or(1, |number| 128 + number as u8)));
        }
    };
    // A shell's user has stopped us in the queue: the command starts when it is continued, as it would by itself.
    while Process::look(guard.front).is_some_and(|front| front.is_stopped()) {
        let number = tokio::select! {
            event = control.next() => match event {
                Some(event) if event.number == libc::SIGCONT || !signals::ends(event.number) => continue,
                Some(event) => event.number,
                None => libc::SIGKILL,
            },
            reason = lock.lost() => {
                let message = format!("the lock on {} is lost ({reason}) before the command was started", shown(&args.name));
                return Err(Failure::new(Exit::Fenced, "LOCK_LOST", message, "run it again"));
            }
        };
        release(lock, all).await;
        return Ok(ExitCode::from(128 + number as u8));
    }
    let job = Job::of_this_process();
    let first = match spawn(guard, args, lock.token()) {
        Ok(pid) => pid,
        Err(error) => {
            release(lock, all).await;
            return Err(Failure::new(Exit::Error, "CANNOT_RUN", format!("cannot start the command: {error}"), ""));
        }
    };
    let margins = Margins::of(Duration::from_millis(args.ttl.into()));
    let mut watch = Watch {
        lock: &lock,
        job,
        first,
        front: guard.front,
        has_terminal: File::open("/dev/tty").is_ok(),
        mirrored_stop: false,
        status: None,
        told: false,
        passed: Signals::default(),
        told_rest: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let ended = watch.run(margins, &mut control, &children).await;
    let (status, refused): (_, Vec<i32>) = (watch.status, watch.refused.iter().copied().collect());
    drop(control);
    if ended.outlived() {
        // A release, also one by drop, would give the lock to another while they work.
        lock.abandon();
    } else {
        release(lock, if ended.lost { LOST_RELEASE_TIMEOUT } else { all }).await;
    }
    let how = status.map_or_else(|| "it still runs".into(), |status| status.to_string());
    if !ended.left.is_empty() || !refused.is_empty() {
        let message = match ended.left.as_slice() {
            [] => format!("a signal did not reach {}, which ran as another user", list_processes(&refused)),
            left if ended.outlived() => format!(
                "the lock on {} is not held any more, and {} of its command could not be ended",
                shown(&args.name),
                list_processes(left)
            ),
            left => format!(
                "{} of the command could not be ended; the lock on {} was held until all of it had ended",
                list_processes(left),
                shown(&args.name)
            ),
        };
        let next =
            "see which user runs it, or which device holds it, and end it as root; its token fences what it does";
        return Err(Failure::new(Exit::Escaped, "ESCAPED", message, next));
    }
    if ended.lost {
        return Err(Failure::new(
            Exit::Fenced,
            "LOCK_LOST",
            format!("the lock on {} could not be kept; the command was ended ({how})", shown(&args.name)),
            "see why with `palisade history NAME` and `palisade cluster status`; what the command did is fenced by its token",
        ));
    }
    Ok(status.map_or(ExitCode::from(128 + libc::SIGKILL as u8), exit_code))
}

/// Takes the lock, or makes sure as far as `until` allows that nothing comes of the try.
async fn acquire(
    client: &Client,
    options: (AcquireOptions, String, RequestId),
    answered_until: Instant,
    until: Instant,
) -> Result<LockGuard, Failure> {
    let (options, name, request_id) = options;
    let failure = match timeout_at(answered_until, client.lock(options)).await {
        Ok(Ok(lock)) => return Ok(lock),
        // Nothing was done.
        Ok(Err(error)) if error.is_held() || error.is_retryable() || error.is_invalid() => {
            let _ = timeout(verbs::LET_GO_WITHIN, client.let_go_of_all()).await;
            return Err(error.into());
        }
        Ok(Err(error)) => error.into(),
        Err(_) => {
            let message = format!("no answer in time about the lock on {}", shown(&name));
            Failure::new(Exit::Error, "OUTCOME_UNKNOWN", message, "try again, or allow more time with --timeout")
        }
    };
    // It may have been granted, or may yet be: nobody else knows of it, so it would be held for its whole TTL.
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
    front: i32,
    request_id: RequestId,
) -> Result<(AcquireOptions, String, RequestId), Failure> {
    let options = AcquireOptions::new(&args.name)
        .owner(args.owner.clone().unwrap_or_else(|| args::owner_of(front as u32)))
        .ttl(Duration::from_millis(args.ttl.into()))
        .wait(Duration::from_millis(args.wait.into()))
        .metadata(args.metadata.clone().unwrap_or_else(|| verbs::as_metadata(&args.command)))
        .request_id(request_id);
    Ok((verbs::held_as(options, &args.held)?, args.name.clone(), request_id))
}

fn spawn(guard: &args::Guard, args: &args::Lock, token: u64) -> io::Result<i32> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("palisade").arg("__exec").arg("--parent").arg(std::process::id().to_string());
    command.arg("--group").arg(guard.group.to_string()).arg("--at-start").arg(guard.at_start.to_string());
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

/// A signal that the front has got.
#[derive(Clone, Copy, Debug)]
struct Event {
    number: i32,
    /// The job has it already.
    delivered: bool,
}

/// The pipe from the front. It ends when the front does, in whatever way.
struct Control(pipe::Receiver);

impl Control {
    fn open(descriptor: i32) -> io::Result<Control> {
        // Opened anew, it is closed on exec. The inherited one would stay open in the job.
        let file = File::open(format!("/proc/self/fd/{descriptor}"))?;
        nix::unistd::close(descriptor)?;
        pipe::Receiver::from_file(file).map(Control)
    }

    /// `None`: the front is gone. A dropped future loses nothing.
    async fn next(&mut self) -> Option<Event> {
        let byte = self.0.read_u8().await.ok()?;
        Some(Event { number: i32::from(byte & !DELIVERED), delivered: byte & DELIVERED != 0 })
    }

    /// The signal that would end a process without handlers; `None`: the front is gone.
    async fn told_to_end(&mut self) -> Option<i32> {
        loop {
            let number = self.next().await?.number;
            if signals::ends(number) {
                return Some(number);
            }
        }
    }
}

/// How a watch ended.
struct Ended {
    /// The lock is, or was about to be, another's.
    lost: bool,
    /// Processes of the job that could not be ended.
    left: Vec<i32>,
    /// They have ended since, under the lock.
    gone: bool,
}

impl Ended {
    /// Every process of the job has ended.
    fn all(lost: bool) -> Ended {
        Ended { lost, left: Vec::new(), gone: true }
    }

    /// Processes of the job live on without a lock.
    fn outlived(&self) -> bool {
        !self.left.is_empty() && !self.gone
    }
}

/// A job that runs under a lock.
struct Watch<'a> {
    lock: &'a LockGuard,
    job: Job,
    /// The command itself.
    first: i32,
    front: i32,
    has_terminal: bool,
    /// The front was stopped because the command is.
    mirrored_stop: bool,
    /// How the command ended.
    status: Option<ExitStatus>,
    /// The front was told to end.
    told: bool,
    /// Signals that the command has got by way of the front, or together with it.
    passed: Signals,
    /// Processes that were told to end after the command had ended.
    told_rest: BTreeSet<i32>,
    /// Processes that a signal could not be sent to.
    refused: BTreeSet<i32>,
}

impl Watch<'_> {
    /// Until no process of the job is left, or the lock is lost and all that can be ended is.
    async fn run(&mut self, margins: Margins, control: &mut Control, children: &Heard) -> Ended {
        let mut kill_at = None;
        let mut look_at = None;
        let mut said = false;
        loop {
            let wake_at =
                kill_at.unwrap_or_else(|| Instant::now() + self.lock.valid_for().saturating_sub(margins.term));
            tokio::select! {
                biased;
                reason = self.lock.lost(), if kill_at.is_none() => {
                    self.ask_all(libc::SIGTERM);
                    kill_at = Some(Instant::now() + LOST_GRACE);
                    let reason = one_line(&reason.to_string());
                    voice::say(format!("palisade: the lock is lost ({reason}); ending the command\n"));
                }
                () = sleep_until(wake_at) => match kill_at {
                    Some(_) => return self.end_or_hold(true, children).await,
                    None => {
                        let left = self.lock.valid_for();
                        if left <= margins.term {
                            self.ask_all(libc::SIGTERM);
                            kill_at = Some(Instant::now() + left.saturating_sub(margins.kill));
                            voice::say("palisade: the lock could not be renewed; ending the command while it is still held\n".into());
                        }
                    }
                },
                _ = children.next() => {
                    if self.reap() {
                        return Ended::all(kill_at.is_some());
                    }
                    if self.status.is_some() && look_at.is_none() {
                        self.tell_rest();
                        look_at = Some(Instant::now() + LOOK_AGAIN);
                    }
                }
                event = control.next() => match event {
                    Some(event) => self.pass_on(event),
                    // The front was killed, and with it the exit code: the job ends now.
                    None => return self.end_or_hold(kill_at.is_some(), children).await,
                },
                () = sleep_until(look_at.unwrap_or(wake_at)), if look_at.is_some() => {
                    self.tell_rest();
                    look_at = Some(Instant::now() + LOOK_AGAIN);
                    if !std::mem::replace(&mut said, true) {
                        let left: Vec<i32> = self.job.processes().iter().map(|process| process.pid).collect();
                        voice::say(format!(
                            "palisade: the command has ended and has left {}; the lock is held until all of it has ended\n",
                            list_processes(&left)
                        ));
                    }
                }
            }
        }
    }

    /// Ends the job. What cannot be ended keeps the lock for as long as that can be renewed.
    async fn end_or_hold(&mut self, lost: bool, children: &Heard) -> Ended {
        let left = self.end_all().await;
        if left.is_empty() {
            return Ended::all(lost);
        }
        if !self.lock.is_valid() {
            return Ended { lost: true, left, gone: false };
        }
        voice::say(format!(
            "palisade: {} cannot be ended; the lock is held for as long as the service lets it be\n",
            list_processes(&left)
        ));
        loop {
            tokio::select! {
                _ = self.lock.lost() => return Ended { lost: true, left, gone: false },
                _ = children.next() => {
                    if self.reap() {
                        return Ended { lost, left, gone: true };
                    }
                }
                // What it has started meanwhile may be in reach.
                () = sleep(LOOK_AGAIN) => drop(self.job.kill_round()),
            }
        }
    }

    /// A signal to every process of the job.
    fn ask_all(&mut self, number: i32) {
        let refused = self.job.signal_all(number, &mut BTreeSet::new());
        self.refused.extend(refused);
    }

    /// Ends every process of the job. Returns those that could not be ended.
    async fn end_all(&mut self) -> Vec<i32> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let refused = self.job.kill_round();
            if self.reap() {
                return Vec::new();
            }
            let left: Vec<i32> = self.job.processes().iter().map(|process| process.pid).collect();
            let only_refused = !left.is_empty() && left.iter().all(|pid| refused.contains(pid));
            if only_refused || Instant::now() >= until {
                return left;
            }
            // The lock is renewed meanwhile, if it can be.
            sleep(BETWEEN_ROUNDS).await;
        }
    }

    /// To the command; once it has ended, to all that it left.
    fn pass_on(&mut self, event: Event) {
        let number = event.number;
        if [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&number) {
            self.told = true;
        }
        self.passed = self.passed.with(Signals::of(&[number]));
        if self.status.is_some() {
            return self.ask_all(number);
        }
        if !event.delivered && send(self.first, number) == Err(Errno::EPERM) {
            self.out_of_reach(self.first, number);
        }
    }

    fn out_of_reach(&mut self, pid: i32, number: i32) {
        if self.refused.insert(pid) {
            voice::say(format!(
                "palisade: {} runs as another user: signal {number} does not reach it; the lock is held until it ends\n",
                list_processes(&[pid])
            ));
        }
    }

    /// The command has ended because it was told to. What it left in groups and sessions of its own was told nothing.
    fn tell_rest(&mut self) {
        let killed_by = self.status.and_then(|status| status.signal());
        if !self.told && !killed_by.is_some_and(|number| self.passed.contains(number)) {
            return;
        }
        let refused = self.job.signal_all(libc::SIGTERM, &mut self.told_rest);
        // A stopped process acts on it once it goes on. The lock is held, so it may.
        for process in self.job.processes().iter().filter(|process| process.is_stopped()) {
            let _ = self.job.signal(process, libc::SIGCONT);
        }
        for pid in refused {
            self.out_of_reach(pid, libc::SIGTERM);
        }
    }

    /// Takes note of children that have ended, stopped or gone on. Says whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait_any() {
                // Once it is reaped, its number may be that of another process of the job.
                Ok(Some(waited)) if waited.pid == self.first && self.status.is_none() => {
                    match waited.status.stopped_signal() {
                        Some(_) => self.stop_front(),
                        None if waited.status.continued() => self.continue_front(),
                        None => {
                            self.status = Some(waited.status);
                            self.continue_front();
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(Errno::ECHILD) => return true,
                Err(error) => panic!("cannot wait for children: {error}"),
            }
        }
    }

    /// The command stopped by itself, or another's signal stopped it alone. A shell must see its job stop.
    fn stop_front(&mut self) {
        let is_stopped = |pid| Process::look(pid).is_some_and(|process| process.is_stopped());
        let front_lives = getppid().as_raw() == self.front;
        if self.has_terminal && front_lives && is_stopped(self.first) && !is_stopped(self.front) {
            self.mirrored_stop = send(self.front, libc::SIGSTOP).is_ok();
        }
    }

    fn continue_front(&mut self) {
        if std::mem::take(&mut self.mirrored_stop) {
            let _ = send(self.front, libc::SIGCONT);
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
}
