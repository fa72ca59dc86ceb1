//! The present addresses of the cluster's nodes: each as its node announced it, or else as the
//! cluster file has it.
//!
//! A cluster file is a plan, and each machine has its own copy. A node that was moved announces its
//! new address when it greets its peers. From then on the peers find it there, and tell it to
//! gateways with older files. Learned addresses are forgotten with the process, because the moved
//! node greets again.

use routing::{ClusterConfig, NodeId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest address that a node takes from a peer.
const ADDRESS_BYTES_MAX: usize = 300;

/// The addresses from the cluster file and from greetings.
#[derive(Debug)]
pub(crate) struct Addresses {
    own: NodeId,
    configured: BTreeMap<NodeId, String>,
    learned: Mutex<BTreeMap<NodeId, String>>,
}

impl Addresses {
    pub(crate) fn new(cluster: &ClusterConfig, own: NodeId) -> Addresses {
        let configured = cluster.nodes.iter().map(|node| (node.id, node.address.clone())).collect();
        Addresses { own, configured, learned: Mutex::default() }
    }

    /// The address that this node announces. It is empty if the node's own file does not say where
    /// other nodes find it.
    pub(crate) fn own(&self) -> &str {
        let own = self.configured.get(&self.own).map_or("", String::as_str);
        let anywhere = ["0.0.0.0:", "[::]:", "*:"].iter().any(|host| own.starts_with(host));
        if anywhere { "" } else { own }
    }

    /// Notes the address that an accepted peer announced.
    pub(crate) fn learn(&self, node: NodeId, address: &str) {
        if !is_address(address) || !self.configured.contains_key(&node) {
            return;
        }
        let before = self.lock().insert(node, address.to_owned());
        let before = before.as_ref().or_else(|| self.configured.get(&node));
        if before.is_some_and(|before| before != address) {
            tracing::info!(peer = %node, address, before = before.map_or("", String::as_str), "peer listens at another address now");
        }
    }

    /// The addresses at which a node may be found, the likeliest first.
    pub(crate) fn of(&self, node: NodeId, configured: &str) -> Vec<String> {
        let learned = self.lock().get(&node).cloned();
        let mut addresses: Vec<String> = learned.into_iter().collect();
        if !addresses.iter().any(|address| address == configured) {
            addresses.push(configured.to_owned());
        }
        addresses
    }

    /// All nodes' present addresses, as far as this node knows them.
    pub(crate) fn all(&self) -> Vec<(NodeId, String)> {
        let learned = self.lock();
        let present = |(node, configured): (&NodeId, &String)| match *node == self.own {
            true => (*node, self.own().to_owned()),
            false => (*node, learned.get(node).unwrap_or(configured).clone()),
        };
        self.configured.iter().map(present).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the text is `host:port`, made of characters that an address can have.
fn is_address(address: &str) -> bool {
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let of_address = |c: char| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c);
    has_port && address.len() <= ADDRESS_BYTES_MAX && address.chars().all(of_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_of_itself_counts_before_the_file() {
        let cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        let addresses = Addresses::new(&cluster, NodeId(1));
        let configured = cluster.node(NodeId(2)).unwrap().address.clone();
        assert_eq!(addresses.of(NodeId(2), &configured), std::slice::from_ref(&configured));
        for bad in [
            "",
            "host",
            ":1",
            "host:",
            "host:99999",
            "a b:1",
            "a\n:1",
            &format!("{}:1", "h".repeat(300)),
        ] {
            addresses.learn(NodeId(2), bad);
        }
        assert_eq!(addresses.of(NodeId(2), &configured), std::slice::from_ref(&configured));
        addresses.learn(NodeId(2), "[fe80::1%eth0]:7401");
        assert_eq!(
            addresses.of(NodeId(2), &configured),
            ["[fe80::1%eth0]:7401", configured.as_str()]
        );
        assert_eq!(addresses.all()[1], (NodeId(2), "[fe80::1%eth0]:7401".into()));
        addresses.learn(NodeId(9), "stranger:1");
        assert_eq!(addresses.all().len(), 3);
    }

    #[test]
    fn an_address_that_stands_for_all_is_not_told() {
        let mut cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        cluster.nodes[0].address = "0.0.0.0:7401".into();
        assert_eq!(Addresses::new(&cluster, NodeId(1)).own(), "");
        assert_eq!(Addresses::new(&cluster, NodeId(2)).own(), cluster.nodes[1].address);
    }
}
