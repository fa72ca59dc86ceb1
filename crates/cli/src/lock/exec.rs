//! `palisade __exec`: prepares itself as the first process of a job and then becomes the command.
//!
//! A process can ask the kernel only for itself to be killed when its parent dies, and only between fork and exec. A
//! program of its own does it without code between fork and exec. It promises that the command does not outlive a guard
//! that is killed, and that the command is started with what `palisade lock` was started with.

use crate::args::Exec;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, execvp, getppid, setpgid};
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// As shells and env(1) have it: found but could not be run, and not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns only if the command could not be started.
pub fn run(args: &Exec) -> ExitCode {
    if let Err(error) = prepare(args) {
        tell(&format!("error: cannot prepare the command: {error}"));
        return ExitCode::from(CANNOT_RUN);
    }
    // The parent died before it was asked for its death: the front ends this process, or has.
    if getppid().as_raw() != args.parent {
        return ExitCode::from(CANNOT_RUN);
    }
    let words: Result<Vec<CString>, _> = args.command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let words = words.expect("arguments come from the kernel, where a zero ends them");
    args.at_start.restore();
    let Err(error) = execvp(&words[0], &words);
    tell(&format!("error: cannot run `{}`: {}", args.command[0].display(), error.desc()));
    ExitCode::from(if error == Errno::ENOENT { NOT_FOUND } else { CANNOT_RUN })
}

fn prepare(args: &Exec) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The terminal must see the command where it saw `palisade lock`, which its own guard is not.
    setpgid(Pid::from_raw(0), Pid::from_raw(args.group))?;
    if args.no_new_privs {
        prctl::set_no_new_privs()?;
    }
    Ok(())
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
