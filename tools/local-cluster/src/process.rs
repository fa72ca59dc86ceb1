//! One child process: its start, its signals and its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A child process with its output in a log file.
///
/// * It is killed and reaped when dropped, so that no caller leaves a process behind.
/// * Signals go to its pid only while it is not reaped, so they never reach another process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// The read end of a standard error that is never read.
    _unheard: Option<PipeReader>,
}

impl Process {
    /// Starts a command. Its output is appended to `log`, without colours. The environment variable
    /// `PALISADE_LOG` of this process chooses the log level of the command; the default is `info`.
    ///
    /// # Errors
    /// If the log cannot be opened, or the command cannot be started.
    pub fn spawn(command: Command, log: &Path) -> io::Result<Process> {
        let stderr = open(log)?.into();
        Process::spawn_with(command, log, stderr, None)
    }

    /// Starts a command like [`spawn`](Self::spawn), with a full pipe as its standard error. A
    /// write to the pipe blocks, because its other end is never read.
    ///
    /// # Errors
    /// The same as those of [`spawn`](Self::spawn).
    pub fn spawn_unheard(command: Command, log: &Path) -> io::Result<Process> {
        let (reader, writer) = full_pipe()?;
        Process::spawn_with(command, log, writer.into(), Some(reader))
    }

    fn spawn_with(
        mut command: Command,
        log: &Path,
        stderr: Stdio,
        unheard: Option<PipeReader>,
    ) -> io::Result<Process> {
        let child = command
            .env("NO_COLOR", "1")
            .env("PALISADE_LOG", std::env::var("PALISADE_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(open(log)?)
            .stderr(stderr)
            .spawn()?;
        Ok(Process { child, log: log.to_owned(), _unheard: unheard })
    }

    /// The process id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that receives the output of the process.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal. A process that has ended by itself and is not reaped yet ignores it.
    ///
    /// # Panics
    /// If the process has been reaped, because such a call is a mistake of the caller.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .expect("signal a process that was started here");
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        // Both calls fail only if the process has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit status of a process that has ended by itself. Reaps the process.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // The status of a child of this process is always readable.
        self.child.try_wait().expect("look at a child")
    }
}

fn open(log: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(log)
}

fn full_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    let mut filler = writer.try_clone()?;
    // A pipe holds far less than this, so the write blocks until the reading end is dropped.
    std::thread::spawn(move || filler.write_all(&vec![b'.'; 16 << 20]));
    Ok((reader, writer))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
