//! The watch over a job that runs under a lock: it decides which signals the job gets, and when the
//! job must end.
//!
//! * The job is dead before another request can hold the lock. It gets SIGTERM while
//!   [`Margins::term`] of validity is left, and SIGKILL when [`Margins::kill`] is left, whether or
//!   not the cluster and the network answer.
//! * A lock that is lost all at once (broken by an operator) leaves [`LOST_GRACE`] between the two.
//! * Only wait(2) says that the job has ended. Until then, the lock is kept for as long as
//!   possible.

use crate::lock::control::{Control, Event};
use crate::lock::job::{BETWEEN_ROUNDS, Identity, Job, Process};
use crate::lock::signals::{Heard, Signals, send, wait_any};
use crate::lock::{LOOK_AGAIN, list_processes};
use crate::shown::one_line;
use crate::voice;
use client::{Held, LockGuard};
use nix::errno::Errno;
use nix::unistd::getppid;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Time between SIGTERM and SIGKILL when the lock is already gone.
const LOST_GRACE: Duration = Duration::from_millis(250);

/// Validity that must be left when the job is asked to end, and when it is killed.
///
/// * `kill < term <= ttl / 3`: a healthy guard renews every third of its TTL, so its validity never
///   comes near these margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margins {
    pub term: Duration,
    pub kill: Duration,
}

impl Margins {
    pub fn of(ttl: Duration) -> Margins {
        let margins = Margins {
            term: (ttl / 3).min(Duration::from_secs(5)), //
            kill: (ttl / 10).min(Duration::from_secs(1)),
        };
        assert!(margins.kill < margins.term, "{margins:?} of {ttl:?}");
        margins
    }
}

/// The outcome of a watch.
pub enum Ended {
    /// Every process of the job has ended.
    Gone {
        /// The lock is lost, or was about to be.
        lost: bool,
        /// Processes that could not be ended at first, if there were any. They have ended under the
        /// lock.
        held_for: Option<Vec<i32>>,
    },
    /// The lock is lost, and these processes live on. If the list is empty, no look shows which.
    Outlived(Vec<i32>),
}

/// A job that runs under a lock.
pub struct Watch<'a> {
    lock: &'a LockGuard,
    margins: Margins,
    job: Job,
    /// The process id of the command itself.
    first: i32,
    front: i32,
    has_terminal: bool,
    /// The front was stopped because the command stopped.
    mirrored_stop: bool,
    /// How the command ended; `None` while it runs.
    pub status: Option<ExitStatus>,
    /// The front was told to end.
    told: bool,
    /// Signals that the command got through the front, or together with the front.
    passed: Signals,
    /// Processes that were told to end after the command had ended.
    told_rest: BTreeSet<Identity>,
    /// Processes that a signal could not be sent to.
    pub refused: BTreeSet<i32>,
}

impl<'a> Watch<'a> {
    /// Watches over a job. Its command `first` has just been started.
    pub fn new(
        lock: &'a LockGuard,
        margins: Margins,
        job: Job,
        first: i32,
        front: i32,
    ) -> Watch<'a> {
        Watch {
            lock,
            margins,
            job,
            first,
            front,
            has_terminal: File::open("/dev/tty").is_ok(),
            mirrored_stop: false,
            status: None,
            told: false,
            passed: Signals::default(),
            told_rest: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Runs until no process of the job is left, or until the lock is lost and every process that
    /// can be ended has ended.
    pub async fn run(&mut self, control: &mut Control, children: &Heard) -> Ended {
        let margins = self.margins;
        let mut kill_at = None;
        let mut look_at = None;
        let mut said = false;
        loop {
            let wake_at = kill_at.unwrap_or_else(|| {
                Instant::now() + self.lock.valid_for().saturating_sub(margins.term)
            });
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
                        return Ended::Gone { lost: kill_at.is_some(), held_for: None };
                    }
                    if self.status.is_some() && look_at.is_none() {
                        self.tell_rest();
                        look_at = Some(Instant::now() + LOOK_AGAIN);
                    }
                }
                event = control.next() => match event {
                    Some(event) => self.pass_on(event),
                    // The front was killed, and the exit code is lost with it: the job ends now.
                    None => return self.end_or_hold(kill_at.is_some(), children).await,
                },
                () = sleep_until(look_at.unwrap_or(wake_at)), if look_at.is_some() => {
                    self.tell_rest();
                    look_at = Some(Instant::now() + LOOK_AGAIN);
                    if !std::mem::replace(&mut said, true) {
                        voice::say(format!(
                            "palisade: the command has ended and has left {}; the lock is held until all of it has ended\n",
                            list_processes(&self.job.pids())
                        ));
                    }
                }
            }
        }
    }

    /// Ends the job. Processes that cannot be ended keep the lock for as long as it can be renewed.
    async fn end_or_hold(&mut self, lost: bool, children: &Heard) -> Ended {
        let Err(left) = self.end_all().await else { return Ended::Gone { lost, held_for: None } };
        if self.lock.is_valid() {
            voice::say(format!(
                "palisade: {} cannot be ended; the lock is held for as long as the service lets it be\n",
                list_processes(&left)
            ));
        }
        loop {
            tokio::select! {
                biased;
                _ = self.lock.lost() => return Ended::Outlived(left),
                _ = children.next() => {
                    if self.reap() {
                        return Ended::Gone { lost, held_for: Some(left) };
                    }
                }
                // Processes that they started meanwhile may be in reach.
                () = sleep(LOOK_AGAIN) => drop(self.job.kill_all()),
            }
        }
    }

    /// Sends a signal to every process of the job.
    fn ask_all(&mut self, number: i32) {
        let refused = self.job.signal_all(number, &mut BTreeSet::new());
        self.refused.extend(refused);
    }

    /// Ends every process of the job, or returns those that cannot be ended, as in
    /// [`Job::end_round`].
    async fn end_all(&mut self) -> Result<(), Vec<i32>> {
        let (job, since) = (self.job.clone(), std::time::Instant::now());
        loop {
            if let Some(outcome) = job.end_round(since, || self.reap()) {
                return outcome;
            }
            // The pause lets the lock be renewed meanwhile, if that is possible.
            sleep(BETWEEN_ROUNDS).await;
        }
    }

    /// Passes a signal to the command, or to all processes it left if the command has ended.
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

    /// Ends the rest of a job if its command was told to end, and has ended. Processes in groups
    /// and sessions of their own did not get that signal.
    fn tell_rest(&mut self) {
        let killed_by = self.status.and_then(|status| status.signal());
        if !self.told && !killed_by.is_some_and(|number| self.passed.contains(number)) {
            return;
        }
        let refused = self.job.signal_all(libc::SIGTERM, &mut self.told_rest);
        // A stopped process acts on the signal once it continues. It may, because the lock is held.
        for process in self.job.processes().iter().filter(|process| process.is_stopped()) {
            let _ = self.job.signal(process, libc::SIGCONT);
        }
        for pid in refused {
            self.out_of_reach(pid, libc::SIGTERM);
        }
    }

    /// Records children that have ended, stopped or continued. Says whether no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait_any() {
                // After it is reaped, another process of the job may get the number of the command.
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

    /// Stops the front, because a shell must see its job stop. The command stopped by itself, or a
    /// signal from elsewhere stopped it alone.
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
