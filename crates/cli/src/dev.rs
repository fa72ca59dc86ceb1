//! `palisade dev`: a whole cluster with its gateway in this process, on real storage and real Raft.
//!
//! The nodes talk to each other over loopback sockets like any nodes; only their ports are the system's choice. Each node
//! holds a replica of each shard.

use crate::args;
use crate::cluster_file::warn_if_wide;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit_if_heard};
use crate::serve::{bind, gateway_failure, node_failure, open_engine, told_to_stop};
use crate::shown::counted;
use crate::voice;
use client::Client;
use futures_util::future::select_all;
use gateway::{Gateway, GatewayOptions};
use node::{FirstStart, Node, NodeHandle, NodeOptions};
use routing::{ClusterConfig, NodeId};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs the cluster until a signal or a fatal error ends it.
///
/// # Errors
/// Whatever kept it from starting, or ended it.
pub async fn run(args: &args::Dev) -> Result<(), Failure> {
    warn_if_wide(&args.listen);
    // First: if something else is there already, nothing has been started or written yet.
    let listener = bind(&args.listen)?;
    let address = local_address(&listener)?;
    let metrics = bind("127.0.0.1:0")?;
    let metrics_address = local_address(&metrics)?;
    let data = DataDir::prepare(args.data_dir.clone())?;

    let mut sockets = Vec::new();
    for _ in 0..args.replicas {
        sockets.push((bind("127.0.0.1:0")?, bind("127.0.0.1:0")?));
    }
    let cluster = cluster_config(args, &sockets)?;
    let mut nodes = Vec::new();
    for (id, (socket, node_metrics)) in (1..).zip(sockets) {
        let engine = open_engine(&data.path().join(format!("node-{id}")), 0).await?;
        let options = NodeOptions {
            cluster: cluster.clone(),
            id: NodeId(id),
            engine,
            // All nodes are in one directory: who copies it copies them all, at one moment.
            first_start: FirstStart::AcceptCopy { at_one_moment: true },
            guard_file: None,
            listener: Some(socket),
            metrics_listener: Some(node_metrics),
        };
        nodes.push(Node::start(options).await.map_err(node_failure)?);
    }
    let options = GatewayOptions { cluster: cluster.clone(), listener, metrics_listener: Some(metrics) };
    let mut gateway = Gateway::start(options).await.map_err(gateway_failure)?;

    let outcome = {
        let failed = select_all(nodes.iter().map(|node| Box::pin(node.wait_failed())));
        tokio::pin!(failed);
        let served = async {
            wait_for_leaders(&address, args.shards).await;
            greet(args, &cluster, &data, &address, &metrics_address);
            told_to_stop().await;
        };
        tokio::select! {
            () = served => Ok(()),
            () = told_to_stop() => Ok(()),
            (error, _, _) = &mut failed => Err(node_failure(error)),
            ended = gateway.wait() => ended.map_err(gateway_failure),
        }
    };
    crate::end::within(crate::end::STOPS_WITHIN);
    gateway.shutdown().await;
    let stopped = stop(nodes).await;
    outcome.and(stopped)
}

/// All at once: each gives the others a moment to take over its leaderships.
async fn stop(nodes: Vec<NodeHandle>) -> Result<(), Failure> {
    let stopping: Vec<_> = nodes.into_iter().map(|node| tokio::spawn(node.shutdown())).collect();
    let mut outcome = Ok(());
    for node in stopping {
        let stopped = node.await.unwrap_or_else(|error| Err(node::NodeError::Failed(error.to_string())));
        outcome = outcome.and(stopped.map_err(node_failure));
    }
    outcome
}

fn cluster_config(args: &args::Dev, sockets: &[(TcpListener, TcpListener)]) -> Result<ClusterConfig, Failure> {
    let mut yaml = format!("cluster: dev\nshards: {}\nreplicas: {}\nnodes:\n", args.shards, args.replicas);
    for (id, (socket, metrics)) in (1..).zip(sockets) {
        let (address, metrics) = (local_address(socket)?, local_address(metrics)?);
        writeln!(yaml, "  - {{ id: {id}, address: \"{address}\", metrics: \"{metrics}\" }}")
            .expect("write to a string");
    }
    let (config, warnings) =
        ClusterConfig::parse(&yaml).map_err(|error| Failure::new(Exit::Usage, "CONFIG", error.to_string(), ""))?;
    for warning in warnings {
        voice::say(format!("warning: {warning}\n"));
    }
    Ok(config)
}

async fn wait_for_leaders(address: &str, shards: u32) {
    let client = Client::connect([address]);
    loop {
        if let Ok(status) = client.cluster_status().await
            && (0..shards).all(|shard| status.shards.iter().any(|s| s.shard == shard && s.role == "leader"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn greet(args: &args::Dev, cluster: &ClusterConfig, data: &DataDir, address: &str, metrics: &str) {
    let paint = Paint::stdout();
    let endpoint = if address == "127.0.0.1:7400" { String::new() } else { format!(" --endpoint {address}") };
    emit_if_heard(&format!(
        "{} on {}: {} × {}, each write synced to disk by a majority",
        paint.good("palisade dev is ready"),
        paint.bold(address),
        counted(args.shards, "shard"),
        counted(args.replicas, "replica"),
    ));
    let kept = if data.is_temporary() { " (removed at exit; keep it with --data-dir)" } else { "" };
    emit_if_heard(&format!("  data:     {}{kept}", data.path().display()));
    let nodes: Vec<&str> = cluster.nodes.iter().filter_map(|node| node.metrics.as_deref()).collect();
    emit_if_heard(&format!("  metrics:  http://{metrics}/metrics (gateway), and of the nodes: {}", nodes.join(", ")));
    let program = std::env::args().next().unwrap_or_else(|| "palisade".into());
    emit_if_heard(&format!("\n{}", paint.dim("Try, in another terminal:")));
    for command in [
        format!("acquire orders:42 --ttl 5m{endpoint}"),
        format!("check orders:42{endpoint}"),
        format!("lock nightly-report{endpoint} -- sh -c 'echo I hold token $PALISADE_TOKEN; sleep 5'"),
        format!("cluster status{endpoint}"),
    ] {
        emit_if_heard(&format!("  {program} {command}"));
    }
    emit_if_heard(&format!("\n{}", paint.dim("Ctrl-C stops it.")));
}

fn local_address(listener: &TcpListener) -> Result<String, Failure> {
    let address = listener.local_addr();
    address
        .map(|address| address.to_string())
        .map_err(|error| Failure::new(Exit::Error, "LISTEN", error.to_string(), ""))
}

/// Where the data goes.
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
            Failure::new(Exit::Error, "STORAGE", format!("cannot create the data directory: {error}"), next)
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
