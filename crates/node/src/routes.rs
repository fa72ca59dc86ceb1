//! The route table as this node knows it now: the shard map, and the present address of each node.
//!
//! A cluster file describes the beginning, and each machine has its own copy of it. From then on a
//! node learns: a peer announces its address when it greets this node, and tells its knowledge of
//! the others. So a node that was moved is found by all, although only its own file was changed.
//!
//! * The value changes only to newer knowledge: see [`RouteTable::merged`].
//! * Knowledge is forgotten with the process, because each node announces itself at each start.

use crate::view::{Group, View};
use routing::{AddressVersion, META, NodeId, Replicas, RouteTable, ShardId};
use std::sync::Arc;
use tokio::sync::watch;
use wire::internal::v1::Member;

/// The current route table, to be read and watched.
#[derive(Debug)]
pub(crate) struct KnownRoutes {
    own_address: String,
    current: watch::Sender<Arc<RouteTable>>,
}

impl KnownRoutes {
    /// The knowledge of node `own` at its start, from its cluster file. `version` is that of its
    /// own address.
    pub(crate) fn new(file: RouteTable, own: NodeId, version: AddressVersion) -> KnownRoutes {
        let configured = file.address(own).unwrap_or_default().to_owned();
        let (own_address, routes) = match file.with_address(own, &configured, version) {
            Some(announced) => (configured, announced),
            None => (String::new(), file), // other nodes cannot dial it
        };
        KnownRoutes { own_address, current: watch::Sender::new(Arc::new(routes)) }
    }

    pub(crate) fn now(&self) -> Arc<RouteTable> {
        self.current.borrow().clone()
    }

    /// A receiver that has not seen the present route table yet.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<RouteTable>> {
        let mut receiver = self.current.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// The address that this node announces. It is empty if the node's own file does not say where
    /// other nodes find it.
    pub(crate) fn own_address(&self) -> &str {
        &self.own_address
    }

    /// Takes the newer parts of another node's route table, and tells whether there were any. The
    /// nodes of the view stay members, and what they announced stays known.
    pub(crate) fn take(&self, news: &RouteTable, view: &View) -> bool {
        self.update(|known| {
            let next = with_nodes_of(known.merged(news)?, view);
            Some(next.merged(known).unwrap_or(next))
        })
    }

    /// Takes the nodes and replicas of a view, if it is of a later version of the topology than what
    /// is known, and the addresses that are newer.
    pub(crate) fn follow(&self, view: &View) {
        self.update(|known| {
            let next = as_of(known, view);
            (next != *known).then_some(next)
        });
        for (node, member) in &view.nodes {
            self.announced(*node, &member.address, member.address_version);
        }
    }

    /// Takes the addresses that are newer.
    pub(crate) fn hear(&self, members: &[Member]) {
        for member in members {
            let node = NodeId(member.node);
            self.announced(node, &member.address, member.address_version());
        }
    }

    /// Takes the address that a node announced, if it is newer.
    pub(crate) fn announced(&self, node: NodeId, address: &str, version: AddressVersion) {
        self.update(|known| known.with_address(node, address, version));
    }

    /// The addresses at which a node may be found, the likeliest first: the announced one, then the
    /// `configured` ones.
    pub(crate) fn addresses(&self, node: NodeId, configured: Vec<String>) -> Vec<String> {
        let now = self.now();
        let announced = now.members().find(|(member, _)| *member == node).map(|(_, member)| member);
        let announced = announced.filter(|it| it.address_version > AddressVersion::default());
        let announced = announced.map(|member| member.address.clone());
        let others = configured.into_iter().filter(|address| Some(address) != announced.as_ref());
        announced.iter().cloned().chain(others).collect()
    }

    /// Returns once a node has another address than this one.
    pub(crate) async fn moved(&self, node: NodeId, from: Option<&str>) {
        // The sender lives in `self`, so only the condition can end the wait.
        let _ = self.current.subscribe().wait_for(|now| now.address(node) != from).await;
    }

    fn update(&self, change: impl FnOnce(&RouteTable) -> Option<RouteTable>) -> bool {
        self.current.send_if_modified(|known| {
            let Some(next) = change(known) else { return false };
            log_changes(known, &next);
            *known = Arc::new(next);
            true
        })
    }
}

/// The routes with the nodes and replicas of a view.
fn as_of(known: &RouteTable, view: &View) -> RouteTable {
    let with_nodes = with_nodes_of(known.clone(), view);
    if view.version <= known.map().edition().topology {
        return with_nodes;
    }
    let replicas = |(shard, group): (&ShardId, &Group)| {
        let nodes: Vec<NodeId> = group.nodes.iter().copied().collect();
        let preferred = group.preferred_leader.filter(|node| nodes.contains(node));
        let preferred_leader = preferred.or(nodes.first().copied())?;
        Some((*shard, Replicas { nodes, preferred_leader }))
    };
    let shards = view.groups.iter().filter(|(shard, _)| **shard != META).filter_map(replicas);
    let nodes = view.nodes.iter().map(|(node, member)| (*node, member.clone()));
    match known.as_of(view.version, shards, nodes) {
        Ok(next) => next.unwrap_or(with_nodes),
        Err(error) => {
            tracing::error!(version = view.version, %error, "the topology gives no routes: the former ones stay in use");
            with_nodes
        }
    }
}

fn with_nodes_of(routes: RouteTable, view: &View) -> RouteTable {
    routes.with_nodes(view.nodes.iter().map(|(node, member)| (*node, member.clone())))
}

fn log_changes(before: &RouteTable, after: &RouteTable) {
    for (node, member) in after.members() {
        let (address, former) = (member.address.as_str(), before.address(node));
        if former.is_some_and(|former| former != address) {
            let before = former.unwrap_or_default();
            tracing::info!(peer = %node, address, before, "peer listens at another address now");
        }
    }
    if after.map().version() != before.map().version() {
        let (version, before) = (after.map().version(), before.map().version());
        tracing::info!(%version, %before, "a newer shard map is in use");
    }
}

/// The nodes with announced addresses, to be told to other processes.
pub(crate) fn announced(routes: &RouteTable) -> Vec<Member> {
    let announced =
        |(_, member): &(NodeId, &routing::Member)| member.address_version > Default::default();
    routes.members().filter(announced).map(Member::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;

    const FIRST: AddressVersion = AddressVersion { incarnation: 0, starts: 1 };

    fn file() -> RouteTable {
        RouteTable::of(&ClusterConfig::dev(1, 3, 20_000).unwrap())
    }

    fn view() -> View {
        View::of(&ClusterConfig::dev(1, 3, 20_000).unwrap())
    }

    #[test]
    fn what_a_peer_says_of_itself_counts_before_the_file() {
        let known = KnownRoutes::new(file(), NodeId(1), FIRST);
        let configured = file().address(NodeId(2)).unwrap().to_owned();
        let addresses = || known.addresses(NodeId(2), vec![configured.clone()]);
        assert_eq!(addresses(), std::slice::from_ref(&configured));
        known.announced(NodeId(2), "no address", FIRST);
        known.announced(NodeId(9), "stranger:1", FIRST);
        assert_eq!(addresses(), std::slice::from_ref(&configured));
        known.announced(NodeId(2), "moved:1", AddressVersion { starts: 2, ..FIRST });
        known.announced(NodeId(2), "before:1", FIRST);
        assert_eq!(addresses(), ["moved:1", configured.as_str()]);
        let told = announced(&known.now());
        let told: Vec<_> = told.iter().map(|member| (member.node, &*member.address)).collect();
        assert_eq!(told, [(1, known.own_address()), (2, "moved:1")]);
    }

    #[test]
    fn an_address_that_stands_for_all_is_not_told() {
        let mut cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        cluster.nodes[0].address = "0.0.0.0:7401".into();
        let known = KnownRoutes::new(RouteTable::of(&cluster), NodeId(1), FIRST);
        assert_eq!((known.own_address(), announced(&known.now())), ("", Vec::new()));
        let known = KnownRoutes::new(RouteTable::of(&cluster), NodeId(2), FIRST);
        assert_eq!(known.own_address(), cluster.nodes[1].address);
    }

    #[tokio::test]
    async fn a_watcher_sees_the_present_routes_and_each_newer_one() {
        let known = KnownRoutes::new(file(), NodeId(1), FIRST);
        let mut watcher = known.watch();
        watcher.changed().await.unwrap();
        assert!(!known.take(&file(), &view()), "a file is not newer");
        assert!(!watcher.has_changed().unwrap());
        let configured = file().address(NodeId(2)).map(ToOwned::to_owned);
        let moved = known.moved(NodeId(2), configured.as_deref());
        let news = file().with_address(NodeId(2), "moved:1", FIRST).unwrap();
        assert!(known.take(&news, &view()));
        moved.await;
        assert!(watcher.has_changed().unwrap());
    }

    /// A node that only the view names announces its address like any other, and a newer map of a
    /// node that has not heard of it takes nothing away.
    #[test]
    fn a_node_of_the_view_is_a_member_whatever_map_comes() {
        let known = KnownRoutes::new(file(), NodeId(1), FIRST);
        let mut view = view();
        let fourth = routing::Member {
            address: "four:1".into(),
            address_version: FIRST,
            zone: Some("z".into()),
        };
        view.nodes.insert(NodeId(4), fourth);
        known.announced(NodeId(4), "stranger:1", FIRST);
        known.follow(&view);
        assert_eq!(known.now().address(NodeId(4)), Some("four:1"));
        known.announced(NodeId(4), "moved:1", AddressVersion { starts: 2, ..FIRST });
        let map = file().map().clone();
        let shards = map.shards().map(|(shard, replicas)| (shard, replicas.clone()));
        let next = routing::ShardMap::of_runs(routing::MapVersion(9), map.runs(), shards).unwrap();
        assert!(known.take(&file().with_map(next).unwrap(), &view));
        assert_eq!(known.now().map().version(), routing::MapVersion(9));
        assert_eq!(known.addresses(NodeId(4), vec!["four:1".into()]), ["moved:1", "four:1"]);
    }
}
