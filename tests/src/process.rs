//! One `palisade` process: started, signalled, reaped.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The `palisade` program: what `PALISADE_BIN` names, or else built now from this source tree in the release profile.
///
/// # Panics
/// If it cannot be built.
pub fn palisade_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("PALISADE_BIN") {
            return PathBuf::from(path);
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "-p", "palisade-cli"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("start cargo");
        assert!(built.success(), "cargo build -p palisade-cli failed");
        // This test runs from target/<profile>/deps/.
        let me = std::env::current_exe().expect("path of the test");
        let target = me.ancestors().nth(3).expect("target directory");
        target.join("release").join("palisade")
    })
}

/// A running `palisade` with its output in a log file. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// What it says on standard error goes here, if nobody is to hear it.
    _unheard: Option<PipeReader>,
}

impl Process {
    /// Starts `palisade` with these arguments; output is appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(args: &[String], log: &Path) -> Process {
        let mut command = Command::new(palisade_binary());
        command.args(args);
        Process::spawn(command, log)
    }

    /// Starts `palisade` by this command, which may bring an environment or another program before it; output is appended
    /// to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: Command, log: &Path) -> Process {
        let file = open(log);
        Process::spawn_with(command, log, file.into(), None)
    }

    /// The same with a standard error that is a full pipe, which nobody reads.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_unheard(command: Command, log: &Path) -> Process {
        let (reader, writer) = full_pipe();
        Process::spawn_with(command, log, writer.into(), Some(reader))
    }

    fn spawn_with(mut command: Command, log: &Path, stderr: Stdio, unheard: Option<PipeReader>) -> Process {
        let child = command
            .env("NO_COLOR", "1")
            .env("PALISADE_LOG", std::env::var("PALISADE_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(open(log))
            .stderr(stderr)
            .spawn()
            .expect("start palisade");
        Process { child, log: log.to_owned(), _unheard: unheard }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process has been reaped.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("signal a process that was started here");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("look at a child")
    }
}

fn open(log: &Path) -> File {
    File::options().create(true).append(true).open(log).expect("open the log")
}

fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut filler = writer.try_clone().expect("clone a pipe");
    // Far more than a pipe holds: this ends when nobody can read it any more.
    std::thread::spawn(move || filler.write_all(&vec![b'.'; 16 << 20]));
    (reader, writer)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
