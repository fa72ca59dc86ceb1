//! The topology of the cluster, as its nodes tell it, and changes of it, as the leader of its group
//! takes them.
//!
//! * Nodes are asked in turn: first those that founded the group, because most often they have it.
//!   A node that does not lead the group says which one does.
//! * Calls are few, so each connects anew. No operation on locks waits for one.
//! * A change is proposed again if its outcome is not known, because a second one like it changes
//!   nothing.

pub(crate) mod told;

use crate::limits::{
    NODE_CONNECT_TIMEOUT, TOPOLOGY_ASK_AGAIN, TOPOLOGY_ASK_TIMEOUT, TOPOLOGY_PATIENCE,
};
use crate::router::Router;
use routing::{NodeId, ShardId};
use std::collections::VecDeque;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request};
use topology::{Command, Proposal, Refusal, Topology, Version};
use wire::internal::v1::propose_response::Outcome;
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::watch_topology_response::Change;
use wire::internal::v1::{ClusterIdentity, ProposeRequest, WatchTopologyRequest};
use wire::v1::Error;
use wire::{reason, root_cause};

/// The topology, of this version or a later one.
///
/// # Errors
/// NO_LEADER, if no node tells it in time.
pub(crate) async fn topology(router: &Router, at_least: Version) -> Result<Topology, Box<Error>> {
    let deadline = Instant::now() + TOPOLOGY_PATIENCE;
    let mut last = "no node was asked".to_owned();
    while Instant::now() < deadline {
        for node in nodes(router) {
            match ask(router, node).await {
                Ok(topology) if topology.is_founded() && topology.version() >= at_least => {
                    return Ok(topology);
                }
                Ok(topology) => {
                    last = format!("node {node} knows version {} only", topology.version());
                }
                Err(why) => last = format!("node {node}: {why}"),
            }
        }
        tokio::time::sleep(TOPOLOGY_ASK_AGAIN).await;
    }
    Err(Box::new(Error::no_leader(format!(
        "no node tells the topology now, and locks are served without it ({last}): see `palisade \
         cluster status`"
    ))))
}

/// Makes a change, which must change nothing if it comes a second time. Returns the version of the
/// topology with it.
///
/// # Errors
/// INVALID_ARGUMENT with the reason of a refusal, NO_LEADER if nothing was proposed in time, and
/// OUTCOME_UNKNOWN.
pub(crate) async fn propose(router: &Router, command: Command) -> Result<Version, Box<Error>> {
    // META's leader puts its own time on the command.
    let proposal = Proposal::new(0, command).encode();
    let deadline = Instant::now() + TOPOLOGY_PATIENCE;
    let (mut in_doubt, mut last) = (false, "no node was asked".to_owned());
    while Instant::now() < deadline {
        let mut next: VecDeque<(NodeId, Option<String>)> =
            nodes(router).map(|node| (node, None)).collect();
        let mut asked = Vec::new();
        while let Some((node, hint)) = next.pop_front() {
            if asked.contains(&node) {
                continue;
            }
            asked.push(node);
            match propose_to(router, node, hint, proposal.clone()).await {
                Ok(Outcome::Version(version)) => return Ok(Version(version)),
                Ok(Outcome::Refusal(refusal)) => return Err(refused(&refusal)),
                Ok(Outcome::Elsewhere(elsewhere)) => {
                    last = format!("node {node} does not lead its group");
                    if elsewhere.leader != 0 {
                        next.push_front((NodeId(elsewhere.leader), Some(elsewhere.address)));
                    }
                }
                Err(NotTold { why, may_be_done }) => {
                    in_doubt |= may_be_done;
                    last = format!("node {node}: {why}");
                }
            }
        }
        tokio::time::sleep(TOPOLOGY_ASK_AGAIN).await;
    }
    Err(Box::new(if in_doubt {
        Error::outcome_unknown(format!(
            "the change may have been made or not ({last}): look at `palisade cluster jobs`, or \
             ask for it again"
        ))
    } else {
        Error::no_leader(format!(
            "the topology cannot change now, and locks are served ({last}): see which nodes are \
             down with `palisade cluster status`"
        ))
    }))
}

fn refused(refusal: &[u8]) -> Box<Error> {
    Box::new(match Refusal::decode(refusal) {
        Ok(Refusal::NotFounded) => Error::no_leader(Refusal::NotFounded.to_string()),
        Ok(refusal) => Error::invalid(refusal.to_string()),
        Err(error) => Error::internal(format!("the change was refused, and why is lost: {error}")),
    })
}

/// The nodes in the order in which they are asked.
fn nodes(router: &Router) -> impl Iterator<Item = NodeId> + use<> {
    let replicas = router.directory.replicas().into_iter();
    let founders = replicas.filter(|(shard, _)| *shard == ShardId(0)).map(|(_, node)| node);
    let mut nodes: Vec<NodeId> = founders.collect();
    for node in &router.cluster.nodes {
        if !nodes.contains(&node.id) {
            nodes.push(node.id);
        }
    }
    nodes.into_iter()
}

/// The reason why a node has told nothing of use.
struct NotTold {
    why: String,
    may_be_done: bool,
}

/// Asks one node for the whole topology.
async fn ask(router: &Router, node: NodeId) -> Result<Topology, String> {
    let asked = async {
        let mut client = connect(router, node, None).await?;
        let request = said(router, node, WatchTopologyRequest { version: 0 });
        let watched = client.watch(request).await.map_err(|status| reason(&status).to_string())?;
        let first = watched.into_inner().message().await;
        let first = first.map_err(|status| reason(&status).to_string())?;
        match first.and_then(|told| told.change) {
            Some(Change::All(bytes)) => Topology::decode(&bytes).map_err(|error| error.to_string()),
            _ => Err("it tells no whole topology".to_owned()),
        }
    };
    let answered = tokio::time::timeout(TOPOLOGY_ASK_TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn propose_to(
    router: &Router,
    node: NodeId,
    hint: Option<String>,
    proposal: Vec<u8>,
) -> Result<Outcome, NotTold> {
    let not_sent = |why| NotTold { why, may_be_done: false };
    let mut client = connect(router, node, hint).await.map_err(not_sent)?;
    let request = said(router, node, ProposeRequest { proposal });
    let answered = tokio::time::timeout(TOPOLOGY_PATIENCE, client.propose(request)).await;
    let silent = || NotTold { why: "no answer in time".into(), may_be_done: true };
    let response = answered.map_err(|_| silent())?.map_err(|status| NotTold {
        why: reason(&status).to_string(),
        may_be_done: !matches!(
            status.code(),
            Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::PermissionDenied
                | Code::ResourceExhausted
                | Code::Unimplemented
        ),
    })?;
    response
        .into_inner()
        .outcome
        .ok_or_else(|| NotTold { why: "its answer is empty".into(), may_be_done: true })
}

/// A call to this node of this cluster.
fn said<T>(router: &Router, node: NodeId, message: T) -> Request<T> {
    let mut request = Request::new(message);
    ClusterIdentity { node: node.0, ..router.identity.clone() }.put(request.metadata_mut());
    request
}

/// A connection at one of the node's addresses, or at the one of a hint.
async fn connect(
    router: &Router,
    node: NodeId,
    hint: Option<String>,
) -> Result<TopologyServiceClient<Channel>, String> {
    let mut addresses = router.known.addresses(node.0);
    let hint = hint.filter(|address| !address.is_empty() && !addresses.contains(address));
    addresses.extend(hint);
    let mut why = "its address is not known".to_owned();
    for address in addresses {
        let target = match router.nodes.target(node.0, &address) {
            Ok(target) => target,
            Err(error) => {
                why = error.to_string();
                continue;
            }
        };
        match target.connect(NODE_CONNECT_TIMEOUT, |endpoint| endpoint).await {
            Ok(channel) => {
                let client = TopologyServiceClient::new(channel);
                return Ok(client.max_decoding_message_size(TOPOLOGY_BYTES_MAX));
            }
            Err(error) => why = root_cause(&error).to_string(),
        }
    }
    Err(why)
}

/// The largest topology that is taken from a node.
const TOPOLOGY_BYTES_MAX: usize = 64 << 20;
