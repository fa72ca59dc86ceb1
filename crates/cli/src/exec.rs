//! `palisade __exec`: prepares itself as `lock`'s child and then becomes the command.
//!
//! A process can ask the kernel only for itself to be killed when its parent dies, and only between fork and exec. Doing
//! it in a program of its own needs no unsafe code. It promises that the command does not outlive a `palisade lock` that
//! is killed with SIGKILL.

use crate::args::Exec;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpgrp, getppid, tcsetpgrp};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// As shells and env(1) have it: found but could not be run, and not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns only if the command could not be started.
pub fn run(args: &Exec) -> ExitCode {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("error: cannot ask to be killed with the holder of the lock: {error}");
        return ExitCode::from(CANNOT_RUN);
    }
    // If the parent died before that, nobody will tell.
    if getppid().as_raw() as u32 != args.parent {
        return ExitCode::from(CANNOT_RUN);
    }
    if args.foreground {
        take_foreground();
    }
    let error = Command::new(&args.command[0]).args(&args.command[1..]).exec();
    eprintln!("error: cannot run `{}`: {error}", args.command[0]);
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
}

/// Makes this process group the terminal's foreground, so that the command can read from it and gets its Ctrl-C.
pub fn take_foreground() {
    // A background process that does this is stopped by SIGTTOU unless it blocks that.
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    let _ = ttou.thread_block();
    // Failing leaves the command without terminal input: better than not running it.
    let _ = tcsetpgrp(io::stdin(), getpgrp());
    let _ = ttou.thread_unblock();
}
