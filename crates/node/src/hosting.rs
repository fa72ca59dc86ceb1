//! Replicas that come to a running node, and leave it.
//!
//! Each replica is one life of its shard on this node, with a birth that no other life here has had.
//! The steps, and what a crash after each leaves:
//!
//! ```text
//! host     1 the birth goes to disk        an empty replica, which the next start opens
//!          2 the replica is opened         the same
//!          3 it gets a seat                it takes part, and what it wrote is on disk
//!
//! unhost   1 it loses its seat             the replica, which the next start opens again
//!          2 its writes end                the same
//!          3 its data go, the tombstone    nothing, and no such life begins again
//!            comes
//! ```
//!
//! * Both can be asked for again after a crash, and change nothing if they are done.
//! * They are done one after the other. So a shard has one replica here at a time, and its next one
//!   begins only when nothing of the former one is left. A caller that goes away stops neither.
//! * A message for a life that has ended reaches no other one. Inputs of this node go to a seat,
//!   and a seat is never given again. A peer's message names the birth of the replica that it is
//!   for. Data on their way to the disk name it as well.
//!
//! * A life begins only if the topology that wants it knows this data directory
//!   ([`WantedLife::check`]).
//!
//! The module decides nothing about members: it is told which lives there shall be.

use crate::context::Context;
use crate::error::NodeError;
use crate::host::{Newcomer, Stepper, tell_failed};
use crate::rebuilt::FIRST;
use crate::recovery::Opening;
use crate::{meta, rebuilt};
use routing::{META, ShardId};
use shard::{Founders, Input, NotYet, WantedLife};
use std::sync::Arc;
use storage::{LifeRefused, StorageError};
use tokio::sync::Mutex;

/// The reason why a replica does not come or go. Nothing was changed, except by a failure.
#[derive(Debug, thiserror::Error)]
pub enum HostingError {
    /// The shard is not in the topology that this node knows.
    #[error(
        "shard {0} is not in the topology that this node knows: wait until it knows a later one"
    )]
    UnknownShard(ShardId),
    /// The data directory of this node may be an older one.
    #[error("this node takes no part yet: wait until its peers have confirmed its data directory")]
    StandsBy,
    /// The life may not begin on this data directory yet.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// META of this generation was given up here.
    #[error(
        "the group of the topology of generation {0} was given up here, because a later one is founded: wait until \
         this node knows that one"
    )]
    GivenUp(u64),
    /// The node stops.
    #[error("this node is stopping: ask again once it has started")]
    Stopping,
    /// The life may not begin or end here.
    #[error(transparent)]
    Refused(#[from] LifeRefused),
    /// The data of a replica of META cannot be used. The node serves on without it.
    #[error("{0}")]
    Unusable(String),
    /// The disk failed, or holds damaged bytes. The whole node stops.
    #[error("this node has failed: {0}")]
    Failed(String),
}

/// How META began on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It began in an earlier run, or by a wish.
    Before,
    /// With the replica of a founder.
    Founder,
    /// The founder was on a data directory that is lost. With a replica of the present directory,
    /// which META's leader takes in.
    Lost,
}

/// Brings replicas to a node and takes them from it.
pub(crate) struct Hosting {
    context: Arc<Context>,
    opening: Opening,
    one_at_a_time: Mutex<()>,
}

impl Hosting {
    pub(crate) fn new(context: Arc<Context>, opening: Opening) -> Hosting {
        Hosting { context, opening, one_at_a_time: Mutex::default() }
    }

    /// Hosts a replica of the shard, and returns once it has a seat. The call changes nothing if it is
    /// here already. The work goes on if the future is dropped.
    ///
    /// # Errors
    /// [`HostingError`]: the shard is unknown, or the life may not begin here now.
    pub(crate) async fn host(
        self: &Arc<Self>,
        shard: ShardId,
        wanted: WantedLife,
    ) -> Result<(), HostingError> {
        let hosting = self.clone();
        to_its_end(async move {
            let _one_at_a_time = hosting.one_at_a_time.lock().await;
            hosting.check_may_host()?;
            let own = hosting.context.identities.own();
            wanted.check(own.in_topology(), own.incarnation)?;
            hosting.host_now(shard, wanted.birth, wanted.generation, None).await
        })
        .await
    }

    /// Begins META of the first generation here, unless it was here before. `birth` is that of the founder on this node. The
    /// work goes on if the future is dropped.
    ///
    /// If the data directory has a higher incarnation, the founder was on a lost one: a re-seed
    /// takes a number above all that this node had in shard 0. If it has not, and no replica of
    /// META ever was in it, then the founder has never begun.
    ///
    /// # Errors
    /// [`HostingError`].
    pub(crate) async fn begin_meta(
        self: &Arc<Self>,
        founders: &Founders,
        birth: u32,
    ) -> Result<Begun, HostingError> {
        let (hosting, founders) = (self.clone(), founders.clone());
        to_its_end(async move {
            let _one_at_a_time = hosting.one_at_a_time.lock().await;
            hosting.check_may_host()?;
            let engine = hosting.context.engine.clone();
            if hosting.on_disk(move || Ok(engine.lives().contains_key(&META))).await? {
                return Ok(Begun::Before);
            }
            let incarnation = hosting.context.identities.own().incarnation;
            if incarnation <= birth {
                hosting.host_now(META, birth, FIRST, Some(founders)).await?;
                return Ok(Begun::Founder);
            }
            tracing::info!("re-seeds the replica of the topology's group: it has no vote yet");
            hosting.host_now(META, incarnation, FIRST, None).await?;
            Ok(Begun::Lost)
        })
        .await
    }

    /// Destroys the replica of the shard with this birth, and returns once its tombstone is on disk.
    /// The call changes nothing if it was destroyed before, or a later life is here. The work goes on
    /// if the future is dropped.
    ///
    /// The group must have removed the replica, and be certain not to take it in again: its votes
    /// are forgotten.
    ///
    /// # Errors
    /// [`HostingError`]: an earlier life is here, or the node stops meanwhile.
    pub(crate) async fn unhost(
        self: &Arc<Self>,
        shard: ShardId,
        birth: u32,
    ) -> Result<(), HostingError> {
        let hosting = self.clone();
        to_its_end(async move {
            let _one_at_a_time = hosting.one_at_a_time.lock().await;
            // What a copy that stands by hears of the topology may be of a time that is given up.
            if !hosting.context.identities.takes_part() {
                return Err(HostingError::StandsBy);
            }
            hosting.unhost_now(shard, birth).await
        })
        .await
    }

    /// Whether replicas may come at all.
    fn check_may_host(&self) -> Result<(), HostingError> {
        if self.context.lifecycle.leaving() {
            return Err(HostingError::Stopping);
        }
        match self.context.identities.takes_part() {
            true => Ok(()),
            false => Err(HostingError::StandsBy),
        }
    }

    /// Hosts a replica, while nothing else comes or goes. `generation` is that of the topology that
    /// wants it. `founds` are the founders of the cluster's first META, if this is the replica of one
    /// that has never begun.
    ///
    /// META does not begin while it is given up, nor after that. Otherwise a replica that has been
    /// given up could vote until it hears of that.
    async fn host_now(
        &self,
        shard: ShardId,
        birth: u32,
        generation: u64,
        founds: Option<Founders>,
    ) -> Result<(), HostingError> {
        let context = &self.context;
        let generation = generation.max(FIRST);
        let _not_given_up_meanwhile = match shard {
            META => Some(context.learning.lock().await),
            _ => None,
        };
        if shard == META {
            let engine = context.engine.clone();
            let given_up = self.on_disk(move || Ok(rebuilt::given_up_for(&*engine)?)).await?;
            if generation < given_up {
                return Err(HostingError::GivenUp(generation));
            }
        }
        let group = context.view.now().groups.get(&shard).cloned();
        let group = group.ok_or(HostingError::UnknownShard(shard))?;
        let is_seated = context.host.seat(shard).is_some();
        let (engine, opening) = (context.engine.clone(), self.opening.clone());
        let opened = self.on_disk(move || {
            if is_seated {
                // Another life than this one is refused.
                engine.host_shard(shard, birth)?;
                return Ok(Ok(None));
            }
            if shard == META {
                rebuilt::put_life(&*engine, birth, generation)?;
            }
            if let Some(founders) = founds {
                meta::found(&*engine, &founders, birth)?;
            }
            match opening.open(&*engine, (shard, birth), &group) {
                // The node serves on without META.
                Err(error) if shard == META && error.is_of_a_replica() => Ok(Err(error)),
                opened => opened.map(|replica| Ok(Some(replica))),
            }
        });
        let opened = opened.await?.map_err(|error| {
            tell_failed(&context.board, error.to_string());
            HostingError::Unusable(error.to_string())
        })?;
        let Some(replica) = opened else { return Ok(()) };
        context.metrics.admit(shard);
        context.host.admit(Newcomer { shard, replica: Box::new(replica) as Box<dyn Stepper> });
        // One that is learnt meanwhile is told to all seats.
        for (peer, store) in context.identities.known() {
            let incarnation = store.incarnation;
            context.host.input(shard, Input::Incarnation { node: peer, incarnation });
        }
        tracing::info!(%shard, birth, "a replica has come to this node");
        Ok(())
    }

    async fn unhost_now(&self, shard: ShardId, birth: u32) -> Result<(), HostingError> {
        let context = &self.context;
        let engine = context.engine.clone();
        let lives = self.on_disk(move || Ok(engine.lives().get(&shard).copied())).await?;
        let lives = lives.unwrap_or_default();
        match lives.hosted {
            Some(hosted) if hosted > birth => return Ok(()),
            Some(hosted) if hosted < birth => {
                return Err(LifeRefused::Hosted { shard, birth, hosted }.into());
            }
            None if lives.destroyed >= Some(birth) => return Ok(()),
            _ => {}
        }
        let destroyed = match context.host.retire(shard, birth) {
            Some(destroyed) => destroyed.await.map_err(|_| HostingError::Stopping),
            None => {
                let destroyed = context.writer.destroy(shard, birth).await;
                destroyed.map_err(|_| HostingError::Stopping)
            }
        };
        context.metrics.forget(shard);
        destroyed
    }

    /// Runs work that blocks on the disk. A failure of the disk is one of the node.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, HostingError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(NodeError::Storage(StorageError::Refused(refused)))) => Err(refused.into()),
            Ok(Err(error)) => {
                self.context.lifecycle.fail(error.to_string());
                Err(HostingError::Failed(error.to_string()))
            }
            Err(error) if error.is_panic() => {
                let what = NodeError::of_task("what comes to this node or leaves it", &error);
                self.context.lifecycle.fail(what.to_string());
                Err(HostingError::Failed(what.to_string()))
            }
            Err(_) => Err(HostingError::Stopping), // the runtime ends
        }
    }
}

/// Does work in a task of its own, which ends it even if the caller goes away. Otherwise the lock would
/// be free while the disk still works, and a second replica of the shard could be opened.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, HostingError>> + Send + 'static,
) -> Result<T, HostingError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(HostingError::Stopping), // the runtime ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::NodeId;

    /// Regression: a node that had given META up began it when the former group still wanted that.
    #[tokio::test]
    async fn meta_of_a_generation_that_was_given_up_does_not_begin() {
        let (context, _inbox) = crate::testing::context(NodeId(1), 10);
        context.engine.put_node_records(&[rebuilt::given_up(2)]).unwrap();
        let (settings, clock) = (routing::Settings::default(), context.clock);
        let seed = topology::Seed::of(&routing::ClusterConfig::dev(2, 2, 20_000).unwrap());
        let opening = Opening { node: NodeId(1), boot: 1, settings, clock, seed };
        let hosting = Hosting::new(context.clone(), opening);
        let refused = hosting.host_now(META, 0, FIRST, None).await.unwrap_err();
        assert!(matches!(refused, HostingError::GivenUp(FIRST)), "{refused}");
        assert!(!context.engine.lives().contains_key(&META), "nothing has begun");
    }

    /// Regression: where META had been before, the one that was founded again began nowhere. What a
    /// founder begins with was written before its life was hosted.
    #[tokio::test]
    async fn a_founder_begins_where_meta_was_destroyed() {
        let (context, _inbox) = crate::testing::context(NodeId(1), 10);
        let topology = crate::testing::built_again(&crate::testing::founded(), 2);
        let birth = topology.shard(META).unwrap().founders[&NodeId(1)].0;
        context.engine.put_node_records(&[rebuilt::given_up(2)]).unwrap();
        context.engine.put_node_records(&[rebuilt::founding(&topology)]).unwrap();
        context.engine.host_shard(META, 0).unwrap();
        context.engine.drop_shard(META, 0).unwrap();
        let (settings, clock) = (routing::Settings::default(), context.clock);
        let seed = topology::Seed::of(&routing::ClusterConfig::dev(2, 2, 20_000).unwrap());
        let opening = Opening { node: NodeId(1), boot: 1, settings, clock, seed };
        let hosting = Hosting::new(context.clone(), opening);
        hosting.host_now(META, birth, 2, None).await.unwrap();
        assert_eq!(context.engine.lives()[&META].hosted, Some(birth));
        assert!(meta::has_begun(&*context.engine, birth).unwrap());
    }
}
