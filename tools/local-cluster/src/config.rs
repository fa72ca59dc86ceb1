//! The cluster file of a cluster on one machine.

use routing::{ClusterConfig, GatewayConfig, NodeConfig, NodeId, Settings};

/// The addresses of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The address that the process serves on, as `host:port`.
    pub serves: String,
    /// The address of its `/metrics` as `host:port`, if it has that page.
    pub metrics: Option<String>,
}

impl Addresses {
    /// The addresses of a process without a page of metrics.
    pub fn only(serves: impl Into<String>) -> Addresses {
        Addresses { serves: serves.into(), metrics: None }
    }

    /// Groups consecutive addresses into pairs: one to serve on, and one for metrics.
    ///
    /// # Panics
    /// If the number of addresses is odd.
    pub fn pairs(addresses: &[String]) -> Vec<Addresses> {
        let (pairs, rest) = addresses.as_chunks::<2>();
        assert!(rest.is_empty(), "{} addresses are no pairs", addresses.len());
        let pair = |[serves, metrics]: &[String; 2]| Addresses {
            serves: serves.clone(),
            metrics: Some(metrics.clone()),
        };
        pairs.iter().map(pair).collect()
    }
}

/// The description of a cluster with these processes. Nodes have the ids 1, 2, …, each shard has a
/// replica on every node, and settings are the defaults. Callers change the fields that they want
/// otherwise.
///
/// ```
/// use palisade_local_cluster::{Addresses, cluster_config};
///
/// let nodes = ["127.0.0.1:7411", "127.0.0.1:7412", "127.0.0.1:7413"].map(Addresses::only);
/// let config = cluster_config("test", 4, &nodes, &[Addresses::only("127.0.0.1:7400")]);
/// assert_eq!((config.replicas, config.nodes[2].id.0), (3, 3));
/// assert!(config.validate().is_ok());
/// ```
pub fn cluster_config(
    name: &str,
    shards: u32,
    nodes: &[Addresses],
    gateways: &[Addresses],
) -> ClusterConfig {
    let node = |(id, addresses): (u64, &Addresses)| NodeConfig {
        id: NodeId(id),
        address: addresses.serves.clone(),
        metrics: addresses.metrics.clone(),
        zone: None,
    };
    let gateway = |addresses: &Addresses| GatewayConfig {
        address: addresses.serves.clone(),
        metrics: addresses.metrics.clone(),
    };
    ClusterConfig {
        cluster: name.to_owned(),
        nodes: (1..).zip(nodes).map(node).collect(),
        gateways: gateways.iter().map(gateway).collect(),
        shards,
        replicas: nodes.len() as u32,
        placement: Vec::new(),
        settings: Settings::default(),
        tls: None,
        access: None,
        audit: None,
    }
}
