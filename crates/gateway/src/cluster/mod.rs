//! The topology of the cluster, as its nodes tell it, and changes of it, as the leader of its group
//! takes them.
//!
//! * Nodes are asked in turn: first those that founded the group, because most often they have it.
//!   A node that does not lead the group says which one does.
//! * Calls are few, so each connects anew, to each node once. No operation on locks waits for one.
//! * A node tells the whole topology once in a call, and then what changes.
//! * A change is proposed again if its outcome is not known, because a second one like it changes
//!   nothing.

mod rebuild;
pub(crate) mod told;

pub(crate) use rebuild::rebuild_from_nodes;

use crate::limits::{
    NODE_CONNECT_TIMEOUT, TOPOLOGY_ASK_AGAIN, TOPOLOGY_ASK_TIMEOUT, TOPOLOGY_NEWEST_PATIENCE,
    TOPOLOGY_PATIENCE,
};
use crate::router::Router;
use routing::{NodeId, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};
use topology::plan::Preview;
use topology::{Command, DecodeError, Delta, Proposal, Refusal, Topology, Version};
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::topology_service_watch_response::Change as Watched;
use wire::internal::v1::{
    Accepted, ClusterIdentity, NotMetaLeader, PreviewRequest, ProposeRequest,
    TopologyServiceWatchRequest, TopologyServiceWatchResponse, preview_response, propose_response,
};
use wire::v1::{Error, ErrorCode};
use wire::{reason, root_cause};

/// The largest topology that is taken from a node.
const TOPOLOGY_BYTES_MAX: usize = 64 << 20;

/// A change of the topology, as a client wants it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) command: Command,
    /// The version that it was planned at, if that must not have changed since.
    pub(crate) at_version: Option<Version>,
    /// The risks that are taken with it.
    pub(crate) accepted: Accepted,
}

impl Change {
    fn proposal(&self) -> Vec<u8> {
        // META's leader puts its own time on the command.
        let proposal = Proposal::new(0, self.command.clone());
        Proposal { planned_at: self.at_version, ..proposal }.encode()
    }
}

/// A question to the leader of META.
#[derive(Clone, Debug)]
enum Asked {
    Propose(ProposeRequest),
    Preview(PreviewRequest),
}

/// Its answer.
enum Told {
    Version(Version),
    Preview(Preview),
    Refusal(Vec<u8>),
    Elsewhere(NotMetaLeader),
}

/// One call about the topology. It answers before its caller gives up, if the caller tells when.
pub(crate) struct Call<'a> {
    router: &'a Router,
    deadline: Instant,
    /// The node that led the group at the last change. It is asked first.
    changed_by: Option<NodeId>,
    /// A connection to each node that was asked.
    clients: BTreeMap<NodeId, TopologyServiceClient<Channel>>,
}

impl<'a> Call<'a> {
    /// A call that may take so long, or [`TOPOLOGY_PATIENCE`] if that is shorter.
    pub(crate) fn within(router: &'a Router, time: Option<Duration>) -> Call<'a> {
        let time = time.unwrap_or(TOPOLOGY_PATIENCE).min(TOPOLOGY_PATIENCE);
        let deadline = Instant::now() + time;
        Call { router, deadline, changed_by: None, clients: BTreeMap::new() }
    }

    /// The topology, of this version or a later one. A node that has just started tells an old one for
    /// a moment, so it is also not older than any that this gateway has told, unless no node has such
    /// a one within [`TOPOLOGY_NEWEST_PATIENCE`].
    ///
    /// # Errors
    /// NO_LEADER, if no node tells it in time.
    pub(crate) async fn topology(&mut self, at_least: Version) -> Result<Topology, Box<Error>> {
        let mut copies: BTreeMap<NodeId, Copy> = BTreeMap::new();
        let mut last = "no node was asked".to_owned();
        // An older one is better than none, so half of the caller's time is left for it.
        let time = self.deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + TOPOLOGY_NEWEST_PATIENCE.min(time / 2);
        while Instant::now() < self.deadline {
            let is_late = Instant::now() >= until;
            for node in self.nodes() {
                let told = match copies.remove(&node) {
                    Some(copy) => copy.followed().await,
                    None => self.ask(node).await,
                };
                match told {
                    Ok(copy)
                        if copy.topology.is_founded()
                            && copy.version() >= at_least
                            && (self.router.newest_told.takes(&copy.topology) || is_late) =>
                    {
                        return Ok(copy.topology);
                    }
                    Ok(copy) => {
                        last = format!("node {node} knows version {} only", copy.version());
                        copies.insert(node, copy);
                    }
                    Err(why) => last = format!("node {node}: {why}"),
                }
            }
            tokio::time::sleep(TOPOLOGY_ASK_AGAIN).await;
        }
        Err(Box::new(Error::no_leader(format!(
            "no node tells the topology now, and locks are served without it ({last}): see \
             `palisade cluster status`"
        ))))
    }

    /// Makes a change, which must change nothing if it comes a second time. Returns the version of
    /// the topology with it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the reason of a refusal, VERSION_MOVED, NO_LEADER if nothing was
    /// proposed in time, and OUTCOME_UNKNOWN.
    pub(crate) async fn propose(&mut self, change: &Change) -> Result<Version, Box<Error>> {
        let (proposal, accepted) = (change.proposal(), Some(change.accepted));
        match self.ask_leader(Asked::Propose(ProposeRequest { proposal, accepted })).await? {
            Told::Version(version) => Ok(version),
            _ => Err(Box::new(Error::internal("a node has told no version: see its log"))),
        }
    }

    /// What a change would lead to.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the reason of a refusal, and NO_LEADER.
    pub(crate) async fn preview(&mut self, change: &Change) -> Result<Preview, Box<Error>> {
        let (proposal, accepted) = (change.proposal(), Some(change.accepted));
        match self.ask_leader(Asked::Preview(PreviewRequest { proposal, accepted })).await? {
            Told::Preview(preview) => Ok(preview),
            _ => Err(Box::new(Error::internal("a node has told no plan: see its log"))),
        }
    }

    /// The answer of the node that leads META.
    async fn ask_leader(&mut self, question: Asked) -> Result<Told, Box<Error>> {
        let (mut in_doubt, mut last) = (false, "no node was asked".to_owned());
        loop {
            let mut next: VecDeque<(NodeId, Option<String>)> =
                self.nodes().into_iter().map(|node| (node, None)).collect();
            let mut asked = Vec::new();
            while let Some((node, hint)) = next.pop_front() {
                if asked.contains(&node) {
                    continue;
                }
                asked.push(node);
                match self.ask_node(node, hint, question.clone()).await {
                    Ok(Told::Refusal(refusal)) => match Refusal::decode(&refusal) {
                        // Its leader founds it soon after it leads.
                        Ok(why @ Refusal::NotFounded) => {
                            last = why.to_string();
                            break;
                        }
                        refusal => return Err(refused(refusal)),
                    },
                    Ok(Told::Elsewhere(elsewhere)) => {
                        last = format!("node {node} does not lead its group");
                        if elsewhere.leader != 0 {
                            next.push_front((NodeId(elsewhere.leader), Some(elsewhere.address)));
                        }
                    }
                    Ok(told) => {
                        self.changed_by = Some(node);
                        return Ok(told);
                    }
                    Err(NotTold { why, may_be_done, is_busy }) => {
                        in_doubt |= may_be_done;
                        last = format!("node {node}: {why}");
                        if is_busy {
                            break; // it is the one to ask, only later
                        }
                    }
                }
            }
            // A round that ends with the call could only leave doubt.
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left <= 2 * TOPOLOGY_ASK_AGAIN {
                break;
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
                "the topology cannot change now, and locks are served ({last}): see which nodes \
                 are down with `palisade cluster status`"
            ))
        }))
    }

    /// The nodes in the order in which they are asked.
    fn nodes(&self) -> Vec<NodeId> {
        let replicas = self.router.directory.replicas().into_iter();
        let founders = replicas.filter(|(shard, _)| *shard == ShardId(0)).map(|(_, node)| node);
        // The group may have moved to nodes that joined since.
        let routes = self.router.known.routes();
        let all = routes.members().map(|(node, _)| node);
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in self.changed_by.into_iter().chain(founders).chain(all) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// Asks one node for the whole topology, and for what changes from then on.
    async fn ask(&mut self, node: NodeId) -> Result<Copy, String> {
        let until = self.until(TOPOLOGY_ASK_TIMEOUT);
        let asked = async {
            let mut client = self.client(node, None).await?;
            let request = said(self.router, node, TopologyServiceWatchRequest { version: 0 });
            let watched = client.watch(request).await;
            let mut changes = watched.map_err(|status| reason(&status).to_string())?.into_inner();
            let first = changes.message().await.map_err(|status| reason(&status).to_string())?;
            match first.and_then(|told| told.change) {
                Some(Watched::All(bytes)) => {
                    let topology = Topology::decode(&bytes).map_err(|error| error.to_string())?;
                    Ok(Copy { topology, changes })
                }
                _ => Err("it tells no whole topology".to_owned()),
            }
        };
        let answered = timeout_at(until, asked).await;
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        answered.inspect_err(|_| self.forget(node))
    }

    async fn ask_node(
        &mut self,
        node: NodeId,
        hint: Option<String>,
        question: Asked,
    ) -> Result<Told, NotTold> {
        let not_sent = |why| NotTold { why, may_be_done: false, is_busy: false };
        let is_change = matches!(question, Asked::Propose(_));
        let is_preview = matches!(question, Asked::Preview(_));
        let until = self.until(TOPOLOGY_ASK_TIMEOUT);
        let connected = timeout_at(until, self.client(node, hint)).await;
        let connected = connected.unwrap_or_else(|_| Err("no connection in time".to_owned()));
        let mut client = connected.map_err(not_sent)?;
        // A preview takes as long as its change is big, and begins anew if it is asked for again.
        let until = if is_preview { self.deadline } else { until };
        let answered = timeout_at(until, async {
            Ok(match question {
                Asked::Propose(request) => {
                    let request = said(self.router, node, request);
                    told_of_proposal(client.propose(request).await?.into_inner().outcome)
                }
                Asked::Preview(request) => {
                    let request = said(self.router, node, request);
                    told_of_preview(client.preview(request).await?.into_inner().outcome)
                }
            })
        })
        .await;
        let not_told =
            |why: &str| NotTold { why: why.to_owned(), may_be_done: is_change, is_busy: false };
        let response = answered.map_err(|_| not_told("no answer in time")).and_then(|response| {
            response.map_err(|status| NotTold {
                why: reason(&status).to_string(),
                is_busy: status.code() == Code::ResourceExhausted,
                may_be_done: is_change
                    && !matches!(
                        status.code(),
                        Code::FailedPrecondition
                            | Code::InvalidArgument
                            | Code::PermissionDenied
                            | Code::ResourceExhausted
                            | Code::Unimplemented
                    ),
            })
        });
        let told = response.inspect_err(|_| self.forget(node))?;
        told.ok_or_else(|| not_told("its answer is empty"))
    }

    /// The end of a step that may take so long.
    fn until(&self, time: Duration) -> Instant {
        self.deadline.min(Instant::now() + time)
    }

    /// Connects anew when the node is asked again.
    fn forget(&mut self, node: NodeId) {
        self.clients.remove(&node);
    }

    /// The connection to a node, at one of its addresses or at the one of a hint.
    async fn client(
        &mut self,
        node: NodeId,
        hint: Option<String>,
    ) -> Result<TopologyServiceClient<Channel>, String> {
        if let Some(client) = self.clients.get(&node) {
            return Ok(client.clone());
        }
        let client = connect(self.router, node, hint).await?;
        self.clients.insert(node, client.clone());
        Ok(client)
    }
}

/// The topology as a node has told it, and how it goes on.
struct Copy {
    topology: Topology,
    changes: Streaming<TopologyServiceWatchResponse>,
}

impl Copy {
    fn version(&self) -> Version {
        self.topology.version()
    }

    /// With all changes that have come meanwhile.
    async fn followed(mut self) -> Result<Copy, String> {
        while let Ok(told) = timeout(Duration::ZERO, self.changes.message()).await {
            let told = told.map_err(|status| reason(&status).to_string())?;
            match told.ok_or("it tells no more")?.change {
                Some(Watched::All(bytes)) => {
                    self.topology = Topology::decode(&bytes).map_err(|error| error.to_string())?;
                }
                Some(Watched::Delta(bytes)) => {
                    let delta = Delta::decode(&bytes).map_err(|error| error.to_string())?;
                    self.topology.follow(&delta).map_err(|error| error.to_string())?;
                }
                None => {}
            }
        }
        Ok(self)
    }
}

fn told_of_proposal(outcome: Option<propose_response::Outcome>) -> Option<Told> {
    use propose_response::Outcome;
    Some(match outcome? {
        Outcome::Version(version) => Told::Version(Version(version)),
        Outcome::Refusal(refusal) => Told::Refusal(refusal),
        Outcome::Elsewhere(elsewhere) => Told::Elsewhere(elsewhere),
    })
}

/// A preview that cannot be read counts as none.
fn told_of_preview(outcome: Option<preview_response::Outcome>) -> Option<Told> {
    use preview_response::Outcome;
    Some(match outcome? {
        Outcome::Preview(preview) => Told::Preview(Preview::decode(&preview).ok()?),
        Outcome::Refusal(refusal) => Told::Refusal(refusal),
        Outcome::Elsewhere(elsewhere) => Told::Elsewhere(elsewhere),
    })
}

fn refused(refusal: Result<Refusal, DecodeError>) -> Box<Error> {
    Box::new(match refusal {
        Ok(moved @ Refusal::VersionMoved { .. }) => {
            Error::new(ErrorCode::VersionMoved, moved.to_string())
        }
        Ok(refusal) => Error::invalid(refusal.to_string()),
        Err(error) => Error::internal(format!("the change was refused, and why is lost: {error}")),
    })
}

/// The reason why a node has told nothing of use.
struct NotTold {
    why: String,
    may_be_done: bool,
    /// It leads, and could not answer now.
    is_busy: bool,
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
