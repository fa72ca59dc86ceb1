//! Questions to the peers before a node is re-seeded: the next incarnation, and the silence of the
//! former one.
//!
//! The module promises an incarnation above all that a majority of each shard's replicas knows. A
//! member of a shard is known to a majority. So no two directories of a node are members under one
//! name, and clocks have no influence. The module knows nothing of the directory that will have the
//! name.

use super::connect::connect;
use super::hello::hello_without_directory;
use crate::error::NodeError;
use crate::limits::{ASK_EVERY, AWAITED_EVERY, GREET_TIMEOUT, GREETINGS_MAX, SILENCE_MAX};
use crate::peer_identities::quorum_of_others;
use futures_util::future::join_all;
use net::tls::Inside;
use routing::{Fingerprint, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{GreetRequest, Hello};
use wire::reason;

/// Asks the peers until enough have answered. `groups` holds, for each shard, the other nodes that
/// have it. `forced` re-seeds even while the former directory is in use.
///
/// # Errors
/// [`NodeError`]: the former directory is in use, or a peer is of another cluster.
pub(crate) async fn choose_incarnation(
    (node, fingerprint): (NodeId, Fingerprint),
    tls: Option<&Arc<Inside>>,
    peers: &BTreeMap<NodeId, String>,
    groups: &[BTreeSet<NodeId>],
    forced: bool,
) -> Result<u32, NodeError> {
    let hello =
        Hello { is_lost: true, force: forced, ..hello_without_directory(node, fingerprint) };
    let mut answers = Answers::default();
    let began = Instant::now();
    let (mut logged, mut enough_since) = (began, None);
    loop {
        let missing = peers.iter().filter(|(peer, _)| !answers.known.contains_key(peer));
        let asked = missing
            .map(|(peer, address)| async { (*peer, ask(tls, *peer, address, &hello).await) });
        for (peer, answer) in join_all(asked).await {
            answers.take(peer, answer);
        }
        if let Some(refused) = answers.refused.values().next()
            && began.elapsed() >= SILENCE_MAX
        {
            return Err(NodeError::Failed(format!("refused to re-seed node {node}: {refused}")));
        }
        if answers.are_enough(groups) {
            let since = *enough_since.get_or_insert_with(Instant::now);
            if answers.known.len() == peers.len() || since.elapsed() >= GREETINGS_MAX {
                let highest = answers.known.values().max().copied().unwrap_or(0);
                let exhausted = || {
                    NodeError::Config(format!(
                        "node {node} has no incarnation left: give it another id"
                    ))
                };
                return highest.checked_add(1).ok_or_else(exhausted);
            }
        } else if logged.elapsed() >= AWAITED_EVERY {
            logged = Instant::now();
            tracing::warn!(
                "before this node is re-seeded, a majority of the replicas of each of its shards must say which incarnations \
                 they know; still to come: {}",
                answers.still_to_come(peers)
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The answers of the peers so far.
///
/// * A peer is either in `known` or not. Peers in `refused` and `unheard` are asked again.
#[derive(Debug, Default)]
struct Answers {
    known: BTreeMap<NodeId, u32>,
    refused: BTreeMap<NodeId, String>,
    unheard: BTreeMap<NodeId, String>,
}

/// The answer of one peer.
#[derive(Debug)]
enum Answer {
    Known(u32),
    /// The former directory is in use.
    Refused(String),
    Unheard(String),
}

impl Answers {
    fn take(&mut self, peer: NodeId, answer: Answer) {
        self.refused.remove(&peer);
        self.unheard.remove(&peer);
        match answer {
            Answer::Known(incarnation) => drop(self.known.insert(peer, incarnation)),
            Answer::Refused(reason) => drop(self.refused.insert(peer, reason)),
            Answer::Unheard(reason) => drop(self.unheard.insert(peer, reason)),
        }
    }

    /// Whether no peer hears of the former directory, and a majority of each shard has answered.
    fn are_enough(&self, groups: &[BTreeSet<NodeId>]) -> bool {
        let asked = |group: &BTreeSet<NodeId>| {
            group.iter().filter(|peer| self.known.contains_key(peer)).count()
        };
        self.refused.is_empty()
            && groups.iter().all(|group| asked(group) >= quorum_of_others(group.len()))
    }

    fn still_to_come(&self, peers: &BTreeMap<NodeId, String>) -> String {
        let missing = peers.keys().filter(|peer| !self.known.contains_key(peer));
        let why = |peer: &NodeId| {
            self.unheard.get(peer).or(self.refused.get(peer)).cloned().unwrap_or_default()
        };
        missing.map(|peer| format!("node {peer} ({})", why(peer))).collect::<Vec<_>>().join(", ")
    }
}

async fn ask(tls: Option<&Arc<Inside>>, peer: NodeId, address: &str, hello: &Hello) -> Answer {
    let channel = match connect(tls, peer, address).await {
        Ok(channel) => channel,
        Err(error) => return Answer::Unheard(error.to_string()),
    };
    let mut client = PeerServiceClient::new(channel);
    match tokio::time::timeout(
        GREET_TIMEOUT,
        client.greet(GreetRequest { hello: Some(hello.clone()) }),
    )
    .await
    {
        Ok(Ok(greeting)) => {
            let greeting = greeting.into_inner();
            match greeting.refused_store.is_empty() {
                true => Answer::Known(greeting.incarnation),
                false => Answer::Refused(greeting.refused_store),
            }
        }
        Ok(Err(status)) => Answer::Unheard(reason(&status)),
        Err(_) => {
            Answer::Unheard(format!("no answer within {} s", Duration::as_secs(&GREET_TIMEOUT)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_each_shard_answers_and_nobody_hears_of_the_former_one() {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let groups = [nodes(&[2, 3, 4, 5]), nodes(&[5, 6])];
        let mut answers = Answers::default();
        for (peer, is_enough) in [(2, false), (5, false), (6, false), (4, true)] {
            answers.take(NodeId(peer), Answer::Unheard("down".into()));
            assert!(!answers.are_enough(&groups));
            answers.take(NodeId(peer), Answer::Known(peer as u32));
            assert_eq!(answers.are_enough(&groups), is_enough, "after node {peer}");
        }
        answers.take(NodeId(3), Answer::Refused("it lives".into()));
        assert!(!answers.are_enough(&groups));
        answers.take(NodeId(3), Answer::Unheard("down".into()));
        assert!(answers.are_enough(&groups), "it may have gone since");
        assert!(Answers::default().are_enough(&[]), "a node without peers asks nobody");
    }
}
