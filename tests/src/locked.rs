//! A command under `palisade lock`, and the state of its processes.

use crate::{Cluster, eventually, own_group, palisade_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use tempfile::TempDir;

/// `palisade lock OPTIONS -- COMMAND`, in a directory of its own. Dropping this kills it with its
/// job.
#[derive(Debug)]
pub struct Locked {
    child: Child,
    dir: TempDir,
}

impl Locked {
    /// Starts `sh -c SCRIPT` under the lock, and waits until the script has written the file `pid`.
    ///
    /// # Panics
    /// If the script does not write the file.
    pub async fn start(cluster: &Cluster, options: &[&str], script: &str) -> Locked {
        Locked::start_with(cluster, options, script, |_| {}).await
    }

    /// Starts a script as [`start`](Self::start) does. `change` may alter the command that starts
    /// `palisade`.
    ///
    /// # Panics
    /// If the script does not write its file.
    pub async fn start_with(
        cluster: &Cluster,
        options: &[&str],
        script: &str,
        change: impl FnOnce(&mut Command),
    ) -> Locked {
        let args = [&["lock"], options, &["--", "sh", "-c", script]].concat();
        let locked = Locked::spawn(cluster, &args, change);
        eventually("the command runs", async || locked.file("pid").exists().then_some(())).await;
        locked
    }

    /// Starts `palisade` with these arguments, and does not wait. Signals have their defaults.
    ///
    /// # Panics
    /// If `palisade` cannot be started.
    pub fn spawn(cluster: &Cluster, args: &[&str], change: impl FnOnce(&mut Command)) -> Locked {
        let dir = TempDir::with_prefix("palisade-lock-").expect("temporary directory");
        let set = cluster.palisade(&[]);
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(palisade_binary()).args(args).current_dir(dir.path());
        command.envs(set.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        change(&mut command);
        own_group(&mut command);
        let child = command.spawn().expect("start palisade lock");
        Locked { child, dir }
    }

    /// The path of a file in the command's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits for a file that the command writes, and returns its contents.
    pub async fn written(&self, name: &str) -> String {
        let read =
            async || std::fs::read_to_string(self.file(name)).ok().filter(|text| !text.is_empty());
        eventually(&format!("the command writes {name}"), read).await.trim().to_owned()
    }

    /// Whether the process with the id in this file runs.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn runs(&self, file: &str) -> bool {
        runs(std::fs::read_to_string(self.file(file)).expect("the pid").trim())
    }

    /// Whether the command runs.
    pub fn command_runs(&self) -> bool {
        self.runs("pid")
    }

    /// The process id of `palisade lock`.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// The process id of its guard.
    pub async fn guard(&self) -> i32 {
        let list = format!("/proc/{0}/task/{0}/children", self.id());
        let first = async || std::fs::read_to_string(&list).ok()?.split(' ').next()?.parse().ok();
        eventually("palisade lock has a guard", first).await
    }

    /// Sends a signal to `palisade lock`.
    ///
    /// # Panics
    /// If `palisade lock` has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).expect("signal palisade lock");
    }

    /// Waits until `palisade lock` ends.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("palisade lock ends", async || self.child.try_wait().expect("look at a child"))
            .await
    }

    /// The standard error of `palisade lock` and its command. Call this when all their processes
    /// have ended.
    ///
    /// # Panics
    /// If standard error was not left to the harness.
    pub fn said(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.child.stderr.as_mut().expect("a pipe");
        std::io::Read::read_to_string(stderr, &mut text).expect("what it said");
        text
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state that `/proc` shows of a process, such as `S` or `T`. `None` if there is no such
/// process.
pub fn process_state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

/// Whether a process exists and is no zombie.
pub fn runs(pid: &str) -> bool {
    process_state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}
