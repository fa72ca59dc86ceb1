//! Cluster files by rule: for `palisade dev`, for a planner that emits them, and for the examples in `config/`.

use super::{ClusterConfig, ConfigError, GatewayConfig, NodeConfig, Settings};
use crate::ids::NodeId;

/// How shards share nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLayout {
    /// Every shard has nodes of its own: shards × replicas of them.
    Dedicated,
    /// All shards live on this many nodes.
    Shared(u32),
}

/// Where the processes listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// All on 127.0.0.1: gateways from `base_port` on, nodes from `base_port` + 11 on, and each one's metrics 1,000 higher.
    Loopback {
        /// Of the first gateway.
        base_port: u16,
    },
    /// Each on a host of its own in this domain, `node-007.zone-b.DOMAIN`, all on `port`, and their metrics 1,000 higher.
    Hosts {
        /// Without a dot at its beginning.
        domain: String,
        /// Of nodes and gateways.
        port: u16,
    },
}

/// On one host, gateways have the ports below this one and nodes those above.
const NODE_PORTS_AFTER: u32 = 10;
const METRICS_PORTS_AFTER: u32 = 1_000;

impl ClusterConfig {
    /// A cluster in one process on loopback, with one gateway on `base_port` and as few nodes as there are replicas.
    pub fn dev(shards: u32, replicas: u32, base_port: u16) -> Result<ClusterConfig, ConfigError> {
        let addresses = Addresses::Loopback { base_port };
        ClusterConfig::generate("dev", shards, replicas, NodeLayout::Shared(replicas), 0, 1, &addresses)
    }

    /// A validated cluster of numbered nodes, dealt to `zones` zones in turn (0: no zones), and `gateways` gateways.
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
                Addresses::Loopback { base_port } => loopback(*base_port, NODE_PORTS_AFTER + number)?,
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
                Addresses::Hosts { domain, port } => host(&format!("gateway-{number:03}.{domain}"), *port)?,
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
        };
        config.validate()?;
        Ok(config)
    }
}

/// `zone-a` … `zone-z`, then by number.
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

/// Address and metrics address.
fn host(host: &str, port: u16) -> Result<(String, String), ConfigError> {
    let metrics = u16::try_from(u32::from(port) + METRICS_PORTS_AFTER).map_err(|_| no_room(port))?;
    Ok((format!("{host}:{port}"), format!("{host}:{metrics}")))
}

fn no_room(port: u16) -> ConfigError {
    ConfigError(format!("the ports after {port} do not suffice: choose a lower one"))
}
