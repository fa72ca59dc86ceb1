//! `palisade dev`: a whole cluster with its gateway in this process, on real storage and real Raft.
//!
//! It makes the sockets and stores, and prints the greeting. The cluster itself is
//! [`local_cluster::InProcess`].

mod secure;

use crate::args;
use crate::exposure::{self, Protection};
use crate::failure::{Exit, Failure};
use crate::lock::at_start::AtStart;
use crate::output::{Paint, emit_if_heard};
use crate::serve::{bind, gateway_failure, node_failure, open_engine, told_to_stop};
use crate::shown::counted;
use crate::voice;
use local_cluster::{InProcess, InProcessError, InProcessOptions};
use secure::Secured;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// The name of the cluster.
const NAME: &str = "dev";
/// Tries to remove the temporary data.
const REMOVALS: u32 = 10;
/// Time between two of them.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// Runs the cluster until a signal or a fatal error ends it. `temporary` is set to the directory
/// that the caller removes once the runtime has ended.
///
/// # Errors
/// The failure that kept the cluster from starting, or ended it.
pub async fn run(args: &args::Dev, temporary: &mut Option<TempDir>) -> Result<(), Failure> {
    let mut stop = std::pin::pin!(told_to_stop_or_hung_up());
    let (mut cluster, data, secured) = tokio::select! {
        // Polled first, so that the signals are heard before there is a directory to leave behind.
        biased;
        () = &mut stop => return Ok(()),
        started = start(args, temporary) => started?,
    };
    let greeting = greeting(args, &cluster, &data, secured.as_ref());
    let led = cluster.led();
    let greets = async {
        led.await;
        greeting.iter().for_each(|line| emit_if_heard(line));
        std::future::pending().await
    };
    let outcome = tokio::select! {
        () = greets => Ok(()),
        () = &mut stop => Ok(()),
        ended = cluster.ended() => ended.map_err(failure),
    };
    crate::end::within(crate::end::STOPS_WITHIN);
    let stopped = cluster.stop().await.map_err(failure);
    outcome.and(stopped)
}

/// Starts the cluster, and returns it with the directory of its data, and the files that protect it
/// with `--secure`.
async fn start(
    args: &args::Dev,
    temporary: &mut Option<TempDir>,
) -> Result<(InProcess, PathBuf, Option<Secured>), Failure> {
    let missing = (!args.secure).then_some(Protection::DEV);
    let insecure = exposure::check(&args.listen, missing, args.insecure)?;
    // The bind comes first. If the address is taken, nothing has been started or written yet.
    let listener = bind(&args.listen)?;
    let metrics_listener = bind("127.0.0.1:0")?;
    let data = data_dir(args.data_dir.as_deref(), temporary)?;
    let mut engines = Vec::new();
    for id in 1..=args.replicas {
        engines.push(open_engine(&data.join(format!("node-{id}")), 0).await?);
    }
    let secured = match args.secure {
        true => Some(Secured::make(&data.join("secure"), NAME, args.replicas, &args.listen)?),
        false => None,
    };
    let protection = secured.as_ref().map(|files| files.open(NAME, args.replicas)).transpose()?;
    let options = InProcessOptions {
        name: NAME.into(),
        shards: args.shards,
        engines,
        listener,
        metrics_listener,
        protection,
        insecure,
    };
    let cluster = InProcess::start(options).await.map_err(failure)?;
    for warning in cluster.warnings() {
        voice::say(format!("warning: {warning}\n"));
    }
    Ok((cluster, data, secured))
}

/// Waits for a signal that ends the cluster. A terminal that is closed sends SIGHUP. If the caller
/// ignores SIGHUP, as `nohup` does, the cluster outlives its terminal.
async fn told_to_stop_or_hung_up() {
    let start = AtStart::of_this_process();
    if start.is_ok_and(|start| start.ignored.contains(libc::SIGHUP)) {
        return told_to_stop().await;
    }
    let mut hung_up = signal(SignalKind::hangup()).expect("listen for SIGHUP");
    tokio::select! {
        () = told_to_stop() => {}
        _ = hung_up.recv() => {}
    }
}

/// Removes the temporary data of a cluster that has ended. The removal is tried again, because a
/// thread of a store that did not close in time may create a file in between.
pub fn remove(dir: TempDir) {
    let path = dir.keep();
    for _ in 0..REMOVALS {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => std::thread::sleep(REMOVE_AGAIN),
            _ => return,
        }
    }
    voice::say(format!("warning: {} could not be removed: remove it by hand\n", path.display()));
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
fn greeting(
    args: &args::Dev,
    cluster: &InProcess,
    data: &Path,
    secured: Option<&Secured>,
) -> Vec<String> {
    let (paint, address) = (Paint::stdout(), cluster.address());
    let endpoint =
        if address == "127.0.0.1:7400" { String::new() } else { format!(" --endpoint {address}") };
    let kept = match args.data_dir {
        Some(_) => "",
        None => " (removed at exit; keep it with --data-dir)",
    };
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
        format!("  console:  {}://{address}/", if secured.is_some() { "https" } else { "http" }),
        format!("  data:     {}{kept}", data.display()),
        format!(
            "  metrics:  http://{}/metrics (gateway), and of the nodes: {}",
            cluster.metrics_address(),
            nodes.join(", ")
        ),
        format!("\n{}", paint.dim("Try, in another terminal:")),
    ];
    if let Some(secured) = secured {
        let commands = secured.commands(&endpoint);
        lines.extend(commands.map(|command| format!("  {program} {command}")));
        lines.push(format!(
            "Neither may do what the other may: see {}",
            secured.policy_file().display()
        ));
        lines.push(format!("\n{}", paint.dim("Ctrl-C stops it.")));
        return lines;
    }
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

/// The directory of the cluster's data. Without a wanted one, it is a new temporary directory.
fn data_dir(wanted: Option<&Path>, temporary: &mut Option<TempDir>) -> Result<PathBuf, Failure> {
    let made = match wanted {
        Some(dir) => std::fs::create_dir_all(dir).map(|()| dir.to_owned()),
        None => {
            TempDir::with_prefix("palisade-dev-").map(|dir| temporary.insert(dir).path().to_owned())
        }
    };
    made.map_err(|error| {
        let next = "name a directory that can be written to with --data-dir";
        let message = format!("cannot create the data directory: {error}");
        Failure::new(Exit::Error, "STORAGE", message, next)
    })
}
