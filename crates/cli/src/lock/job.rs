//! Finds the processes of a job by their ancestry in `/proc`, and signals all of them.
//!
//! One look guarantees nothing, because processes start and end meanwhile. Only wait(2) says
//! whether all of them are gone: the root of the job is a subreaper, so each process becomes its
//! child before it can be lost. To end all processes, repeat [`Job::end_round`] until it has an
//! outcome.

use crate::lock::signals::{Handle, send, wait_any};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Limit of looks for processes that start while others are being signalled.
const LOOKS_MAX: u32 = 5;
/// Rounds over the direct children before each look at all processes. They catch a process that
/// does nothing but fork.
const QUICK_ROUNDS: u32 = 20;
/// A killed process is gone within this time, unless a device or a network file system holds it.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Waiting longer would not help if every process left has refused its signals for this long.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Pause between two rounds, because killed processes need a moment to end.
pub const BETWEEN_ROUNDS: Duration = Duration::from_millis(2);

/// A process id and the start time of the process. The kernel may reuse the number alone.
pub type Identity = (i32, u64);

/// One process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// The state of the first thread, which may end before the others.
    pub state: u8,
    /// Number of threads. It includes the first one until wait(2) has returned the process.
    threads: u32,
    /// Start time in clock ticks since the machine was started.
    started: u64,
}

impl Process {
    /// Reads one process; `None` if it does not exist or `/proc` hides it.
    pub fn look(pid: i32) -> Option<Process> {
        parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// A child that `/proc` does not show. With `hidepid=2`, this is a child that runs as another
    /// user.
    fn unseen(pid: i32, parent: i32) -> Process {
        Process { pid, parent, group: 0, state: b'?', threads: 1, started: 0 }
    }

    pub fn identity(&self) -> Identity {
        (self.pid, self.started)
    }

    pub fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    /// A process is shown as `Z` after its first thread has ended, while its other threads work on.
    /// wait(2) returns the process after the last of them.
    fn has_ended(&self) -> bool {
        self.state == b'X' || (self.state == b'Z' && self.threads <= 1)
    }
}

/// Parses the fields after the name, because the name, in parentheses, may hold any byte.
/// proc_pid_stat(5) numbers the fields: the state after the name is the third.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> =
        std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        pid,
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

/// All descendants of one process, without its strangers.
#[derive(Clone, Debug)]
pub struct Job {
    root: i32,
    /// Children of the root that, with their descendants, are no part of the job.
    strangers: BTreeSet<i32>,
}

impl Job {
    /// The job of this process: its descendants, except the children it has already started.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<Job> {
        let root = std::process::id() as i32;
        Ok(Job { root, strangers: children(root)?.into_iter().collect() })
    }

    /// The processes that are alive now, as far as one look tells.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = every_process().unwrap_or_default();
        for pid in self.children().unwrap_or_default() {
            all.entry(pid)
                .or_insert_with(|| Process::look(pid).unwrap_or(Process::unseen(pid, self.root)));
        }
        descendants(&all, self.root, &self.strangers)
    }

    /// The ids of [`processes`](Self::processes).
    pub fn pids(&self) -> Vec<i32> {
        self.processes().iter().map(|process| process.pid).collect()
    }

    /// Sends a signal to each process that is not in `done`, and adds the process to `done`.
    /// Returns the processes that could not be reached.
    pub fn signal_all(&self, number: i32, done: &mut BTreeSet<Identity>) -> Vec<i32> {
        let mut refused = Vec::new();
        for _ in 0..LOOKS_MAX {
            let before = done.len();
            for process in self.processes() {
                if done.insert(process.identity())
                    && self.signal(&process, number) == Err(Errno::EPERM)
                {
                    refused.push(process.pid);
                }
            }
            if done.len() == before {
                break;
            }
        }
        refused
    }

    /// Sends a signal to a process that [`processes`](Self::processes) has just shown.
    ///
    /// The parent of the process may have reaped it since, and a stranger may have its number now.
    /// So the ancestry is checked again behind a descriptor, because a descriptor stays with one
    /// process. Only this process reaps a child of the root, so that such a child needs no check.
    ///
    /// # Errors
    /// `EPERM`: the process belongs to another user. `ESRCH`: the process has ended.
    pub fn signal(&self, process: &Process, number: i32) -> nix::Result<()> {
        if process.parent == self.root {
            return send(process.pid, number);
        }
        match Handle::open(process.pid) {
            Some(handle) if Job::descends(process.pid, self.root) => handle.send(number),
            Some(_) => Err(Errno::ESRCH),
            None => send(process.pid, number),
        }
    }

    /// Sends SIGKILL to each process that it finds. Returns the processes that are out of reach.
    pub fn kill_all(&self) -> Vec<i32> {
        for _ in 0..QUICK_ROUNDS {
            let children = self.children().unwrap_or_default();
            let hit = children.iter().filter(|pid| send(**pid, libc::SIGKILL).is_ok()).count();
            if hit == 0 {
                break;
            }
        }
        let kill = |process: &Process| self.signal(process, libc::SIGKILL) == Err(Errno::EPERM);
        self.processes().iter().filter(|process| kill(process)).map(|process| process.pid).collect()
    }

    /// Runs one round of the attempt, begun at `since`, to end the whole job. `reap` collects ended
    /// processes from wait(2), and says whether none is left.
    ///
    /// * `Some(Ok(()))`: every process has ended.
    /// * `Some(Err(left))`: these processes cannot be ended. If the list is empty, a process is
    ///   left that no look shows.
    /// * `None`: another round may help.
    pub fn end_round(
        &self,
        since: Instant,
        reap: impl FnOnce() -> bool,
    ) -> Option<Result<(), Vec<i32>>> {
        let refused = self.kill_all();
        if reap() {
            return Some(Ok(()));
        }
        let left = self.pids();
        let only_refused = !left.is_empty() && left.iter().all(|pid| refused.contains(pid));
        let enough = if only_refused { REFUSED_FOR } else { GONE_WITHIN };
        (since.elapsed() >= enough).then_some(Err(left))
    }

    /// Ends the whole job, and reaps the processes that the job leaves to this process.
    ///
    /// # Errors
    /// With the processes that could not be ended, as in [`end_round`](Self::end_round).
    pub fn end(&self) -> Result<(), Vec<i32>> {
        let since = Instant::now();
        loop {
            if let Some(outcome) = self.end_round(since, || self.reap()) {
                return outcome;
            }
            sleep(BETWEEN_ROUNDS);
        }
    }

    /// Reaps children that have ended. Says whether no process of the job is left.
    fn reap(&self) -> bool {
        loop {
            match wait_any() {
                Ok(Some(_)) => {}
                Err(Errno::ECHILD) => return true,
                // A living stranger keeps wait(2) from reporting that the job has ended. The list
                // of children reports it instead: a living process has an ancestor in that list,
                // which stays there, ended or not, until it is reaped here.
                _ => {
                    return !self.strangers.is_empty()
                        && self.children().is_ok_and(|list| list.is_empty());
                }
            }
        }
    }

    /// Children of the root that belong to the job, including ended ones that are not reaped.
    fn children(&self) -> io::Result<Vec<i32>> {
        let mut list = children(self.root)?;
        list.retain(|pid| !self.strangers.contains(pid));
        Ok(list)
    }

    /// Whether this process descends from `ancestor`.
    pub fn descends(pid: i32, ancestor: i32) -> bool {
        let mut at = pid;
        while let Some(process) = Process::look(at) {
            if process.parent == ancestor {
                return true;
            }
            at = process.parent;
        }
        // A process that `/proc` hides may still be a child.
        children(ancestor).is_ok_and(|list| list.contains(&at))
    }
}

/// The processes below `root` that have not ended, in order of their ids.
fn descendants(all: &BTreeMap<i32, Process>, root: i32, strangers: &BTreeSet<i32>) -> Vec<Process> {
    let mut below: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in all.values() {
        below.entry(process.parent).or_default().push(process.pid);
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for pid in below.get(&parent).into_iter().flatten() {
            if *pid != root && !strangers.contains(pid) && found.insert(*pid) {
                open.push(*pid);
            }
        }
    }
    found.iter().map(|pid| all[pid]).filter(|process| !process.has_ended()).collect()
}

fn every_process() -> io::Result<BTreeMap<i32, Process>> {
    let pids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| Some((pid, Process::look(pid)?))).collect())
}

/// The direct children of a process's main thread, including those that `/proc` hides otherwise.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(list) => Ok(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        // Few kernels are built without that list.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(every_process()?
            .values()
            .filter(|process| process.parent == pid)
            .map(|process| process.pid)
            .collect()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_threads(pid: i32, parent: i32, state: u8, threads: u32) -> (i32, Process) {
        (pid, Process { pid, parent, group: 1, state, threads, started: 5 })
    }

    fn process(pid: i32, parent: i32, state: u8) -> (i32, Process) {
        with_threads(pid, parent, state, 1)
    }

    #[test]
    fn names_with_parentheses_and_spaces_are_parsed() {
        let stat =
            b"42 (a) R 1 (b c) S 7 8 8 0 -1 4194560 9 9 9 9 9 9 9 9 20 0 3 0 137235 0 0 184467";
        let is =
            Process { pid: 42, parent: 7, group: 8, state: b'S', threads: 3, started: 137_235 };
        assert_eq!(parse(42, stat), Some(is));
        for bad in
            [&b""[..], b"42 (x", b"42 (x) S", b"42 (x) S y 1", b"42 (x) S 7 8 8 0 -1 4194560"]
        {
            assert_eq!(parse(42, bad), None);
        }
        let me = std::process::id() as i32;
        assert_eq!(
            Process::look(me).map(|process| process.group),
            Some(nix::unistd::getpgrp().as_raw())
        );
    }

    /// Such a process counted as ended, so the lock was released while its threads worked on.
    #[test]
    fn a_process_whose_first_thread_alone_has_ended_is_alive() {
        let shown = |threads: u32| {
            let stat =
                format!("13 (x) Z 10 1 1 0 -1 4228364 9 9 9 9 9 9 9 9 20 0 {threads} 0 137235 0 0");
            let zombie = parse(13, stat.as_bytes()).expect("a process");
            let all = BTreeMap::from([process(10, 1, b'S'), (13, zombie), process(14, 13, b'S')]);
            descendants(&all, 10, &BTreeSet::new()).iter().map(|p| p.pid).collect::<Vec<_>>()
        };
        assert_eq!(shown(2), [13, 14]);
        assert_eq!(shown(1), [14]);
    }

    #[test]
    fn a_number_that_is_no_process_of_the_job_any_more_gets_no_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut stranger =
            std::process::Command::new("sleep").arg("600").spawn().expect("start a process");
        let pid = stranger.id() as i32;
        // As a look before the stranger's start showed it: somewhere below the root, where it is
        // not.
        let (_, shown) = process(pid, pid - 1, b'S');
        let job = Job { root: pid, strangers: BTreeSet::new() };
        assert_eq!(job.signal(&shown, libc::SIGTERM), Err(Errno::ESRCH));
        let mine = Job { root: std::process::id() as i32, strangers: BTreeSet::new() };
        assert_eq!(mine.signal(&shown, libc::SIGKILL), Ok(()));
        assert_eq!(
            stranger.wait().expect("its end").signal(),
            Some(libc::SIGKILL),
            "the only signal that it got"
        );
    }

    /// Only numbers were remembered, so a new process with the number of a told one got no signal.
    #[test]
    fn a_process_with_the_number_of_one_that_was_told_is_told() {
        let script = "sleep 600 & wait $!; exit $?";
        let mut root =
            std::process::Command::new("sh").args(["-c", script]).spawn().expect("start a process");
        let job = Job { root: root.id() as i32, strangers: BTreeSet::new() };
        let only = loop {
            if let [only] = job.processes()[..] {
                break only;
            }
            sleep(BETWEEN_ROUNDS);
        };
        let mut told = BTreeSet::from([only.identity()]);
        assert!(job.signal_all(libc::SIGTERM, &mut told).is_empty());
        assert_eq!(job.pids(), [only.pid], "it was told already");
        let mut told = BTreeSet::from([(only.pid, only.started - 1)]);
        assert!(job.signal_all(libc::SIGTERM, &mut told).is_empty());
        assert_eq!(root.wait().expect("its end").code(), Some(128 + libc::SIGTERM));
    }

    #[test]
    fn a_job_is_all_that_descends_and_is_alive() {
        let all = BTreeMap::from([
            process(1, 0, b'S'),
            process(10, 1, b'S'),
            process(11, 10, b'T'),
            process(12, 11, b'S'),
            process(13, 10, b'Z'),
            process(20, 10, b'S'), // a stranger and its child
            process(21, 20, b'S'),
            process(30, 1, b'S'),
        ]);
        let pids: Vec<i32> =
            descendants(&all, 10, &BTreeSet::from([20])).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [11, 12]);
        let everything = descendants(&all, 1, &BTreeSet::new());
        assert_eq!(everything.len(), 6);
    }
}
