//! The streams to the nodes.

use crate::error::GatewayError;
use crate::limits::{NODE_CONNECT_TIMEOUT, NODE_KEEPALIVE, NODE_QUEUE_OPS_MAX};
use client::mux::{Failure, Link, LinkOptions, Outcome, Port, Service};
use routing::{ClusterConfig, NodeId};
use std::collections::BTreeMap;
use tonic::transport::Endpoint;
use wire::v1::Operation;
use wire::v1::operation::Op;

/// Two streams per node: waiting acquires, which can be many and long, do not take the place of anything else.
#[derive(Debug)]
struct Node {
    operations: Link,
    waits: Link,
}

/// All nodes of the cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: BTreeMap<u64, Node>,
}

impl Nodes {
    /// Starts to connect to all of them.
    pub(crate) fn connect(cluster: &ClusterConfig) -> Result<Nodes, GatewayError> {
        let options = LinkOptions {
            eager: true,
            queue_ops_max: NODE_QUEUE_OPS_MAX,
            connect_timeout: NODE_CONNECT_TIMEOUT,
            keepalive_interval: NODE_KEEPALIVE.0,
            keepalive_timeout: NODE_KEEPALIVE.1,
            ..LinkOptions::new(Service::Shards)
        };
        let mut nodes = BTreeMap::new();
        for node in &cluster.nodes {
            let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).map_err(|_| {
                GatewayError::Config(format!("the address {:?} of node {} is not host:port", node.address, node.id))
            })?;
            let link = || Link::start(endpoint.clone(), options.clone());
            nodes.insert(node.id.0, Node { operations: link(), waits: link() });
        }
        Ok(Nodes { nodes })
    }

    /// Sends one operation and waits for what comes of it.
    pub(crate) async fn call(&self, node: u64, operation: Operation, timeout_ms: u64) -> Outcome {
        match self.link(node, &operation) {
            Some(link) => link.call(operation, timeout_ms).await,
            None => Err(no_node(node)),
        }
    }

    /// Sends one operation; what comes of it comes to the port.
    pub(crate) fn submit(&self, node: u64, operation: Operation, timeout_ms: u64, port: Port) {
        match self.link(node, &operation) {
            Some(link) => link.submit(operation, timeout_ms, port),
            None => port.send(Err(no_node(node))),
        }
    }

    /// A cancel takes the way of the acquire that it follows, so that it does not overtake it.
    fn link(&self, node: u64, operation: &Operation) -> Option<&Link> {
        let streams = self.nodes.get(&node)?;
        let waits = match &operation.op {
            Some(Op::Acquire(acquire)) => acquire.wait_ms > 0,
            Some(Op::CancelWait(_)) => true,
            _ => false,
        };
        Some(if waits { &streams.waits } else { &streams.operations })
    }

    /// Whether its stream stands.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.nodes.get(&node.0).is_some_and(|node| node.operations.is_connected())
    }

    /// Whether any node is connected to.
    pub(crate) fn any_connected(&self) -> bool {
        self.nodes.values().any(|node| node.operations.is_connected())
    }
}

fn no_node(node: u64) -> Failure {
    Failure::NotSent(format!("the cluster has no node {node}").into())
}
