//! The streams to the nodes.

use crate::error::GatewayError;
use crate::limits::{NODE_CONNECT_TIMEOUT, NODE_KEEPALIVE, NODE_QUEUE_OPS_MAX};
use link::mux::{Failure, Link, LinkOptions, Shards};
use net::dial::{NotAnAddress, Target};
use net::tls::Inside;
use routing::{ClusterConfig, NodeId, RouteTable};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as Answer;
use wire::internal::v1::{ClusterIdentity, Operation};

/// The outcome of one try.
pub(crate) type Outcome = link::mux::Outcome<Answer>;
/// The outcome of one try that is under way.
pub(crate) type Awaited = link::mux::Awaited<Answer>;
/// The receiver of one outcome.
pub(crate) type Port = link::mux::Port<Answer>;

/// The two streams to one node. Waiting acquires have their own, because they are many and long and
/// would hold up the other operations.
#[derive(Debug)]
struct Node {
    operations: Link<Shards>,
    waits: Link<Shards>,
    /// The address for the next connections of both streams.
    address: Mutex<String>,
}

/// All nodes of the cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: RwLock<BTreeMap<u64, Arc<Node>>>,
    identity: ClusterIdentity,
    inside: Option<Arc<Inside>>,
}

impl Nodes {
    /// Starts to connect to all nodes. With TLS inside the cluster each proves that it is the node
    /// that is meant.
    pub(crate) fn connect(
        cluster: &ClusterConfig,
        identity: &ClusterIdentity,
        inside: Option<Arc<Inside>>,
    ) -> Result<Nodes, GatewayError> {
        let nodes = Nodes { nodes: RwLock::default(), identity: identity.clone(), inside };
        let mut begun = BTreeMap::new();
        for node in &cluster.nodes {
            let begin = nodes.begin(node.id, &node.address);
            let begin =
                begin.map_err(|source| GatewayError::NodeAddress { node: node.id, source })?;
            begun.insert(node.id.0, Arc::new(begin));
        }
        Ok(Nodes { nodes: RwLock::new(begun), ..nodes })
    }

    /// Starts to connect to one node.
    fn begin(&self, node: NodeId, address: &str) -> Result<Node, NotAnAddress> {
        let target = self.target(node.0, address)?;
        let options = LinkOptions {
            eager: true,
            queue_ops_max: NODE_QUEUE_OPS_MAX,
            connect_timeout: NODE_CONNECT_TIMEOUT,
            keepalive_interval: NODE_KEEPALIVE.0,
            keepalive_timeout: NODE_KEEPALIVE.1,
            identity: Some(ClusterIdentity { node: node.0, ..self.identity.clone() }),
            ..LinkOptions::default()
        };
        let link = || Link::start(target.clone(), options.clone());
        Ok(Node { operations: link(), waits: link(), address: Mutex::new(address.to_owned()) })
    }

    /// Starts to connect to the nodes of the route table that are new, and forgets those that it
    /// does not have. An operation that is on its way to one of these is lost, as if its node had
    /// ended: its caller asks another one.
    pub(crate) fn follow(&self, routes: &RouteTable) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node, _| {
            let stays = routes.address(NodeId(*node)).is_some();
            if !stays {
                tracing::info!(node, "a node has left the cluster");
            }
            stays
        });
        for (node, member) in routes.members() {
            if nodes.contains_key(&node.0) {
                continue;
            }
            match self.begin(node, &member.address) {
                Ok(begun) => {
                    tracing::info!(%node, address = %member.address, "a node has come to the cluster");
                    nodes.insert(node.0, Arc::new(begun));
                }
                Err(error) => {
                    tracing::warn!(%node, address = %member.address, %error, "a new node cannot be dialled: correct the address that it announces");
                }
            }
        }
    }

    /// Sends one operation. Its outcome is that of the future.
    pub(crate) fn call(&self, node: u64, operation: Operation, timeout_ms: u64) -> Awaited {
        match self.node(node) {
            Some(streams) => streams.link(&operation).begin(operation, timeout_ms),
            None => Awaited::failed(no_node(node)),
        }
    }

    /// Sends one operation. Its outcome comes to the port.
    pub(crate) fn submit(&self, node: u64, operation: Operation, timeout_ms: u64, port: Port) {
        match self.node(node) {
            Some(streams) => streams.link(&operation).submit(operation, timeout_ms, port),
            None => port.send(Err(no_node(node))),
        }
    }

    /// Takes the address at which a node was reached. Links that are not connected will
    /// use it.
    pub(crate) fn found(&self, node: u64, address: &str) {
        let Some(streams) = self.node(node) else { return };
        let mut known = streams.address.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != address
            && let Ok(target) = self.target(node, address)
        {
            address.clone_into(&mut known);
            streams.operations.redirect(target.clone());
            streams.waits.redirect(target);
        }
    }

    /// TLS towards the nodes.
    pub(crate) fn inside(&self) -> Option<&Inside> {
        self.inside.as_deref()
    }

    /// A node at an address, with the proof that it owes.
    ///
    /// # Errors
    /// If the address is not `host:port`.
    pub(crate) fn target(&self, node: u64, address: &str) -> Result<Target, NotAnAddress> {
        Target::inside(address, self.inside.as_ref(), node)
    }

    fn node(&self, node: u64) -> Option<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Each node, and whether its stream for short operations is up.
    pub(crate) fn connected(&self) -> Vec<(NodeId, bool)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().map(|(id, node)| (NodeId(*id), node.operations.is_connected())).collect()
    }

    /// Whether the stream for short operations is up.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.node(node.0).is_some_and(|node| node.operations.is_connected())
    }
}

impl Node {
    /// Chooses the stream for an operation. A cancel goes with the short operations. If it
    /// overtakes its acquire, the acquire is refused when it arrives.
    fn link(&self, operation: &Operation) -> &Link<Shards> {
        let waits = match &operation.op {
            Some(Op::Acquire(acquire)) => acquire.wait_ms > 0,
            _ => false,
        };
        if waits { &self.waits } else { &self.operations }
    }
}

fn no_node(node: u64) -> Failure {
    Failure::NotSent(format!("the cluster has no node {node}").into())
}
