//! Who is speaking: the first thing said between nodes, both ways, and on every stream.

use crate::context::Context;
use crate::limits::PROTOCOL;
use crate::stores::{NotAccepted, StoreId};
use routing::NodeId;
use shard::Input;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;
use wire::v1::Hello;

/// What this node says of itself, and whom it listens to.
pub(crate) struct Greeter {
    context: Arc<Context>,
    /// The last refusal logged for each peer (0: those who are none), so that each is logged once per change.
    refused: Mutex<BTreeMap<u64, String>>,
}

/// Why somebody is not listened to. Says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is no peer, or set up differently.
    #[error("{0}")]
    Stranger(String),
    /// It is a peer with another data directory than is known of it, and must stop.
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
        let StoreId { incarnation, store } = self.context.stores.own();
        let (node, fingerprint) = (self.context.id.0, self.context.fingerprint.0.to_vec());
        let address = self.context.addresses.own().to_owned();
        Hello { node, fingerprint, protocol: PROTOCOL, incarnation, store, address }
    }

    /// The peer that says this. The data directory that it comes with is on disk here, and known to the shards shared with
    /// it, before this returns.
    ///
    /// # Errors
    /// [`Refusal`], logged here.
    pub(crate) async fn check(&self, hello: Option<Hello>) -> Result<NodeId, Refusal> {
        let speaker = hello.as_ref().map_or(0, |hello| hello.node);
        let address = hello.as_ref().map(|hello| hello.address.clone()).unwrap_or_default();
        let judged = match self.judge(hello.as_ref()) {
            Ok((peer, came_with)) => self.accept(peer, came_with).await.map(|()| peer),
            Err(reason) => Err(Refusal::Stranger(reason)),
        };
        let known = self.context.peers.contains_key(&NodeId(speaker));
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if known { speaker } else { 0 };
        match &judged {
            Ok(peer) => {
                self.context.addresses.learn(*peer, &address);
                if refused.remove(&key).is_some() {
                    tracing::info!(%peer, "peer is accepted again");
                }
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                if refused.get(&key) != Some(&reason) {
                    tracing::warn!(peer = speaker, %reason, "refused a peer");
                    refused.insert(key, reason);
                }
            }
        }
        judged
    }

    /// Everything but what the disk must be asked for.
    fn judge(&self, hello: Option<&Hello>) -> Result<(NodeId, StoreId), String> {
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
            return Err(format!("another process also calls itself node {peer}: start it with its own --id"));
        }
        if !self.context.peers.contains_key(&peer) {
            return Err(format!(
                "node {peer} shares no shard with node {id} by its cluster file: give both the same one"
            ));
        }
        Ok((peer, StoreId { incarnation: hello.incarnation, store: hello.store }))
    }

    async fn accept(&self, peer: NodeId, came_with: StoreId) -> Result<(), Refusal> {
        let stores = self.context.stores.clone();
        match tokio::task::spawn_blocking(move || stores.accept(peer, came_with)).await {
            Ok(Ok(())) => {}
            Ok(Err(NotAccepted::Other(reason))) => return Err(Refusal::Store(reason)),
            Ok(Err(NotAccepted::Storage(error))) => {
                self.context.lifecycle.fail(error.to_string());
                return Err(Refusal::Stopping("this node stops: its disk failed".into()));
            }
            Err(error) => return Err(Refusal::Stopping(format!("this node is shutting down ({error})"))),
        }
        let incarnation = came_with.incarnation;
        self.context.host.input_shared(peer, &Input::Incarnation { node: peer, incarnation });
        Ok(())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::Stranger(reason) | Refusal::Store(reason) => Status::failed_precondition(reason),
            Refusal::Stopping(reason) => Status::unavailable(reason),
        }
    }
}
