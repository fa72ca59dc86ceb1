//! Starting and stopping a gateway.

use crate::doors::single::Single;
use crate::doors::{probes, server};
use crate::error::GatewayError;
use crate::identities::Identities;
use crate::leave;
use crate::leaving::Leaving;
use crate::limits::{CLOSE_MAX, DRAIN_MAX, LINGER, OPEN_LOOKED_AT_EVERY, REFUSALS_SAID_EVERY};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::router::{Router, Security};
use crate::watching::{self, Watching};
use audit::{Audit, Event, Kind};
use net::reload::{Outcome, Reloading};
use net::tls::{Inside, Server, TlsError};
use routing::{ClusterConfig, ShardId};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::internal::v1::ClusterIdentity;

/// The configuration and the sockets of a gateway.
pub struct GatewayOptions {
    /// The cluster file, validated. A node that is not at its address in the file is looked for at
    /// the addresses that the other nodes report.
    pub cluster: ClusterConfig,
    /// Addresses of nodes as `host:port`, which are asked for the others while no node that is known
    /// can be reached. For a cluster file that has none of the present nodes.
    pub seeds: Vec<String>,
    /// TLS between this gateway and the nodes, with the gateway's certificate. Needed if the
    /// cluster file has it.
    pub inside: Option<Arc<Inside>>,
    /// TLS between clients and this gateway. Needed if the cluster file has it.
    pub tls: Option<Arc<Server>>,
    /// The listener for clients.
    pub listener: std::net::TcpListener,
    /// The listener for `/metrics` and probes, if they are served there.
    pub metrics_listener: Option<std::net::TcpListener>,
    /// Whether `grpc.reflection` shows the public protocol to tools such as grpcurl.
    pub reflection: bool,
    /// The audit log.
    pub audit: Audit,
    /// Whether the gateway was told to serve without protection. It shows in the cluster status.
    pub insecure: bool,
}

/// The entry point: [`Gateway::start`] starts a gateway.
pub struct Gateway;

impl Gateway {
    /// Starts a gateway and returns once it serves. Connections to the nodes are made in the
    /// background, and again whenever one is lost. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`GatewayError`] if the gateway cannot start. Nothing is left running then.
    pub async fn start(options: GatewayOptions) -> Result<GatewayHandle, GatewayError> {
        let GatewayOptions {
            cluster,
            seeds,
            inside,
            tls,
            listener,
            metrics_listener,
            reflection,
            audit,
            insecure,
        } = options;
        // Without this check a program that forgets the files would serve in the clear.
        if cluster.tls.as_ref().is_some_and(|tls| tls.inside.is_some()) && inside.is_none() {
            return Err(GatewayError::NoTls("inside"));
        }
        if cluster.tls.as_ref().is_some_and(|files| files.clients.is_some()) && tls.is_none() {
            return Err(GatewayError::NoTls("clients"));
        }
        let identities = cluster.access.as_ref().map(Identities::open).transpose()?;
        let listener = adopt(listener)?;
        let metrics_listener = metrics_listener.map(adopt).transpose()?;
        let address = listener.local_addr()?;
        let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let shards = (0..cluster.shards).map(ShardId);
        let metrics = Metrics::new(shards)
            .map_err(|error| GatewayError::Config(format!("metrics cannot be set up: {error}")))?;
        let fingerprint = cluster.fingerprint();
        let identity = ClusterIdentity::new(fingerprint.0, cluster.cluster.clone(), cluster.shards);
        let nodes = Nodes::connect(&cluster, &identity, inside.clone())?;
        tracing::info!(
            %address, cluster = %cluster.cluster, shards = cluster.shards, nodes = cluster.nodes.len(), %fingerprint, "gateway serves"
        );
        let (leaving, left) = Leaving::new();
        let (watching, asked) = Watching::new();
        let security = Security { tls: tls.clone(), identities, audit, insecure };
        let router = Router::new(cluster, identity, nodes, metrics, leaving, watching, security);
        let router = Arc::new(router);
        router.audit.record(Event::of(Kind::Started));
        let (end, ending) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(inside) = inside.clone() {
            tasks.spawn(follow(inside, router.clone(), ending.clone()));
        }
        if let Some(tls) = tls.clone() {
            tasks.spawn(follow(tls, router.clone(), ending.clone()));
        }
        let single = Single { router: router.clone(), ending: ending.clone() };
        tasks.spawn(server::serve(
            listener,
            tls.clone(),
            router.clone(),
            single,
            reflection,
            ending.clone(),
        ));
        tasks.spawn(ended(crate::watch::keep(router.clone(), ending.clone())));
        if !seeds.is_empty() {
            let (router, mut ending) = (router.clone(), ending.clone());
            tasks.spawn(ended(async move {
                tokio::select! {
                    _ = ending.wait_for(|ending| *ending) => {}
                    () = crate::watch::ask_seeds(router, seeds) => {}
                }
            }));
        }
        tasks.spawn(ended(leave::work(router.clone(), left, ending.clone())));
        tasks.spawn(ended(watching::work(router.clone(), asked, ending.clone())));
        tasks.spawn(ended(watch_access(router.clone(), ending.clone())));
        tasks.spawn(ended(say_refusals(router.clone(), ending.clone())));
        if let Some(listener) = metrics_listener {
            tasks.spawn(probes::serve(listener, router.clone()));
        }
        Ok(GatewayHandle { address, metrics_address, router, inside, tls, end, tasks })
    }
}

/// Follows the files of certificates until the gateway ends.
async fn follow<T: Send + Sync + 'static>(
    files: Arc<Reloading<T, TlsError>>,
    router: Arc<Router>,
    mut ending: watch::Receiver<bool>,
) -> Result<(), GatewayError> {
    tokio::select! {
        _ = ending.wait_for(|ending| *ending) => {}
        () = files.watch(|outcome| record_certificates(&router, outcome)) => {}
    }
    Ok(())
}

/// Records the outcome of reading certificates again.
fn record_certificates(router: &Router, outcome: &Outcome<TlsError>) {
    router.audit.record(match outcome {
        Outcome::Same => return,
        Outcome::Taken => Event::of(Kind::CertificatesChanged),
        Outcome::Refused(error) => {
            Event { why: error.to_string(), ..Event::of(Kind::CertificatesRefused) }
        }
    });
}

/// Gives background work that ends with the gateway the result type of a server.
async fn ended(work: impl Future<Output = ()>) -> Result<(), GatewayError> {
    work.await;
    Ok(())
}

/// Watches the files of identities until the gateway ends.
async fn watch_access(router: Arc<Router>, mut ending: watch::Receiver<bool>) {
    let watched = async {
        match &router.identities {
            Some(identities) => identities.watch(&router.audit, &router.metrics).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = watched => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
}

/// Logs a summary of refusals from time to time, instead of a line for each.
async fn say_refusals(router: Arc<Router>, mut ending: watch::Receiver<bool>) {
    let mut said = [0; 3];
    while tokio::time::timeout(REFUSALS_SAID_EVERY, ending.wait_for(|ending| *ending))
        .await
        .is_err()
    {
        let metrics = &router.metrics;
        let counts = [&metrics.operations_refused, &metrics.denied, &metrics.sign_ins_failed];
        let counts = counts.map(|counter| counter.get());
        let [busy, denied, sign_ins] = std::array::from_fn(|nth| counts[nth] - said[nth]);
        said = counts;
        if busy > 0 {
            let waits = router.admission.waits();
            tracing::warn!(
                count = busy,
                waits,
                "refused operations as busy: a client has more in flight than its share"
            );
        }
        if denied > 0 {
            tracing::warn!(count = denied, "denied operations: see the audit log for whose");
        }
        if sign_ins > 0 {
            tracing::warn!(
                count = sign_ins,
                "refused certificates or tokens that prove no identity"
            );
        }
    }
}

fn adopt(listener: std::net::TcpListener) -> Result<TcpListener, std::io::Error> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A running gateway. Dropping it stops it at once, and [`shutdown`](Self::shutdown) lets
/// operations finish first.
pub struct GatewayHandle {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    router: Arc<Router>,
    inside: Option<Arc<Inside>>,
    tls: Option<Arc<Server>>,
    end: watch::Sender<bool>,
    tasks: JoinSet<Result<(), GatewayError>>,
}

impl GatewayHandle {
    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of `/metrics`, if it is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Reads the files of certificates and identities again when it is called. New certificates are
    /// used for new connections, new identities at once, and files that cannot be used change
    /// nothing. A call blocks on the disk.
    pub fn reloader(&self) -> impl Fn() + use<> {
        let (router, inside, tls) = (self.router.clone(), self.inside.clone(), self.tls.clone());
        move || {
            for files in inside.iter() {
                record_certificates(&router, &files.reload());
            }
            for files in tls.iter() {
                record_certificates(&router, &files.reload());
            }
            if let Some(identities) = &router.identities {
                identities.reload(&router.audit, &router.metrics);
            }
        }
    }

    /// Reads all files again now, as [`reloader`](Self::reloader) says.
    pub fn reload(&self) {
        self.reloader()();
    }

    /// Waits until one of the gateway's servers ends by itself, which is always a fault. The future
    /// can be dropped and the method called again.
    pub async fn wait(&mut self) -> Result<(), GatewayError> {
        match self.tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                Err(GatewayError::Failed { what: "gateway", why: error.to_string() })
            }
            None => Ok(()),
        }
    }

    /// Sets how many shards must have a leader that can be reached, for `grpc.health.v1` to answer
    /// `SERVING`. Without a call all must have one; more than there are count as all.
    pub fn healthy_with(&self, shards: usize) {
        self.router.set_health_shards(shards);
    }

    /// Makes all probes answer that this gateway is not ready, and serves on. A balancer that sees
    /// that sends no new clients, and clients of HTTP/1.1 are asked to connect anew. So a later
    /// [`shutdown`](Self::shutdown) meets few.
    pub fn drain(&self) {
        self.router.drain();
    }

    /// Stops the gateway: ends the clients' streams and watches one by one, which takes at most five
    /// seconds. Then it refuses new operations, and gives running ones at most a second to finish.
    /// Waiting acquires go on through another gateway and keep their places. Its audit log ends, too.
    pub async fn shutdown(mut self) {
        tracing::info!(address = %self.address, "gateway stops");
        self.router.drain();
        self.send_away().await;
        self.router.notices.end();
        self.end.send_replace(true);
        // The task for probes answers until the others have ended, and never ends by itself.
        let probed = usize::from(self.metrics_address.is_some());
        let ended = async {
            // The cleanups go on until nothing more comes to them.
            let others = probed + 1;
            while self.tasks.len() > others && self.tasks.join_next().await.is_some() {}
            self.router.leaving.close();
            while self.tasks.len() > probed && self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(DRAIN_MAX + CLOSE_MAX, ended).await.is_err() {
            tracing::debug!("connections were still open at the end of the shutdown");
        }
        self.tasks.shutdown().await;
        let left = self.router.leaving.count();
        if left > 0 {
            tracing::warn!(
                count = left,
                "acquires of clients that are gone could not be ended: their own time ends them"
            );
        }
        // A connection that was cut may keep the router for a moment, so the log is not left to the
        // end of its last handle.
        self.router.audit.end();
        tracing::info!(address = %self.address, "gateway stopped");
    }

    /// Ends the streams and watches that are open, one by one.
    async fn send_away(&self) {
        let open = || self.router.admission.streams() + self.router.admission.watches();
        let until = Instant::now() + self.router.notices.go(open()) + LINGER;
        while open() > 0 && Instant::now() < until {
            tokio::time::sleep(OPEN_LOOKED_AT_EVERY).await;
        }
    }
}

impl Drop for GatewayHandle {
    fn drop(&mut self) {
        self.router.notices.end();
        self.end.send_replace(true);
    }
}
