//! A running node: what it can be asked, and how it stops.
//!
//! A stop hands leaderships over while the node still serves. Then it takes no new operations, ends
//! the streams, ends the shard threads, and writes the jobs that they queued. After a failure the
//! node runs only the last steps, and sends nothing.

use crate::certificates::record_certificates;
use crate::context::Context;
use crate::error::NodeError;
use crate::handover::hand_over;
use crate::hosting::{Hosting, HostingError};
use crate::lifecycle::Phase;
use crate::limits::{CLOSE_MAX, LINGER, THREADS_END_MAX};
use crate::proposals::NotApplied;
use crate::{following, proposals, server};
use routing::{META, NodeId, RouteTable, ShardId};
use shard::{Input, Wanted, WantedLife};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::task::JoinSet;
use topology::{Command, Proposal, Version};

/// A running node. Dropping it stops the node without waiting; [`shutdown`](Self::shutdown) is
/// kinder.
pub struct NodeHandle {
    pub(crate) context: Arc<Context>,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) address: SocketAddr,
    pub(crate) shard_threads: Vec<JoinHandle<()>>,
    pub(crate) writer_thread: Option<JoinHandle<()>>,
    pub(crate) tasks: JoinSet<()>,
}

impl NodeHandle {
    /// The address of the socket on which the node listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of this node.
    pub fn id(&self) -> NodeId {
        self.context.id
    }

    /// Reads the files of certificates again, now. New ones are used for new connections, and files
    /// that cannot be used change nothing. This blocks on the disk.
    pub fn reload(&self) {
        if let Some(tls) = &self.context.tls {
            record_certificates(&self.context.audit, &tls.reload());
        }
    }

    /// All metrics, in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        server::metrics_text(&self.context)
    }

    /// The last published status of each replica of locks here, by shard. It lacks state hashes, and
    /// is up to a quarter second old.
    pub fn statuses(&self) -> Vec<shard::Status> {
        let mut statuses = self.context.board.all();
        statuses.retain(|status| status.shard != META);
        statuses
    }

    /// The last published status of the replica of META here, the shard of the topology.
    pub fn meta_status(&self) -> Option<shard::Status> {
        self.context.board.get(META)
    }

    /// The topology as this node knows it, and acts on. It is empty until the node has heard of the
    /// founding.
    pub fn known_topology(&self) -> Arc<topology::Topology> {
        self.context.cluster.now()
    }

    /// The topology as the replica of META here has applied it. It is empty if there is none here, or
    /// nothing was founded yet.
    pub fn applied_topology(&self) -> Arc<topology::Topology> {
        self.context.board.topology.now()
    }

    /// Proposes a change of the topology, if META is led here, and returns the version with it.
    ///
    /// # Errors
    /// [`NotApplied`], with whether the change may have been made nevertheless.
    pub async fn propose(&self, command: Command) -> Result<Version, NotApplied> {
        let wall_s = self.context.clock.now().wall_ms / 1_000;
        proposals::propose(&self.context, &Proposal::new(wall_s, command)).await
    }

    /// How many times the controller here has planned and proposed, since the start. The number
    /// rises every second or so while META is led here.
    pub fn control_rounds(&self) -> u64 {
        self.context.controller.rounds()
    }

    /// The rounds that each shard thread has finished. The number of a thread that works rises with
    /// each tick (`settings.tick_ms`), also without operations and during elections.
    pub fn rounds(&self) -> Vec<u64> {
        self.context.host.rounds()
    }

    /// If this node leads `shard`, asks it to hand leadership to `to`. The transfer may not happen:
    /// check [`Self::statuses`].
    pub fn transfer(&self, shard: ShardId, to: NodeId) {
        self.context.host.input(shard, Input::Transfer { to });
    }

    /// If this node leads `shard`, gives the group the members that it shall have. Without effect on
    /// a follower, so look at [`Self::statuses`] and try again where the leader is.
    pub fn want(&self, shard: ShardId, wanted: Wanted) {
        self.context.host.input(shard, Input::Want(wanted));
    }

    /// Hosts a replica of `shard`, and returns once it runs. The replica starts empty, and takes part
    /// once its group has taken it in ([`Self::want`]). Nothing changes if it is here already.
    ///
    /// # Errors
    /// [`HostingError`], if the life may not begin here now.
    pub async fn host(&self, shard: ShardId, wanted: WantedLife) -> Result<(), HostingError> {
        self.hosting.host(shard, wanted).await
    }

    /// Destroys the replica of `shard` with this birth, and returns once its tombstone is on disk.
    /// Its group must have removed it for good. Nothing changes if it was destroyed before.
    ///
    /// # Errors
    /// [`HostingError`], if an earlier life is here, or the node stops meanwhile.
    pub async fn unhost(&self, shard: ShardId, birth: u32) -> Result<(), HostingError> {
        self.hosting.unhost(shard, birth).await
    }

    /// Gives the node a route table, as if a peer had told it. The node takes the newer parts, answers
    /// older routes as stale, and tells its peers. Only tests do this so far, because no map is
    /// made while a cluster runs.
    pub fn take_routes(&self, routes: &RouteTable) {
        self.context.routes.take(routes, &self.context.view.now());
    }

    /// The route table as this node knows it now.
    pub fn routes(&self) -> Arc<RouteTable> {
        self.context.routes.now()
    }

    /// Returns when a fatal failure happened: the node answers nothing any more, and the process
    /// should end with this message. The future is pending while the node is well, and for ever
    /// after a shutdown.
    pub async fn wait_failed(&self) -> NodeError {
        self.context.lifecycle.until_failure().await
    }

    /// Returns when the topology says that this node is out of the cluster. The process should end
    /// with this message, after [`shutdown`](Self::shutdown).
    pub async fn wait_removed(&self) -> NodeError {
        following::removed(&self.context).await
    }

    /// Ends the node as if its process was killed: it writes, answers and hands over nothing more.
    /// Returns once no part of the node runs any more.
    pub async fn kill(self) {
        self.context.lifecycle.enter(Phase::Failed);
        let failure = self.shutdown().await;
        debug_assert!(failure.is_ok(), "{failure:?}");
    }

    /// Stops the node. It hands its leaderships over (best effort) while it still serves. Then it
    /// takes no new operations, answers those in flight, and writes the queued jobs.
    ///
    /// # Errors
    /// [`NodeError::Failed`] if the node had failed, or failed meanwhile. [`NodeError::DiskHangs`]
    /// if its threads did not end within seven seconds, because the disk does not finish a write.
    /// The process should exit then, without waiting any longer.
    pub async fn shutdown(mut self) -> Result<(), NodeError> {
        let context = self.context.clone();
        tracing::info!(node = %context.id, "node stops");
        context.lifecycle.enter(Phase::Leaving);
        tokio::select! {
            biased;
            () = context.lifecycle.reached(Phase::Failed) => {}
            () = hand_over(&context) => {}
        }
        context.lifecycle.enter(Phase::Draining);
        if !context.board.led().is_empty() {
            // Nobody took these shards over. What is in flight there ends before its stream does.
            tokio::select! {
                biased;
                () = context.lifecycle.reached(Phase::Failed) => {}
                () = tokio::time::sleep(LINGER) => {}
            }
        }
        context.lifecycle.enter(Phase::Stopped);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_MAX, ended).await.is_err() {
            tracing::debug!("connections that did not close in time are cut");
            self.tasks.shutdown().await;
        }
        let (threads, writer) =
            (std::mem::take(&mut self.shard_threads), self.writer_thread.take());
        let joined = tokio::task::spawn_blocking(move || join_threads(&context, threads, writer));
        match tokio::time::timeout(THREADS_END_MAX, joined).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the node's threads did not end well"),
            Err(_) => {
                let s = THREADS_END_MAX.as_secs();
                self.context.lifecycle.disk_hangs(format!(
                    "this node was told to stop, and its disk did not finish what was queued within {s} s; nothing that it \
                     acknowledged is lost. Look after the disk (dmesg, smartctl) before it is started again"
                ));
            }
        }
        match self.context.lifecycle.failure() {
            Some(failure) => Err(failure),
            None => {
                tracing::info!(node = %self.context.id, "node stopped");
                Ok(())
            }
        }
    }
}

impl Drop for NodeHandle {
    /// Stops the node without waiting. After [`shutdown`](Self::shutdown) there is nothing left to
    /// do.
    fn drop(&mut self) {
        self.context.lifecycle.enter(Phase::Stopped);
        self.context.host.stop();
        self.context.writer.stop();
    }
}

/// Ends the shard threads first, so that the writer still writes the last jobs that they queue.
fn join_threads(
    context: &Context,
    shard_threads: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
) {
    context.host.stop();
    for thread in shard_threads {
        // The thread's own guard has reported a panic already.
        let _ = thread.join();
    }
    context.writer.stop();
    if let Some(writer) = writer {
        let _ = writer.join();
    }
}
