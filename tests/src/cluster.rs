//! A cluster of real processes in a temporary directory.

use crate::{LIMIT, eventually, own_group, palisade_binary};
use client::{Client, ClientOptions, ClusterStatus, Security, ShardStatus};
use local_cluster::{
    Addresses, Ended, Launch, Member, Process, Processes, cluster_config, free_addresses, leaders,
    page,
};
use nix::sys::signal::Signal;
use routing::{AccessConfig, ClusterConfig, Settings, ShardMap, TlsConfig};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// The number of lines of each log that a failing test prints.
const LOG_LINES_SHOWN: usize = 30;

/// The size and settings of a cluster.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The number of nodes. They are numbered from 1.
    pub nodes: u64,
    /// The number of shards.
    pub shards: u32,
    /// The number of replicas of each shard.
    pub replicas: u32,
    /// The number of gateways. They are numbered from 1.
    pub gateways: u64,
    /// The `settings` of the cluster file, if they are not the defaults.
    pub settings: Option<Settings>,
    /// TLS and identities, if the cluster has them.
    pub secured: Option<Secured>,
}

/// What protects a cluster: sections of its cluster file, and the identity of the harness.
#[derive(Clone, Debug)]
pub struct Secured {
    /// The section `tls`.
    pub tls: TlsConfig,
    /// The section `access`.
    pub access: Option<AccessConfig>,
    /// What the clients of [`Cluster::client`] show. They must be permitted to observe.
    pub observer: Security,
}

impl Default for Spec {
    fn default() -> Self {
        Spec { nodes: 3, shards: 1, replicas: 3, gateways: 1, settings: None, secured: None }
    }
}

impl Spec {
    /// Five nodes that each hold a replica of each of four shards, and one gateway.
    pub fn five_by_four() -> Spec {
        Spec { nodes: 5, shards: 4, replicas: 5, ..Spec::default() }
    }
}

/// The processes of a cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    config_file: PathBuf,
    /// What nodes and gateways start as from now on.
    program: PathBuf,
    processes: Processes,
    /// The directory of the cluster. It is removed with its contents once the processes above are
    /// gone.
    dir: TempDir,
    _only_one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts all processes and waits until every node answers and every shard has a leader.
    ///
    /// # Panics
    /// If the cluster does not become ready.
    pub async fn start(spec: Spec) -> Cluster {
        let mut cluster = Cluster::prepare(spec).await;
        cluster.start_all();
        cluster.ready().await;
        cluster
    }

    /// Writes the cluster file, but starts no process yet.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub async fn prepare(spec: Spec) -> Cluster {
        static ONLY_ONE: Mutex<()> = Mutex::const_new(());
        let only_one = ONLY_ONE.lock().await;
        let dir = TempDir::with_prefix("palisade-test-").expect("temporary directory");
        let addresses =
            free_addresses(2 * (spec.nodes + spec.gateways) as usize).expect("free ports");
        let (nodes, gateways) = addresses.split_at(2 * spec.nodes as usize);
        let mut config = cluster_config(
            "test",
            spec.shards,
            &Addresses::pairs(nodes),
            &Addresses::pairs(gateways),
        );
        config.replicas = spec.replicas;
        config.settings = spec.settings.clone().unwrap_or_default();
        if let Some(Secured { tls, access, .. }) = &spec.secured {
            (config.tls, config.access) = (Some(tls.clone()), access.clone());
        }
        let processes = Processes::new(dir.path(), config).expect("the files of a cluster");
        let (config_file, program) = (processes.config_file(), palisade_binary().to_owned());
        Cluster { spec, config_file, program, processes, dir, _only_one: only_one }
    }

    /// Nodes and gateways start as this program from now on: another build of `palisade`.
    pub fn run_as(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Starts every process that is not running.
    pub fn start_all(&mut self) {
        for member in self.processes.members() {
            self.start_member(member, &Launch::default());
        }
    }

    /// Starts a node, unless it runs.
    pub fn start_node(&mut self, id: u64) {
        self.start_node_with(id, &[]);
    }

    /// Starts a node with more options, unless it runs.
    pub fn start_node_with(&mut self, id: u64, options: &[&str]) {
        self.start_node_in(id, options, &[]);
    }

    /// Starts a node with more options and environment variables, unless it runs.
    pub fn start_node_in(&mut self, id: u64, options: &[&str], env: &[(String, String)]) {
        let args = options.iter().map(|option| (*option).to_owned()).collect();
        self.start_member(
            Member::Node(id),
            &Launch { args, env: env.to_vec(), ..Launch::default() },
        );
    }

    /// Starts a node with more environment variables. Its standard error is a full pipe that is
    /// never read.
    ///
    /// # Panics
    /// If the node runs already.
    pub fn start_node_unheard(&mut self, id: u64, env: &[(String, String)]) {
        assert!(!self.processes.runs(Member::Node(id)), "node {id} runs already");
        self.start_member(
            Member::Node(id),
            &Launch { env: env.to_vec(), unheard: true, ..Launch::default() },
        );
    }

    fn start_member(&mut self, member: Member, launch: &Launch) {
        if !self.processes.runs(member) {
            self.processes
                .start(member, Command::new(&self.program), launch)
                .expect("start palisade");
        }
    }

    /// Starts a second process of a node with another data directory, as on a second machine. Waits
    /// until this process ends by itself, and returns its exit status and its log.
    ///
    /// # Panics
    /// If the process does not end.
    pub async fn node_that_ends_elsewhere(
        &self,
        id: u64,
        data: &Path,
        options: &[&str],
    ) -> (ExitStatus, String) {
        let config = self.config_elsewhere(id);
        let args = options.iter().map(|option| (*option).to_owned()).collect();
        let launch =
            Launch { config: Some(config), data: Some(data.to_owned()), args, ..Launch::default() };
        self.process_that_ends(id, &launch).await
    }

    /// Starts a node at another address, unless it runs. Only its own cluster file has that
    /// address, and the files of all other processes have the former one.
    pub fn start_node_elsewhere(&mut self, id: u64) {
        let config = Some(self.config_elsewhere(id));
        self.start_member(Member::Node(id), &Launch { config, ..Launch::default() });
    }

    /// Writes a cluster file in which one node has other addresses.
    fn config_elsewhere(&self, id: u64) -> PathBuf {
        let mut elsewhere = self.processes.config().clone();
        let node =
            elsewhere.nodes.iter_mut().find(|node| node.id.0 == id).expect("a node of the cluster");
        let addresses = free_addresses(2).expect("free ports");
        (node.address, node.metrics) = (addresses[0].clone(), Some(addresses[1].clone()));
        let config = self.dir.path().join("elsewhere.yaml");
        self.processes.write_config(&config, &elsewhere).expect("write a cluster file");
        config
    }

    /// Starts a node with more options and waits until it ends by itself. Returns its exit status
    /// and its log.
    ///
    /// # Panics
    /// If the node does not end.
    pub async fn node_that_ends(&self, id: u64, options: &[&str]) -> (ExitStatus, String) {
        let args = options.iter().map(|option| (*option).to_owned()).collect();
        self.process_that_ends(id, &Launch { args, ..Launch::default() }).await
    }

    async fn process_that_ends(&self, id: u64, launch: &Launch) -> (ExitStatus, String) {
        let log = self.dir.path().join(format!("node-{id}-that-ends.log"));
        std::fs::write(&log, "").expect("an empty log");
        let command = self.processes.command(Member::Node(id), Command::new(&self.program), launch);
        let mut process = Process::spawn(command, &log).expect("start palisade");
        let ended =
            eventually(&format!("node {id} with {launch:?} ends"), async || process.ended()).await;
        (ended, std::fs::read_to_string(&log).expect("its log"))
    }

    /// Waits until a running node ends by itself, and returns its log.
    ///
    /// # Panics
    /// If the node does not end.
    pub async fn node_ends(&mut self, id: u64) -> String {
        self.node_ended(id).await.1
    }

    /// Waits until a running node ends by itself, and returns its exit status and its log.
    ///
    /// # Panics
    /// If the node does not end.
    pub async fn node_ended(&mut self, id: u64) -> (ExitStatus, String) {
        let mut process = self.processes.take(Member::Node(id)).expect("a running node");
        let status = eventually(&format!("node {id} ends"), async || process.ended()).await;
        (status, std::fs::read_to_string(process.log()).expect("its log"))
    }

    /// The directory with all files of this cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's data directory.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.processes.data(id)
    }

    /// The log of a node so far.
    pub fn node_log(&self, id: u64) -> String {
        std::fs::read_to_string(self.processes.log(Member::Node(id))).expect("its log")
    }

    /// Starts a gateway, unless it runs.
    pub fn start_gateway(&mut self, number: u64) {
        self.start_member(Member::Gateway(number), &Launch::default());
    }

    /// Starts a gateway with more options, unless it runs.
    pub fn start_gateway_with(&mut self, number: u64, options: &[&str]) {
        let args = options.iter().map(|option| (*option).to_owned()).collect();
        self.start_member(Member::Gateway(number), &Launch { args, ..Launch::default() });
    }

    /// Waits until a running gateway ends by itself, and returns its exit status.
    ///
    /// # Panics
    /// If the gateway does not end.
    pub async fn gateway_ended(&mut self, number: u64) -> ExitStatus {
        let mut process = self.processes.take(Member::Gateway(number)).expect("a running gateway");
        eventually(&format!("gateway {number} ends"), async || process.ended()).await
    }

    /// The cluster file.
    pub fn config(&self) -> &Path {
        &self.config_file
    }

    /// The description of the cluster, as in its file.
    pub fn described(&self) -> &ClusterConfig {
        self.processes.config()
    }

    /// Starts a gateway beside those of the cluster, with a cluster file of its own. `before` is a
    /// program that runs the gateway, if it is not empty. Returns the process and its address.
    ///
    /// # Panics
    /// If the gateway cannot be started.
    pub fn start_stranger(&self, before: &[&str], config: &Path) -> (Process, String) {
        let address = free_addresses(1).expect("a free port").remove(0);
        let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        words.push(palisade_binary().display().to_string());
        words.extend(
            ["gateway", "--listen", &address, "--config", &config.display().to_string()]
                .map(str::to_owned),
        );
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let log = self.dir.path().join(format!("stranger-{address}.log"));
        (Process::spawn(command, &log).expect("start palisade"), address)
    }

    /// Waits until every running node answers, and every shard has a leader that all these nodes
    /// know.
    pub async fn ready(&mut self) {
        let running: Vec<u64> = self.running_nodes();
        eventually("every shard has a leader", async || {
            self.all_alive();
            let status = self.try_status().await?;
            let agreed = (0..self.spec.shards).all(|shard| {
                let replicas: Vec<&ShardStatus> =
                    status.shards.iter().filter(|s| s.shard == shard).collect();
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
        if let Some(Ended { member, status }) = self.processes.ended().into_iter().next() {
            panic!("{member} ended by itself: {status}");
        }
    }

    /// The nodes that are running or paused.
    pub fn running_nodes(&self) -> Vec<u64> {
        self.processes.running_nodes()
    }

    /// Sends SIGKILL to a node.
    pub fn kill_node(&mut self, id: u64) {
        self.kill(Member::Node(id));
    }

    /// Sends SIGKILL to a gateway.
    pub fn kill_gateway(&mut self, number: u64) {
        self.kill(Member::Gateway(number));
    }

    fn kill(&mut self, member: Member) {
        assert!(self.processes.runs(member), "{member} does not run");
        self.processes.kill(member);
    }

    /// Sends any signal to a node.
    pub fn signal_node(&self, id: u64, signal: Signal) {
        self.signal(Member::Node(id), signal);
    }

    fn signal(&self, member: Member, signal: Signal) {
        assert!(self.processes.runs(member), "{member} does not run");
        self.processes.signal(member, signal);
    }

    /// Sends any signal to a gateway.
    pub fn signal_gateway(&self, number: u64, signal: Signal) {
        self.signal(Member::Gateway(number), signal);
    }

    /// Sends SIGSTOP to a node.
    pub fn pause_node(&self, id: u64) {
        self.signal(Member::Node(id), Signal::SIGSTOP);
    }

    /// Sends SIGCONT to a node.
    pub fn resume_node(&self, id: u64) {
        self.signal(Member::Node(id), Signal::SIGCONT);
    }

    /// Sends SIGSTOP to a gateway.
    pub fn pause_gateway(&self, number: u64) {
        self.signal(Member::Gateway(number), Signal::SIGSTOP);
    }

    /// Sends SIGCONT to a gateway.
    pub fn resume_gateway(&self, number: u64) {
        self.signal(Member::Gateway(number), Signal::SIGCONT);
    }

    /// Reads the `/metrics` page of a gateway.
    ///
    /// # Panics
    /// If the gateway does not answer.
    pub fn gateway_metrics(&self, number: u64) -> String {
        self.page(Member::Gateway(number), "/metrics")
    }

    /// Reads the `/metrics` page of a node.
    ///
    /// # Panics
    /// If the node does not answer.
    pub fn node_metrics(&self, id: u64) -> String {
        self.page(Member::Node(id), "/metrics")
    }

    /// Reads the `/healthz` answer of a node, including its status line.
    ///
    /// # Panics
    /// If the node does not answer.
    pub fn node_health(&self, id: u64) -> String {
        self.page(Member::Node(id), "/healthz")
    }

    /// Reads the answer of a node to a probe such as `/livez`, including its status line. Empty if
    /// the node does not answer.
    pub fn node_probe(&self, id: u64, probe: &str) -> String {
        let address = self.processes.metrics_address(Member::Node(id)).expect("it has one");
        page(address, probe).unwrap_or_default()
    }

    /// Reads the answer of a gateway to a probe such as `/readyz`, on its port for clients. Empty
    /// if the gateway does not answer.
    pub fn gateway_probe(&self, number: u64, probe: &str) -> String {
        page(self.gateway(number), probe).unwrap_or_default()
    }

    fn page(&self, member: Member, name: &str) -> String {
        let address =
            self.processes.metrics_address(member).expect("each process has a page of metrics");
        page(address, name).expect("a page")
    }

    /// The addresses of the gateways, in the form that clients take.
    pub fn endpoints(&self) -> String {
        self.processes.endpoints().join(",")
    }

    /// The address of one gateway, counted from 1.
    pub fn gateway(&self, number: u64) -> &str {
        self.processes.address(Member::Gateway(number))
    }

    /// A client of all gateways.
    pub fn client(&self) -> Client {
        let observer = self.spec.secured.as_ref().map(|secured| secured.observer.clone());
        self.client_with(observer.unwrap_or_default())
    }

    /// A client of all gateways that shows an identity.
    pub fn client_with(&self, security: Security) -> Client {
        Client::with_options(self.processes.endpoints(), ClientOptions::new().security(security))
    }

    /// The addresses that all processes serve on, as `host:port`: nodes, then gateways.
    pub fn addresses(&self) -> Vec<String> {
        let members = self.processes.members();
        members.into_iter().map(|member| self.processes.address(member).to_owned()).collect()
    }

    /// Sends a signal to all processes.
    pub fn signal_all(&self, signal: Signal) {
        self.processes.members().into_iter().for_each(|member| self.signal(member, signal));
    }

    /// The map of shards that the cluster file describes.
    pub fn map(&self) -> ShardMap {
        self.described().shard_map()
    }

    /// Builds a name that begins with `prefix` and belongs to this shard.
    pub fn name_on(&self, shard: u32, prefix: &str) -> String {
        let map = self.map();
        let mut names = (0..).map(|i| format!("{prefix}-{i}"));
        names.find(|name| map.route(name).shard.0 == shard).expect("every shard has names")
    }

    /// The status that the cluster reports. `None` while no gateway answers.
    pub async fn try_status(&self) -> Option<ClusterStatus> {
        self.client().cluster_status().await.ok()
    }

    /// The status that the cluster reports. Waits until a gateway answers.
    pub async fn status(&self) -> ClusterStatus {
        eventually("the cluster's status", async || self.try_status().await).await
    }

    /// The node that leads a shard. Waits until the shard has a leader.
    pub async fn leader(&self, shard: u32) -> u64 {
        eventually("a leader", async || {
            leaders(&self.try_status().await?).get(&shard).map(|leader| leader.node)
        })
        .await
    }

    /// Waits until all replicas of each shard, one per node, stand at the same index with the same
    /// state hash.
    pub async fn replicas_agree(&self) {
        eventually("all replicas at one index with one state hash", async || {
            let status = self.try_status().await?;
            let agree = (0..self.spec.shards).all(|shard| {
                let replicas: Vec<&ShardStatus> =
                    status.shards.iter().filter(|s| s.shard == shard).collect();
                let same_index =
                    replicas.iter().all(|s| s.applied_index == replicas[0].applied_index);
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

    /// The command `palisade` with these arguments. Its endpoint is set, and its standard streams
    /// are piped.
    pub fn palisade(&self, args: &[&str]) -> Command {
        let mut command = Command::new(palisade_binary());
        command.args(args).env("PALISADE_ENDPOINT", self.endpoints()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        own_group(&mut command);
        command
    }

    /// Runs `palisade` to its end, off the async threads.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.palisade(args);
        let run = tokio::task::spawn_blocking(move || command.output().expect("run palisade"));
        tokio::time::timeout(LIMIT, run).await.expect("palisade ends").expect("no panic")
    }

    /// Runs `palisade … --json`, expects success, and parses the output.
    pub async fn run_json(&self, args: &[&str]) -> serde_json::Value {
        self.run_json_to(args, true).await
    }

    /// Runs `palisade … --json`, accepts any exit status, and parses the output.
    pub async fn run_json_of(&self, args: &[&str]) -> serde_json::Value {
        self.run_json_to(args, false).await
    }

    async fn run_json_to(&self, args: &[&str], must_succeed: bool) -> serde_json::Value {
        let output = self.run(&[args, &["--json"]].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() || !must_succeed,
            "palisade {args:?}: {}\n{text}",
            output.status
        );
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("palisade {args:?}: {error}\n{text}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in self.processes.members() {
                let log = self.processes.log_end(member, LOG_LINES_SHOWN);
                if !log.is_empty() {
                    eprintln!("---- the end of {member}'s log ----\n{log}");
                }
            }
        }
    }
}
