//! The processes of a job, found by their ancestry in `/proc`, and signals to all of them.
//!
//! It promises nothing about one look: processes start and end meanwhile. Whether all are gone is only said by wait(2),
//! since the root of the job is a subreaper; whoever must end them all repeats [`Job::kill_round`] until it says so.

use crate::lock::signals::{Handle, send, wait_any};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Looks for processes that start while others are being signalled.
const LOOKS_MAX: u32 = 5;
/// Rounds over the direct children for each look at all processes: a process that does nothing but fork is caught there.
const QUICK_ROUNDS: u32 = 20;
/// A process that was killed is gone within this time, unless a device or a network file system holds it.
pub const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Between two rounds: processes that were killed need a moment to end.
pub const BETWEEN_ROUNDS: Duration = Duration::from_millis(2);

/// One process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub state: u8,
}

impl Process {
    /// `None`: there is none, or it is not to be seen.
    pub fn look(pid: i32) -> Option<Process> {
        parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    pub fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// The name, in parentheses, may hold anything. After it: state, parent, process group.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Process { pid, parent, group, state })
}

/// Everything that descends from one process.
#[derive(Clone, Debug)]
pub struct Job {
    root: i32,
    /// Children of the root that are no part of the job, with all theirs.
    strangers: BTreeSet<i32>,
}

impl Job {
    /// Of this process: what descends from it, but from what it has already started.
    pub fn of_this_process() -> Job {
        let root = std::process::id() as i32;
        Job { root, strangers: children(root).into_iter().collect() }
    }

    /// Those that are alive now, as far as one look tells.
    pub fn processes(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: BTreeMap<i32, Process> = pids.filter_map(|pid| Some((pid, Process::look(pid)?))).collect();
        descendants(&all, self.root, &self.strangers)
    }

    /// Sends a signal to each process that is not in `done`, and notes it there. Returns those that could not be reached.
    pub fn signal_all(&self, number: i32, done: &mut BTreeSet<i32>) -> Vec<i32> {
        let mut refused = Vec::new();
        for _ in 0..LOOKS_MAX {
            let before = done.len();
            for process in self.processes() {
                if done.insert(process.pid) && self.signal(&process, number) == Err(Errno::EPERM) {
                    refused.push(process.pid);
                }
            }
            if done.len() == before {
                break;
            }
        }
        refused
    }

    /// To a process that [`processes`](Self::processes) has just shown.
    ///
    /// Its parent may have reaped it since, and its number may be a stranger's. So it is looked at again by way of a descriptor,
    /// which stays with one process. A child of the root is reaped by this process only.
    ///
    /// # Errors
    /// `EPERM`: it is another user's. `ESRCH`: it has ended.
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

    /// SIGKILL to each process that can be found. Returns those that are out of reach.
    pub fn kill_round(&self) -> Vec<i32> {
        for _ in 0..QUICK_ROUNDS {
            let fresh: Vec<i32> = children(self.root).into_iter().filter(|pid| !self.strangers.contains(pid)).collect();
            let hit = fresh.iter().filter(|pid| send(**pid, libc::SIGKILL).is_ok()).count();
            if hit == 0 {
                break;
            }
        }
        let kill = |process: &Process| self.signal(process, libc::SIGKILL) == Err(Errno::EPERM);
        self.processes().iter().filter(|process| kill(process)).map(|process| process.pid).collect()
    }

    /// Ends all of it, and reaps what it leaves to this process. Returns those that could not be ended.
    pub fn end(&self) -> Vec<i32> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let refused = self.kill_round();
            while let Ok(Some(_)) = wait_any() {}
            let left: Vec<i32> = self.processes().iter().map(|process| process.pid).collect();
            let only_refused = !left.is_empty() && left.iter().all(|pid| refused.contains(pid));
            if left.is_empty() || only_refused || Instant::now() >= until {
                return left;
            }
            sleep(BETWEEN_ROUNDS);
        }
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
        false
    }
}

/// Those below `root` that have not ended, in order of their ids.
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

/// The direct children of a process's main thread, if this kernel lists them: quick, and without a look at all others.
fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, state: u8) -> (i32, Process) {
        (pid, Process { pid, parent, group: 1, state })
    }

    #[test]
    fn names_with_parentheses_and_spaces_are_parsed() {
        let stat = b"42 (a) R 1 (b c) S 7 8 8 0 -1 4194560";
        assert_eq!(parse(42, stat), Some(Process { pid: 42, parent: 7, group: 8, state: b'S' }));
        for bad in [&b""[..], b"42 (x", b"42 (x) S", b"42 (x) S y 1"] {
            assert_eq!(parse(42, bad), None);
        }
        let me = std::process::id() as i32;
        assert_eq!(Process::look(me).map(|process| process.group), Some(nix::unistd::getpgrp().as_raw()));
    }

    #[test]
    fn a_number_that_is_no_process_of_the_job_any_more_gets_no_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().expect("start a process");
        let pid = stranger.id() as i32;
        // As a look showed it that is older than the stranger: somewhere below the root, which it is not.
        let shown = Process { pid, parent: pid - 1, group: 1, state: b'S' };
        let job = Job { root: pid, strangers: BTreeSet::new() };
        assert_eq!(job.signal(&shown, libc::SIGTERM), Err(Errno::ESRCH));
        let mine = Job { root: std::process::id() as i32, strangers: BTreeSet::new() };
        assert_eq!(mine.signal(&shown, libc::SIGKILL), Ok(()));
        assert_eq!(stranger.wait().expect("its end").signal(), Some(libc::SIGKILL), "the only signal that it got");
    }

    #[test]
    fn a_job_is_all_that_descends_and_is_alive() {
        let all = BTreeMap::from([
            process(1, 0, b'S'),
            process(10, 1, b'S'),
            process(11, 10, b'T'),
            process(12, 11, b'S'),
            process(13, 10, b'Z'),
            process(20, 10, b'S'), // a stranger, and what it started
            process(21, 20, b'S'),
            process(30, 1, b'S'),
        ]);
        let pids: Vec<i32> = descendants(&all, 10, &BTreeSet::from([20])).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [11, 12]);
        let everything = descendants(&all, 1, &BTreeSet::new());
        assert_eq!(everything.len(), 6);
    }
}
