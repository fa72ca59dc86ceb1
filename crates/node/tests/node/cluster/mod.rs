//! A cluster in one process: nodes on loopback sockets and stores in memory, and a caller that asks
//! nodes until it finds the leader.

#![allow(dead_code)] // each test binary uses a part of it

use palisade_node::{FirstStart, Node, NodeHandle, NodeOptions};
use routing::{ClusterConfig, NodeConfig, NodeId, Settings, ShardMap};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, MemoryEngine};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{
    ClusterIdentity, OperateRequest, OperateResponse, Operation, ReadStatus, Route,
};
use wire::v1::{self, ErrorCode};

/// No step of a test takes this long unless it hangs.
pub const HANGS: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub config: ClusterConfig,
    pub map: ShardMap,
    pub engines: BTreeMap<NodeId, Arc<MemoryEngine>>,
    pub nodes: BTreeMap<NodeId, NodeHandle>,
    /// Whether only the test lets replicas come and go.
    pub by_hand: bool,
}

impl Cluster {
    pub async fn start(nodes: u64, shards: u32, settings: Settings) -> Cluster {
        Cluster::start_with(nodes, shards, settings, false).await
    }

    pub async fn start_with(nodes: u64, shards: u32, settings: Settings, by_hand: bool) -> Cluster {
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let mut listeners = BTreeMap::new();
        let mut configs = Vec::new();
        for id in (1..=nodes).map(NodeId) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            configs.push(NodeConfig { id, address, metrics: None, zone: None });
            listeners.insert(id, listener);
        }
        let config = ClusterConfig {
            cluster: "test".into(),
            nodes: configs,
            gateways: Vec::new(),
            shards,
            replicas: 3,
            placement: Vec::new(),
            settings,
            tls: None,
            access: None,
            audit: None,
        };
        let map = config.shard_map();
        let engines = (1..=nodes).map(|id| (NodeId(id), Arc::new(MemoryEngine::new()))).collect();
        let nodes = BTreeMap::new();
        let mut cluster = Cluster { config, map, engines, nodes, by_hand };
        for (id, listener) in listeners {
            cluster.start_node(id, Some(listener)).await;
        }
        cluster
    }

    pub fn options(&self, id: NodeId, engine: Arc<dyn Engine>) -> NodeOptions {
        NodeOptions {
            cluster: self.config.clone(),
            id,
            engine,
            tls: None,
            first_start: FirstStart::AskPeers,
            guard_file: None,
            audit: Default::default(),
            insecure: false,
            listener: None,
            metrics_listener: None,
            by_hand: self.by_hand,
            joins: None,
            seeds: Vec::new(),
        }
    }

    pub async fn start_node(&mut self, id: NodeId, listener: Option<TcpListener>) {
        let options = NodeOptions { listener, ..self.options(id, self.engines[&id].clone()) };
        self.nodes.insert(id, Node::start(options).await.unwrap());
    }

    /// Restarts a node on the same address and store.
    pub async fn restart(&mut self, id: NodeId) {
        self.start_node(id, None).await;
    }

    pub async fn stop(&mut self, id: NodeId) {
        self.nodes.remove(&id).unwrap().shutdown().await.unwrap();
    }

    /// Stops a node like a loss of power, so that unsynced data is gone.
    pub async fn crash(&mut self, id: NodeId) {
        self.nodes.remove(&id).unwrap().kill().await;
        self.engines[&id].crash();
    }

    pub async fn stop_all(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    pub async fn caller(&self, id: NodeId) -> Caller {
        self.try_caller(id).await.unwrap()
    }

    pub async fn try_caller(&self, id: NodeId) -> Option<Caller> {
        let address = &self.config.node(id).unwrap().address;
        Caller::connect_as(address, Some(&self.identity(0))).await.ok()
    }

    /// The identity that gateways of this cluster send to this node; 0 means any node.
    pub fn identity(&self, node: u64) -> ClusterIdentity {
        let config = &self.config;
        let identity =
            ClusterIdentity::new(config.fingerprint().0, config.cluster.clone(), config.shards);
        ClusterIdentity { node, ..identity }
    }

    pub fn route(&self, name: &str) -> Route {
        let route = self.map.route(name);
        Route {
            shard: route.shard.0,
            slot: route.slot.index().into(),
            map_version: route.version.0,
        }
    }

    pub fn shard_route(&self, shard: u32) -> Route {
        Route { shard, slot: 0, map_version: self.map.version().0 }
    }

    /// Asks the leader of the name's shard, and tries until a leader answers.
    pub async fn ask_leader(&self, op: Op) -> OpResult {
        let route = self.route(op.name().unwrap());
        let asked = async {
            loop {
                for id in self.nodes.keys() {
                    let Some(mut caller) = self.try_caller(*id).await else { continue };
                    match caller.ask(route, op.clone()).await {
                        Some(OpResult::Error(error)) if error.is_retryable() => {}
                        Some(OpResult::NotLeader(_) | OpResult::StaleRoute(_)) => {}
                        Some(result) => return result,
                        None => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, asked).await.expect("no leader answers")
    }

    /// The node that leads the name's shard.
    pub async fn leader_of(&self, name: &str) -> NodeId {
        let route = self.route(name);
        let found = async {
            loop {
                for (id, node) in &self.nodes {
                    let leads = |status: &shard::Status| {
                        status.shard.0 == route.shard && status.role == shard::Role::Leader
                    };
                    if node.statuses().iter().any(leads) {
                        return *id;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, found).await.expect("no leader")
    }

    /// Waits until all running replicas have applied the same index of every shard, and checks that
    /// their states there are equal.
    pub async fn assert_replicas_agree(&self) {
        for (shard, _) in self.map.shards() {
            let agreed = async {
                loop {
                    let mut seen = Vec::new();
                    for id in self.nodes.keys() {
                        seen.push(self.status(*id, shard.0).await);
                    }
                    if seen.iter().all(|status| status.applied_index == seen[0].applied_index) {
                        return seen;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let seen =
                tokio::time::timeout(HANGS, agreed).await.expect("the replicas do not catch up");
            assert!(seen.iter().all(|status| status.state_hash == seen[0].state_hash), "{seen:#?}");
        }
    }

    pub async fn status(&self, id: NodeId, shard: u32) -> v1::ShardStatus {
        let op = Op::ReadStatus(ReadStatus {});
        match self.caller(id).await.ask(self.shard_route(shard), op).await {
            Some(OpResult::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }
}

/// One stream of operations to one node.
pub struct Caller {
    pub frames: mpsc::Sender<OperateRequest>,
    pub results: Streaming<OperateResponse>,
    next_id: u64,
    /// Results that came before the caller asked for them.
    pub early: BTreeMap<u64, OpResult>,
}

impl Caller {
    /// Connects with this identity. The error is the status with which the node refuses the caller.
    pub async fn connect_as(
        address: &str,
        identity: Option<&ClusterIdentity>,
    ) -> Result<Caller, tonic::Status> {
        let connected = ShardServiceClient::connect(format!("http://{address}")).await;
        let mut client =
            connected.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let (frames, stream) = mpsc::channel(16);
        let mut call = tonic::Request::new(ReceiverStream::new(stream));
        if let Some(identity) = identity {
            identity.put(call.metadata_mut());
        }
        let results = client.operate(call).await?.into_inner();
        Ok(Caller { frames, results, next_id: 1, early: BTreeMap::new() })
    }

    /// Sends without waiting for the result; returns the operation's id.
    pub async fn send(&mut self, route: Route, ops: impl IntoIterator<Item = Op>) -> Vec<u64> {
        let mut operations = Vec::new();
        for op in ops {
            operations.push(Operation { id: self.next_id, ..Operation::routed(op, route) });
            self.next_id += 1;
        }
        let ids = operations.iter().map(|operation| operation.id).collect();
        let _ = self.frames.send(OperateRequest { operations, ..Default::default() }).await;
        ids
    }

    /// The result of an operation sent before; `None` when the stream has ended.
    pub async fn result(&mut self, id: u64) -> Option<OpResult> {
        while !self.early.contains_key(&id) {
            let frame =
                tokio::time::timeout(HANGS, self.results.message()).await.expect("no result");
            for result in frame.ok()??.results {
                self.early.insert(result.id, result.result.unwrap());
            }
        }
        self.early.remove(&id)
    }

    pub async fn ask(&mut self, route: Route, op: Op) -> Option<OpResult> {
        let ids = self.send(route, [op]).await;
        self.result(ids[0]).await
    }
}

/// Makes a request id for one name: the same numbers for different names are different requests.
pub fn request_id(name: &str, request: u8) -> Vec<u8> {
    let mut id: Vec<u8> = name.bytes().chain([0; 15]).take(15).collect();
    id.push(request);
    id
}

pub fn acquire(name: &str, request: u8) -> Op {
    Op::Acquire(v1::AcquireRequest {
        name: name.into(),
        owner: format!("owner-{request}"),
        request_id: request_id(name, request),
        ttl_ms: 60_000,
        ..Default::default()
    })
}

pub fn acquire_waiting(name: &str, request: u8) -> Op {
    match acquire(name, request) {
        Op::Acquire(acquire) => Op::Acquire(v1::AcquireRequest { wait_ms: 60_000, ..acquire }),
        other => other,
    }
}

pub fn release(name: &str, fencing_token: u64) -> Op {
    Op::Release(v1::ReleaseRequest { name: name.into(), fencing_token, session_life: 0 })
}

pub fn check(name: &str, consistency: v1::Consistency) -> Op {
    Op::Check(v1::CheckRequest {
        name: name.into(),
        consistency: consistency.into(),
        ..Default::default()
    })
}

pub fn history(name: &str) -> Op {
    Op::History(v1::HistoryRequest { name: name.into(), limit: 0 })
}

pub fn granted(result: OpResult) -> v1::Grant {
    match result {
        OpResult::Grant(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub fn code(result: OpResult) -> ErrorCode {
    match result {
        OpResult::Error(error) => error.code(),
        other => panic!("no error: {other:?}"),
    }
}
