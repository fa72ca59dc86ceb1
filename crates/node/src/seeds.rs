//! Seeds: addresses of nodes whose ids are not known. They tell which nodes there are.
//!
//! A cluster file may have none of the present nodes. So a node may be given addresses in addition:
//! to join, if it lost its directory, and to find its peers after all of them moved. With TLS inside
//! the cluster a seed proves that it is some node of the cluster. The module knows nothing of what
//! the nodes are asked then.

use crate::context::Context;
use crate::following::news_of;
use crate::limits::{GREET_TIMEOUT, SEEDS_ASKED_EVERY, TOPOLOGY_BYTES_MAX};
use crate::topology_copy::TopologyCopy;
use crate::transport::connect;
use futures_util::future::join_all;
use net::tls::Inside;
use routing::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Streaming};
use topology::Topology;
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::{
    ClusterIdentity, TopologyServiceWatchRequest, TopologyServiceWatchResponse,
};
use wire::reason;

/// What seeds have told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The addresses of each node, the likeliest first.
    pub(crate) nodes: BTreeMap<NodeId, Vec<String>>,
    /// The latest topology, if any seed told one.
    pub(crate) topology: Option<Topology>,
}

impl Told {
    /// Adds an address of a node, unless it is known.
    pub(crate) fn add(&mut self, node: NodeId, address: &str) {
        let addresses = self.nodes.entry(node).or_default();
        if !addresses.iter().any(|known| known == address) {
            addresses.push(address.to_owned());
        }
    }
}

/// Asks all these addresses. One that does not answer tells nothing.
pub(crate) async fn ask(
    tls: Option<&Arc<Inside>>,
    cluster: &ClusterIdentity,
    addresses: &[String],
) -> Told {
    let asked = addresses.iter().map(|address| async move {
        let told = tokio::time::timeout(GREET_TIMEOUT * 2, ask_at(tls, cluster, address)).await;
        (address, told.unwrap_or_else(|_| Err("no answer in time".to_owned())))
    });
    let mut all = Told::default();
    for (address, told) in join_all(asked).await {
        match told {
            Ok((node, topology)) => {
                all.add(node, address);
                // A former generation may have counted further, where nobody heard it.
                let order = |of: &Topology| (of.cluster().generation, of.version());
                if topology.is_founded()
                    && Some(order(&topology)) > all.topology.as_ref().map(order)
                {
                    all.topology = Some(topology);
                }
            }
            Err(reason) => tracing::info!(address, %reason, "a seed has told nothing"),
        }
    }
    let present = all.topology.iter().flat_map(Topology::present);
    let present: Vec<_> = present.map(|(id, node)| (id, node.address.clone())).collect();
    present.iter().for_each(|(id, address)| all.add(*id, address));
    all
}

/// Asks the seeds which nodes they are, again and again while a peer is not connected. From then on
/// each is looked for where it answered, too.
///
/// A node remembers the addresses of its peers, and hears of others from them. If all nodes were
/// started elsewhere at once, it hears of none: the cluster file names the founders only.
pub(crate) async fn find_peers(context: Arc<Context>, seeds: Vec<String>) {
    loop {
        tokio::time::sleep(SEEDS_ASKED_EVERY.mul_f64(rand::random_range(0.5..1.0))).await;
        let view = context.view.now();
        let is_connected = |peer: &NodeId| context.metrics.peer(*peer).connected.get() > 0;
        let lost: Vec<NodeId> = view.peers(context.id).filter(|peer| !is_connected(peer)).collect();
        if lost.is_empty() {
            continue;
        }
        let asked = seeds.iter().map(|seed| {
            let known = context.cluster.now().version().0;
            let asked = open(context.tls.as_ref(), &context.identity, seed, known);
            async move { (seed, tokio::time::timeout(GREET_TIMEOUT * 2, asked).await) }
        });
        for (seed, answer) in join_all(asked).await {
            if let Ok(Ok((node, _))) = answer
                && lost.contains(&node)
                && context.view.found(node, seed)
            {
                tracing::info!(peer = %node, address = %seed, "a seed is a peer that is not connected");
            }
        }
    }
}

/// The node at this address, and the topology as it knows it.
async fn ask_at(
    tls: Option<&Arc<Inside>>,
    cluster: &ClusterIdentity,
    address: &str,
) -> Result<(NodeId, Topology), String> {
    let (node, mut changes) = open(tls, cluster, address, 0).await?;
    let copy = TopologyCopy::default();
    // A node tells nothing before the topology was founded.
    if let Ok(Ok(Some(change))) = tokio::time::timeout(GREET_TIMEOUT, changes.message()).await
        && let Some(news) = news_of(change).map_err(|error| error.to_string())?
    {
        copy.take(news).map_err(|error| error.to_string())?;
    }
    Ok((node, Topology::clone(&copy.now())))
}

/// The node at this address, and what it tells of the topology after this version.
async fn open(
    tls: Option<&Arc<Inside>>,
    cluster: &ClusterIdentity,
    address: &str,
    version: u64,
) -> Result<(NodeId, Streaming<TopologyServiceWatchResponse>), String> {
    let any = ClusterIdentity { node: 0, ..cluster.clone() };
    let channel = connect(tls, NodeId(0), address).await.map_err(|error| error.to_string())?;
    let mut client =
        TopologyServiceClient::new(channel).max_decoding_message_size(TOPOLOGY_BYTES_MAX);
    let mut request = Request::new(TopologyServiceWatchRequest { version });
    any.put(request.metadata_mut());
    let response = client.watch(request).await.map_err(|status| reason(&status))?;
    let found = ClusterIdentity::of(response.metadata());
    if let Some(why) = any.differs(found.as_ref()) {
        return Err(why);
    }
    Ok((NodeId(found.map_or(0, |found| found.node)), response.into_inner()))
}
