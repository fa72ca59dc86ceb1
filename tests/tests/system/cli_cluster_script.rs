//! `scripts/cluster`: its output and exit code when a process does not come up, and the recovery
//! from there.

use palisade_tests::{LIMIT, palisade_binary};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Three nodes and a gateway, run by the script. Dropping this stops them.
struct Scripted {
    dir: TempDir,
    /// The addresses of the nodes, from node 1 on.
    addresses: Vec<String>,
}

impl Scripted {
    fn prepare() -> Scripted {
        let dir = TempDir::with_prefix("palisade-script-").expect("temporary directory");
        // The ports are held until all are chosen, so that they differ.
        let held: Vec<TcpListener> =
            (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses: Vec<String> =
            held.iter().map(|held| held.local_addr().expect("address").to_string()).collect();
        let nodes: Vec<String> = (1..)
            .zip(&addresses[..3])
            .map(|(id, address)| format!("  - {{ id: {id}, address: \"{address}\" }}\n"))
            .collect();
        let yaml = format!(
            "cluster: script\nshards: 1\nreplicas: 3\nnodes:\n{}gateways:\n  - {{ address: \"{}\" }}\n",
            nodes.concat(),
            addresses[3]
        );
        fs::write(dir.path().join("cluster.yaml"), yaml).expect("write the cluster file");
        Scripted { dir, addresses }
    }

    fn data_of(&self, node: u64) -> PathBuf {
        self.dir.path().join("run").join(format!("node-{node}"))
    }

    fn run(&self, args: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cluster");
        let mut command = Command::new(script);
        command.args(args).arg("--config").arg(self.dir.path().join("cluster.yaml"));
        command
            .arg("--dir")
            .arg(self.dir.path().join("run"))
            .env("PALISADE_BIN", palisade_binary());
        command.output().expect("run scripts/cluster")
    }

    fn succeeds(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    }

    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.run(args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: {word:?} is not in what it said:\n{said}");
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

/// Binds the address of a process that was killed just now, as soon as its socket is gone.
fn taken(address: &str) -> TcpListener {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(socket) => return socket,
            Err(error) => {
                assert!(started.elapsed() < LIMIT, "{address} does not become free: {error}")
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_process_that_does_not_come_up_is_told_with_the_end_of_its_log_and_a_lost_node_is_re_seeded() {
    let cluster = Scripted::prepare();
    cluster.succeeds(&["start"]);
    cluster.succeeds(&["start", "3"]);

    cluster.succeeds(&["kill", "3"]);
    let taken = taken(&cluster.addresses[2]);
    cluster.fails(
        &["start", "3"],
        1,
        &["node-3 did not start", "node-3.log", &cluster.addresses[2]],
    );
    drop(taken);

    let current = cluster.data_of(3).join("rocksdb").join("CURRENT");
    fs::write(current, "no manifest").expect("damage the store");
    cluster.fails(&["start", "3"], 1, &["node-3 did not start", "is damaged"]);
    fs::remove_dir_all(cluster.data_of(3)).expect("lose the data");
    cluster.fails(&["start", "3"], 1, &["node-3", "start it with --reseed"]);
    fs::remove_dir_all(cluster.data_of(3)).expect("what the mistake left");
    cluster.succeeds(&["start", "3", "--reseed"]);
    cluster.fails(&["start", "3", "--reseed"], 2, &["node-3 runs"]);

    for args in [
        &["start", "--reseed"][..],
        &["start", "gateway-1", "--reseed"],
        &["stop", "3", "--reseed"],
    ] {
        cluster.fails(args, 2, &["--reseed is for the start of one node"]);
    }
}
