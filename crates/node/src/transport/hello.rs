//! Greetings: the first message between nodes, sent in both directions, and first on every stream.
//! They name the node that speaks, and the data directory that it comes with.

use super::answers::group_of;
use crate::context::Context;
use crate::limits::{PROTOCOL, SETTLES_WITHIN};
use crate::lineage::{Claim, Known, Run, StoreId};
use crate::peer_identities::{NotAccepted, PeerRun, Standing};
use crate::rebuilt::FIRST;
use crate::roles::Caller;
use audit::Event;
use routing::{Fingerprint, NodeId};
use shard::Input;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;
use topology::{KNOWN_LEVELS, Levels, NodeState, Topology};
use wire::internal::v1::{GreetResponse, Hello, NodeAddress, StoreRun, StoreSeen};
use wire::v1::{Error, ErrorCode};

/// Makes this node's greetings, and judges those of its peers.
pub(crate) struct Greeter {
    context: Arc<Context>,
    /// The last refusal logged for each peer, so that each is logged once per change. Key 0 stands
    /// for callers that are no peers.
    refused: Mutex<BTreeMap<u64, String>>,
}

/// A peer with a fit directory.
///
/// * While `run` is `None`, nothing about the run that speaks is recorded, and its messages are not
///   used.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) peer: NodeId,
    pub(crate) is_copy: bool,
    /// The peer re-seeds its directory even if the former one is in use.
    force: bool,
    claim: Claim,
    pub(crate) run: Option<Arc<PeerRun>>,
}

/// The reason why a caller is refused, with the change that would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The caller is no peer, or is set up differently.
    #[error("{0}")]
    Stranger(String),
    /// The caller is a peer with another or an older data directory than this node knows of, or of a
    /// build that does not know the active level. It must stop.
    #[error("{0}")]
    Store(String),
    /// The caller says another id than its certificate.
    #[error(
        "the caller says that it is node {said}, and its certificate is for node {proven}: give each node its own \
         certificate"
    )]
    Impostor {
        /// By its certificate.
        proven: NodeId,
        /// By its greeting.
        said: u64,
    },
    /// This node is stopping.
    #[error("{0}")]
    Stopping(String),
}

impl Greeter {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Greeter { context, refused: Mutex::default() }
    }

    pub(crate) fn hello(&self) -> Hello {
        let identities = &self.context.identities;
        let Claim { id: StoreId { incarnation, store }, runs, record } = identities.claim();
        let run = |Run { boot, life, opened }| StoreRun { boot, life, opened };
        Hello {
            incarnation,
            store,
            runs: runs.into_iter().map(run).collect(),
            record,
            address: self.context.routes.own_address().to_owned(),
            map_version: self.context.routes.now().map().version().0,
            topology_version: self.context.view.version(),
            topology_generation: self.context.generation(),
            is_copy: identities.is_copy(),
            force: identities.is_forced(),
            // Until this node takes part, its directory may be an older copy. A peer that had
            // recorded its run would then refuse the original. A new directory has no original to
            // keep out.
            takes_frames: true,
            record_with_messages: !identities.takes_part()
                && identities.standing() != Standing::New,
            ..hello_without_directory(self.context.id, self.context.fingerprint)
        }
    }

    /// Accepts or refuses the peer that sends this greeting, in three stages:
    ///
    /// 1. `check_setup`: it is a peer of this cluster, and the node that it has proven to be;
    /// 2. `check_directory`: its data directory is the one that is known of it, or a fit new one;
    /// 3. `record`: its run is on disk here, and its incarnation known to the replicas.
    ///
    /// The third is left out if the peer asks for that and its directory is known. That run may be a
    /// copy which another peer refuses, so it is recorded with its first message
    /// ([`listen_to`](Self::listen_to)).
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn check(
        &self,
        hello: Option<Hello>,
        caller: &Caller,
    ) -> Result<Accepted, Refusal> {
        let speaker = hello.as_ref().map_or(0, |hello| hello.node);
        let judged = self.check_all(hello.as_ref(), caller.node).await;
        self.note(speaker, caller, judged.as_ref().err());
        if let (Ok(accepted), Some(hello)) = (&judged, &hello) {
            // Also of a run that is not recorded: an address only says where to dial, and the node
            // there has to greet as well.
            let version = accepted.claim.address_version();
            self.context.routes.announced(accepted.peer, &hello.address, version);
        }
        judged
    }

    async fn check_all(
        &self,
        hello: Option<&Hello>,
        proven: Option<NodeId>,
    ) -> Result<Accepted, Refusal> {
        let (peer, hello) = self.check_setup(hello, proven)?;
        let claim = claim_of(hello)?;
        let (is_copy, force) = (hello.is_copy, hello.force);
        let mut accepted = Accepted { peer, is_copy, force, claim, run: None };
        let is_known = self.check_directory(&accepted)?;
        // The topology of a directory that is refused may be that of another life of this cluster.
        self.context.view.hear_of(hello.topology_version, peer, &hello.address);
        if !(is_known && hello.record_with_messages) {
            self.record(&mut accepted).await?;
        }
        self.context.hear_of_generation(hello.topology_generation);
        Ok(accepted)
    }

    /// Records the run that speaks, with its latest record on disk. Its messages are used from here
    /// on.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn listen_to(
        &self,
        accepted: &mut Accepted,
        caller: &Caller,
        record: u64,
    ) -> Result<Arc<PeerRun>, Refusal> {
        if let Some(run) = &accepted.run {
            return Ok(run.clone());
        }
        accepted.claim.record = record;
        let run = self.record(accepted).await;
        self.note(accepted.peer.0, caller, run.as_ref().err());
        run
    }

    /// Whether the peer's directory is the one that this node knows. A fit new one is none.
    fn check_directory(&self, accepted: &Accepted) -> Result<bool, Refusal> {
        let now_ms = self.context.clock.mono_ms();
        let judged =
            self.context.identities.judge(accepted.peer, &accepted.claim, accepted.force, now_ms);
        judged.map_err(|unfit| Refusal::Store(unfit.to_string()))
    }

    /// Answers a peer that lost its data directory: the highest incarnation or birth that this node
    /// knows of it, and what its own replicas know of their groups.
    ///
    /// The statuses of these are a fifth of a second old at most. The former directory has been silent
    /// for longer, unless the peer forces the re-seed.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn check_lost(
        &self,
        hello: &Hello,
        caller: &Caller,
    ) -> Result<GreetResponse, Refusal> {
        let context = &self.context;
        let judged = self.check_setup(Some(hello), caller.node).and_then(|(peer, _)| {
            let now_ms = context.clock.mono_ms();
            let known = context.identities.lost_by(peer, hello.force, now_ms);
            known.map(|known| (peer, known)).map_err(|alive| Refusal::Store(alive.to_string()))
        });
        self.note(hello.node, caller, judged.as_ref().err());
        let (peer, known) = judged?;
        let settled = context.board.settled(SETTLES_WITHIN).await;
        // Looked up last: each birth that the groups tell of must be counted.
        let incarnation = known.max(self.highest_birth(peer));
        let view = context.view.now();
        let others = view.peers(context.id).filter(|other| other.0 != hello.node);
        let nodes =
            others.map(|other| NodeAddress { node: other.0, addresses: context.addresses(other) });
        Ok(GreetResponse {
            hello: Some(self.hello()),
            refused_store: String::new(),
            incarnation,
            stands_by: !context.identities.takes_part(),
            groups: settled.iter().map(group_of).collect(),
            nodes: nodes.collect(),
        })
    }

    fn was_removed(&self, peer: NodeId) -> bool {
        let topology = self.context.cluster.now();
        topology.node(peer).is_some_and(|node| node.state == NodeState::Removed)
    }

    /// The highest birth that was given to a peer by the topology, or with which it is a member of a
    /// shard here or is wanted as one. The next incarnation must be above it, so that no life from
    /// before the re-seed begins again.
    fn highest_birth(&self, peer: NodeId) -> u32 {
        let births_in = |status: &shard::Status| {
            let members = status.members.iter().filter(|member| member.node == peer);
            let is = members.map(|member| member.incarnation).max();
            let wanted = status.wanted.as_ref().and_then(|wanted| wanted.members().get(&peer));
            is.max(wanted.copied())
        };
        let board = &self.context.board;
        let given = |topology: &Topology| topology.node(peer).map_or(0, |node| node.last_birth.0);
        let given = given(&board.topology.now()).max(given(&self.context.cluster.now()));
        board.all().iter().filter_map(births_in).max().unwrap_or(0).max(given)
    }

    /// Logs a refusal, once until it changes. The audit log gets each, and sums them up.
    fn note(&self, speaker: u64, caller: &Caller, refusal: Option<&Refusal>) {
        let known = self.context.view.has(NodeId(speaker));
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if known { speaker } else { 0 };
        let Some(refusal) = refusal else {
            if refused().remove(&key).is_some() {
                tracing::info!(peer = speaker, "peer is accepted again");
            }
            return;
        };
        let reason = refusal.to_string();
        if !matches!(refusal, Refusal::Stopping(_)) {
            let event = caller.refused(reason.clone());
            self.context.audit.record(Event { operation: "greet", ..event });
        }
        let former = refused().insert(key, reason.clone());
        if former.as_ref() != Some(&reason) {
            tracing::warn!(peer = speaker, %reason, "refused a peer");
        }
    }

    /// Whether the speaker is a peer of the same setup, and the node that it has proven to be.
    fn check_setup<'a>(
        &self,
        hello: Option<&'a Hello>,
        proven: Option<NodeId>,
    ) -> Result<(NodeId, &'a Hello), Refusal> {
        let id = self.context.id;
        let Some(hello) = hello else {
            let missing = "the first frame of a stream between nodes must say hello";
            return Err(Refusal::Stranger(missing.into()));
        };
        if let Some(proven) = proven.filter(|proven| proven.0 != hello.node) {
            return Err(Refusal::Impostor { proven, said: hello.node });
        }
        if hello.protocol != PROTOCOL {
            return Err(Refusal::Stranger(format!(
                "node {} speaks protocol {}, node {id} speaks {PROTOCOL}: run the same version on both",
                hello.node, hello.protocol
            )));
        }
        if hello.fingerprint != self.context.fingerprint.0 {
            return Err(Refusal::Stranger(format!(
                "node {} differs from node {id} in settings that are fixed at creation (name, nodes, shards, replicas or \
                 placement): give both the same cluster file",
                hello.node
            )));
        }
        let peer = NodeId(hello.node);
        if peer == id {
            return Err(Refusal::Stranger(format!(
                "another process also calls itself node {peer}: start it with its own --id"
            )));
        }
        let view = &self.context.view;
        if !view.has(peer) {
            // It may have come to the cluster since, and then others know that too.
            view.hear_of(hello.topology_version, peer, &hello.address);
            let (own, its) = (view.version(), hello.topology_version);
            let next = match its > own {
                true => format!(
                    "node {id} listens to it once it knows version {its}, as that node does"
                ),
                false if self.was_removed(peer) => {
                    "it was removed: let its machine join as a new node".to_owned()
                }
                false => "give both the same cluster file".to_owned(),
            };
            return Err(Refusal::Stranger(format!(
                "node {peer} is no node of the cluster by version {own} of the topology, which node {id} knows: {next}"
            )));
        }
        // Such a peer ends with this sentence. A build of the time before levels does as well, because
        // it takes the refusal for one of its directory.
        Levels::told(hello.level_min, hello.level_max)
            .check(self.context.cluster.now().level())
            .map_err(|unknown| Refusal::Store(unknown.to_string()))?;
        // One that lost its directory knows none, and has no replica of META yet.
        let (own, its) = (self.context.generation(), hello.topology_generation.max(FIRST));
        if its < own && !hello.is_lost {
            return Err(Refusal::Stranger(format!(
                "node {peer} knows generation {its} of the topology, which was built again as \
                 generation {own}: node {id} listens to it once it has learnt that, which it does by \
                 itself"
            )));
        }
        Ok((peer, hello))
    }

    async fn record(&self, accepted: &mut Accepted) -> Result<Arc<PeerRun>, Refusal> {
        let (identities, now_ms) = (self.context.identities.clone(), self.context.clock.mono_ms());
        let (peer, claim, force) = (accepted.peer, accepted.claim.clone(), accepted.force);
        let incarnation = claim.id.incarnation;
        let run = match tokio::task::spawn_blocking(move || {
            identities.accept(peer, &claim, force, now_ms)
        })
        .await
        {
            Ok(Ok(run)) => run,
            Ok(Err(NotAccepted::Unfit(unfit))) => return Err(Refusal::Store(unfit.to_string())),
            Ok(Err(NotAccepted::Storage(error))) => {
                self.context.lifecycle.fail(error.to_string());
                return Err(Refusal::Stopping("this node stops: its disk failed".into()));
            }
            Err(error) => {
                return Err(Refusal::Stopping(format!("this node is shutting down ({error})")));
            }
        };
        self.context.host.input_all(&Input::Incarnation { node: peer, incarnation });
        accepted.run = Some(run.clone());
        Ok(run)
    }
}

/// A greeting without a directory.
pub(super) fn hello_without_directory(node: NodeId, fingerprint: Fingerprint) -> Hello {
    Hello {
        node: node.0,
        fingerprint: fingerprint.0.to_vec(),
        protocol: PROTOCOL,
        level_min: KNOWN_LEVELS.min,
        level_max: KNOWN_LEVELS.max,
        ..Hello::default()
    }
}

fn claim_of(hello: &Hello) -> Result<Claim, Refusal> {
    let id = StoreId { incarnation: hello.incarnation, store: hello.store };
    let run = |run: &StoreRun| Run { boot: run.boot, life: run.life, opened: run.opened };
    let claim = Claim { id, runs: hello.runs.iter().map(run).collect(), record: hello.record };
    if hello.is_lost || !claim.is_sound() {
        return Err(Refusal::Stranger(format!(
            "node {} does not say which data directory it comes with",
            hello.node
        )));
    }
    Ok(claim)
}

pub(super) fn seen_to_wire((node, known): (NodeId, Known)) -> StoreSeen {
    let Known { id: StoreId { incarnation, store }, boot, life, record } = known;
    StoreSeen { node: node.0, incarnation, store, boot, life, record }
}

pub(super) fn seen_from_wire(seen: StoreSeen) -> (NodeId, Known) {
    let StoreSeen { node, incarnation, store, boot, life, record } = seen;
    (NodeId(node), Known { id: StoreId { incarnation, store }, boot, life, record })
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::Stranger(reason) | Refusal::Store(reason) => {
                Status::failed_precondition(reason)
            }
            Refusal::Impostor { .. } => {
                Error::new(ErrorCode::PermissionDenied, refusal.to_string()).into()
            }
            Refusal::Stopping(reason) => Status::unavailable(reason),
        }
    }
}
