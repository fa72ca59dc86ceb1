//! Questions to the peers before a node is re-seeded: the next incarnation, the shards that want a
//! replica here, and the silence of the former directory.
//!
//! The module promises an incarnation above each birth with which a former replica of this node may
//! have voted, in the shards that want one here ([`shard::lost_directory`]). It is also the second
//! of wall time if that is higher, because births of the topology are seconds, too. A clock that is
//! wrong costs numbers and nothing else. The module knows nothing of the directory that will have
//! the name.

use super::answers::told_of;
use super::connect::connect;
use super::hello::hello_without_directory;
use crate::clock::Clock;
use crate::error::NodeError;
use crate::limits::{ASK_EVERY, AWAITED_EVERY, GREET_TIMEOUT, GREETINGS_MAX, SILENCE_MAX};
use crate::peer_identities::Beginning;
use crate::view::View;
use futures_util::future::join_all;
use net::tls::Inside;
use routing::{Fingerprint, META, NodeId};
use shard::lost_directory::{Answer, Answers};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{GreetRequest, GreetResponse, Hello};
use wire::reason;

/// Asks the peers until enough have answered: those of the cluster file, and those that they tell of.
/// `forced` re-seeds even while the former directory is in use.
///
/// # Errors
/// [`NodeError`]: the former directory is in use, or a peer is of another cluster.
pub(crate) async fn choose_incarnation(
    (node, fingerprint): (NodeId, Fingerprint),
    tls: Option<&Arc<Inside>>,
    file: &View,
    clock: Clock,
    forced: bool,
) -> Result<Beginning, NodeError> {
    let hello =
        Hello { is_lost: true, force: forced, ..hello_without_directory(node, fingerprint) };
    let mut peers: BTreeMap<NodeId, BTreeSet<String>> =
        file.peers(node).map(|peer| (peer, [file.nodes[&peer].address.clone()].into())).collect();
    // META begins once it is founded (`founding.rs`). Whether it is, the peers tell.
    let of_locks = file.shards_of(node).filter(|shard| *shard != META);
    let listed = of_locks.map(|shard| (shard, file.others_of(shard, node))).collect();
    let mut answers = Answers::new(node, peers.keys().copied().collect(), listed);
    let began = Instant::now();
    let (mut logged, mut enough_since) = (began, None);
    loop {
        let asked = peers
            .iter()
            .map(|(peer, addresses)| async { (*peer, ask(tls, *peer, addresses, &hello).await) });
        for (peer, (answer, told)) in join_all(asked).await {
            answers.take(peer, answer);
            // A node that lost its directory has the cluster file of the beginning.
            for (peer, addresses) in told.into_iter().filter(|(peer, _)| *peer != node) {
                peers.entry(peer).or_default().extend(addresses);
            }
        }
        if let Some(refused) = answers.refusal()
            && began.elapsed() >= SILENCE_MAX
        {
            return Err(NodeError::Failed(format!("refused to re-seed node {node}: {refused}")));
        }
        if answers.are_enough() {
            let since = *enough_since.get_or_insert_with(Instant::now);
            if answers.has_all(peers.keys()) || since.elapsed() >= GREETINGS_MAX {
                let wall_s = clock.now().wall_ms / 1_000;
                let incarnation = next_incarnation(answers.highest(), wall_s);
                let exhausted = || {
                    NodeError::Config(format!(
                        "node {node} has no incarnation left: give it another id"
                    ))
                };
                let shards = answers.begins();
                return Ok(Beginning { incarnation: incarnation.ok_or_else(exhausted)?, shards });
            }
        } else if logged.elapsed() >= AWAITED_EVERY {
            logged = Instant::now();
            tracing::warn!(
                "before this node is re-seeded, a majority of the replicas of each of its shards must say what they know of \
                 it: start the nodes that are still to come. If the data of a majority are lost, no re-seed helps. Still to \
                 come: {}",
                answers.still_to_come()
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The incarnation after the highest number that is known of a node. `None` once all are used up.
fn next_incarnation(highest: u32, wall_s: u64) -> Option<u32> {
    // A second past 32 bits (the year 2106) is no incarnation, and counting on is one.
    Some(highest.checked_add(1)?.max(u32::try_from(wall_s).unwrap_or(0)))
}

/// The addresses of nodes that a peer tells of.
type Nodes = Vec<(NodeId, Vec<String>)>;

/// Asks a peer at the first of its addresses at which it answers.
async fn ask(
    tls: Option<&Arc<Inside>>,
    peer: NodeId,
    addresses: &BTreeSet<String>,
    hello: &Hello,
) -> (Answer, Nodes) {
    let mut unheard = Vec::new();
    for address in addresses {
        match ask_at(tls, peer, address, hello).await {
            Ok(answer) => return answer,
            Err(reason) => unheard.push(reason),
        }
    }
    let reason =
        if unheard.is_empty() { "its address is not known".into() } else { unheard.join(", ") };
    (Answer::Unheard(reason), Nodes::new())
}

async fn ask_at(
    tls: Option<&Arc<Inside>>,
    peer: NodeId,
    address: &str,
    hello: &Hello,
) -> Result<(Answer, Nodes), String> {
    let channel = connect(tls, peer, address).await.map_err(|error| error.to_string())?;
    let mut client = PeerServiceClient::new(channel);
    let greeting = client.greet(GreetRequest { hello: Some(hello.clone()) });
    let greeting = tokio::time::timeout(GREET_TIMEOUT, greeting)
        .await
        .map_err(|_| format!("no answer within {} s", Duration::as_secs(&GREET_TIMEOUT)))?;
    let greeting: GreetResponse = greeting.map_err(|status| reason(&status))?.into_inner();
    if !greeting.refused_store.is_empty() {
        return Ok((Answer::Refused(greeting.refused_store), Nodes::new()));
    }
    let speaker = greeting.hello.as_ref().map_or(0, |hello| hello.node);
    if speaker != peer.0 {
        return Err(format!("node {speaker} answers at {address}"));
    }
    let nodes = greeting.nodes.iter().map(|node| (NodeId(node.node), node.addresses.clone()));
    let nodes = nodes.collect();
    Ok((Answer::Told(told_of(greeting)), nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Incarnations counted 1, 2, 3, and births by seconds. So a re-seed of which the topology had not
    /// heard took a lower number than a birth that was given before it.
    #[test]
    fn an_incarnation_is_the_second_of_wall_time_or_the_next_number() {
        let now = 1_764_547_200;
        assert_eq!(next_incarnation(0, now), Some(1_764_547_200));
        assert_eq!(next_incarnation(1_764_547_199, now), Some(1_764_547_200));
        assert_eq!(next_incarnation(1_764_547_200, now), Some(1_764_547_201), "the same second");
        assert_eq!(next_incarnation(2_000_000_000, now), Some(2_000_000_001), "a slow clock");
        assert_eq!(next_incarnation(7, 0), Some(8), "a clock before 1970");
        assert_eq!(next_incarnation(7, 1 << 33), Some(8), "a clock past 2106");
        assert_eq!(next_incarnation(u32::MAX, now), None);
    }
}
