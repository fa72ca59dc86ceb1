//! `palisade __exec`: prepares itself as the first process of a job and then becomes the command.
//!
//! A process can ask the kernel to be killed when its parent dies. It can ask only for itself, and
//! only between fork and exec. A separate program makes the request without code between fork and
//! exec.
//!
//! The command does not outlive a killed guard. It starts with the same signal state and streams as
//! `palisade lock`.

use crate::args::Exec;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, execvp, getppid, setpgid};
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// As in shells and env(1): the command was found but could not be run, or was not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Becomes the command; returns only if the command could not be started.
pub fn run(args: &Exec) -> ExitCode {
    if let Err(error) = prepare(args) {
        tell(&format!("error: cannot prepare the command: {error}"));
        return ExitCode::from(CANNOT_RUN);
    }
    // The parent died before this process asked for its own death. The front ends this process, or
    // has already ended it.
    if getppid().as_raw() != args.parent {
        return ExitCode::from(CANNOT_RUN);
    }
    let words: Result<Vec<CString>, _> =
        args.command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let words = words.expect("arguments come from the kernel, where a zero ends them");
    args.at_start.restore();
    let Err(error) = execvp(&words[0], &words);
    tell(&format!("error: cannot run `{}`: {}", args.command[0].display(), error.desc()));
    ExitCode::from(if error == Errno::ENOENT { NOT_FOUND } else { CANNOT_RUN })
}

fn prepare(args: &Exec) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The terminal must see the command in the process group of `palisade lock`. The guard is in a
    // group of its own.
    setpgid(Pid::from_raw(0), Pid::from_raw(args.group))?;
    if args.no_new_privs {
        prctl::set_no_new_privs()?;
    }
    Ok(())
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
