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
//!   begins only when nothing of the former one is left.
//! * A message for a life that has ended reaches no other one. Inputs of this node go to a seat,
//!   and a seat is never given again. A peer's message names the birth of the replica that it is
//!   for. Data on their way to the disk name it as well.
//!
//! The module decides nothing about members: it is told which lives there shall be.

use crate::context::Context;
use crate::error::NodeError;
use crate::host::{Newcomer, Stepper, tell_failed};
use crate::meta;
use crate::recovery::Opening;
use routing::{META, ShardId};
use shard::{Founders, Input};
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

    /// Hosts a replica of the shard, and returns its birth once it has a seat. The call changes
    /// nothing if it is here already.
    ///
    /// The birth is `wanted`, or the incarnation of the data directory if that is higher. The wish
    /// is from before a re-seed then, and a life of that birth may have voted on the lost directory.
    ///
    /// # Errors
    /// [`HostingError`]: the shard is unknown, or the life may not begin here now.
    pub(crate) async fn host(&self, shard: ShardId, wanted: u32) -> Result<u32, HostingError> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        self.host_now(shard, wanted, None).await
    }

    /// Begins META here, unless it was here before. `birth` is that of the founder on this node.
    ///
    /// If the data directory has a higher incarnation, the founder was on a lost one: a re-seed
    /// takes a number above all that this node had in shard 0. If it has not, and no replica of
    /// META ever was in it, then the founder has never begun.
    ///
    /// # Errors
    /// [`HostingError`].
    pub(crate) async fn begin_meta(
        &self,
        founders: &Founders,
        birth: u32,
    ) -> Result<Begun, HostingError> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let engine = self.context.engine.clone();
        if self.on_disk(move || Ok(engine.lives().contains_key(&META))).await? {
            return Ok(Begun::Before);
        }
        if self.context.identities.own().incarnation <= birth {
            self.host_now(META, birth, Some(founders.clone())).await?;
            return Ok(Begun::Founder);
        }
        tracing::info!("re-seeds the replica of the topology's group: it has no vote yet");
        self.host_now(META, birth, None).await?;
        Ok(Begun::Lost)
    }

    /// Hosts a replica, while nothing else comes or goes. `founds` are META's founders, if this is
    /// the replica of one that has never begun.
    async fn host_now(
        &self,
        shard: ShardId,
        wanted: u32,
        founds: Option<Founders>,
    ) -> Result<u32, HostingError> {
        let context = &self.context;
        if context.lifecycle.leaving() {
            return Err(HostingError::Stopping);
        }
        if !context.identities.takes_part() {
            return Err(HostingError::StandsBy);
        }
        let group = context.view.now().groups.get(&shard).cloned();
        let group = group.ok_or(HostingError::UnknownShard(shard))?;
        let birth = wanted.max(context.identities.own().incarnation);
        let is_seated = context.host.seat(shard).is_some();
        let (engine, opening) = (context.engine.clone(), self.opening.clone());
        let opened = self.on_disk(move || {
            if is_seated {
                // Another life than this one is refused.
                engine.host_shard(shard, birth)?;
                return Ok(Ok(None));
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
        let Some(replica) = opened else { return Ok(birth) };
        context.metrics.admit(shard);
        context.host.admit(Newcomer { shard, replica: Box::new(replica) as Box<dyn Stepper> });
        // One that is learnt meanwhile is told to all seats.
        for (peer, store) in context.identities.known() {
            let incarnation = store.incarnation;
            context.host.input(shard, Input::Incarnation { node: peer, incarnation });
        }
        tracing::info!(%shard, birth, "a replica has come to this node");
        Ok(birth)
    }

    /// Destroys the replica of the shard with this birth, and returns once its tombstone is on disk.
    /// The call changes nothing if it was destroyed before, or a later life is here.
    ///
    /// The group must have removed the replica, and be certain not to take it in again: its votes
    /// are forgotten.
    ///
    /// # Errors
    /// [`HostingError`]: an earlier life is here, or the node stops meanwhile.
    pub(crate) async fn unhost(&self, shard: ShardId, birth: u32) -> Result<(), HostingError> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
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
            Err(_) => Err(HostingError::Stopping), // the runtime ends
        }
    }
}
