//! Who is speaking: the first thing said on every stream between nodes.

use crate::limits::PROTOCOL;
use routing::{Fingerprint, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use tonic::Status;
use wire::v1::Hello;

/// What this node says of itself, and whom it listens to.
#[derive(Debug)]
pub(crate) struct Greeter {
    id: NodeId,
    fingerprint: Fingerprint,
    peers: BTreeSet<NodeId>,
    /// The last refusal logged for each peer (0: those who are none), so that each is logged once per change.
    refused: Mutex<BTreeMap<u64, String>>,
}

impl Greeter {
    pub(crate) fn new(id: NodeId, fingerprint: Fingerprint, peers: impl IntoIterator<Item = NodeId>) -> Self {
        Greeter { id, fingerprint, peers: peers.into_iter().collect(), refused: Mutex::default() }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello { node: self.id.0, fingerprint: self.fingerprint.0.to_vec(), protocol: PROTOCOL }
    }

    /// The peer that says this.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with what to change; logged here.
    pub(crate) fn check(&self, hello: Option<&Hello>) -> Result<NodeId, Status> {
        let speaker = hello.map_or(0, |hello| hello.node);
        let known = self.peers.contains(&NodeId(speaker));
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if known { speaker } else { 0 };
        match self.judge(hello) {
            Ok(peer) => {
                if refused.remove(&key).is_some() {
                    tracing::info!(%peer, "peer is accepted again");
                }
                Ok(peer)
            }
            Err(reason) => {
                if refused.get(&key) != Some(&reason) {
                    tracing::warn!(peer = speaker, %reason, "refused a peer");
                    refused.insert(key, reason.clone());
                }
                Err(Status::failed_precondition(reason))
            }
        }
    }

    fn judge(&self, hello: Option<&Hello>) -> Result<NodeId, String> {
        let Some(hello) = hello else {
            return Err("the first frame of a stream between nodes must say hello".into());
        };
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "node {} speaks protocol {}, node {} speaks {PROTOCOL}: run the same version on both",
                hello.node, hello.protocol, self.id
            ));
        }
        if hello.fingerprint != self.fingerprint.0 {
            return Err(format!(
                "node {} has other cluster-frozen settings than node {} (name, nodes, shards, replicas or placement): give \
                 both the same cluster file",
                hello.node, self.id
            ));
        }
        let peer = NodeId(hello.node);
        if peer == self.id {
            return Err(format!("another process also calls itself node {peer}: start it with its own --id"));
        }
        if !self.peers.contains(&peer) {
            return Err(format!(
                "node {peer} shares no shard with node {} by its cluster file: give both the same one",
                self.id
            ));
        }
        Ok(peer)
    }
}
