//! The process that was started as `palisade lock`: it starts the guard, passes signals on, and
//! exits with the code of the guard.
//!
//! * It stays in its process group, where the job is too, and leaves the terminal's stop signals
//!   alone.
//! * A signal that was ignored at its start stays ignored. Every other signal is read from a
//!   descriptor and passed on.
//! * It ends the job itself if the guard is killed, and continues a guard that is stopped. While
//!   the front itself is stopped (Ctrl-Z), it does neither before it is continued. If the guard is
//!   killed meanwhile, the kernel kills the command, and the stop holds the processes of its
//!   process group. Only processes that the command started in groups of their own work on, without
//!   the lock.

use crate::args;
use crate::failure::{Exit, Failure};
use crate::lock::at_start::AtStart;
use crate::lock::control::Event;
use crate::lock::job::{Job, Process};
use crate::lock::signals::{Disposition, Signals, send, set_disposition, wait_any};
use crate::lock::{LAST_WORDS, abort_on_panic, exit_code, list_processes, reach, tell};
use crate::voice;
use nix::sys::prctl;
use nix::sys::signalfd::{SignalFd, siginfo};
use nix::unistd::{Pid, dup, getpgrp, getsid};
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

/// A shorter TTL leaves no time to end a command.
const TTL_MIN_MS: u32 = 1_000;
/// `si_code` of signals that the kernel sends, such as a terminal's Ctrl-C.
const SI_KERNEL: i32 = 0x80;

/// Runs `palisade lock`. The exit code is the command's, unless the lock fails or a
/// process of the command escapes.
pub fn run(args: &args::Lock) -> ExitCode {
    abort_on_panic();
    let outcome = check(args).and_then(|()| {
        Front::start().map_err(|error| {
            let next = "palisade lock needs /proc, a pipe, and room for two processes more";
            Failure::new(
                Exit::Error,
                "CANNOT_RUN",
                format!("cannot start the guard of the command: {error}"),
                next,
            )
        })
    });
    let code = match outcome {
        Ok(front) => front.watch(),
        Err(failure) => {
            tell(&failure);
            failure.exit.into()
        }
    };
    voice::flush(LAST_WORDS);
    code
}

/// Makes the refusals that need no request to the cluster.
fn check(args: &args::Lock) -> Result<(), Failure> {
    if args.ttl < TTL_MIN_MS {
        let next = "use a --ttl of at least 1s: below that there is no time to end the command in";
        return Err(Failure::new(
            Exit::Usage,
            "INVALID_ARGUMENT",
            "the TTL is too short for `palisade lock`",
            next,
        ));
    }
    if !args.allow_setuid
        && let Some(why) = reach::out_of_reach(&args.command[0])
    {
        let message =
            format!("{why}: it could not be ended when the lock is lost, so it is not started");
        let next =
            "run `palisade lock` itself as that user, or accept the risk with --allow-setuid";
        return Err(Failure::new(Exit::WouldEscape, "WOULD_ESCAPE", message, next));
    }
    Ok(())
}

struct Front {
    guard: i32,
    signals: SignalFd,
    to_guard: PipeWriter,
    job: Job,
}

impl Front {
    fn start() -> io::Result<Front> {
        let at_start = AtStart::of_this_process()?;
        let left_alone =
            Signals::of(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]).with(at_start.ignored);
        let children = Signals::of(&[libc::SIGCHLD]);
        let taken = Signals::ALL.without(left_alone).with(children);
        taken.with(at_start.blocked).block()?;
        // A caller may ignore its children. Inherited, that would hide the guard's end from the
        // front.
        set_disposition(libc::SIGCHLD, Disposition::Default);
        let signals = taken.descriptor()?;
        prctl::set_child_subreaper(true)?;
        let job = Job::of_this_process()?;

        let (reader, to_guard) = io::pipe()?;
        let inherited = dup(&reader)?; // unlike the reader, open after exec
        let me = std::process::id();
        let mut guard = Command::new("/proc/self/exe"); // this program, even if its file is gone
        guard
            .arg0("lock-guard")
            .arg("__guard")
            .arg("--control")
            .arg(inherited.as_raw_fd().to_string());
        guard.arg("--front").arg(me.to_string()).arg("--group").arg(getpgrp().to_string());
        guard
            .arg("--at-start")
            .arg(at_start.to_string())
            .arg("--")
            .args(std::env::args_os().skip(1));
        let guard = guard.process_group(0).spawn()?.id() as i32;
        Ok(Front { guard, signals, to_guard, job })
    }

    /// Passes signals on until the guard has ended.
    fn watch(mut self) -> ExitCode {
        loop {
            let info = match self.signals.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) | Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => panic!("cannot read signals: {error}"),
            };
            if info.ssi_signo as i32 != libc::SIGCHLD {
                self.pass_on(&info);
            } else if let Some(status) = self.reap() {
                return match status.signal() {
                    None => exit_code(status),
                    Some(signal) => self.guard_was_killed(signal),
                };
            }
        }
    }

    fn pass_on(&mut self, info: &siginfo) {
        let (number, sender) = (info.ssi_signo as i32, info.ssi_pid as i32);
        // SIGPIPE from this process itself means that a pipe it wrote to was closed.
        if number == libc::SIGPIPE && sender == std::process::id() as i32 {
            return;
        }
        // A `kill 0` in a script of the job reaches the job as well. A signal to this process alone
        // looks the same. Both are dropped, because `kill 0` is common and the job does not know
        // the id of this process.
        let group = getpgrp().as_raw();
        if Process::look(sender).is_some_and(|process| process.group == group)
            && Job::descends(sender, self.guard)
        {
            return;
        }
        let delivered = info.ssi_code == SI_KERNEL && comes_to_the_group(number);
        // The write fails only if the guard has ended, and the next signal reports that.
        let _ = self.to_guard.write_all(&[Event { number, delivered }.to_byte()]);
    }

    /// Reaps ended children, orphans too if this is process 1. Returns how the guard ended.
    fn reap(&self) -> Option<ExitStatus> {
        let mut ended = None;
        while let Ok(Some(waited)) = wait_any() {
            if waited.pid != self.guard {
                continue;
            }
            match waited.status.stopped_signal() {
                Some(_) => drop(send(self.guard, libc::SIGCONT)),
                None if waited.status.continued() => {}
                None => ended = Some(waited.status),
            }
        }
        ended
    }

    /// Ends the job, because no process renews the lock any more and no work may go on under it.
    fn guard_was_killed(&self, signal: i32) -> ExitCode {
        let (exit, what) = match self.job.end() {
            Ok(()) => (Exit::Fenced, "the command was ended".into()),
            Err(left) => (Exit::Escaped, format!("{} could not be ended", list_processes(&left))),
        };
        tell(&Failure::new(
            exit,
            "LOCK_LOST",
            format!("signal {signal} killed the process that kept the lock; {what}"),
            "the lock ends with its TTL; what the command did is fenced by its token",
        ));
        exit.into()
    }
}

/// Whether a terminal sends the signal to a whole process group instead of to this process alone.
fn comes_to_the_group(number: i32) -> bool {
    match number {
        libc::SIGINT | libc::SIGQUIT | libc::SIGWINCH => true,
        // A terminal that hangs up tells the leader of its session alone. The group gets the signal
        // when that leader ends.
        libc::SIGHUP => getsid(None) != Ok(Pid::this()),
        _ => false,
    }
}
