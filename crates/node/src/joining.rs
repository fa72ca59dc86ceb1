//! How a node that the cluster file does not name becomes a node of the cluster.
//!
//! It tells META's leader what it is, and takes the topology that names it. Both happen once in the
//! life of a data directory, before the node serves: later starts find the topology on the disk. The
//! topology takes one directory for an id. So a second directory under the same id does not join.
//!
//! The module knows nothing of what a node does then: the topology gives it replicas, or none.

use crate::error::JoinError;
use crate::following::news_of;
use crate::limits::{GREET_TIMEOUT, JOIN_MAX, JOIN_PAUSE, PROPOSAL_MAX, TOPOLOGY_BYTES_MAX};
use crate::reports::Search;
use crate::topology_copy::TopologyCopy;
use crate::transport::{NotConnected, connect};
use net::tls::Inside;
use routing::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    /// The nodes of the cluster file with their addresses: one of them must answer.
    pub(crate) seeds: BTreeMap<NodeId, String>,
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

    /// Asks the seeds, and whom they name as META's leader.
    async fn ask_around(&self) -> Result<Topology, NotYet> {
        let seeds = self.seeds.keys().copied().collect();
        let mut search = Search::new(self.told.node, std::iter::empty(), seeds);
        let mut last = NotYet::NoLeader;
        while let Some((node, hint)) = search.next() {
            let hint = hint.filter(|address| !address.is_empty());
            let addresses = hint.iter().chain(self.seeds.get(&node));
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
