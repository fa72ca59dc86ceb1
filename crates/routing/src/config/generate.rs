//! Cluster files by rule: for `palisade dev`, for the planner, and for the examples in `config/`.

use super::{ClusterConfig, ConfigError, GatewayConfig, NodeConfig, Settings};
use crate::ids::NodeId;

/// How shards share nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLayout {
    /// Every shard has nodes of its own, so there are shards × replicas nodes.
    Dedicated,
    /// All shards share this many nodes.
    Shared(u32),
}

/// The addresses of the processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// All on 127.0.0.1. Gateways take the ports from `base_port` on, nodes those from `base_port`
    /// + 11 on. The metrics of each are 1,000 higher.
    Loopback {
        /// Port of the first gateway.
        base_port: u16,
    },
    /// Each process on a host of its own in this domain, for example `node-007.zone-b.DOMAIN`. All
    /// use `port`, and their metrics are 1,000 higher.
    Hosts {
        /// The domain, without a leading dot.
        domain: String,
        /// Port of all nodes and gateways.
        port: u16,
    },
}

/// On one host, gateways have the ports up to this offset and nodes those above.
const NODE_PORTS_AFTER: u32 = 10;
const METRICS_PORTS_AFTER: u32 = 1_000;

impl ClusterConfig {
    /// A cluster in one process on loopback, with one gateway on `base_port` and as few nodes as
    /// there are replicas.
    ///
    /// # Errors
    /// If the values are out of range or the ports do not suffice.
    pub fn dev(shards: u32, replicas: u32, base_port: u16) -> Result<ClusterConfig, ConfigError> {
        let addresses = Addresses::Loopback { base_port };
        ClusterConfig::generate(
            "dev",
            shards,
            replicas,
            NodeLayout::Shared(replicas),
            0,
            1,
            &addresses,
        )
    }

    /// A validated cluster of numbered nodes and `gateways` gateways. The nodes are dealt to
    /// `zones` zones in turn; 0 means no zones.
    ///
    /// ```
    /// use palisade_routing::{Addresses, ClusterConfig, NodeLayout};
    ///
    /// let hosts = Addresses::Hosts { domain: "locks.example".into(), port: 7400 };
    /// let config =
    ///     ClusterConfig::generate("orders", 32, 3, NodeLayout::Shared(6), 3, 2, &hosts).unwrap();
    /// assert_eq!(config.nodes[1].address, "node-002.zone-b.locks.example:7400");
    /// assert_eq!(config.gateways[0].metrics.as_deref(), Some("gateway-001.locks.example:8400"));
    /// ```
    ///
    /// # Errors
    /// If the values are out of range or the ports do not suffice.
    pub fn generate(
        name: &str,
        shards: u32,
        replicas: u32,
        layout: NodeLayout,
        zones: u32,
        gateways: u32,
        addresses: &Addresses,
    ) -> Result<ClusterConfig, ConfigError> {
        let nodes = match layout {
            NodeLayout::Dedicated => shards.saturating_mul(replicas),
            NodeLayout::Shared(nodes) => nodes,
        };
        if let Addresses::Loopback { .. } = addresses
            && (nodes >= METRICS_PORTS_AFTER - NODE_PORTS_AFTER || gateways > NODE_PORTS_AFTER)
        {
            return Err(ConfigError(format!(
                "{nodes} nodes and {gateways} gateways do not fit on one host: at most {} and {NODE_PORTS_AFTER}",
                METRICS_PORTS_AFTER - NODE_PORTS_AFTER - 1
            )));
        }
        let node = |number: u32| -> Result<NodeConfig, ConfigError> {
            let zone = (zones > 0).then(|| zone_name((number - 1) % zones));
            let (address, metrics) = match addresses {
                Addresses::Loopback { base_port } => {
                    loopback(*base_port, NODE_PORTS_AFTER + number)?
                }
                Addresses::Hosts { domain, port } => {
                    let zone = zone.as_ref().map_or(String::new(), |zone| format!("{zone}."));
                    host(&format!("node-{number:03}.{zone}{domain}"), *port)?
                }
            };
            Ok(NodeConfig { id: NodeId(u64::from(number)), address, metrics: Some(metrics), zone })
        };
        let gateway = |number: u32| -> Result<GatewayConfig, ConfigError> {
            let (address, metrics) = match addresses {
                Addresses::Loopback { base_port } => loopback(*base_port, number - 1)?,
                Addresses::Hosts { domain, port } => {
                    host(&format!("gateway-{number:03}.{domain}"), *port)?
                }
            };
            Ok(GatewayConfig { address, metrics: Some(metrics) })
        };
        let config = ClusterConfig {
            cluster: name.to_owned(),
            nodes: (1..=nodes).map(node).collect::<Result<_, _>>()?,
            gateways: (1..=gateways).map(gateway).collect::<Result<_, _>>()?,
            shards,
            replicas,
            placement: Vec::new(),
            settings: Settings::default(),
            tls: None,
            access: None,
            audit: None,
        };
        config.validate()?;
        Ok(config)
    }
}

/// `zone-a` to `zone-z`, then numbers.
fn zone_name(zone: u32) -> String {
    match u8::try_from(zone) {
        Ok(letter) if letter < 26 => format!("zone-{}", char::from(b'a' + letter)),
        _ => format!("zone-{}", zone + 1),
    }
}

fn loopback(base_port: u16, offset: u32) -> Result<(String, String), ConfigError> {
    let port = u16::try_from(u32::from(base_port) + offset).map_err(|_| no_room(base_port))?;
    host("127.0.0.1", port)
}

/// The address of a process and of its metrics.
fn host(host: &str, port: u16) -> Result<(String, String), ConfigError> {
    let metrics =
        u16::try_from(u32::from(port) + METRICS_PORTS_AFTER).map_err(|_| no_room(port))?;
    Ok((format!("{host}:{port}"), format!("{host}:{metrics}")))
}

fn no_room(port: u16) -> ConfigError {
    ConfigError(format!("the ports after {port} are too few for the cluster: choose a lower port"))
}
