//! How a node that the cluster file does not name becomes a node of the cluster.
//!
//! It tells META's leader what it is, and takes the topology that names it. Both happen once in the
//! life of a data directory, before the node serves: later starts find the topology on the disk. The
//! topology takes one directory for an id. So a second directory under the same id does not join.
//!
//! A node that is given no id takes the lowest one that no node ever had. Two such nodes may want the
//! same: the topology takes the first, and the other one takes the next. The id stays in the data
//! directory (`chosen_id.rs`).
//!
//! The module knows nothing of what a node does then: the topology gives it replicas, or none.

use crate::chosen_id::ChosenId;
use crate::error::{JoinError, NodeError};
use crate::following::news_of;
use crate::limits::{GREET_TIMEOUT, JOIN_MAX, JOIN_PAUSE, PROPOSAL_MAX, TOPOLOGY_BYTES_MAX};
use crate::reports::Search;
use crate::topology_copy::TopologyCopy;
use crate::transport::{NotConnected, connect};
use crate::{lineage, peer_identities, reports, seeds};
use net::tls::Inside;
use routing::{AddressVersion, ClusterConfig, NodeConfig, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Engine;
use tonic::Request;
use tonic::transport::Channel;
use topology::{Command, NodeTold, Proposal, Refusal, Topology, Version};
use wire::internal::v1::propose_response::Outcome;
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::{
    ClusterIdentity, NotMetaLeader, ProposeRequest, TopologyServiceWatchRequest,
};
use wire::reason;

/// A node that joins.
pub(crate) struct Joiner<'a> {
    pub(crate) told: NodeTold,
    /// The cluster.
    pub(crate) identity: ClusterIdentity,
    pub(crate) tls: Option<&'a Arc<Inside>>,
    /// The nodes of the cluster file with their addresses. One of them or of the seeds must answer.
    pub(crate) listed: BTreeMap<NodeId, String>,
    /// Addresses of further nodes, and of those that they tell of.
    pub(crate) seeds: &'a [String],
}

/// The id of the node with this data directory, which is given none. It has joined then. From its
/// second start on, the directory tells.
///
/// # Errors
/// [`NodeError`]: the directory is of a node that was given an id, or the cluster does not take it.
pub async fn choose_id(
    engine: &Arc<dyn Engine>,
    cluster: &ClusterConfig,
    seeds: &[String],
    me: &NodeConfig,
) -> Result<NodeId, NodeError> {
    let store = match chosen(engine).await? {
        ChosenId { id: Some(id), .. } => return Ok(id),
        ChosenId { store, id: None } => store,
    };
    let named = lineage::StoreId { incarnation: 0, store }.in_topology();
    let identity =
        ClusterIdentity::new(cluster.fingerprint().0, cluster.cluster.clone(), cluster.shards);
    let listed: BTreeMap<NodeId, String> =
        cluster.nodes.iter().map(|node| (node.id, node.address.clone())).collect();
    let asked: Vec<String> = seeds.iter().chain(listed.values()).cloned().collect();
    let (began, mut taken) = (Instant::now(), BTreeSet::new());
    let id = loop {
        let Some(topology) = seeds::ask(None, &identity, &asked).await.topology else {
            if began.elapsed() >= JOIN_MAX {
                let why = "no seed and no node of the cluster file tells the topology".to_owned();
                return Err(NodeError::NotJoined {
                    node: None,
                    reason: JoinError::NoLeader { why },
                });
            }
            tracing::info!("no node tells the topology yet; trying on");
            tokio::time::sleep(JOIN_PAUSE).await;
            continue;
        };
        let is_me = |node: &topology::Node| node.store == Some(named);
        if let Some((id, _)) = topology.nodes().iter().find(|(_, node)| is_me(node)) {
            break *id;
        }
        let id = lowest_free(&topology, &taken);
        let told = reports::told_of(id, named, AddressVersion::default(), me);
        let (identity, listed) = (identity.clone(), listed.clone());
        match (Joiner { told, identity, tls: None, listed, seeds }).join().await {
            Ok(_) => break id,
            Err(JoinError::Refused(Refusal::IdTaken(_) | Refusal::Removed(_))) => {
                taken.insert(id);
            }
            Err(reason) => return Err(NodeError::NotJoined { node: Some(id), reason }),
        }
    };
    tracing::info!(node = %id, "the cluster has given this node its id");
    put(engine, ChosenId { store, id: Some(id) }).await?;
    Ok(id)
}

/// The lowest id that no node ever had, as far as the topology and the refusals so far tell. After the
/// topology was built again, it is above all that the lost group may have given.
fn lowest_free(topology: &Topology, taken: &BTreeSet<NodeId>) -> NodeId {
    let is_free = |id: &NodeId| topology.node(*id).is_none() && !taken.contains(id);
    (topology.cluster().former_ids.0 + 1..).map(NodeId).find(is_free).expect("ids are not used up")
}

/// What the directory knows of its node. A new one gets its name now.
async fn chosen(engine: &Arc<dyn Engine>) -> Result<ChosenId, NodeError> {
    let of = engine.clone();
    let read = move || match ChosenId::read(&*of)? {
        Some(chosen) => Ok(Some(chosen)),
        None => peer_identities::check_empty(&*of).map(|()| None),
    };
    let known = tokio::task::spawn_blocking(read).await;
    let known = known.map_err(|error| NodeError::of_task("the reading of the id", &error))?;
    match known {
        Ok(Some(chosen)) => Ok(chosen),
        Ok(None) => {
            let chosen = ChosenId { store: rand::random(), id: None };
            put(engine, chosen).await?;
            Ok(chosen)
        }
        Err(error @ NodeError::Storage(_)) => Err(error),
        Err(_) => Err(NodeError::Config(
            "this data directory is of a node that was started with --id: give it again".into(),
        )),
    }
}

async fn put(engine: &Arc<dyn Engine>, chosen: ChosenId) -> Result<(), NodeError> {
    let engine = engine.clone();
    let kept = tokio::task::spawn_blocking(move || chosen.put(&*engine)).await;
    Ok(kept.map_err(|error| NodeError::of_task("the keeping of the id", &error))??)
}

impl Joiner<'_> {
    /// Joins, and returns the topology that names the node.
    ///
    /// # Errors
    /// [`JoinError`].
    pub(crate) async fn join(&self) -> Result<Topology, JoinError> {
        let began = Instant::now();
        loop {
            let why = match self.ask_around().await {
                Ok(topology) => return Ok(topology),
                Err(NotYet::Refused(refusal)) => return Err(JoinError::Refused(*refusal)),
                Err(why) => why.to_string(),
            };
            if began.elapsed() >= JOIN_MAX {
                return Err(JoinError::NoLeader { why });
            }
            tracing::info!(reason = %why, "the cluster has not taken this node yet; trying on");
            tokio::time::sleep(JOIN_PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    /// Asks the nodes of the cluster file and those that seeds tell of, and the one that they name as
    /// META's leader.
    async fn ask_around(&self) -> Result<Topology, NotYet> {
        let mut known = seeds::ask(self.tls, &self.identity, self.seeds).await;
        self.listed.iter().for_each(|(node, address)| known.add(*node, address));
        let nodes = known.nodes.keys().copied().collect();
        let mut search = Search::new(self.told.node, std::iter::empty(), nodes);
        let mut last = NotYet::NoLeader;
        while let Some((node, hint)) = search.next() {
            let hint = hint.filter(|address| !address.is_empty());
            let addresses = hint.iter().chain(known.nodes.get(&node).into_iter().flatten());
            for address in addresses {
                match self.ask(node, address).await {
                    Ok(Answer::Joined(topology)) => return Ok(*topology),
                    Ok(Answer::Elsewhere(elsewhere)) => search.hint(&elsewhere),
                    Err(refused @ NotYet::Refused(_)) => return Err(refused),
                    Err(error) => {
                        tracing::debug!(%node, address, reason = %error, "this node did not take us in");
                        last = error;
                        continue;
                    }
                }
                break;
            }
        }
        Err(last)
    }

    async fn ask(&self, node: NodeId, address: &str) -> Result<Answer, NotYet> {
        let channel = connect(self.tls, node, address).await?;
        let mut client = TopologyServiceClient::new(channel.clone());
        let command = Command::NodeIs { told: self.told.clone() };
        let proposal = Proposal::new(0, command).encode(); // META's leader sets the time
        let request = self.to(node, ProposeRequest { proposal, accepted: None });
        let answer = within(PROPOSAL_MAX + GREET_TIMEOUT, client.propose(request)).await?;
        match answer.into_inner().outcome {
            Some(Outcome::Version(version)) => {
                let topology = self.topology_from(node, channel, Version(version)).await?;
                Ok(Answer::Joined(Box::new(topology)))
            }
            Some(Outcome::Refusal(bytes)) => {
                match Refusal::decode(&bytes).map_err(|_| NotYet::Unsound)? {
                    Refusal::NotFounded => Err(NotYet::NotFounded),
                    refusal => Err(NotYet::Refused(Box::new(refusal))),
                }
            }
            Some(Outcome::Elsewhere(elsewhere)) => Ok(Answer::Elsewhere(elsewhere)),
            None => Err(NotYet::Unsound),
        }
    }

    /// The topology as a node knows it, from this version on.
    async fn topology_from(
        &self,
        node: NodeId,
        channel: Channel,
        version: Version,
    ) -> Result<Topology, NotYet> {
        let mut client =
            TopologyServiceClient::new(channel).max_decoding_message_size(TOPOLOGY_BYTES_MAX);
        let request = self.to(node, TopologyServiceWatchRequest { version: 0 });
        let mut changes = within(GREET_TIMEOUT, client.watch(request)).await?.into_inner();
        let copy = TopologyCopy::default();
        while copy.now().version() < version {
            let change = within(GREET_TIMEOUT, changes.message()).await?.ok_or(NotYet::Unsound)?;
            if let Some(news) = news_of(change)? {
                copy.take(news).map_err(|_| NotYet::Unsound)?;
            }
        }
        let topology = Topology::clone(&copy.now());
        let is_taken = |node: &topology::Node| node.store == Some(self.told.store);
        let is_ours = topology.cluster().id[..] == self.identity.fingerprint[..];
        match is_ours && topology.node(self.told.node).is_some_and(is_taken) {
            true => Ok(topology),
            false => Err(NotYet::Unsound),
        }
    }

    fn to<T>(&self, node: NodeId, message: T) -> Request<T> {
        let mut request = Request::new(message);
        ClusterIdentity { node: node.0, ..self.identity.clone() }.put(request.metadata_mut());
        request
    }
}

enum Answer {
    Joined(Box<Topology>),
    Elsewhere(NotMetaLeader),
}

/// The reason why a node has not taken the joiner in.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error("no node knows the leader of the topology's group")]
    NoLeader,
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    #[error("the cluster was not founded yet")]
    NotFounded,
    #[error("no answer in time")]
    Silent,
    #[error("{}", reason(.0))]
    Status(#[from] Box<tonic::Status>),
    #[error("its answer makes no topology of this cluster")]
    Unsound,
    #[error(transparent)]
    News(#[from] topology::DecodeError),
    #[error("{0}")]
    Refused(Box<Refusal>),
}

async fn within<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, NotYet> {
    let answered = tokio::time::timeout(time, asked).await.map_err(|_| NotYet::Silent)?;
    Ok(answered.map_err(Box::new)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::founded_from;
    use topology::{NodeState, Proposal};

    #[test]
    fn the_lowest_id_that_no_node_ever_had_is_chosen() {
        let mut topology = founded_from(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        assert_eq!(lowest_free(&topology, &BTreeSet::new()), NodeId(4));
        // Node 4 comes and is removed.
        let me = NodeConfig { id: NodeId(4), address: "four:1".into(), metrics: None, zone: None };
        let store = topology::StoreId([4; 16]);
        let told = reports::told_of(NodeId(4), store, AddressVersion::default(), &me);
        let state = NodeState::Removed;
        let remove = Command::SetNodeState { node: NodeId(4), state };
        for command in [Command::NodeIs { told }, remove] {
            topology.apply(&Proposal::new(7, command)).unwrap().unwrap();
        }
        assert_eq!(lowest_free(&topology, &BTreeSet::new()), NodeId(5));
        assert_eq!(lowest_free(&topology, &[NodeId(5)].into()), NodeId(6), "it was refused");
        // Regression: a node of which only the lost group knew came back, and its id was another's.
        let rebuilt = crate::testing::built_again(&topology, 2);
        assert!(lowest_free(&rebuilt, &BTreeSet::new()) > NodeId(500));
    }

    #[tokio::test]
    async fn an_id_is_chosen_once_and_not_for_a_directory_that_has_one() {
        let engine: Arc<dyn Engine> = Arc::new(storage::MemoryEngine::new());
        let first = chosen(&engine).await.unwrap();
        assert_eq!((first.id, chosen(&engine).await.unwrap()), (None, first), "one name");
        let id = Some(NodeId(9));
        put(&engine, ChosenId { id, ..first }).await.unwrap();
        let cluster = ClusterConfig::dev(1, 3, 20_000).unwrap();
        let me = NodeConfig { id: NodeId(0), address: "nine:1".into(), metrics: None, zone: None };
        assert_eq!(choose_id(&engine, &cluster, &[], &me).await.unwrap(), NodeId(9));
    }
}
