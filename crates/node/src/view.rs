//! The nodes of the cluster and the groups of its shards, as this node knows them now.
//!
//! A cluster file describes the beginning. Later views are made from the cluster's topology, so
//! nodes come, go and move while this node runs.
//!
//! * A view is replaced as a whole, and only by one of a higher version.
//! * Each other node of the view is a peer, whether it shares a shard with this node or not. A node
//!   that is not in the view is refused.
//!
//! The module knows nothing of the way by which views come here, and of what follows from them.

use crate::meta;
use routing::{ClusterConfig, META, Member, NodeId, RouteTable, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The nodes and groups of a cluster, as of one version of its topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// 0 is the cluster file.
    pub(crate) version: u64,
    /// All nodes, this one among them, each with its zone and the address that the topology has.
    pub(crate) nodes: BTreeMap<NodeId, Member>,
    pub(crate) groups: BTreeMap<ShardId, Group>,
}

/// The nodes of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The nodes of the replicas with which the group began. A replica without a log starts from
    /// them, wherever it is.
    pub(crate) founders: BTreeSet<NodeId>,
    /// The nodes that have a replica or shall have one, and those of which one may not be out yet.
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) preferred_leader: Option<NodeId>,
}

impl View {
    /// The view that a cluster file describes.
    pub(crate) fn of(cluster: &ClusterConfig) -> View {
        let file = RouteTable::of(cluster);
        let group = |(shard, replicas): (ShardId, &routing::Replicas)| {
            let nodes: BTreeSet<NodeId> = replicas.nodes.iter().copied().collect();
            let preferred_leader = Some(replicas.preferred_leader);
            (shard, Group { founders: nodes.clone(), nodes, preferred_leader })
        };
        let meta = meta::replicas(file.map(), META).map(|replicas| (META, replicas));
        View {
            version: 0,
            nodes: file.members().map(|(node, member)| (node, member.clone())).collect(),
            groups: file.map().shards().chain(meta).map(group).collect(),
        }
    }

    /// The view of a topology. A removed node is none of it.
    pub(crate) fn of_topology(topology: &topology::Topology) -> View {
        let member = |node: &topology::Node| Member {
            address: node.address.clone(),
            address_version: node.start,
            zone: node.zone.clone(),
        };
        let is_present = |id: &NodeId| {
            topology.node(*id).is_some_and(|node| node.state != topology::NodeState::Removed)
        };
        let group = |shard: &topology::Shard| {
            let lives = shard.wanted.lives().chain(shard.is.lives());
            let nodes = lives.chain(shard.leaving.keys().copied()).map(|life| life.node);
            Group {
                founders: shard.founders.keys().copied().collect(),
                nodes: nodes.filter(|node| is_present(node)).collect(),
                preferred_leader: shard.preference.map(|preference| preference.node),
            }
        };
        View {
            version: topology.version().0,
            nodes: topology.present().map(|(id, node)| (id, member(node))).collect(),
            groups: topology.shards().iter().map(|(id, shard)| (*id, group(shard))).collect(),
        }
    }

    /// The node that should lead a shard.
    pub(crate) fn preferred_leader(&self, shard: ShardId) -> Option<NodeId> {
        self.groups.get(&shard).and_then(|group| group.preferred_leader)
    }

    /// The peers of node `own`.
    pub(crate) fn peers(&self, own: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied().filter(move |node| *node != own)
    }

    /// The shards of which node `own` has a replica or shall have one.
    pub(crate) fn shards_of(&self, own: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.groups.iter().filter(move |(_, group)| group.nodes.contains(&own)).map(|(id, _)| *id)
    }

    /// The other nodes that have a replica of a shard or shall have one.
    pub(crate) fn others_of(&self, shard: ShardId, own: NodeId) -> BTreeSet<NodeId> {
        let nodes = self.groups.get(&shard).into_iter().flat_map(|group| &group.nodes);
        nodes.copied().filter(|node| *node != own).collect()
    }
}

/// A node of this cluster that says it knows a later view than this node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub(crate) version: u64,
    pub(crate) node: NodeId,
    /// Where it can be asked. Empty if it did not say.
    pub(crate) address: String,
}

/// The current view, to be read and watched.
#[derive(Debug)]
pub(crate) struct KnownView {
    /// The addresses of the cluster file. They are tried even if the topology has others, so that a
    /// corrected file helps where all addresses have changed.
    file: BTreeMap<NodeId, String>,
    /// Where nodes have answered as seeds: of each node at most as many addresses as there are seeds.
    seeds: Mutex<BTreeMap<NodeId, Vec<String>>>,
    current: watch::Sender<Arc<View>>,
    later: Mutex<Option<Later>>,
}

impl KnownView {
    /// Begins with the view of the cluster file.
    #[cfg(test)]
    pub(crate) fn new(file: View) -> KnownView {
        KnownView::beginning(&file.clone(), file)
    }

    /// Begins with a view, and with the addresses of the cluster file.
    pub(crate) fn beginning(file: &View, view: View) -> KnownView {
        let addresses = file.nodes.iter().map(|(node, member)| (*node, member.address.clone()));
        KnownView {
            file: addresses.collect(),
            seeds: Mutex::default(),
            current: watch::Sender::new(Arc::new(view)),
            later: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Arc<View> {
        self.current.borrow().clone()
    }

    /// A receiver that has not seen the present view yet.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        let mut receiver = self.current.subscribe();
        receiver.mark_changed();
        receiver
    }

    pub(crate) fn version(&self) -> u64 {
        self.current.borrow().version
    }

    /// Whether this is a node of the cluster.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.current.borrow().nodes.contains_key(&node)
    }

    /// The addresses of a node by the topology, by the cluster file, and where it answered as a seed,
    /// in this order.
    pub(crate) fn addresses(&self, node: NodeId) -> Vec<String> {
        let (view, found) = (self.current.borrow(), self.seeds());
        let mut addresses = Vec::new();
        let of_topology = view.nodes.get(&node).map(|member| &member.address);
        let listed = of_topology.into_iter().chain(self.file.get(&node));
        for address in listed.chain(found.get(&node).into_iter().flatten()) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Notes that a node has answered at the address of a seed. Tells whether that is news.
    pub(crate) fn found(&self, node: NodeId, address: &str) -> bool {
        let mut seeds = self.seeds();
        let found = seeds.entry(node).or_default();
        let is_news = !found.iter().any(|known| known == address);
        if is_news {
            found.push(address.to_owned());
        }
        is_news
    }

    fn seeds(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<String>>> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the view if this one has a higher version, and tells whether it has.
    pub(crate) fn replace(&self, view: View) -> bool {
        self.current.send_if_modified(|current| {
            if view.version <= current.version {
                return false;
            }
            let (version, before) = (view.version, current.version);
            // Most versions change neither, and come in numbers.
            if (&view.nodes, &view.groups) != (&current.nodes, &current.groups) {
                tracing::info!(version, before, "a newer topology is in use");
            }
            *current = Arc::new(view);
            true
        })
    }

    /// Notes the version that a node of this cluster says it knows. So this node can learn of
    /// members that it has not heard of, and then answer them.
    pub(crate) fn hear_of(&self, version: u64, node: NodeId, address: &str) {
        if version > self.version() {
            let later = Later { version, node, address: address.to_owned() };
            *self.later.lock().unwrap_or_else(PoisonError::into_inner) = Some(later);
        }
    }

    /// The last node that said it knows a later view than the current one.
    pub(crate) fn later(&self) -> Option<Later> {
        let later = self.later.lock().unwrap_or_else(PoisonError::into_inner).clone();
        later.filter(|later| later.version > self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::{Command, Members, NodeState, Proposal};

    fn file() -> View {
        View::of(&ClusterConfig::dev(4, 5, 20_000).unwrap())
    }

    /// A wrong one of two seeds once hid the right one.
    #[test]
    fn a_node_is_looked_for_wherever_it_answered_as_a_seed() {
        let known = KnownView::new(file());
        let listed = known.addresses(NodeId(2));
        assert!(known.found(NodeId(2), "one:1"));
        assert!(known.found(NodeId(2), "two:1"));
        assert!(!known.found(NodeId(2), "one:1"), "no news, and no line of the log");
        assert!(known.found(NodeId(2), &listed[0]));
        let expected = [listed.as_slice(), &["one:1".into(), "two:1".into()]].concat();
        assert_eq!(known.addresses(NodeId(2)), expected);
    }

    #[test]
    fn a_cluster_file_is_the_first_view() {
        let view = file();
        assert_eq!(view.version, 0);
        assert_eq!(view.peers(NodeId(2)).collect::<Vec<_>>(), [1, 3, 4, 5].map(NodeId));
        for shard in view.shards_of(NodeId(2)) {
            let group = &view.groups[&shard];
            assert!(group.founders.contains(&NodeId(2)) && group.nodes.len() == 5);
            assert_eq!(view.others_of(shard, NodeId(2)).len(), 4);
        }
        assert!(view.shards_of(NodeId(2)).count() > 0);
        assert_eq!(view.others_of(ShardId(9), NodeId(2)), BTreeSet::new());
    }

    /// A cluster whose topology nobody has changed behaves as its file says.
    #[test]
    fn the_view_of_a_founded_topology_is_that_of_the_file() {
        for cluster in [cluster(), ClusterConfig::dev(3, 5, 20_000).unwrap()] {
            let topology = crate::testing::founded_from(&cluster);
            let view = View::of_topology(&topology);
            assert_eq!(view, View { version: 1, ..View::of(&cluster) });
        }
    }

    /// One shard on three of four nodes.
    fn cluster() -> ClusterConfig {
        ClusterConfig { replicas: 3, ..ClusterConfig::dev(1, 4, 20_000).unwrap() }
    }

    #[test]
    fn a_view_has_all_nodes_that_are_not_removed_and_all_members_that_are_not_out() {
        let mut topology = crate::testing::founded_from(&cluster());
        let founders = View::of_topology(&topology).groups[&ShardId(0)].nodes.clone();
        let outsider = (1..=4).map(NodeId).find(|node| !founders.contains(node)).unwrap();
        let leaves = *founders.last().unwrap();
        let mut members = founders.clone();
        members.remove(&leaves);
        members.insert(outsider);
        let apply = |topology: &mut topology::Topology, command| {
            topology.apply(&Proposal::new(1_800_000_000, command)).unwrap().unwrap();
        };
        for shard in [ShardId(0), META] {
            apply(&mut topology, Command::Want { shard, members: members.clone() });
        }
        let group = View::of_topology(&topology).groups[&ShardId(0)].clone();
        assert_eq!((group.nodes.len(), &group.founders), (founders.len() + 1, &founders));
        for shard in [ShardId(0), META] {
            let known = topology.shard(shard).unwrap();
            let is = Members {
                conf_index: 9,
                taken: known.wanted.version,
                voters: known.wanted.lives().collect(),
                ..Members::default()
            };
            apply(&mut topology, Command::Is { shard, members: is });
        }
        let state = NodeState::Removed;
        apply(&mut topology, Command::SetNodeState { node: leaves, state });
        let view = View::of_topology(&topology);
        assert_eq!((&view.groups[&ShardId(0)].nodes, view.nodes.len()), (&members, 3));
        assert!(!view.nodes.contains_key(&leaves));
    }

    #[test]
    fn only_a_later_view_replaces_one_and_the_file_stays_the_last_resort() {
        let known = KnownView::new(file());
        let listed = file().nodes[&NodeId(5)].address.clone();
        let mut next = View { version: 3, ..file() };
        next.nodes.remove(&NodeId(4));
        next.nodes.get_mut(&NodeId(5)).unwrap().address = "moved:1".into();
        assert!(known.replace(next.clone()));
        assert!(!known.replace(View { version: 3, ..file() }) && !known.replace(file()));
        assert_eq!(*known.now(), next);
        assert!(known.has(NodeId(5)) && !known.has(NodeId(4)));
        assert_eq!(known.addresses(NodeId(5)), ["moved:1", listed.as_str()]);
        assert_eq!(known.addresses(NodeId(9)), Vec::<String>::new());
    }

    #[test]
    fn a_later_view_that_was_heard_of_is_remembered_until_it_is_known() {
        let known = KnownView::new(file());
        known.hear_of(0, NodeId(3), "three:1");
        assert_eq!(known.later(), None);
        known.hear_of(7, NodeId(9), "nine:1");
        let later = Later { version: 7, node: NodeId(9), address: "nine:1".into() };
        assert_eq!(known.later(), Some(later));
        assert!(known.replace(View { version: 7, ..file() }));
        assert_eq!(known.later(), None);
    }
}
