//! Greetings: the first message between nodes, both ways, and on every stream. They name the node
//! that speaks.

use crate::context::Context;
use crate::limits::PROTOCOL;
use crate::lineage::{Claim, Known, Run, StoreId};
use crate::peer_identities::{Live, NotAccepted, Standing};
use routing::{Fingerprint, NodeId};
use shard::Input;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;
use wire::internal::v1::{GreetResponse, Hello, StoreRun, StoreSeen};

/// Makes this node's greetings, and judges those of its peers.
pub(crate) struct Greeter {
    context: Arc<Context>,
    /// The last refusal logged for each peer, so that each is logged once per change. Key 0 stands
    /// for callers that are no peers.
    refused: Mutex<BTreeMap<u64, String>>,
}

/// A peer with a fit directory.
///
/// * Until there is a `live`, this node remembers nothing of the run that speaks, and does not
///   listen to it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) peer: NodeId,
    pub(crate) is_copy: bool,
    force: bool,
    claim: Claim,
    pub(crate) live: Option<Arc<Live>>,
}

/// The reason why a caller is refused, with the change that would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The caller is no peer, or is set up differently.
    #[error("{0}")]
    Stranger(String),
    /// The caller is a peer with another or an older data directory than this node knows of, and
    /// must stop.
    #[error("{0}")]
    Store(String),
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
            address: self.context.topology.own_address().to_owned(),
            map_version: self.context.topology.now().map().version().0,
            is_copy: identities.is_copy(),
            force: identities.is_forced(),
            stands_by: !identities.takes_part() && identities.standing() != Standing::New,
            ..nameless(self.context.id, self.context.fingerprint)
        }
    }

    /// Judges the peer that sends this greeting. If the peer takes part, the run of its data
    /// directory is on disk here before this returns. Its incarnation is then known to the shards
    /// shared with it.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn check(&self, hello: Option<Hello>) -> Result<Accepted, Refusal> {
        let speaker = hello.as_ref().map_or(0, |hello| hello.node);
        let judged = match self
            .judge(hello.as_ref())
            .and_then(|(peer, hello)| Ok((peer, hello, claim_of(hello)?)))
        {
            Ok((peer, hello, claim)) => {
                let mut accepted = Accepted {
                    peer,
                    is_copy: hello.is_copy,
                    force: hello.force,
                    claim,
                    live: None,
                };
                match self.is_known(&accepted) {
                    Ok(true) if hello.stands_by => Ok(accepted),
                    Ok(_) => self.accept(&mut accepted).await.map(|_| accepted),
                    Err(refusal) => Err(refusal),
                }
            }
            Err(reason) => Err(Refusal::Stranger(reason)),
        };
        self.note(speaker, judged.as_ref().err());
        if let (Ok(accepted), Some(hello)) = (&judged, &hello) {
            let version = accepted.claim.address_version();
            self.context.topology.announced(accepted.peer, &hello.address, version);
        }
        judged
    }

    /// Accepts the run that speaks, with its latest record on disk. The run is remembered from here
    /// on.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn listen_to(
        &self,
        accepted: &mut Accepted,
        record: u64,
    ) -> Result<Arc<Live>, Refusal> {
        if let Some(live) = &accepted.live {
            return Ok(live.clone());
        }
        accepted.claim.record = record;
        let live = self.accept(accepted).await;
        self.note(accepted.peer.0, live.as_ref().err());
        live
    }

    fn is_known(&self, accepted: &Accepted) -> Result<bool, Refusal> {
        let now_ms = self.context.clock.mono_ms();
        let judged =
            self.context.identities.judge(accepted.peer, &accepted.claim, accepted.force, now_ms);
        judged.map_err(|unfit| Refusal::Store(unfit.to_string()))
    }

    /// The knowledge of this node about a peer that has lost its directory.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) fn check_lost(&self, hello: &Hello) -> Result<GreetResponse, Refusal> {
        let judged = match self.judge(Some(hello)) {
            Ok((peer, _)) => {
                let known = self.context.identities.lost_by(
                    peer,
                    hello.force,
                    self.context.clock.mono_ms(),
                );
                known
                    .map(|known| known.max(self.member_of(peer)))
                    .map_err(|alive| Refusal::Store(alive.to_string()))
            }
            Err(reason) => Err(Refusal::Stranger(reason)),
        };
        self.note(hello.node, judged.as_ref().err());
        judged.map(|incarnation| GreetResponse {
            hello: Some(self.hello()),
            incarnation,
            ..GreetResponse::default()
        })
    }

    /// The highest incarnation of a peer that is a member of a shard here.
    fn member_of(&self, peer: NodeId) -> u32 {
        let statuses = self.context.board.all();
        let members = statuses.iter().flat_map(|status| &status.members);
        members
            .filter(|member| member.node == peer)
            .map(|member| member.incarnation)
            .max()
            .unwrap_or(0)
    }

    /// Logs a refusal, once until it changes.
    fn note(&self, speaker: u64, refusal: Option<&Refusal>) {
        let known = self.context.peers.contains_key(&NodeId(speaker));
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if known { speaker } else { 0 };
        let Some(refusal) = refusal else {
            if refused().remove(&key).is_some() {
                tracing::info!(peer = speaker, "peer is accepted again");
            }
            return;
        };
        let reason = refusal.to_string();
        let former = refused().insert(key, reason.clone());
        if former.as_ref() != Some(&reason) {
            tracing::warn!(peer = speaker, %reason, "refused a peer");
        }
    }

    /// Checks the greeting, except for the checks that need the disk.
    fn judge<'a>(&self, hello: Option<&'a Hello>) -> Result<(NodeId, &'a Hello), String> {
        let id = self.context.id;
        let Some(hello) = hello else {
            return Err("the first frame of a stream between nodes must say hello".into());
        };
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "node {} speaks protocol {}, node {id} speaks {PROTOCOL}: run the same version on both",
                hello.node, hello.protocol
            ));
        }
        if hello.fingerprint != self.context.fingerprint.0 {
            return Err(format!(
                "node {} has other cluster-frozen settings than node {id} (name, nodes, shards, replicas or placement): give \
                 both the same cluster file",
                hello.node
            ));
        }
        let peer = NodeId(hello.node);
        if peer == id {
            return Err(format!(
                "another process also calls itself node {peer}: start it with its own --id"
            ));
        }
        if !self.context.peers.contains_key(&peer) {
            return Err(format!(
                "node {peer} shares no shard with node {id} by its cluster file: give both the same one"
            ));
        }
        Ok((peer, hello))
    }

    async fn accept(&self, accepted: &mut Accepted) -> Result<Arc<Live>, Refusal> {
        let (identities, now_ms) = (self.context.identities.clone(), self.context.clock.mono_ms());
        let (peer, claim, force) = (accepted.peer, accepted.claim.clone(), accepted.force);
        let incarnation = claim.id.incarnation;
        let live = match tokio::task::spawn_blocking(move || {
            identities.accept(peer, &claim, force, now_ms)
        })
        .await
        {
            Ok(Ok(live)) => live,
            Ok(Err(NotAccepted::Unfit(unfit))) => return Err(Refusal::Store(unfit.to_string())),
            Ok(Err(NotAccepted::Storage(error))) => {
                self.context.lifecycle.fail(error.to_string());
                return Err(Refusal::Stopping("this node stops: its disk failed".into()));
            }
            Err(error) => {
                return Err(Refusal::Stopping(format!("this node is shutting down ({error})")));
            }
        };
        self.context.host.input_shared(peer, &Input::Incarnation { node: peer, incarnation });
        accepted.live = Some(live.clone());
        Ok(live)
    }
}

/// A greeting without a directory.
pub(super) fn nameless(node: NodeId, fingerprint: Fingerprint) -> Hello {
    Hello {
        node: node.0,
        fingerprint: fingerprint.0.to_vec(),
        protocol: PROTOCOL,
        ..Hello::default()
    }
}

fn claim_of(hello: &Hello) -> Result<Claim, String> {
    let id = StoreId { incarnation: hello.incarnation, store: hello.store };
    let run = |run: &StoreRun| Run { boot: run.boot, life: run.life, opened: run.opened };
    let claim = Claim { id, runs: hello.runs.iter().map(run).collect(), record: hello.record };
    if hello.is_lost || !claim.is_sound() {
        return Err(format!("node {} does not say which data directory it comes with", hello.node));
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
            Refusal::Stopping(reason) => Status::unavailable(reason),
        }
    }
}
