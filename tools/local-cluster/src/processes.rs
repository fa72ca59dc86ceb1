//! A cluster of child processes: their start, their faults and their stop.

use crate::{ClusterError, Member, Process};
use nix::sys::signal::Signal;
use routing::ClusterConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// How many of the nodes that joined are named to one that joins, and to a gateway.
const JOIN_ASKS_MAX: usize = 8;

/// Interval between two checks of a process that was told to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A change to the usual start of a process.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
    /// A cluster file other than the cluster's own.
    pub config: Option<PathBuf>,
    /// A data directory other than the usual one, for a node.
    pub data: Option<PathBuf>,
    /// Additional arguments.
    pub args: Vec<String>,
    /// Whether standard error is a full pipe that is never read.
    pub unheard: bool,
}

/// A process that ended by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The process that ended.
    pub member: Member,
    /// The exit status of the process.
    pub status: ExitStatus,
}

/// The processes of a cluster, and their files in one directory.
///
/// * `running` has an entry for each process that was started and has not been killed, stopped or
///   reaped; `paused` names some of these.
/// * Every process is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Processes {
    dir: PathBuf,
    config: ClusterConfig,
    /// The nodes that join the cluster, each with its address. The cluster file does not have them.
    joining: BTreeMap<u64, String>,
    running: BTreeMap<Member, Process>,
    paused: BTreeSet<Member>,
}

impl Processes {
    /// Writes the cluster file and makes the directories of the nodes in `dir`. Starts no process.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn new(dir: &Path, config: ClusterConfig) -> Result<Processes, ClusterError> {
        let processes = Processes {
            dir: dir.to_owned(),
            config,
            joining: BTreeMap::new(),
            running: BTreeMap::new(),
            paused: BTreeSet::new(),
        };
        processes.write_config(&processes.config_file(), &processes.config)?;
        for node in &processes.config.nodes {
            let disk = processes.disk(node.id.0);
            std::fs::create_dir_all(&disk).map_err(ClusterError::file("create", &disk))?;
        }
        Ok(processes)
    }

    /// Writes a cluster file, for example one that differs from this cluster's.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_config(&self, path: &Path, config: &ClusterConfig) -> Result<(), ClusterError> {
        std::fs::write(path, config.to_yaml()).map_err(ClusterError::file("write", path))
    }

    /// Replaces the cluster file. Processes read it when they start.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn replace_config(&mut self, config: ClusterConfig) -> Result<(), ClusterError> {
        self.write_config(&self.config_file(), &config)?;
        self.config = config;
        Ok(())
    }

    /// Gives a node that the cluster file does not have its address, with which it joins whenever
    /// it starts.
    ///
    /// # Errors
    /// If the directory of the node cannot be made.
    pub fn let_join(&mut self, id: u64, address: String) -> Result<(), ClusterError> {
        let disk = self.disk(id);
        std::fs::create_dir_all(&disk).map_err(ClusterError::file("create", &disk))?;
        self.joining.insert(id, address);
        Ok(())
    }

    /// The description of the cluster.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The directory that contains all files of the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the cluster file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    /// The directory that stands for a node's disk, and contains its data directory.
    pub fn disk(&self, id: u64) -> PathBuf {
        self.dir.join(format!("disk-{id}"))
    }

    /// The data directory of a node.
    pub fn data(&self, id: u64) -> PathBuf {
        self.disk(id).join("data")
    }

    /// The log file of a process.
    pub fn log(&self, member: Member) -> PathBuf {
        self.dir.join(format!("{member}.log"))
    }

    /// The last lines of a process's log; empty without a log.
    pub fn log_end(&self, member: Member, lines: usize) -> String {
        let text = std::fs::read(self.log(member)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// All nodes, then all gateways, of the cluster file.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.config.nodes.iter().map(|node| Member::Node(node.id.0));
        nodes
            .chain((1..).zip(&self.config.gateways).map(|(number, _)| Member::Gateway(number)))
            .collect()
    }

    /// The address that a member serves on, as `host:port`.
    ///
    /// # Panics
    /// If neither the cluster file has such a member, nor a node like that joins.
    pub fn address(&self, member: Member) -> &str {
        match member {
            Member::Node(id) => match self.joining.get(&id) {
                Some(address) => address,
                None => &self.node(id).address,
            },
            Member::Gateway(number) => &self.gateway(number).address,
        }
    }

    /// The address of a member's `/metrics` as `host:port`, if it has that page.
    ///
    /// # Panics
    /// If the cluster file has no such member.
    pub fn metrics_address(&self, member: Member) -> Option<&str> {
        match member {
            Member::Node(id) => self.node(id).metrics.as_deref(),
            Member::Gateway(number) => self.gateway(number).metrics.as_deref(),
        }
    }

    fn node(&self, id: u64) -> &routing::NodeConfig {
        self.config.node(routing::NodeId(id)).expect("a node of the cluster file")
    }

    fn gateway(&self, number: u64) -> &routing::GatewayConfig {
        self.config.gateways.get(number as usize - 1).expect("a gateway of the cluster file")
    }

    /// The addresses of all gateways, as clients name them.
    pub fn endpoints(&self) -> Vec<String> {
        self.config.gateways.iter().map(|gateway| gateway.address.clone()).collect()
    }

    /// Addresses of the latest nodes that the cluster file does not have. It may have none of the
    /// present nodes by now.
    fn joined_but(&self, id: Option<u64>) -> Vec<&str> {
        let others = self.joining.iter().rev().filter(|(other, _)| Some(**other) != id);
        others.take(JOIN_ASKS_MAX).map(|(_, address)| address.as_str()).collect()
    }

    /// The command that runs a member: `program` with the member's arguments.
    pub fn command(&self, member: Member, mut program: Command, launch: &Launch) -> Command {
        match member {
            Member::Node(id) => {
                let data = launch.data.clone().unwrap_or_else(|| self.data(id));
                program.args(["node", "--id", &id.to_string(), "--data-dir"]).arg(data);
                if let Some(address) = self.joining.get(&id) {
                    program.arg("--join");
                    let others = self.joined_but(Some(id));
                    if !others.is_empty() {
                        program.arg(others.join(","));
                    }
                    program.args(["--address", address]);
                }
            }
            Member::Gateway(_) => {
                program.args(["gateway", "--listen", self.address(member)]);
                for address in self.joined_but(None) {
                    program.args(["--seed", address]);
                }
            }
        }
        // Clusters of tests have neither TLS nor identities. Those that lie in network namespaces
        // listen beyond loopback.
        let address = self.address(member).parse::<routing::Address>();
        if self.config.tls.is_none() && address.is_ok_and(|address| !address.is_loopback()) {
            program.arg("--insecure");
        }
        program.arg("--config").arg(launch.config.clone().unwrap_or_else(|| self.config_file()));
        program.args(&launch.args).envs(launch.env.iter().map(|(key, value)| (key, value)));
        program
    }

    /// Starts a member that does not run. `program` runs `palisade`, possibly by way of another
    /// program (`ip netns exec … palisade`).
    ///
    /// # Errors
    /// If the member cannot be started.
    ///
    /// # Panics
    /// If the member runs already, because such a call is a mistake of the caller.
    pub fn start(
        &mut self,
        member: Member,
        program: Command,
        launch: &Launch,
    ) -> Result<(), ClusterError> {
        assert!(!self.runs(member), "{member} runs already");
        let (command, log) = (self.command(member, program, launch), self.log(member));
        let started = if launch.unheard {
            Process::spawn_unheard(command, &log)
        } else {
            Process::spawn(command, &log)
        };
        self.running
            .insert(member, started.map_err(|source| ClusterError::Start { member, source })?);
        Ok(())
    }

    /// Whether the process was started, and has not been killed, stopped or reaped.
    pub fn runs(&self, member: Member) -> bool {
        self.running.contains_key(&member)
    }

    /// The pid of a member that runs.
    pub fn pid(&self, member: Member) -> Option<u32> {
        self.running.get(&member).map(Process::id)
    }

    /// The nodes that run or are paused, by id.
    pub fn running_nodes(&self) -> Vec<u64> {
        let node = |member: &Member| if let Member::Node(id) = member { Some(*id) } else { None };
        self.running.keys().filter_map(node).collect()
    }

    /// Sends SIGKILL, and waits until the process is gone. Has no effect on a process that does not
    /// run.
    pub fn kill(&mut self, member: Member) {
        if let Some(mut process) = self.take(member) {
            process.kill();
        }
    }

    /// Sends a signal. Has no effect on a process that does not run.
    pub fn signal(&self, member: Member, signal: Signal) {
        if let Some(process) = self.running.get(&member) {
            process.signal(signal);
        }
    }

    /// Sends SIGSTOP, and records the process as paused.
    pub fn pause(&mut self, member: Member) {
        if self.runs(member) {
            self.signal(member, Signal::SIGSTOP);
            self.paused.insert(member);
        }
    }

    /// Sends SIGCONT to a process that was paused.
    pub fn resume(&mut self, member: Member) {
        if self.paused.remove(&member) {
            self.signal(member, Signal::SIGCONT);
        }
    }

    /// Resumes every process that was paused.
    pub fn resume_all(&mut self) {
        for member in std::mem::take(&mut self.paused) {
            self.signal(member, Signal::SIGCONT);
        }
    }

    /// Sends SIGTERM, and waits until the process is gone. Has no effect on a process that does not
    /// run.
    ///
    /// # Errors
    /// If the process does not stop within `limit`, or not cleanly. In either case it is gone.
    pub async fn stop(&mut self, member: Member, limit: Duration) -> Result<(), ClusterError> {
        let Some(mut process) = self.take(member) else { return Ok(()) };
        process.signal(Signal::SIGCONT);
        process.signal(Signal::SIGTERM);
        let asked = Instant::now();
        loop {
            match process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(ClusterError::StoppedBadly { member, status }),
                None if asked.elapsed() > limit => {
                    return Err(ClusterError::NotStopped { member, limit });
                }
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Reaps the processes that ended by themselves since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut found = Vec::new();
        for (member, process) in &mut self.running {
            found.extend(process.ended().map(|status| Ended { member: *member, status }));
        }
        for ended in &found {
            self.take(ended.member);
        }
        found
    }

    /// Hands a process over to the caller.
    pub fn take(&mut self, member: Member) -> Option<Process> {
        self.paused.remove(&member);
        self.running.remove(&member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addresses, cluster_config};

    /// A cluster of shells: `program` is a shell that runs a script and ignores its arguments.
    fn cluster(dir: &Path) -> Processes {
        let config = cluster_config(
            "test",
            1,
            &[Addresses::only("127.0.0.1:1")],
            &[Addresses::only("127.0.0.1:2")],
        );
        Processes::new(dir, config).expect("a cluster")
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command
    }

    async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    #[tokio::test]
    async fn each_member_is_started_with_its_arguments_and_its_end_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = cluster(dir.path());
        assert_eq!(cluster.members(), [Member::Node(1), Member::Gateway(1)]);
        let launch = Launch {
            args: vec!["--more".into()],
            env: vec![("A".into(), "b".into())],
            ..Launch::default()
        };
        for member in cluster.members() {
            cluster.start(member, shell("echo $A $*; exit 3"), &launch).expect("started");
        }
        let mut ended = Vec::new();
        eventually(|| {
            ended.extend(cluster.ended());
            (ended.len() == 2).then_some(())
        })
        .await;
        assert!(ended.iter().all(|ended| ended.status.code() == Some(3)), "{ended:?}");
        let (config, data) = (cluster.config_file(), cluster.data(1));
        let (config, data) = (config.display(), data.display());
        let node = format!("b node --id 1 --data-dir {data} --config {config} --more");
        assert_eq!(cluster.log_end(Member::Node(1), 1), node);
        let gateway = format!("b gateway --listen 127.0.0.1:2 --config {config} --more");
        assert_eq!(cluster.log_end(Member::Gateway(1), 9), gateway);
        assert!(!cluster.runs(Member::Node(1)));
    }

    #[test]
    fn a_node_that_the_file_does_not_have_joins_at_its_address() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = cluster(dir.path());
        cluster.let_join(7, "127.0.0.1:3".into()).expect("a directory for it");
        let command = cluster.command(Member::Node(7), Command::new("p"), &Launch::default());
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        assert_eq!(args[..3], ["node", "--id", "7"]);
        assert!(args.windows(3).any(|args| args == ["--join", "--address", "127.0.0.1:3"]));
        assert_eq!(cluster.members(), [Member::Node(1), Member::Gateway(1)]);
    }

    #[tokio::test]
    async fn a_process_stops_when_told_also_while_it_is_paused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = cluster(dir.path());
        let node = Member::Node(1);
        // The trap interrupts `wait`, but would not interrupt a command in the foreground.
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1 & wait; done";
        cluster.start(node, shell(script), &Launch::default()).expect("started");
        let ready = cluster.log(node);
        eventually(|| std::fs::read_to_string(&ready).ok().filter(|text| text.contains("ready")))
            .await;
        cluster.pause(node);
        cluster.stop(node, Duration::from_secs(60)).await.expect("a clean stop");
        assert_eq!((cluster.runs(node), cluster.pid(node)), (false, None));
        cluster.start(node, shell("exit 1"), &Launch::default()).expect("started again");
        let failed = cluster.stop(node, Duration::from_secs(60)).await;
        assert!(failed.is_err_and(|error| {
            error.to_string().starts_with("node-1 was told to stop and ended")
        }));
    }
}
