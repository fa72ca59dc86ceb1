//! `palisade node` and `palisade gateway`: one server in this process, until a signal or a fatal
//! error ends it.

use crate::args;
use crate::certificates;
use crate::cluster_file::load;
use crate::end;
use crate::exposure::{self, Protection};
use crate::failure::{Exit, Failure};
use crate::systemd::Systemd;
use audit::{Audit, Settings};
use gateway::{Gateway, GatewayOptions};
use net::role::Process;
use node::{FirstStart, Node, NodeOptions, choose_id};
use routing::{Address, AuditConfig, ClusterConfig, NodeConfig, NodeId, for_process};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, RocksEngine, RocksOptions, Room, StorageError};
use tokio::signal::unix::{SignalKind, signal};

/// Time limit for a failed node to end its threads.
const FAILED_STOP_MAX: Duration = Duration::from_secs(5);
/// Time for the last traces to get through at an end.
const TRACES_END_WITHIN: Duration = Duration::from_secs(1);
/// Interval of the messages about a start that takes long.
const SAYS_SO_EVERY: Duration = Duration::from_secs(10);
/// The listen address of a gateway without a configured one.
const DEFAULT_LISTEN: &str = "127.0.0.1:7400";

/// Runs a node to its end.
///
/// # Errors
/// The failure that kept the node from starting, or ended it.
pub async fn node(args: &args::Node) -> Result<(), Failure> {
    let cluster = load(&args.config)?;
    let joins = joiner(args, &cluster)?;
    let listed = args.id.and_then(|id| cluster.node(NodeId(id)));
    let me = joins.as_ref().or(listed).expect("checked by the line before").clone();
    let listen = args.listen.as_ref().unwrap_or(&me.address);
    let missing = Protection::missing_at_node(&cluster);
    let insecure = exposure::check(listen, missing, args.insecure)?;
    let listen_metrics = args.listen_metrics.as_ref().or(me.metrics.as_ref());
    check_free(std::iter::once(listen).chain(listen_metrics))?;
    let tls = certificates::inside(&cluster, &Process::Node(me.id.0))?;
    let dir =
        args.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("data/node-{}", me.id)));
    let reserve_bytes = cluster.settings.disk_reserve_bytes;
    let engine = saying_so("opening the data directory", open_engine(&dir, reserve_bytes)).await?;
    let seeds: Vec<String> = args.join.iter().flatten().chain(&args.seed).cloned().collect();
    let id = match args.id {
        Some(id) => NodeId(id),
        None => choose_id(&engine, &cluster, &seeds, &me).await.map_err(node_failure)?,
    };
    let joins = joins.map(|me| NodeConfig { id, ..me });
    let listener = bind(listen)?;
    let metrics_listener = listen_metrics.map(|address| bind(address)).transpose()?;
    let first_start = match (args.reseed, args.new_cluster, args.accept_copy) {
        (true, _, _) => FirstStart::Reseed { force: args.force },
        (false, true, _) => FirstStart::NewCluster,
        (false, false, true) => FirstStart::AcceptCopy { at_one_moment: false },
        (false, false, false) => FirstStart::AskPeers,
    };
    let guard_file = args.guard_file.clone();
    let audit = audit(cluster.audit.as_ref(), &format!("node-{id}"))?;
    let log = audit.clone();
    let options = NodeOptions {
        joins,
        seeds,
        cluster,
        id,
        engine,
        tls,
        first_start,
        guard_file,
        listener: Some(listener),
        audit,
        insecure,
        metrics_listener,
        by_hand: false,
    };
    start_traces(&args.traces, "node", format!("node-{id}"))?;
    let node = match saying_so("starting on the data directory", Node::start(options)).await {
        Ok(node) => node,
        Err(error) => {
            end::within(end::STOPS_WITHIN);
            return Err(node_failure(error));
        }
    };
    let (stop, reload) = (told_to_stop(), on_hangup(|| node.reload()));
    let systemd = Systemd::of_environment();
    systemd.ready();
    let (failed, removed) = tokio::select! {
        () = stop => (None, None),
        () = reload => (None, None), // never
        () = systemd.keep_watched(|| node.rounds()) => (None, None), // never
        error = node.wait_failed() => (Some(error), None),
        error = node.wait_removed() => (None, Some(error)),
    };
    systemd.stopping();
    end::within(end::STOPS_WITHIN);
    // The audit log ends by itself after the node, because a thread on a dead disk may keep its
    // handle.
    let Some(error) = failed else {
        let stopped = node.shutdown().await;
        stop_traces().await;
        log.end();
        return removed.map_or(stopped, Err).map_err(node_failure);
    };
    // A thread that is in the store while the process exits would crash the process. The wait is
    // limited, because a thread on a dead disk never ends.
    let _ = tokio::time::timeout(FAILED_STOP_MAX, node.shutdown()).await;
    log.end();
    Err(node_failure(error))
}

/// The node of the command line, if the cluster file does not have it. Its id is 0 if the cluster shall
/// give one.
///
/// # Errors
/// If the file has it and it is to join, or does not have it and it is not.
fn joiner(args: &args::Node, cluster: &ClusterConfig) -> Result<Option<NodeConfig>, Failure> {
    let file = args.config.display();
    let failure = |message, next| Failure::new(Exit::Usage, "NODE", message, next);
    let listed = args.id.filter(|id| cluster.node(NodeId(*id)).is_some());
    let has_tls = cluster.tls.as_ref().is_some_and(|tls| tls.inside.is_some());
    match (listed, &args.address, args.id) {
        (Some(_), None, _) => Ok(None),
        (Some(id), Some(_), _) => {
            let next = "start it without --join, or choose an id that no node ever had";
            Err(failure(format!("{file} has node {id}, so it is one of the cluster already"), next))
        }
        (None, None, id) => {
            let next = "see which there are: palisade cluster check --members --config FILE. A node that is new to the cluster needs --join --address HOST:PORT";
            Err(failure(format!("{file} has no node {}", id.unwrap_or_default()), next))
        }
        (None, Some(_), None) if has_tls => {
            let next = "give --id, and a certificate of the inside for it: see `palisade cert`";
            let message = format!("{file} has `tls.inside`, whose certificates name the node");
            Err(failure(message, next))
        }
        (None, Some(address), id) => Ok(Some(NodeConfig {
            id: NodeId(id.unwrap_or_default()),
            address: address.clone(),
            metrics: None,
            zone: args.zone.clone(),
        })),
    }
}

/// Awaits work that needs the disk, and reports regularly while the work takes long.
async fn saying_so<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = std::time::Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(SAYS_SO_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                let s = began.elapsed().as_secs();
                tracing::warn!(
                    "still {what} after {s} s: it awaits other nodes (the lines above say so), has much to read, or has a disk that \
                     is slow or hangs (dmesg, iostat)"
                );
            }
        }
    }
}

/// Binds a node's addresses, and frees them again. A node that cannot listen thereby fails before
/// it creates or reads any data.
fn check_free<'a>(mut addresses: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    addresses.try_for_each(|address| bind(address).map(drop))
}

/// Runs a gateway to its end.
///
/// # Errors
/// The failure that kept the gateway from starting, or ended it.
pub async fn gateway(args: &args::Gateway) -> Result<(), Failure> {
    let cluster = load(&args.config)?;
    let listed = || cluster.gateways.first().map(|gateway| gateway.address.clone());
    let listen = args.listen.clone().or_else(listed).unwrap_or_else(|| DEFAULT_LISTEN.into());
    let same = |address: &str| match (address.parse::<Address>(), listen.parse::<Address>()) {
        (Ok(one), Ok(other)) => one.is_same_as(&other),
        _ => address == listen,
    };
    let configured = cluster.gateways.iter().find(|gateway| same(&gateway.address));
    let missing = Protection::missing_at_gateway(&cluster);
    let insecure = exposure::check(&listen, missing, args.insecure)?;
    let process = Process::Gateway(args.name.clone());
    let inside = certificates::inside(&cluster, &process)?;
    let tls = certificates::clients(&cluster, &process)?;
    let listener = bind(&listen)?;
    let configured = configured.and_then(|gateway| gateway.metrics.as_deref());
    let listen_metrics = args.listen_metrics.as_deref().or(configured);
    let metrics_listener = listen_metrics.map(bind).transpose()?;
    if listen_metrics.is_none() && cluster.gateways.iter().any(|one| one.metrics.is_some()) {
        tracing::warn!(
            "no metrics are served: `metrics` of the cluster file belongs to gateways with other addresses than {listen}. Name an address with --listen-metrics"
        );
    }
    let audit = audit(cluster.audit.as_ref(), &format!("gateway-{}", args.name))?;
    let reflection = args.reflection;
    let options = GatewayOptions {
        cluster,
        seeds: args.seed.clone(),
        inside,
        tls,
        listener,
        metrics_listener,
        reflection,
        audit,
        insecure,
    };
    start_traces(&args.traces, "gateway", args.name.clone())?;
    let mut gateway = Gateway::start(options).await.map_err(gateway_failure)?;
    if let Some(shards) = args.health_shards {
        gateway.healthy_with(shards as usize);
    }
    let (stop, reload) = (told_to_stop(), on_hangup(gateway.reloader()));
    let systemd = Systemd::of_environment();
    systemd.ready();
    let mut outcome = tokio::select! {
        () = stop => Ok(()),
        () = reload => Ok(()), // never
        () = systemd.keep_watched(Vec::new) => Ok(()), // never
        ended = gateway.wait() => ended.map_err(gateway_failure),
    };
    // A second signal ends the wait.
    let hurry = told_to_stop();
    systemd.stopping();
    if outcome.is_ok() && !args.drain.is_zero() {
        gateway.drain();
        outcome = tokio::select! {
            _ = tokio::time::timeout(args.drain, hurry) => Ok(()),
            ended = gateway.wait() => ended.map_err(gateway_failure),
        };
    }
    gateway.shutdown().await;
    stop_traces().await;
    outcome
}

/// Sends the last traces, for a moment.
async fn stop_traces() {
    let _ = tokio::task::spawn_blocking(|| traces::stop(TRACES_END_WITHIN)).await;
}

/// Turns traces on, if the command line asks for them.
///
/// # Errors
/// If the collector's address cannot be used.
fn start_traces(args: &args::Traces, what: &str, instance: String) -> Result<(), Failure> {
    let Some(endpoint) = args.traces.clone().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(());
    };
    let service = format!("palisade-{what}");
    let settings = traces::Settings { endpoint, service, instance, sample: args.traces_sample };
    traces::start(&settings).map_err(|error| {
        let next = "write http://HOST:PORT of a collector that takes OTLP over gRPC";
        Failure::new(Exit::Usage, "TRACES", error.to_string(), next)
    })
}

/// Opens the audit log of a process, such as `node-3`, if the cluster file has one.
///
/// # Errors
/// If its file cannot be opened.
pub fn audit(config: Option<&AuditConfig>, process: &str) -> Result<Audit, Failure> {
    let Some(config) = config else { return Ok(Audit::off()) };
    let settings = Settings {
        file: for_process(&config.file, process),
        bytes_max: config.bytes_max,
        age_max: Duration::from_secs(config.hours_max.saturating_mul(3_600)),
        keep: config.keep,
    };
    Audit::start(settings, process, config.operations).map_err(|error| {
        let next = "correct `audit` in the cluster file, or make the directory writable";
        Failure::new(Exit::Error, "AUDIT", error.to_string(), next)
    })
}

/// Opens a node's store outside the async threads, because there may be much to replay.
///
/// # Errors
/// If the directory cannot be used.
pub async fn open_engine(dir: &Path, reserve_bytes: u64) -> Result<Arc<dyn Engine>, Failure> {
    let (owned, shown) = (dir.to_owned(), dir.display().to_string());
    let opened = tokio::task::spawn_blocking(move || {
        RocksEngine::open_with(&owned, RocksOptions { reserve_bytes, ..RocksOptions::default() })
    })
    .await;
    match opened {
        Ok(Ok(engine)) => {
            say_room(&shown, engine.room());
            Ok(Arc::new(engine))
        }
        Ok(Err(error)) => {
            let next = match error {
                StorageError::Damaged(_) => {
                    format!("move {shown} away, and start the node with --reseed")
                }
                _ => String::new(),
            };
            Err(Failure::new(Exit::Error, "STORAGE", format!("{shown}: {error}"), next))
        }
        Err(error) => Err(Failure::new(
            Exit::Error,
            "STORAGE",
            format!("{shown}: opening it failed: {error}"),
            "",
        )),
    }
}

fn say_room(dir: &str, room: Room) {
    match room {
        Room::Enough => {}
        Room::Little { free_bytes } => tracing::warn!(
            free_bytes,
            "the disk of {dir} is nearly full: make room on it. Without room this node stops, and cannot start again"
        ),
        Room::ReserveUsed { free_bytes } => tracing::warn!(
            free_bytes,
            "the disk of {dir} is full: the node starts with the room that it had kept for that, once. Make room on it now"
        ),
    }
}

/// Binds a socket now, so that the caller learns at once if this is impossible.
///
/// # Errors
/// If the address is taken, or belongs to another machine.
pub fn bind(address: &str) -> Result<std::net::TcpListener, Failure> {
    std::net::TcpListener::bind(address).map_err(|error| {
        let (exit, next) = match error.kind() {
            ErrorKind::InvalidInput => (Exit::Usage, "write HOST:PORT, for example 127.0.0.1:7400"),
            ErrorKind::AddrInUse => (Exit::Error, "stop what uses this address, or choose another"),
            ErrorKind::AddrNotAvailable => {
                (Exit::Error, "choose an address that this machine has, or 0.0.0.0 for all of them")
            }
            ErrorKind::PermissionDenied => (
                Exit::Error,
                "choose a port from 1024 on, or run it with the right to use this one",
            ),
            _ => (Exit::Error, "correct the address, or choose another"),
        };
        Failure::new(exit, "LISTEN", format!("cannot listen on {address}: {error}"), next)
    })
}

/// Raises the limit of descriptors. A server takes one for each connection, and on many systems a
/// process starts with 1,024.
pub fn raise_descriptor_limit() {
    match net::accept::raise_descriptor_limit() {
        Ok(limit) => tracing::debug!(?limit, "descriptors that this process may have"),
        Err(error) => {
            tracing::warn!(%error, "the limit on open files could not be raised: set it with ulimit -n")
        }
    }
}

/// Reads files again at each SIGHUP, for ever. From this call on, SIGHUP does not end the process.
fn on_hangup(reload: impl Fn()) -> impl Future<Output = ()> {
    let mut hangup = signal(SignalKind::hangup()).expect("listen for SIGHUP");
    async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading certificates, policy and tokens again");
            tokio::task::block_in_place(&reload);
        }
        std::future::pending::<()>().await;
    }
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM. From this call on, neither ends the process. A server
/// therefore calls it before it tells anybody that it is ready.
pub fn told_to_stop() -> impl Future<Output = ()> {
    let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
    async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

pub fn node_failure(error: node::NodeError) -> Failure {
    let exit =
        if matches!(error, node::NodeError::DiskHangs(_)) { Exit::DiskHangs } else { Exit::Error };
    Failure::new(exit, "NODE", error.to_string(), "")
}

pub fn gateway_failure(error: gateway::GatewayError) -> Failure {
    Failure::new(Exit::Error, "GATEWAY", error.to_string(), "")
}
