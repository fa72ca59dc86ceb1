//! META, founded again after a majority of its directories was lost. An operator orders it, and a
//! gateway drives it:
//!
//! ```text
//! 1 tell      each node tells what it knows: its last topology, and the members of its groups
//! 2 give up   each node ends its replica of META for good, and tells once more
//! 3 refound   each node takes the topology that was built; its founders begin META with it
//! ```
//!
//! * A node gives META up once for a generation. So of two gateways that do this at a time at most one
//!   gets through, because it needs all nodes.
//! * What is given up is on disk first, so a start of the node does not bring it back.
//! * If it stops after step 2, META stays away and locks are served. It can be begun anew, with the
//!   next generation.
//!
//! The module knows nothing of how a topology is built ([`topology::rebuild`]).

use crate::board::Board;
use crate::context::Context;
use crate::following;
use crate::limits::GENERATIONS_MAX;
use crate::roles::Caller;
use crate::{rebuilt, reports};
use routing::{META, NodeConfig, NodeId};
use shard::TopologyNews;
use std::sync::Arc;
use storage::{Engine, StorageError};
use tonic::Status;
use topology::rebuild::Told;
use topology::{Birth, Topology};
use wire::internal::v1::{RefoundRequest, RefoundResponse, TellRequest, TellResponse};

/// Tells what this node knows. Before that, gives META up for a generation if the caller wants that.
///
/// # Errors
/// A status: META has a leader, was given up for this generation before, or the node does not take
/// part yet.
pub(crate) async fn tell(
    context: &Arc<Context>,
    caller: &Caller,
    request: TellRequest,
) -> Result<TellResponse, Status> {
    if !context.identities.takes_part() {
        return Err(Status::unavailable("this node takes no part yet: start the other nodes"));
    }
    if request.gives_up_for > 0 {
        tracing::info!(generation = request.gives_up_for, %caller, "is told to give META up");
        give_up(context, request.gives_up_for).await?;
    }
    let engine = context.engine.clone();
    let read =
        move || Ok::<_, StorageError>((rebuilt::given_up_for(&*engine)?, last_birth(&*engine)));
    let (given_up, last_birth) = on_disk(context, read).await?;
    let claim = context.identities.claim();
    let me = NodeConfig {
        id: context.id,
        address: context.routes.own_address().to_owned(),
        metrics: None,
        zone: context.zone.clone(),
    };
    let told = reports::told_of(context.id, claim.id.in_topology(), claim.address_version(), &me);
    let report = reports::report_now(&context.board, &told, context.clock.mono_ms());
    let order = |topology: &Topology| (topology.cluster().generation, topology.version());
    let known = [context.cluster.now(), context.board.topology.now()];
    let kept = known.into_iter().max_by_key(|one| order(one)).expect("two were compared");
    let generation = kept.cluster().generation.max(given_up);
    let leader = leader(&context.board);
    let incarnation = Birth(claim.id.incarnation);
    let last_birth = last_birth.max(incarnation);
    let told = Told { report, kept: Topology::clone(&kept), generation, leader, last_birth };
    Ok(TellResponse { told: told.encode() })
}

/// The leader of META, as the replica here hears. One without a vote, or that has failed, hears
/// nothing.
fn leader(board: &Board) -> Option<NodeId> {
    let status = board.get(META).filter(shard::Status::hears_its_group);
    status.filter(|_| board.meta_failure().is_none()).and_then(|status| status.leader)
}

/// The highest birth of all replicas that this directory ever had.
fn last_birth(engine: &dyn Engine) -> Birth {
    let lives = engine.lives().into_values();
    Birth(lives.flat_map(|lives| [lives.hosted, lives.destroyed]).flatten().max().unwrap_or(0))
}

/// Ends META's replica here for good, so that a group of this generation can be founded.
async fn give_up(context: &Arc<Context>, generation: u64) -> Result<(), Status> {
    let _one_at_a_time = context.refounding.lock().await;
    // META neither begins here meanwhile, nor is it given up by a topology that is learnt.
    let _unchanged = context.learning.lock().await;
    if let Some(leader) = leader(&context.board) {
        return Err(Status::failed_precondition(format!(
            "the group of the topology has a leader, node {leader}, so it is not lost"
        )));
    }
    let known = context.cluster.now().cluster().generation;
    let engine = context.engine.clone();
    let put = move || {
        let before = rebuilt::given_up_for(&*engine)?.max(known);
        if before < generation && generation <= before.saturating_add(GENERATIONS_MAX) {
            engine.put_node_records(&[rebuilt::given_up(generation)])?;
        }
        Ok::<_, StorageError>(before)
    };
    let before = on_disk(context, put).await?;
    if generation > before.saturating_add(GENERATIONS_MAX) {
        return Err(Status::invalid_argument(format!(
            "generation {generation} is far above {before}, which this node knows: ask again with the next one"
        )));
    }
    if before >= generation {
        return Err(Status::failed_precondition(format!(
            "generation {before} of the topology was begun already: run this once more"
        )));
    }
    tracing::warn!(
        generation,
        "gives the group of the topology up, so that it can be founded again"
    );
    let why = format!("given up, because generation {generation} of the topology is founded");
    if let Some(ended) = context.host.end_meta(why) {
        ended.await.map_err(|_| Status::unavailable("this node is shutting down"))?;
    }
    Ok(())
}

/// Takes a topology that was built again. A founder of its META begins that.
///
/// # Errors
/// A status: it is of another cluster, or this node has not given up the generations before it.
pub(crate) async fn refound(
    context: &Arc<Context>,
    caller: &Caller,
    request: RefoundRequest,
) -> Result<RefoundResponse, Status> {
    let _one_at_a_time = context.refounding.lock().await;
    let topology = Topology::decode(&request.topology)
        .map_err(|error| Status::invalid_argument(format!("the topology is damaged: {error}")))?;
    let generation = topology.cluster().generation;
    if topology.cluster().id != context.fingerprint.0 {
        return Err(Status::failed_precondition("this is the topology of another cluster"));
    }
    if *context.cluster.now() == topology {
        return Ok(RefoundResponse {}); // it was told before
    }
    let engine = context.engine.clone();
    let given_up = on_disk(context, move || rebuilt::given_up_for(&*engine)).await?;
    if given_up != generation {
        return Err(Status::failed_precondition(format!(
            "this node has given up what was before generation {given_up}, and not before \
             {generation}: run this once more"
        )));
    }
    tracing::warn!(generation, version = %topology.version(), %caller, "takes a topology that was built again");
    following::learn(context, TopologyNews::All(Box::new(topology)))
        .await
        .map_err(|error| Status::failed_precondition(error.to_string()))?;
    Ok(RefoundResponse {})
}

/// Runs work that blocks on the disk. A failure of the disk is one of the node.
async fn on_disk<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            context.lifecycle.fail(error.to_string());
            Err(Status::unavailable("this node stops, because its disk failed"))
        }
        Err(_) => Err(Status::unavailable("this node is shutting down")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{built_again, context, founded};
    use tonic::Code;

    fn all(topology: &Topology) -> TopologyNews {
        TopologyNews::All(Box::new(topology.clone()))
    }

    #[tokio::test]
    async fn a_node_gives_up_once_for_a_generation_and_takes_its_topology_alone() {
        let (context, _inbox) = context(NodeId(1), 10);
        following::learn(&context, all(&founded())).await.unwrap();
        let second = built_again(&founded(), 2);
        let request = |topology: &Topology| RefoundRequest { topology: topology.encode() };
        let early = refound(&context, &Caller::default(), request(&second)).await.unwrap_err();
        assert_eq!(early.code(), Code::FailedPrecondition, "it gave nothing up: {early}");
        give_up(&context, 2).await.unwrap();
        let again = give_up(&context, 2).await.unwrap_err();
        assert!(again.message().contains("run this once more"), "{again}");
        assert_eq!(context.generation(), 1, "nothing was founded yet");

        let third = built_again(&founded(), 3);
        let other = refound(&context, &Caller::default(), request(&third)).await.unwrap_err();
        assert_eq!(other.code(), Code::FailedPrecondition, "{other}");
        refound(&context, &Caller::default(), request(&second)).await.unwrap();
        refound(&context, &Caller::default(), request(&second)).await.expect("it was told before");
        assert_eq!((context.generation(), &*context.cluster.now()), (2, &second));
        let (node, birth) = second.shard(META).unwrap().founders.first_key_value().unwrap();
        let kept = rebuilt::founds(&*context.engine, *node, birth.0).unwrap();
        assert_eq!(kept.is_some(), *node == context.id);
    }

    /// The former group goes on where nobody hears it, and counts further than the new one.
    #[tokio::test]
    async fn a_topology_of_a_former_generation_is_never_taken() {
        let (context, _inbox) = context(NodeId(1), 10);
        let (second, third) = (built_again(&founded(), 2), built_again(&founded(), 3));
        let further = built_again(&second, 2);
        assert!(further.version() > third.version());
        following::learn(&context, all(&third)).await.unwrap();
        assert_eq!(rebuilt::given_up_for(&*context.engine).unwrap(), 3);
        following::learn(&context, all(&further)).await.unwrap();
        assert_eq!(*context.cluster.now(), third);
    }

    /// Regression: the highest number of two that came at a time was not what was left.
    #[tokio::test]
    async fn what_was_given_up_never_falls() {
        let (context, _inbox) = context(NodeId(1), 10);
        following::learn(&context, all(&founded())).await.unwrap();
        give_up(&context, 3).await.unwrap();
        following::learn(&context, all(&built_again(&founded(), 2))).await.unwrap();
        assert_eq!(rebuilt::given_up_for(&*context.engine).unwrap(), 3);
        let far = give_up(&context, u64::MAX).await.unwrap_err();
        assert_eq!(far.code(), Code::InvalidArgument, "{far}");
        assert_eq!(rebuilt::given_up_for(&*context.engine).unwrap(), 3);
    }

    /// Regression: a founder that learnt the topology by its watch kept nothing to found META with.
    #[tokio::test]
    async fn a_founder_founds_whichever_way_it_learns() {
        let second = built_again(&founded(), 2);
        let (node, birth) = second.shard(META).unwrap().founders.first_key_value().unwrap();
        let (context, _inbox) = context(*node, 10);
        following::learn(&context, all(&second)).await.unwrap();
        let kept = rebuilt::founds(&*context.engine, *node, birth.0).unwrap();
        assert_eq!(kept.as_ref(), Some(&second));
    }
}
