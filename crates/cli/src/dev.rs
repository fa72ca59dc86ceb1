//! `palisade dev`: a whole cluster with its gateway in this process, on real storage and real Raft.
//!
//! It makes the sockets and stores, and prints the greeting. The cluster itself is
//! [`local_cluster::InProcess`].

use crate::args;
use crate::cluster_file::warn_if_wide;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit_if_heard};
use crate::serve::{bind, gateway_failure, node_failure, open_engine, told_to_stop};
use crate::shown::counted;
use crate::voice;
use local_cluster::{InProcess, InProcessError, InProcessOptions};
use std::path::{Path, PathBuf};

/// Runs the cluster until a signal or a fatal error ends it.
///
/// # Errors
/// The failure that kept the cluster from starting, or ended it.
pub async fn run(args: &args::Dev) -> Result<(), Failure> {
    warn_if_wide(&args.listen);
    // The bind comes first. If the address is taken, nothing has been started or written yet.
    let listener = bind(&args.listen)?;
    let metrics_listener = bind("127.0.0.1:0")?;
    let data = DataDir::prepare(args.data_dir.clone())?;
    let mut engines = Vec::new();
    for id in 1..=args.replicas {
        engines.push(open_engine(&data.path().join(format!("node-{id}")), 0).await?);
    }
    let options = InProcessOptions {
        name: "dev".into(),
        shards: args.shards,
        engines,
        listener,
        metrics_listener,
    };
    let mut cluster = InProcess::start(options).await.map_err(failure)?;
    for warning in cluster.warnings() {
        voice::say(format!("warning: {warning}\n"));
    }

    let greeting = greeting(args, &cluster, &data);
    let led = cluster.led();
    let served = async {
        led.await;
        greeting.iter().for_each(|line| emit_if_heard(line));
        told_to_stop().await;
    };
    let outcome = tokio::select! {
        () = served => Ok(()),
        () = told_to_stop() => Ok(()),
        ended = cluster.ended() => ended.map_err(failure),
    };
    crate::end::within(crate::end::STOPS_WITHIN);
    let stopped = cluster.stop().await.map_err(failure);
    outcome.and(stopped)
}

fn failure(error: InProcessError) -> Failure {
    match error {
        InProcessError::Config(error) => Failure::new(Exit::Usage, "CONFIG", error.to_string(), ""),
        InProcessError::Socket(error) => Failure::new(Exit::Error, "LISTEN", error.to_string(), ""),
        InProcessError::Node(error) => node_failure(error),
        InProcessError::Gateway(error) => gateway_failure(error),
    }
}

/// The first lines of a cluster that serves, with commands to try on it.
fn greeting(args: &args::Dev, cluster: &InProcess, data: &DataDir) -> Vec<String> {
    let (paint, address) = (Paint::stdout(), cluster.address());
    let endpoint =
        if address == "127.0.0.1:7400" { String::new() } else { format!(" --endpoint {address}") };
    let kept = if data.is_temporary() { " (removed at exit; keep it with --data-dir)" } else { "" };
    let nodes: Vec<&str> =
        cluster.config().nodes.iter().filter_map(|node| node.metrics.as_deref()).collect();
    let program = std::env::args().next().unwrap_or_else(|| "palisade".into());
    let mut lines = vec![
        format!(
            "{} on {}: {} × {}, each write synced to disk by a majority",
            paint.good("palisade dev is ready"),
            paint.bold(address),
            counted(args.shards, "shard"),
            counted(args.replicas, "replica"),
        ),
        format!("  data:     {}{kept}", data.path().display()),
        format!(
            "  metrics:  http://{}/metrics (gateway), and of the nodes: {}",
            cluster.metrics_address(),
            nodes.join(", ")
        ),
        format!("\n{}", paint.dim("Try, in another terminal:")),
    ];
    let commands = [
        format!("acquire orders:42 --ttl 5m{endpoint}"),
        format!("check orders:42{endpoint}"),
        format!(
            "lock nightly-report{endpoint} -- sh -c 'echo I hold token $PALISADE_TOKEN; sleep 5'"
        ),
        format!("cluster status{endpoint}"),
    ];
    lines.extend(commands.map(|command| format!("  {program} {command}")));
    lines.push(format!("\n{}", paint.dim("Ctrl-C stops it.")));
    lines
}

/// The place of the cluster's data.
enum DataDir {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl DataDir {
    fn prepare(wanted: Option<PathBuf>) -> Result<DataDir, Failure> {
        let made = match wanted {
            Some(dir) => std::fs::create_dir_all(&dir).map(|()| DataDir::Kept(dir)),
            None => tempfile::TempDir::with_prefix("palisade-dev-").map(DataDir::Temporary),
        };
        made.map_err(|error| {
            let next = "name a directory that can be written to with --data-dir";
            Failure::new(
                Exit::Error,
                "STORAGE",
                format!("cannot create the data directory: {error}"),
                next,
            )
        })
    }

    fn path(&self) -> &Path {
        match self {
            DataDir::Kept(path) => path,
            DataDir::Temporary(dir) => dir.path(),
        }
    }

    fn is_temporary(&self) -> bool {
        matches!(self, DataDir::Temporary(_))
    }
}
