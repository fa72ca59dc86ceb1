//! The streams to the nodes.

use crate::error::GatewayError;
use crate::limits::{NODE_CONNECT_TIMEOUT, NODE_KEEPALIVE, NODE_QUEUE_OPS_MAX};
use link::mux::{Failure, Link, LinkOptions, Shards};
use net::dial::{NotAnAddress, Target};
use net::tls::Inside;
use routing::{ClusterConfig, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
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
    nodes: BTreeMap<u64, Node>,
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
        let options = LinkOptions {
            eager: true,
            queue_ops_max: NODE_QUEUE_OPS_MAX,
            connect_timeout: NODE_CONNECT_TIMEOUT,
            keepalive_interval: NODE_KEEPALIVE.0,
            keepalive_timeout: NODE_KEEPALIVE.1,
            ..LinkOptions::default()
        };
        let mut nodes = BTreeMap::new();
        for node in &cluster.nodes {
            let target = Target::inside(&node.address, inside.as_ref(), node.id.0)
                .map_err(|source| GatewayError::NodeAddress { node: node.id, source })?;
            let identity = Some(ClusterIdentity { node: node.id.0, ..identity.clone() });
            let options = LinkOptions { identity, ..options.clone() };
            let link = || Link::start(target.clone(), options.clone());
            let address = Mutex::new(node.address.clone());
            nodes.insert(node.id.0, Node { operations: link(), waits: link(), address });
        }
        Ok(Nodes { nodes, inside })
    }

    /// Sends one operation. Its outcome is that of the future.
    pub(crate) fn call(&self, node: u64, operation: Operation, timeout_ms: u64) -> Awaited {
        match self.link(node, &operation) {
            Some(link) => link.begin(operation, timeout_ms),
            None => Awaited::failed(no_node(node)),
        }
    }

    /// Sends one operation. Its outcome comes to the port.
    pub(crate) fn submit(&self, node: u64, operation: Operation, timeout_ms: u64, port: Port) {
        match self.link(node, &operation) {
            Some(link) => link.submit(operation, timeout_ms, port),
            None => port.send(Err(no_node(node))),
        }
    }

    /// Takes the address at which a node was reached. Links that are not connected will
    /// use it.
    pub(crate) fn found(&self, node: u64, address: &str) {
        let Some(streams) = self.nodes.get(&node) else { return };
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

    /// Chooses the stream for an operation. A cancel goes with the short operations. If it
    /// overtakes its acquire, the acquire is refused when it arrives.
    fn link(&self, node: u64, operation: &Operation) -> Option<&Link<Shards>> {
        let streams = self.nodes.get(&node)?;
        let waits = match &operation.op {
            Some(Op::Acquire(acquire)) => acquire.wait_ms > 0,
            _ => false,
        };
        Some(if waits { &streams.waits } else { &streams.operations })
    }

    /// Whether the stream for short operations is up.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.nodes.get(&node.0).is_some_and(|node| node.operations.is_connected())
    }
}

fn no_node(node: u64) -> Failure {
    Failure::NotSent(format!("the cluster has no node {node}").into())
}
