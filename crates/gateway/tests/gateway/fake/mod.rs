//! Small fake nodes on loopback ports, and a gateway in front of them.
#![allow(dead_code)] // each test file uses its own part of it

mod topologies;
mod watches;

use audit::Audit;
use client::{Client, ClientOptions};
use palisade_gateway::{Gateway, GatewayHandle, GatewayOptions};
use routing::{ClusterConfig, NodeId, ShardId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
#[allow(unused_imports)]
pub use wire::internal::v1::Operation as NodeOperation;
pub use wire::internal::v1::operation::Op as NodeOp;
pub use wire::internal::v1::operation_result::Result as NodeAnswer;
use wire::internal::v1::shard_service_server::{ShardService, ShardServiceServer};
use wire::internal::v1::*;
use wire::v1::{AcquireRequest, CancelWaitResponse, Error, ErrorCode, Grant};

pub use topologies::Topologies;
pub use watches::{Watches, event};

pub const LONG: Duration = Duration::from_secs(60);

/// A node's reaction to an operation.
#[allow(clippy::large_enum_variant)] // there are few, and a test writes each of them out
pub enum Reaction {
    Answer(NodeAnswer),
    /// Answers once this is sent.
    Later(tokio::sync::oneshot::Receiver<NodeAnswer>),
    /// Does not answer.
    Silence,
    /// Ends the stream, and with it all operations in flight.
    Hangup,
}

pub fn error(error: Error) -> Reaction {
    Reaction::Answer(NodeAnswer::Error(error))
}

pub fn not_leader(leader: u64, term: u64) -> Reaction {
    Reaction::Answer(NodeAnswer::NotLeader(NotLeader { message: "not me".into(), leader, term }))
}

pub fn code(code: ErrorCode) -> Reaction {
    error(Error::new(code, "says the fake"))
}

pub fn granted(request: &AcquireRequest, token: u64) -> Reaction {
    Reaction::Answer(NodeAnswer::Grant(Grant {
        resource_name: request.name.clone(),
        owner_id: request.owner.clone(),
        fencing_token: token,
        ttl_ms: request.ttl_ms,
        ..Grant::default()
    }))
}

/// The answer to a cancel that came after the grant.
pub fn granted_before(cancel: &CancelWait, token: u64) -> Reaction {
    let grant =
        Grant { resource_name: cancel.name.clone(), fencing_token: token, ..Grant::default() };
    Reaction::Answer(NodeAnswer::CancelWait(CancelWaitResponse {
        cancelled: false,
        grant: Some(grant),
    }))
}

/// Reacts to an operation, given the node's id.
type Handler = dyn Fn(u64, &Operation) -> Reaction + Send + Sync;

#[derive(Clone)]
struct FakeNode {
    id: u64,
    identity: ClusterIdentity,
    said: Arc<Mutex<Said>>,
    seen: Arc<Mutex<Vec<(u64, Operation)>>>,
    frames: Arc<Mutex<Vec<usize>>>,
    handler: Arc<Handler>,
    watches: Arc<Watches>,
    topologies: Arc<Topologies>,
}

impl FakeNode {
    fn serve(&self, id: u64, listener: tokio::net::TcpListener) {
        let identity = ClusterIdentity { node: id, ..self.identity.clone() };
        let fake = FakeNode { id, identity, ..self.clone() };
        let topologies = self.topologies.at(id, listener.local_addr().unwrap().to_string());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(ShardServiceServer::new(fake))
                .add_service(topologies)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
    }
}

/// The nodes' reports of the cluster.
#[derive(Default)]
pub struct Said {
    /// The address of each node.
    pub addresses: BTreeMap<u64, String>,
    /// By shard: the node that reports itself as leader.
    pub leaders: BTreeMap<u32, u64>,
    /// The route table of all nodes, if it is not that of the cluster file.
    pub routes: Option<RouteTable>,
}

/// A gateway and its nodes.
pub struct Fakes {
    pub said: Arc<Mutex<Said>>,
    pub gateway: GatewayHandle,
    pub config: ClusterConfig,
    /// What the nodes serve to watches.
    pub watches: Arc<Watches>,
    /// What the nodes have for the topology.
    pub topologies: Arc<Topologies>,
    seen: Arc<Mutex<Vec<(u64, Operation)>>>,
    frames: Arc<Mutex<Vec<usize>>>,
    /// No node: what each node is made of.
    parts: FakeNode,
}

impl Fakes {
    /// Starts nodes 1 to `nodes`, each a replica of every shard. Nodes in `down` do not listen.
    pub async fn start(
        shards: u32,
        nodes: u32,
        down: &[u64],
        handler: impl Fn(u64, &Operation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        let fakes = Fakes::start_with(shards, nodes, down, |_| {}, handler).await;
        let up = fakes.config.nodes.len() - down.len();
        let connected = |text: &str| {
            text.lines()
                .filter(|line| line.contains("node_connected{") && line.ends_with(" 1"))
                .count()
        };
        while connected(&fakes.get("/metrics").await) < up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fakes
    }

    /// Like [`start`](Self::start), but the gateway's cluster file differs from the nodes'. Does
    /// not wait for connections.
    pub async fn start_with(
        shards: u32,
        nodes: u32,
        down: &[u64],
        change: impl FnOnce(&mut ClusterConfig),
        handler: impl Fn(u64, &Operation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        let change = |options: &mut GatewayOptions| change(&mut options.cluster);
        Fakes::start_changed(shards, nodes, down, change, handler).await
    }

    /// Like [`start_with`](Self::start_with), with other options of the gateway.
    pub async fn start_changed(
        shards: u32,
        nodes: u32,
        down: &[u64],
        change: impl FnOnce(&mut GatewayOptions),
        handler: impl Fn(u64, &Operation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        let mut config = ClusterConfig::dev(shards, nodes, 20_000).unwrap();
        config.settings.waiter_grace_ms = 200;
        let (seen, frames, handler): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>, Arc<Handler>) =
            (Arc::default(), Arc::default(), Arc::new(handler));
        let leaders =
            config.shard_map().shards().map(|(shard, r)| (shard.0, r.preferred_leader.0)).collect();
        let said = Arc::new(Mutex::new(Said { leaders, ..Said::default() }));
        let identity = ClusterIdentity::new(config.fingerprint().0, config.cluster.clone(), shards);
        let watches = Arc::new(Watches::default());
        let topologies = Arc::new(Topologies::of(&config));
        let parts = FakeNode {
            id: 0,
            identity,
            said: said.clone(),
            seen: seen.clone(),
            frames: frames.clone(),
            handler,
            watches: watches.clone(),
            topologies: topologies.clone(),
        };
        for node in &mut config.nodes {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            node.address = listener.local_addr().unwrap().to_string();
            said.lock().unwrap().addresses.insert(node.id.0, node.address.clone());
            if down.contains(&node.id.0) {
                continue;
            }
            parts.serve(node.id.0, listener);
        }
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (cluster, metrics_listener) = (config.clone(), Some(listen()));
        let mut options = GatewayOptions {
            seeds: Vec::new(),
            cluster,
            inside: None,
            tls: None,
            listener: listen(),
            metrics_listener,
            reflection: true,
            audit: Audit::off(),
            insecure: false,
        };
        change(&mut options);
        let config = options.cluster.clone();
        let gateway = Gateway::start(options).await.unwrap();
        Fakes { gateway, config, watches, topologies, seen, frames, said, parts }
    }

    /// Starts a node that the cluster file does not have. Returns its address.
    pub async fn start_node(&self, id: u64) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.parts.serve(id, listener);
        address
    }

    /// Waits until the gateway is ready.
    pub async fn ready(&self) {
        while !self.get("/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The answer to an HTTP request, with its head.
    pub async fn get(&self, path: &str) -> String {
        get(self.gateway.metrics_address().unwrap(), path).await
    }

    /// Shuts the gateway down. The result shows the operations that nodes received, also later
    /// ones.
    pub async fn shut_down(self) -> Arc<Mutex<Vec<(u64, Operation)>>> {
        self.gateway.shutdown().await;
        self.seen
    }

    pub fn client(&self, timeout: Duration) -> Client {
        let options = ClientOptions::new().timeout(timeout).owner("me");
        Client::with_options([self.gateway.address().to_string()], options)
    }

    pub fn leader(&self, shard: u32) -> NodeId {
        self.config.shard_map().replicas(ShardId(shard)).unwrap().preferred_leader
    }

    /// The operations that nodes received, in order.
    pub fn seen(&self) -> Vec<(u64, Operation)> {
        self.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// The number of operations in each frame to a node.
    pub fn frames(&self) -> Vec<usize> {
        self.frames.lock().unwrap().clone()
    }

    pub fn count(&self, what: impl Fn(u64, &NodeOp) -> bool) -> usize {
        let matches = |(node, operation): &&(u64, Operation)| {
            operation.op.as_ref().is_some_and(|op| what(*node, op))
        };
        self.seen.lock().unwrap().iter().filter(matches).count()
    }

    pub async fn until(&self, count: usize, what: impl Fn(u64, &NodeOp) -> bool) {
        while self.count(&what) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The answer of a port for metrics to an HTTP request, with its head.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Puts the caller on an operation that names it by its number.
fn in_full(operation: &mut NodeOperation, callers: &mut Vec<(String, Option<Quota>)>) {
    if operation.caller > 0 {
        let (principal, quota) = callers[operation.caller as usize - 1].clone();
        (operation.principal, operation.quota, operation.caller) = (principal, quota, 0);
    } else if !operation.principal.is_empty() {
        callers.push((operation.principal.clone(), operation.quota));
    }
}

#[tonic::async_trait]
impl ShardService for FakeNode {
    type OperateStream = ReceiverStream<Result<OperateResponse, Status>>;

    async fn operate(
        &self,
        request: Request<Streaming<OperateRequest>>,
    ) -> Result<Response<Self::OperateStream>, Status> {
        let (results, stream) = mpsc::channel(16);
        let node = self.clone();
        let mut frames = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                node.frames.lock().unwrap().push(frame.operations.len());
                let mut answered = Vec::new();
                let mut callers = Vec::new();
                for mut operation in frame.operations {
                    let id = operation.id;
                    in_full(&mut operation, &mut callers);
                    node.seen.lock().unwrap().push((node.id, operation.clone()));
                    match (node.handler)(node.id, &operation) {
                        Reaction::Answer(answer) => {
                            answered.push(OperationResult { id, result: Some(answer) })
                        }
                        Reaction::Later(answer) => {
                            let results = results.clone();
                            tokio::spawn(async move {
                                let Ok(answer) = answer.await else { return };
                                let result = OperationResult { id, result: Some(answer) };
                                let _ = results
                                    .send(Ok(OperateResponse { results: vec![result] }))
                                    .await;
                            });
                        }
                        Reaction::Silence => {}
                        Reaction::Hangup => {
                            let _ = results.send(Err(Status::unavailable("hung up"))).await;
                            return;
                        }
                    }
                }
                if !answered.is_empty()
                    && results.send(Ok(OperateResponse { results: answered })).await.is_err()
                {
                    return;
                }
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        self.identity.put(response.metadata_mut());
        Ok(response)
    }

    async fn cluster(
        &self,
        _: Request<ClusterRequest>,
    ) -> Result<Response<ClusterResponse>, Status> {
        let said = self.said.lock().unwrap();
        let address = |(node, address): (&u64, &String)| Member {
            node: *node,
            address: address.clone(),
            starts: 1,
            ..Default::default()
        };
        let hosted = |(shard, leader): (&u32, &u64)| HostedShard {
            shard: *shard,
            leader: *leader,
            leads: *leader == self.id,
            ..Default::default()
        };
        Ok(Response::new(ClusterResponse {
            identity: Some(self.identity.clone()),
            map_version: said.routes.as_ref().map_or(1, |routes| routes.map_version),
            topology_version: said.routes.as_ref().map_or(0, |routes| routes.topology_version),
            nodes: said.addresses.iter().map(address).collect(),
            shards: said.leaders.iter().map(hosted).collect(),
        }))
    }

    async fn routes(&self, _: Request<RoutesRequest>) -> Result<Response<RoutesResponse>, Status> {
        let routes = self.said.lock().unwrap().routes.clone();
        Ok(Response::new(RoutesResponse { identity: Some(self.identity.clone()), routes }))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stream = self.watches.clone().serve(self.id, request.into_inner())?;
        let mut response = Response::new(ReceiverStream::new(stream));
        self.identity.put(response.metadata_mut());
        Ok(response)
    }
}
