//! A cluster with its gateway inside the calling process, on real storage and real Raft.
//!
//! The nodes talk to each other over loopback sockets like any nodes, but the system chooses their
//! ports. Each node holds a replica of each shard. The caller opens the storage, so that it can
//! warn of a full disk, or keep all data in memory.

use crate::{Addresses, cluster_config, leaders};
use audit::Audit;
use client::{Client, ClientOptions, Security};
use futures_util::future::select_all;
use gateway::{Gateway, GatewayError, GatewayHandle, GatewayOptions};
use net::tls::{Inside, Server};
use node::{FirstStart, Node, NodeError, NodeHandle, NodeOptions};
use routing::{AccessConfig, AuditConfig, ClusterConfig, ConfigError, NodeId, TlsConfig};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use storage::Engine;

/// Interval between two checks whether every shard has a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The failure of a cluster inside this process to start, or its unexpected end.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// The description of the cluster is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket on loopback could not be bound, or its address could not be read.
    #[error("no socket on loopback: {0}")]
    Socket(#[from] std::io::Error),
    /// A node did not start, or failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The gateway did not start, or ended.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

/// The parts of a cluster inside this process.
pub struct InProcessOptions {
    /// The name of the cluster.
    pub name: String,
    /// The number of shards.
    pub shards: u32,
    /// The stores of the nodes, one for each node.
    pub engines: Vec<Arc<dyn Engine>>,
    /// The socket that the gateway serves on.
    pub listener: TcpListener,
    /// The socket of the gateway's `/metrics`.
    pub metrics_listener: TcpListener,
    /// Whether the gateway was told to serve without protection.
    pub insecure: bool,
    /// The protection of the cluster. `None`: nothing.
    pub protection: Option<Protection>,
}

/// The protection of a cluster inside this process: sections of its cluster file, and the files
/// that they name.
pub struct Protection {
    /// TLS of both sides.
    pub tls: TlsConfig,
    /// Identities of clients, and their rights.
    pub access: AccessConfig,
    /// The audit logs.
    pub audit: AuditConfig,
    /// The gateway's audit log.
    pub gateway_audit: Audit,
    /// The loaded side of each node, in the order of the stores.
    pub nodes: Vec<Arc<Inside>>,
    /// The gateway's side towards the nodes.
    pub gateway: Arc<Inside>,
    /// The gateway's side towards clients.
    pub clients: Arc<Server>,
    /// An identity that may see the cluster's status, for [`InProcess::led`].
    pub observer: Security,
}

/// A cluster that runs inside this process. Call [`stop`](Self::stop) before the process ends. A
/// dropped node does not tell its peers, and leaves its store as it is.
pub struct InProcess {
    config: ClusterConfig,
    warnings: Vec<String>,
    address: String,
    observer: Security,
    metrics_address: String,
    nodes: Vec<NodeHandle>,
    gateway: GatewayHandle,
}

impl InProcess {
    /// Starts all nodes, then the gateway. Call it inside a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// The error of the first part that does not start.
    pub async fn start(options: InProcessOptions) -> Result<InProcess, InProcessError> {
        let InProcessOptions {
            name,
            shards,
            engines,
            listener,
            metrics_listener,
            insecure,
            protection,
        } = options;
        let mut sockets = Vec::new();
        for _ in &engines {
            sockets.push((TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?));
        }
        let of = |(serves, metrics): &(TcpListener, TcpListener)| -> std::io::Result<Addresses> {
            Ok(Addresses { serves: address_of(serves)?, metrics: Some(address_of(metrics)?) })
        };
        let addresses = sockets.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let mut config = cluster_config(&name, shards, &addresses, &[]);
        let mut node_tls = vec![None; engines.len()];
        let (mut inside, mut tls, mut observer) = (None, None, Security::default());
        let mut audit = Audit::default();
        if let Some(protection) = protection {
            config.tls = Some(protection.tls);
            config.access = Some(protection.access);
            config.audit = Some(protection.audit);
            node_tls = protection.nodes.into_iter().map(Some).collect();
            (inside, tls) = (Some(protection.gateway), Some(protection.clients));
            observer = protection.observer;
            audit = protection.gateway_audit;
        }
        let warnings = config.validate()?;
        let mut nodes = Vec::new();
        let parts = engines.into_iter().zip(node_tls).zip(sockets);
        for (id, ((engine, tls), (socket, metrics))) in (1..).zip(parts) {
            let options = NodeOptions {
                cluster: config.clone(),
                id: NodeId(id),
                engine,
                tls,
                // All nodes lie in one directory, so a copy of the directory has all nodes at one
                // moment.
                first_start: FirstStart::AcceptCopy { at_one_moment: true },
                guard_file: None,
                audit: Default::default(),
                insecure: false,
                listener: Some(socket),
                metrics_listener: Some(metrics),
                by_hand: false,
                joins: None,
                seeds: Vec::new(),
            };
            nodes.push(Node::start(options).await?);
        }
        let (address, metrics_address) = (address_of(&listener)?, address_of(&metrics_listener)?);
        let cluster = config.clone();
        // People use this cluster to try the service out, with tools such as grpcurl.
        let reflection = true;
        let options = GatewayOptions {
            seeds: Vec::new(),
            cluster,
            inside,
            tls,
            listener,
            metrics_listener: Some(metrics_listener),
            reflection,
            audit,
            insecure,
        };
        let gateway = Gateway::start(options).await?;
        Ok(InProcess { config, warnings, address, observer, metrics_address, nodes, gateway })
    }

    /// The description of the cluster.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// Warnings about the description, for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The address that the gateway serves on, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of the gateway's `/metrics`, as `host:port`.
    pub fn metrics_address(&self) -> &str {
        &self.metrics_address
    }

    /// Waits until every shard has a leader. The future borrows no part of the cluster, so that it
    /// can be awaited beside [`ended`](Self::ended).
    pub fn led(&self) -> impl Future<Output = ()> + use<> {
        let options = ClientOptions::new().security(self.observer.clone());
        let client = Client::with_options([&self.address], options);
        let shards = self.config.shards as usize;
        async move {
            loop {
                if client
                    .cluster_status()
                    .await
                    .is_ok_and(|status| leaders(&status).len() == shards)
                {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Waits until a node or the gateway ends by itself.
    ///
    /// # Errors
    /// The failure that ended it.
    pub async fn ended(&mut self) -> Result<(), InProcessError> {
        let failed = select_all(self.nodes.iter().map(|node| Box::pin(node.wait_failed())));
        tokio::select! {
            (error, _, _) = failed => Err(error.into()),
            ended = self.gateway.wait() => Ok(ended?),
        }
    }

    /// Stops the gateway, then all nodes at once. Each node gives the others a moment to take over
    /// its leaderships.
    ///
    /// # Errors
    /// The error of the first node that did not stop cleanly.
    pub async fn stop(self) -> Result<(), InProcessError> {
        self.gateway.shutdown().await;
        let stopping: Vec<_> =
            self.nodes.into_iter().map(|node| tokio::spawn(node.shutdown())).collect();
        let mut outcome = Ok(());
        for node in stopping {
            let stopped =
                node.await.unwrap_or_else(|error| Err(NodeError::Failed(error.to_string())));
            outcome = outcome.and(stopped);
        }
        Ok(outcome?)
    }
}

fn address_of(listener: &TcpListener) -> std::io::Result<String> {
    Ok(listener.local_addr()?.to_string())
}
