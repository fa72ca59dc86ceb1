//! A cluster of real processes in a temporary directory.

use crate::process::Process;
use crate::{LIMIT, eventually, palisade_binary};
use client::{Client, ClusterStatus, ShardStatus};
use nix::sys::signal::Signal;
use routing::{ClusterConfig, ShardMap};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// What a cluster is to be made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Nodes, numbered from 1.
    pub nodes: u64,
    /// Shards.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// Gateways, numbered from 1.
    pub gateways: u64,
    /// Lines for the `settings` of the cluster file.
    pub settings: Vec<(&'static str, u64)>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec { nodes: 3, shards: 1, replicas: 3, gateways: 1, settings: Vec::new() }
    }
}

impl Spec {
    /// Five nodes that each hold a replica of each of four shards, and one gateway.
    pub fn five_by_four() -> Spec {
        Spec { nodes: 5, shards: 4, replicas: 5, ..Spec::default() }
    }
}

/// The processes of a cluster.
///
/// * `processes` has an entry for each process that is running or paused, and none for those that were killed.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    dir: TempDir,
    config: PathBuf,
    node_metrics: Vec<String>,
    gateways: Vec<String>,
    gateway_metrics: Vec<String>,
    processes: BTreeMap<String, Process>,
    _only_one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts all processes and waits until every node answers and every shard has a leader.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn start(spec: Spec) -> Cluster {
        let mut cluster = Cluster::prepare(spec).await;
        cluster.start_all();
        cluster.ready().await;
        cluster
    }

    /// Writes the cluster file, and starts nothing yet.
    ///
    /// # Panics
    /// If that cannot be done.
    pub async fn prepare(spec: Spec) -> Cluster {
        static ONLY_ONE: Mutex<()> = Mutex::const_new(());
        let only_one = ONLY_ONE.lock().await;
        let dir = TempDir::with_prefix("palisade-test-").expect("temporary directory");
        let mut yaml = format!("cluster: test\nshards: {}\nreplicas: {}\nnodes:\n", spec.shards, spec.replicas);
        let node_metrics: Vec<String> = (0..spec.nodes).map(|_| free_address()).collect();
        for (id, metrics) in (1..).zip(&node_metrics) {
            let address = free_address();
            writeln!(yaml, "  - {{ id: {id}, address: \"{address}\", metrics: \"{metrics}\" }}")
                .expect("write to a string");
        }
        let gateways: Vec<String> = (0..spec.gateways).map(|_| free_address()).collect();
        let gateway_metrics: Vec<String> = (0..spec.gateways).map(|_| free_address()).collect();
        yaml.push_str("gateways:\n");
        for (address, metrics) in gateways.iter().zip(&gateway_metrics) {
            writeln!(yaml, "  - {{ address: \"{address}\", metrics: \"{metrics}\" }}").expect("write to a string");
        }
        if !spec.settings.is_empty() {
            yaml.push_str("settings:\n");
            for (key, value) in &spec.settings {
                writeln!(yaml, "  {key}: {value}").expect("write to a string");
            }
        }
        let config = dir.path().join("cluster.yaml");
        std::fs::write(&config, yaml).expect("write the cluster file");
        let processes = BTreeMap::new();
        Cluster { spec, dir, config, node_metrics, gateways, gateway_metrics, processes, _only_one: only_one }
    }

    /// Starts every process that is not running.
    pub fn start_all(&mut self) {
        for id in 1..=self.spec.nodes {
            self.start_node(id);
        }
        for number in 1..=self.spec.gateways {
            self.start_gateway(number);
        }
    }

    /// Starts a node, unless it runs.
    pub fn start_node(&mut self, id: u64) {
        self.start_node_with(id, &[]);
    }

    /// Starts a node with these options more, unless it runs.
    pub fn start_node_with(&mut self, id: u64, options: &[&str]) {
        self.start_node_in(id, options, &[]);
    }

    /// Starts a node with these options and environment more, unless it runs.
    pub fn start_node_in(&mut self, id: u64, options: &[&str], env: &[(String, String)]) {
        let (id_text, data) = (id.to_string(), self.data_dir(id).display().to_string());
        let args = [&["node", "--id", &id_text, "--data-dir", &data], options].concat();
        self.start_process(format!("node-{id}"), &args, env);
    }

    /// Starts a node whose standard error is a full pipe that nobody reads, with this environment more.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start_node_unheard(&mut self, id: u64, env: &[(String, String)]) {
        let name = format!("node-{id}");
        let (id, data) = (id.to_string(), self.data_dir(id).display().to_string());
        let (command, log) = self.server(&name, &["node", "--id", &id, "--data-dir", &data], env);
        let former = self.processes.insert(name, Process::spawn_unheard(command, &log));
        assert!(former.is_none(), "node {id} runs already");
    }

    /// Starts a second process of a node with another data directory, as on a second machine, and waits until it ends by
    /// itself. Returns how it ended and all that it said.
    ///
    /// # Panics
    /// If it goes on.
    pub async fn node_that_ends_elsewhere(&self, id: u64, data: &Path, options: &[&str]) -> (ExitStatus, String) {
        let yaml = std::fs::read_to_string(&self.config).expect("read the cluster file");
        let (mut config, _) = ClusterConfig::parse(&yaml).expect("the cluster file is sound");
        let node = config.nodes.iter_mut().find(|node| node.id.0 == id).expect("a node of the cluster");
        let mut elsewhere = yaml.replace(&node.address, &free_address());
        if let Some(metrics) = &node.metrics {
            elsewhere = elsewhere.replace(metrics, &free_address());
        }
        let config = self.dir.path().join("elsewhere.yaml");
        std::fs::write(&config, elsewhere).expect("write a cluster file");
        let (id_text, data, config) = (id.to_string(), data.display().to_string(), config.display().to_string());
        let args = [&["node", "--id", &id_text, "--data-dir", &data, "--config", &config], options].concat();
        self.process_that_ends(id, args).await
    }

    /// Starts a node with these options more, waits until it ends by itself, and returns how it ended and all that it said.
    ///
    /// # Panics
    /// If it goes on.
    pub async fn node_that_ends(&self, id: u64, options: &[&str]) -> (ExitStatus, String) {
        let (id_text, data) = (id.to_string(), self.data_dir(id).display().to_string());
        let config = self.config.display().to_string();
        let args = [&["node", "--id", &id_text, "--data-dir", &data, "--config", &config], options].concat();
        self.process_that_ends(id, args).await
    }

    async fn process_that_ends(&self, id: u64, args: Vec<&str>) -> (ExitStatus, String) {
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let log = self.dir.path().join(format!("node-{id}-that-ends.log"));
        std::fs::write(&log, "").expect("an empty log");
        let mut process = Process::start(&args, &log);
        let ended = eventually(&format!("palisade {} ends", args.join(" ")), async || process.ended()).await;
        (ended, std::fs::read_to_string(&log).expect("its log"))
    }

    /// Waits until a node that runs here ends by itself, and returns its log.
    ///
    /// # Panics
    /// If it goes on.
    pub async fn node_ends(&mut self, id: u64) -> String {
        self.node_ended(id).await.1
    }

    /// Waits until a node that runs here ends by itself, and returns how it ended, and its log.
    ///
    /// # Panics
    /// If it goes on.
    pub async fn node_ended(&mut self, id: u64) -> (ExitStatus, String) {
        let mut process = self.processes.remove(&format!("node-{id}")).expect("a running node");
        let status = eventually(&format!("node {id} ends"), async || process.ended()).await;
        (status, std::fs::read_to_string(process.log()).expect("its log"))
    }

    /// Where everything of this cluster lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a node keeps its data.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("data-{id}"))
    }

    /// What a node that runs here has logged so far.
    pub fn node_log(&self, id: u64) -> String {
        std::fs::read_to_string(self.processes[&format!("node-{id}")].log()).expect("its log")
    }

    /// Starts a gateway, unless it runs.
    pub fn start_gateway(&mut self, number: u64) {
        let address = self.gateways[number as usize - 1].clone();
        self.start_process(format!("gateway-{number}"), &["gateway", "--listen", &address], &[]);
    }

    /// The cluster file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Starts a gateway beside those of the cluster, on a cluster file of its own; `before` is a program that runs it, if any.
    /// Gives its address too.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_stranger(&self, before: &[&str], config: &Path) -> (Process, String) {
        let address = free_address();
        let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        words.push(palisade_binary().display().to_string());
        words.extend(["gateway", "--listen", &address, "--config", &config.display().to_string()].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let log = self.dir.path().join(format!("stranger-{address}.log"));
        (Process::spawn(command, &log), address)
    }

    fn start_process(&mut self, name: String, args: &[&str], env: &[(String, String)]) {
        if self.processes.contains_key(&name) {
            return;
        }
        let (command, log) = self.server(&name, args, env);
        self.processes.insert(name, Process::spawn(command, &log));
    }

    /// A server of this cluster, and where its output goes.
    fn server(&self, name: &str, args: &[&str], env: &[(String, String)]) -> (Command, PathBuf) {
        let mut command = Command::new(palisade_binary());
        command.args(args).arg("--config").arg(&self.config).envs(env.iter().map(|(key, value)| (key, value)));
        (command, self.dir.path().join(format!("{name}.log")))
    }

    /// Waits until every node that runs here answers, and every shard has a leader that all of them know.
    pub async fn ready(&mut self) {
        let running: Vec<u64> = self.running_nodes();
        eventually("every shard has a leader", async || {
            self.all_alive();
            let status = self.try_status().await?;
            let agreed = (0..self.spec.shards).all(|shard| {
                let replicas: Vec<&ShardStatus> = status.shards.iter().filter(|s| s.shard == shard).collect();
                let leader = replicas.iter().find(|s| s.role == "leader").map(|s| s.node);
                leader.is_some() && replicas.iter().all(|s| Some(s.leader) == leader)
            });
            let answering = status.nodes.iter().filter(|node| node.reachable).count();
            (agreed && answering == running.len()).then_some(())
        })
        .await;
    }

    /// Panics if a process ended by itself.
    fn all_alive(&mut self) {
        for (name, process) in &mut self.processes {
            if let Some(status) = process.ended() {
                panic!("{name} ended by itself: {status}");
            }
        }
    }

    /// The nodes that are running or paused.
    pub fn running_nodes(&self) -> Vec<u64> {
        (1..=self.spec.nodes).filter(|id| self.processes.contains_key(&format!("node-{id}"))).collect()
    }

    /// SIGKILL.
    pub fn kill_node(&mut self, id: u64) {
        self.processes.remove(&format!("node-{id}")).expect("a running node").kill();
    }

    /// SIGKILL.
    pub fn kill_gateway(&mut self, number: u64) {
        self.processes.remove(&format!("gateway-{number}")).expect("a running gateway").kill();
    }

    /// Some other signal.
    pub fn signal_node(&self, id: u64, signal: Signal) {
        self.processes[&format!("node-{id}")].signal(signal);
    }

    /// SIGSTOP.
    pub fn pause_node(&self, id: u64) {
        self.processes[&format!("node-{id}")].signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume_node(&self, id: u64) {
        self.processes[&format!("node-{id}")].signal(Signal::SIGCONT);
    }

    /// SIGSTOP.
    pub fn pause_gateway(&self, number: u64) {
        self.processes[&format!("gateway-{number}")].signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume_gateway(&self, number: u64) {
        self.processes[&format!("gateway-{number}")].signal(Signal::SIGCONT);
    }

    /// What a gateway says at `/metrics`.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn gateway_metrics(&self, number: u64) -> String {
        page_at(&self.gateway_metrics[number as usize - 1], "/metrics")
    }

    /// What a node says at `/metrics`.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn node_metrics(&self, id: u64) -> String {
        page_at(&self.node_metrics[id as usize - 1], "/metrics")
    }

    /// What a node says at `/healthz`, status line and all.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn node_health(&self, id: u64) -> String {
        page_at(&self.node_metrics[id as usize - 1], "/healthz")
    }

    /// Its gateways, as clients name them.
    pub fn endpoints(&self) -> String {
        self.gateways.join(",")
    }

    /// The address of one gateway, from 1.
    pub fn gateway(&self, number: u64) -> &str {
        &self.gateways[number as usize - 1]
    }

    /// A client of all gateways.
    pub fn client(&self) -> Client {
        Client::connect(self.gateways.clone())
    }

    /// The map of shards that the cluster file describes.
    pub fn map(&self) -> ShardMap {
        let yaml = std::fs::read_to_string(&self.config).expect("read the cluster file");
        ClusterConfig::parse(&yaml).expect("the cluster file is sound").0.shard_map()
    }

    /// A name that begins with `prefix` and goes to this shard.
    pub fn name_on(&self, shard: u32, prefix: &str) -> String {
        let map = self.map();
        let mut names = (0..).map(|i| format!("{prefix}-{i}"));
        names.find(|name| map.route(name).shard.0 == shard).expect("every shard has names")
    }

    /// What the cluster says of itself; `None` while no gateway answers.
    pub async fn try_status(&self) -> Option<ClusterStatus> {
        self.client().cluster_status().await.ok()
    }

    /// What the cluster says of itself.
    pub async fn status(&self) -> ClusterStatus {
        eventually("the cluster's status", async || self.try_status().await).await
    }

    /// The node that leads a shard. Waits until there is one.
    pub async fn leader(&self, shard: u32) -> u64 {
        eventually("a leader", async || {
            let status = self.try_status().await?;
            // The highest term: a deposed leader that was paused may still call itself one.
            let leaders = status.shards.iter().filter(|s| s.shard == shard && s.role == "leader");
            leaders.max_by_key(|s| s.term).map(|s| s.node)
        })
        .await
    }

    /// Waits until all replicas of each shard, one per node, stand at the same index with the same state hash.
    pub async fn replicas_agree(&self) {
        eventually("all replicas at one index with one state hash", async || {
            let status = self.try_status().await?;
            let agree = (0..self.spec.shards).all(|shard| {
                let replicas: Vec<&ShardStatus> = status.shards.iter().filter(|s| s.shard == shard).collect();
                let same_index = replicas.iter().all(|s| s.applied_index == replicas[0].applied_index);
                if same_index {
                    let hashes: Vec<u64> = replicas.iter().map(|s| s.state_hash).collect();
                    assert!(
                        hashes.iter().all(|hash| *hash == hashes[0]),
                        "shard {shard} at index {}: state hashes {hashes:x?}",
                        replicas[0].applied_index
                    );
                }
                same_index && replicas.len() == self.spec.replicas as usize
            });
            agree.then_some(())
        })
        .await;
    }

    /// The command `palisade` with these arguments, its endpoint set, its standard streams piped.
    pub fn palisade(&self, args: &[&str]) -> Command {
        let mut command = Command::new(palisade_binary());
        command.args(args).env("PALISADE_ENDPOINT", self.endpoints()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `palisade` to its end, off the async threads.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.palisade(args);
        let run = tokio::task::spawn_blocking(move || command.output().expect("run palisade"));
        tokio::time::timeout(LIMIT, run).await.expect("palisade ends").expect("no panic")
    }

    /// Runs `palisade … --json`, expects it to succeed, and parses what it printed.
    pub async fn run_json(&self, args: &[&str]) -> serde_json::Value {
        self.run_json_to(args, true).await
    }

    /// Runs `palisade … --json`, however it ends, and parses what it printed.
    pub async fn run_json_of(&self, args: &[&str]) -> serde_json::Value {
        self.run_json_to(args, false).await
    }

    async fn run_json_to(&self, args: &[&str], must_succeed: bool) -> serde_json::Value {
        let output = self.run(&[args, &["--json"]].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() || !must_succeed, "palisade {args:?}: {}\n{text}", output.status);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("palisade {args:?}: {error}\n{text}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL all the same; Process's drop sends it.
        if std::thread::panicking() {
            for number in 1..=self.spec.nodes.max(self.spec.gateways) {
                for kind in ["node", "gateway"] {
                    let log = self.dir.path().join(format!("{kind}-{number}.log"));
                    if let Ok(text) = std::fs::read_to_string(log) {
                        let lines: Vec<&str> = text.lines().collect();
                        let tail = &lines[lines.len().saturating_sub(30)..];
                        eprintln!("---- the end of {kind}-{number}'s log ----\n{}", tail.join("\n"));
                    }
                }
            }
        }
    }
}

fn page_at(address: &str, page: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect for a page");
    write!(stream, "GET {page} HTTP/1.0\r\n\r\n").expect("ask for a page");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read a page");
    text
}

/// A loopback address that is free now: below the range that the kernel takes ports for outgoing connections from, so that
/// it stays free while its process is down.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(131) % 20_000;
    loop {
        let offset = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (start + offset) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
