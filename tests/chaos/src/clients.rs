//! The client processes as the conductor sees them: it sends them orders, pauses them and reads
//! their records.
//!
//! The processes run outside of every node's and gateway's namespace. [`Clients`] kills and reaps
//! each of them when it is dropped.

use crate::cluster::Cluster;
use crate::error::{Because, Error};
use crate::load::{Order, Told};
use crate::record::Record;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_sim::checker::WatchRecord;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The number of client processes.
pub const CLIENTS: usize = 3;
/// The client process that is paused, counted from 0.
pub const VICTIM: usize = CLIENTS - 1;
/// The longest wait for an answer. It exceeds the time in which a client process completes its
/// operations.
const ANSWERS_WITHIN: Duration = Duration::from_secs(40);

/// The running client processes.
#[derive(Debug)]
pub struct Clients {
    processes: Vec<Process>,
    dir: PathBuf,
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    /// Starts the client processes.
    ///
    /// # Errors
    /// The reason why one process could not start.
    pub fn start(cluster: &Cluster, dir: &Path, seed: u64) -> Result<Clients, Error> {
        let me = std::env::current_exe().because("the path of this program")?;
        let processes = (1..=CLIENTS).map(|number| {
            let log = std::fs::File::create(dir.join(format!("client-{number}.log")));
            let log = log.because("a client's log")?;
            let mut child = Command::new(&me)
                .arg("client")
                .arg("--config")
                .arg(cluster.processes.config_file())
                .args(["--endpoints", &cluster.processes.endpoints().join(",")])
                .args(["--number", &number.to_string(), "--seed", &seed.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .because("a client process")?;
            let stdin = child.stdin.take().expect("piped");
            let told = BufReader::new(child.stdout.take().expect("piped")).lines();
            Ok(Process { child, stdin, told })
        });
        Ok(Clients { processes: processes.collect::<Result<_, Error>>()?, dir: dir.to_owned() })
    }

    /// Starts the load.
    ///
    /// # Errors
    /// If a client process does not answer.
    pub async fn begin(&mut self, round: u32) -> Result<(), Error> {
        for process in &mut self.processes {
            process.order(&Order::Begin { round }).await?;
        }
        for process in &mut self.processes {
            process.answer().await?;
        }
        Ok(())
    }

    /// Stops the load, waits for the operations under way, and returns the records.
    ///
    /// # Errors
    /// If a client process does not answer. Its record is then missing, so the round cannot be
    /// judged.
    pub async fn end(&mut self, round: u32) -> Result<Vec<Record>, Error> {
        let path = |number: usize| self.dir.join(format!("record-{round}-{number}.json"));
        let paths: Vec<PathBuf> = (0..self.processes.len()).map(path).collect();
        for (process, record) in self.processes.iter_mut().zip(&paths) {
            process.order(&Order::End { record: record.clone() }).await?;
        }
        let mut records = Vec::new();
        for (process, path) in self.processes.iter_mut().zip(&paths) {
            process.answer().await?;
            records.push(Record::load(path).because(path.display())?);
            // The record has been read. A history that breaks an invariant is kept as a whole.
            let _ = std::fs::remove_file(path);
        }
        Ok(records)
    }

    /// Ends the watches after these entries, and returns their records.
    ///
    /// # Errors
    /// If a client process does not answer.
    pub async fn end_watches(
        &mut self,
        round: u32,
        reached: &BTreeMap<u32, u64>,
    ) -> Result<Vec<WatchRecord>, Error> {
        let path = |number: usize| self.dir.join(format!("watches-{round}-{number}.json"));
        let paths: Vec<PathBuf> = (0..self.processes.len()).map(path).collect();
        for (process, path) in self.processes.iter_mut().zip(&paths) {
            let (reached, record) = (reached.clone(), path.clone());
            process.order(&Order::EndWatches { reached, record }).await?;
        }
        let mut records = Vec::new();
        for (process, path) in self.processes.iter_mut().zip(&paths) {
            process.answer().await?;
            let text = std::fs::read(path).because(path.display())?;
            let read: Vec<WatchRecord> = serde_json::from_slice(&text).because(path.display())?;
            records.extend(read);
            let _ = std::fs::remove_file(path);
        }
        Ok(records)
    }

    /// Sends SIGSTOP to [`VICTIM`].
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Sends SIGCONT to [`VICTIM`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.processes[VICTIM].child.id() {
            // The signal fails only if the process has ended, and the request for its record shows
            // that.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }
}

impl Process {
    async fn order(&mut self, order: &Order) -> Result<(), Error> {
        let line = serde_json::to_string(order).expect("orders are plain") + "\n";
        self.stdin.write_all(line.as_bytes()).await.because("a client process is gone")
    }

    async fn answer(&mut self) -> Result<Told, Error> {
        let line = tokio::time::timeout(ANSWERS_WITHIN, self.told.next_line()).await;
        let line = line.map_err(|_| {
            Error::Reason(format!("a client process did not answer within {ANSWERS_WITHIN:?}"))
        })?;
        let line = line.because("a client process")?;
        let line = line.ok_or("a client process ended; see client-*.log")?;
        serde_json::from_str(&line).because(format!("a client process said {line:?}"))
    }
}
