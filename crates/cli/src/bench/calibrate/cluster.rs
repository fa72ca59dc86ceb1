//! A cluster for measuring: five nodes and a gateway, as processes on loopback that end with this one.
//!
//! Each asks the kernel to be killed with its parent, so nothing stays behind however this process ends. It knows nothing of
//! what is measured.

use crate::failure::{Exit, Failure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Nodes, each with a replica.
pub const NODES: usize = 5;
/// For the cluster to have a leader.
const READY_MAX: Duration = Duration::from_secs(30);
/// After that, until followers have what elections and moves of leaders left behind.
const SETTLE: Duration = Duration::from_secs(2);
/// For a node to stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(15);
/// For an answer with metrics.
const METRICS_MAX: Duration = Duration::from_secs(2);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    metrics: SocketAddr,
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Its counters and gauges: the sum over the labels, by name.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>, Failure> {
        scrape(self.metrics).map_err(|error| {
            failed(format!("no metrics from {}: {error}", self.metrics), "see whether the machine is overloaded")
        })
    }
}

/// The servers. Killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Server>,
    /// The gateway.
    pub gateway: Server,
    /// Where it listens.
    pub endpoint: String,
    /// How many it has.
    pub shards: usize,
    dir: PathBuf,
}

impl Cluster {
    /// Starts it in an empty directory, and waits for the leader of each shard.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(dir: &Path, shards: usize) -> Result<Cluster, Failure> {
        let addresses = free_addresses(2 * NODES + 2)?;
        let mut yaml = format!("cluster: calibration\nshards: {shards}\nreplicas: 5\nnodes:\n");
        for (id, pair) in addresses.chunks(2).take(NODES).enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(yaml, "  - {{ id: {}, address: \"{}\", metrics: \"{}\" }}", id + 1, pair[0], pair[1]);
        }
        let (listen, metrics) = (addresses[2 * NODES], addresses[2 * NODES + 1]);
        let _ = writeln!(yaml, "gateways:\n  - {{ address: \"{listen}\", metrics: \"{metrics}\" }}");
        let config = dir.join("cluster.yaml");
        std::fs::write(&config, yaml).map_err(|error| cannot("write", &config, &error))?;
        let config = config.display().to_string();
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            let (number, data) = (id.to_string(), data_dir(dir, id).display().to_string());
            let args = ["node", "--config", &config, "--id", &number, "--data-dir", &data];
            nodes.push(Server {
                child: server(&args, &dir.join(format!("node-{id}.log")))?,
                metrics: addresses[2 * id - 1],
            });
        }
        let endpoint = listen.to_string();
        let args = ["gateway", "--config", &config, "--listen", &endpoint];
        let gateway = Server { child: server(&args, &dir.join("gateway.log"))?, metrics };
        let mut cluster = Cluster { nodes, gateway, endpoint, shards, dir: dir.to_owned() };
        cluster.ready(shards).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(cluster)
    }

    async fn ready(&mut self, shards: usize) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + READY_MAX;
        while tokio::time::Instant::now() < until {
            for (server, name) in self.nodes.iter_mut().chain([&mut self.gateway]).zip(1..) {
                if let Ok(Some(status)) = server.child.try_wait() {
                    let logs = self.dir.display();
                    return Err(failed(
                        format!("process {name} of the cluster ended: {status}"),
                        &format!("see {logs}"),
                    ));
                }
            }
            let status = command()?.args(["cluster", "status", "--endpoint", &self.endpoint]).status().await;
            // Leaderships move for a while after the start, to where the map wants them.
            let spread = self.leads().is_ok_and(|leads| {
                leads.iter().sum::<usize>() == shards && leads.iter().all(|count| *count <= shards.div_ceil(NODES))
            });
            if spread && status.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(failed("the cluster did not get its leaders".to_owned(), "see whether the machine is overloaded"))
    }

    /// How many shards each node leads.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn leads(&self) -> Result<Vec<usize>, Failure> {
        let count =
            |node: &Server| Ok(node.metrics()?.get("palisade_raft_is_leader").map_or(0, |leads| *leads as usize));
        self.nodes.iter().map(count).collect()
    }

    /// Runs `palisade bench` against it with these options more.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn bench(&self, options: &[String]) -> Result<Child, Failure> {
        let mut command = command()?;
        command.args(["bench", "--json", "--endpoint", &self.endpoint]).args(options).stdout(Stdio::piped());
        command.spawn().map_err(|error| failed(format!("cannot start the load: {error}"), ""))
    }

    /// Ends all processes, and waits until they are gone.
    pub async fn end(mut self) {
        for server in self.nodes.iter_mut().chain([&mut self.gateway]) {
            // Fails only for what has ended.
            let _ = server.child.kill().await;
        }
    }

    /// Stops a node cleanly, and says where its data is.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(&mut self, node: usize) -> Result<PathBuf, Failure> {
        let child = &mut self.nodes[node].child;
        if let Some(pid) = child.id() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_MAX, child.wait()).await {
            Ok(Ok(_)) => Ok(data_dir(&self.dir, node + 1)),
            _ => Err(failed("a node did not stop".to_owned(), "see whether the machine is overloaded")),
        }
    }
}

fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("node-{id}"))
}

/// A failure of measuring.
pub fn failed(what: String, next: &str) -> Failure {
    Failure::new(Exit::Error, "CALIBRATION", what, next)
}

/// A failure with a file.
pub fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    let next = "name a directory that exists, is yours and has room, with --data-dir";
    failed(format!("cannot {verb} {}: {error}", path.display()), next)
}

/// This program, to be killed with this process.
fn command() -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| failed(format!("this program cannot be found: {error}"), "run it by its path"))?;
    let mut command = Command::new(&program);
    command.args(["__exec", "--parent", &std::process::id().to_string(), "--"]).arg(&program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

fn server(args: &[&str], log: &Path) -> Result<Child, Failure> {
    let file = File::create(log).map_err(|error| cannot("write", log, &error))?;
    let mut command = command()?;
    command.args(args).env("NO_COLOR", "1").stderr(file);
    command.spawn().map_err(|error| failed(format!("cannot start `palisade {}`: {error}", args[0]), ""))
}

/// Free now, and all different.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let no_port = |error: std::io::Error| failed(format!("no free port on loopback: {error}"), "");
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(no_port)?;
    listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(no_port)
}

fn scrape(address: SocketAddr) -> std::io::Result<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect_timeout(&address, METRICS_MAX)?;
    stream.set_read_timeout(Some(METRICS_MAX))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(sums(&text))
}

/// Sums over labels, by name.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("palisade_")) {
        let Some((head, value)) = line.rsplit_once(' ') else { continue };
        let name = head.split('{').next().unwrap_or(head);
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP palisade_a x\npalisade_a{shard=\"0\"} 2\npalisade_a{shard=\"1\"} 3\n\
                    palisade_b 1.5\nother 7\npalisade_c x\n";
        assert_eq!(sums(text), BTreeMap::from([("palisade_a".to_owned(), 5.0), ("palisade_b".to_owned(), 1.5)]));
    }

    #[test]
    fn free_addresses_differ() {
        let mut addresses = free_addresses(12).expect("ports");
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 12);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
