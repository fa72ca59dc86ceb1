//! The topology is built again, after its group was lost for ever: the nodes are asked, told to give
//! the group up, and given the new topology.
//!
//! * All nodes that a kept topology has must answer in each step, but those that are named as lost.
//! * Whatever fails in between, locks are served, and it can be begun anew.
//!
//! What is built, the crate `topology` decides, and what keeps two gateways from founding two groups, each
//! node (`refounding.rs` in `node`).

use super::{TOPOLOGY_BYTES_MAX, connect, said};
use crate::limits::{NODE_CONNECT_TIMEOUT, REBUILD_ASK_TIMEOUT};
use crate::router::Router;
use futures_util::future::join_all;
use routing::{META, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::timeout;
use tonic::Request;
use topology::Topology;
use topology::rebuild::{Obstacle, Rebuilt, Told, awaited, next_generation, rebuild};
use wire::internal::v1::{RefoundRequest, TellRequest};
use wire::reason;
use wire::v1::Error;

/// The nodes that have told something.
type AllTold = BTreeMap<NodeId, Told>;

/// What was built, or would be.
pub(crate) struct Built {
    pub(crate) generation: u64,
    pub(crate) rebuilt: Rebuilt,
    /// The nodes that have told something, with their addresses.
    pub(crate) answering: BTreeMap<NodeId, String>,
}

/// Builds the topology again, and founds its group, unless this is a dry run. `lost` are the nodes whose
/// data are gone for good. Once nodes give the former group up, it must not be cut off.
///
/// # Errors
/// INVALID_ARGUMENT with all obstacles, or OUTCOME_UNKNOWN if it is not known to have been founded.
pub(crate) async fn rebuild_from_nodes(
    router: &Router,
    lost: &BTreeSet<NodeId>,
    dry_run: bool,
) -> Result<Built, Box<Error>> {
    let told = ask_all(router, lost).await;
    let generation = next_generation(&told);
    let built = build(&told, lost, generation)?;
    let bytes = built.rebuilt.topology.encode().len();
    // What nodes tell once more may be a little larger.
    if bytes > TOPOLOGY_BYTES_MAX / 2 {
        return Err(Box::new(Error::invalid(format!(
            "the topology would have {bytes} bytes, which is more than nodes take: report this"
        ))));
    }
    if dry_run {
        return Ok(built);
    }
    let told = give_up(router, &told, generation).await?;
    let built = build(&told, lost, generation)?;
    refound(router, &built).await?;
    Ok(built)
}

fn build(told: &AllTold, lost: &BTreeSet<NodeId>, generation: u64) -> Result<Built, Box<Error>> {
    let wall_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rebuilt = rebuild(told, lost, generation, wall_s).map_err(|obstacles| {
        let lines: Vec<String> = obstacles.iter().map(Obstacle::to_string).collect();
        Error::invalid(format!("the topology is not built again: {}", lines.join("; ")))
    })?;
    let address = |told: &Told| told.report.told.address.clone();
    let answering = told.iter().map(|(node, told)| (*node, address(told))).collect();
    Ok(Built { generation, rebuilt, answering })
}

/// Asks all nodes that the gateway knows, and those that they tell of.
async fn ask_all(router: &Router, lost: &BTreeSet<NodeId>) -> AllTold {
    let routes = router.known.routes();
    let mut next: BTreeMap<NodeId, Option<String>> =
        routes.members().map(|(node, _)| (node, None)).collect();
    let (mut told, mut asked) = (AllTold::new(), BTreeSet::new());
    while !next.is_empty() {
        asked.extend(next.keys().copied());
        for (node, answer) in tell(router, next, 0).await {
            match answer {
                Ok(answer) => drop(told.insert(node, answer)),
                Err(why) => tracing::info!(%node, %why, "a node tells nothing of the topology"),
            }
        }
        let silent = awaited(&told, lost).into_iter().filter(|(node, _)| !asked.contains(node));
        next = silent.map(|(node, address)| (node, Some(address))).collect();
    }
    told
}

/// Has these nodes give the former group up. Returns what they tell after that.
async fn give_up(router: &Router, told: &AllTold, generation: u64) -> Result<AllTold, Box<Error>> {
    let address = |told: &Told| Some(told.report.told.address.clone());
    let nodes = told.iter().map(|(node, told)| (*node, address(told))).collect();
    let mut told = AllTold::new();
    for (node, answer) in tell(router, nodes, generation).await {
        let answer = answer.map_err(|why| {
            Error::invalid(format!(
                "node {node} has not given up the former group ({why}), so nothing was founded: run \
                 this again"
            ))
        })?;
        told.insert(node, answer);
    }
    Ok(told)
}

async fn tell(
    router: &Router,
    nodes: BTreeMap<NodeId, Option<String>>,
    gives_up_for: u64,
) -> Vec<(NodeId, Result<Told, String>)> {
    let asked = nodes.into_iter().map(|(node, address)| async move {
        let answer = async {
            let mut client = connect(router, node, address).await?;
            let request = said(router, node, TellRequest { gives_up_for });
            let answer = client.tell(request).await.map_err(|status| reason(&status))?;
            Told::decode(&answer.into_inner().told).map_err(|error| error.to_string())
        };
        let answer = timeout(NODE_CONNECT_TIMEOUT + REBUILD_ASK_TIMEOUT, answer).await;
        (node, answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
    });
    join_all(asked).await
}

/// Gives all nodes the topology. Founders must take it; the others learn of it from them as well.
async fn refound(router: &Router, built: &Built) -> Result<(), Box<Error>> {
    let topology: &Topology = &built.rebuilt.topology;
    let bytes = topology.encode();
    let founds =
        |node: &NodeId| topology.shard(META).is_some_and(|meta| meta.founders.contains_key(node));
    let (first, others): (Vec<_>, Vec<_>) =
        built.answering.iter().partition(|(node, _)| founds(node));
    for (nodes, are_founders) in [(first, true), (others, false)] {
        let told = nodes.into_iter().map(|(node, address)| {
            let (node, address, bytes) = (*node, Some(address.clone()), bytes.clone());
            async move {
                let taken = async {
                    let client = connect(router, node, address).await?;
                    let mut client = client.max_encoding_message_size(TOPOLOGY_BYTES_MAX);
                    let request: Request<_> =
                        said(router, node, RefoundRequest { topology: bytes });
                    client.refound(request).await.map_err(|status| reason(&status))
                };
                let taken = timeout(NODE_CONNECT_TIMEOUT + REBUILD_ASK_TIMEOUT, taken).await;
                (node, taken.unwrap_or_else(|_| Err("no answer in time".to_owned())))
            }
        });
        for (node, taken) in join_all(told).await {
            match taken {
                Err(why) if are_founders => {
                    return Err(Box::new(Error::outcome_unknown(format!(
                        "node {node} has not taken the topology ({why}), and its group may lack a \
                         majority: see `palisade cluster topology`, and run this again if no node \
                         tells it"
                    ))));
                }
                Err(why) => {
                    tracing::warn!(%node, %why, "a node has not taken the new topology yet")
                }
                Ok(_) => {}
            }
        }
    }
    Ok(())
}
