//! Starting and stopping a node.
//!
//! A start claims the store, recovers every hosted shard, starts the threads, and opens the sockets
//! last. So no peer is heard before every part is ready.
//!
//! A stop hands leaderships over while the node still serves. Then it takes no new operations, ends
//! the streams, ends the shard threads, and writes the jobs that they queued. After a failure the
//! node runs only the last steps, and sends nothing.

use crate::beginning::beginning;
use crate::board::Board;
use crate::certificates::{accepted, record_certificates};
use crate::clock::Clock;
use crate::context::Context;
use crate::disk::{DiskWatch, Watched, Watcher, keep_sizes, read_sizes};
use crate::error::NodeError;
use crate::following;
use crate::founding::begin_meta;
use crate::guard::Guard;
use crate::handover::hand_over;
use crate::host::{Host, InboxEnd, Newcomer, Worker, WorkerParts, shard_threads};
use crate::hosting::{Hosting, HostingError, WantedLife};
use crate::joining::Joiner;
use crate::lifecycle::{Lifecycle, Phase, StopsOnDrop};
use crate::limits::{CLOSE_MAX, HISTORY_READS_MAX, LINGER, PROPOSALS_AT_ONCE, THREADS_END_MAX};
use crate::metrics::Metrics;
use crate::peer_identities::{FirstStart, PeerIdentities};
use crate::proposals::NotApplied;
use crate::recovery::{Opened, Opening, begin_new_terms, groups_of, hosted_shards};
use crate::refusals::say_refusals;
use crate::routes::KnownRoutes;
use crate::service::Shards;
use crate::taking_part::{keep_identities, take_part};
use crate::topology_copy::TopologyCopy;
use crate::transport::{Greeter, Outboxes, Peers, SnapshotQueue, keep_links, send_snapshots};
use crate::view::{KnownView, View};
use crate::writer::{LogWriter, Report};
use crate::{control, members, placement, proposals, reports, retention, server};
use audit::{Audit, Event, Kind};
use net::tls::Inside;
use routing::{ClusterConfig, META, Member, NodeConfig, NodeId, RouteTable, ShardId};
use shard::{Input, Wanted};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use storage::{Engine, Identity};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use topology::{Command, NodeTold, Proposal, Seed, Version};
use wire::internal::v1::ClusterIdentity;

/// The parts and settings that a node starts with.
pub struct NodeOptions {
    /// The cluster file. The peers' addresses in it must be the real ones.
    pub cluster: ClusterConfig,
    /// The node that this process runs.
    pub id: NodeId,
    /// This node, if the cluster file does not have it. It joins the cluster at its first start.
    pub joins: Option<NodeConfig>,
    /// The node's store. No other process may write to it while the node runs.
    pub engine: Arc<dyn Engine>,
    /// TLS between nodes and gateways, with this node's certificate. Needed if the cluster file has
    /// it.
    pub tls: Option<Arc<Inside>>,
    /// The way to start if the store is empty, or a copy.
    pub first_start: FirstStart,
    /// A file outside of the store that remembers how far the store was. With it, an older copy is
    /// refused where no peer knows better.
    pub guard_file: Option<PathBuf>,
    /// Serves on this socket instead of binding the node's address: for tests and `dev`, which need
    /// port 0.
    pub listener: Option<std::net::TcpListener>,
    /// Serves `/metrics` on this socket instead of binding the node's metrics address.
    pub metrics_listener: Option<std::net::TcpListener>,
    /// The audit log.
    pub audit: Audit,
    /// Whether the node serves other machines without TLS. Its status tells it.
    pub insecure: bool,
    /// Whether replicas come and go here by [`NodeHandle::host`] and [`NodeHandle::unhost`] alone, and
    /// not as the topology says. For tests of single steps.
    pub by_hand: bool,
}

/// The entry point to this crate: see [`Node::start`].
pub struct Node;

impl Node {
    /// Starts a node and returns once it serves. Call it inside a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// [`NodeError`] if any part cannot start. No thread or task is left running in that case.
    pub async fn start(options: NodeOptions) -> Result<NodeHandle, NodeError> {
        let NodeOptions {
            cluster,
            id,
            joins,
            engine,
            tls,
            first_start,
            guard_file,
            listener,
            metrics_listener,
            audit,
            insecure,
            by_hand,
        } = options;
        let me = cluster.node(id).or(joins.as_ref()).cloned().ok_or_else(|| {
            let known: Vec<String> = cluster.nodes.iter().map(|node| node.id.to_string()).collect();
            NodeError::Config(format!(
                "the cluster file has no node {id}: choose one of {}",
                known.join(", ")
            ))
        })?;
        // Without this check a program that forgets the files would serve in the clear.
        if cluster.tls.as_ref().is_some_and(|tls| tls.inside.is_some()) && tls.is_none() {
            return Err(NodeError::NoTls);
        }
        let fingerprint = cluster.fingerprint();
        let file = View::of(&cluster);
        let (mut topology, lives) = following::recall(engine.clone(), fingerprint).await?;
        // The topology takes one directory for an id. So there is no former one that peers could know.
        let joins = joins.is_some() && topology.node(id).is_none();
        let first_start = if joins { first_start.of_joiner() } else { first_start };
        let mut view = match topology.is_founded() {
            true => View::of_topology(&topology),
            false => file.clone(),
        };
        let settings = &cluster.settings;
        let clock = Clock::start();

        let listener = server::listen(listener, &me.address).await?;
        let address = server::local_address(&listener, &me.address)?;
        let metrics_listener = match (metrics_listener, &me.metrics) {
            (None, None) => None,
            (bound, configured) => {
                Some(server::listen(bound, configured.as_deref().unwrap_or("metrics")).await?)
            }
        };

        let named = (id, fingerprint);
        let beginning = beginning(&engine, first_start, named, tls.as_ref(), &view, clock).await?;
        // Once the topology is known, further replicas come by it.
        let listed = beginning.shards.iter().copied().filter(|_| !topology.is_founded());
        let hosted = hosted_shards(listed, &lives, &view);
        let of_locks = hosted.iter().filter(|shard| **shard != META).count();
        let peers: BTreeSet<NodeId> = view.peers(id).collect();
        let groups: Vec<BTreeSet<NodeId>> =
            hosted.iter().map(|shard| view.others_of(*shard, id)).collect();
        let metrics = Metrics::new(hosted.iter().copied(), peers.iter().copied())
            .map_err(|error| NodeError::Config(format!("metrics cannot be set up: {error}")))?;
        let lifecycle = Arc::new(Lifecycle::new());
        // An early return ends the thread that watches the disk.
        let mut unless_started = StopsOnDrop(Some(lifecycle.clone()));
        let (host, inboxes) =
            Host::new(&hosted, shard_threads(settings, of_locks), settings.queue_ops_max);
        let (host, metrics, disk) =
            (Arc::new(host), Arc::new(metrics), Arc::new(DiskWatch::new(clock)));
        let engine: Arc<dyn Engine> = Arc::new(Watched { inner: engine, disk: disk.clone() });
        Watcher {
            disk: disk.clone(),
            engine: engine.clone(),
            host: host.clone(),
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
            settings: settings.clone(),
        }
        .start()
        .map_err(|error| NodeError::Thread(error.to_string()))?;
        let (identities, opening, opened) = {
            let identity = Identity { fingerprint: fingerprint.0, node: id.0 };
            let (engine, settings, disk) = (engine.clone(), settings.clone(), disk.clone());
            let (view, hosted) = (view.clone(), hosted.clone());
            let seed = Seed::of(&cluster);
            let guard = guard_file.map(|path| Guard::new(path, &identity));
            let opened = tokio::task::spawn_blocking(move || {
                engine.measure_syncs(&|| ())?.into_iter().for_each(|took| disk.synced(took));
                let (mut identities, boot) = PeerIdentities::open(
                    engine.clone(),
                    &identity,
                    &peers,
                    groups,
                    first_start,
                    &beginning,
                    guard,
                )?;
                let incarnation = identities.own().incarnation;
                tracing::info!(node = %id, boot, incarnation, shards = hosted.len(), "recovering");
                if first_start.puts_back() {
                    // The terms come first. Without new terms, the replicas must not continue as if
                    // these directories had been put back.
                    begin_new_terms(&*engine, &hosted)?;
                    identities.keep()?;
                }
                let opening = Opening { node: id, boot, settings, clock, seed };
                let opened = opening.open_all(&*engine, &hosted, &view, incarnation)?;
                // Their own logs know the members better than the cluster file does.
                identities.set_groups(groups_of(&opened.replicas, id));
                Ok::<_, NodeError>((Arc::new(identities), opening, opened))
            });
            tokio::select! {
                opened = opened => opened.map_err(|error| NodeError::of_task("the recovery of the replicas", &error))??,
                failure = lifecycle.until_failure() => return Err(failure),
            }
        };
        let identity = ClusterIdentity::new(fingerprint.0, cluster.cluster.clone(), cluster.shards);
        let told = reports::told(id, identities.claim(), &me);
        if joins {
            let seeds = cluster.nodes.iter().map(|node| (node.id, node.address.clone())).collect();
            let joiner =
                Joiner { told: told.clone(), identity: identity.clone(), tls: tls.as_ref(), seeds };
            topology =
                joiner.join().await.map_err(|reason| NodeError::NotJoined { node: id, reason })?;
            following::keep(&engine, &topology).await?;
            view = View::of_topology(&topology);
        }
        if let Some(removed) = following::removal(&topology, id) {
            return Err(removed);
        }
        following::say_if_file_is_former(&file, &view);

        let report: Report = {
            let host = host.clone();
            Box::new(move |thread, persisted| host.persisted(thread, persisted))
        };
        let (writer, writer_thread) = LogWriter::start(
            engine.clone(),
            host.threads(),
            report,
            lifecycle.clone(),
            metrics.clone(),
            disk.clone(),
        )
        .map_err(|error| NodeError::Thread(error.to_string()))?;
        let context = Arc::new(Context {
            id,
            fingerprint,
            identity: ClusterIdentity { node: id.0, ..identity },
            routes: KnownRoutes::new(
                RouteTable::of(&cluster).with_nodes([(id, Member::from(&me))]),
                id,
                identities.claim().address_version(),
            ),
            tls: tls.clone(),
            accepted: Arc::new(accepted(audit.clone())),
            audit,
            insecure,
            needs_principal: cluster.access.is_some(),
            cluster: TopologyCopy::new(topology),
            view: KnownView::new(file),
            host,
            writer,
            disk,
            engine,
            identities,
            lifecycle,
            metrics,
            board: Arc::new(Board::new(hosted)),
            clock,
            moves: crate::moves::Moves::default(),
            controller: Default::default(),
            proposals: Semaphore::new(PROPOSALS_AT_ONCE),
            history_reads: Semaphore::new(HISTORY_READS_MAX),
        });

        context.view.replace(view);
        context.routes.follow(&context.view.now());
        let outboxes = Arc::new(Outboxes::new(context.view.now().peers(id)));
        let (snapshots, snapshot_jobs) = SnapshotQueue::new();
        let mut handle = NodeHandle {
            hosting: Arc::new(Hosting::new(context.clone(), opening)),
            context: context.clone(),
            address,
            shard_threads: Vec::new(),
            writer_thread: Some(writer_thread),
            tasks: JoinSet::new(),
        };
        // From here on an early return drops the handle, which ends everything that was started.
        unless_started.0 = None;
        handle.start_shard_threads(inboxes, opened, settings.tick_ms, &outboxes, &snapshots)?;
        for (peer, store) in context.identities.known() {
            let incarnation = store.incarnation;
            context.host.input_all(&Input::Incarnation { node: peer, incarnation });
        }
        let greeter = Arc::new(Greeter::new(context.clone()));
        handle.tasks.spawn(keep_links(context.clone(), greeter.clone(), outboxes.clone()));
        handle.tasks.spawn(send_snapshots(context.clone(), greeter.clone(), snapshot_jobs));
        handle.spawn_until_leaving(take_part(context.clone()));
        handle.spawn_until_leaving(following::follow(context.clone()));
        handle.spawn_until_leaving(members::give_wishes(context.clone()));
        if !by_hand {
            let hosting = handle.hosting.clone();
            handle.spawn_until_leaving(members::keep_members(context.clone(), hosting));
        }
        handle.tasks.spawn(keep_identities(context.clone()));
        if let Some(tls) = tls {
            let context = context.clone();
            handle.spawn_until_leaving(async move {
                tls.watch(|outcome| record_certificates(&context.audit, outcome)).await;
            });
        }
        handle.spawn_until_leaving(say_refusals(context.clone()));
        // Before the first scrape, which would otherwise show a disk of 0 bytes.
        read_sizes(&context.disk, &context.engine).await;
        handle.spawn_until_leaving(keep_sizes(context.disk.clone(), context.engine.clone()));
        handle.spawn_until_leaving(begin_meta(context.clone(), handle.hosting.clone()));
        handle.spawn_until_leaving(placement::place_leaders(context.clone()));
        handle.spawn_until_leaving(control::control(context.clone()));
        let told = NodeTold { address: context.routes.own_address().to_owned(), ..told };
        handle.spawn_until_leaving(reports::report(context.clone(), told));
        handle.spawn_until_leaving(retention::drop_old_history(
            context.clone(),
            settings.history_days,
        ));
        if let Some(listener) = metrics_listener {
            handle.tasks.spawn(server::serve_metrics(listener, context.clone()));
        }
        let election = Duration::from_millis(settings.tick_ms * settings.election_ticks as u64);
        let (shards, peers) = (
            Shards::new(context.clone(), election),
            Peers::new(context.clone(), greeter, outboxes),
        );
        handle.tasks.spawn(server::serve(listener, context.clone(), shards, peers));
        tracing::info!(node = %id, %address, "node serves");
        context.audit.record(Event::of(Kind::Started));
        Ok(handle)
    }
}

/// A running node. Dropping it stops the node without waiting; [`shutdown`](Self::shutdown) is
/// kinder.
pub struct NodeHandle {
    context: Arc<Context>,
    hosting: Arc<Hosting>,
    address: SocketAddr,
    shard_threads: Vec<JoinHandle<()>>,
    writer_thread: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
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

    fn start_shard_threads(
        &mut self,
        inboxes: Vec<InboxEnd>,
        mut opened: Opened,
        tick_ms: u64,
        outboxes: &Arc<Outboxes>,
        snapshots: &SnapshotQueue,
    ) -> Result<(), NodeError> {
        let context = &self.context;
        for (thread, inbox) in inboxes.into_iter().enumerate() {
            let take = |shard| Newcomer { shard, replica: opened.take(shard, &context.board) };
            let worker = Worker::new(WorkerParts {
                thread,
                inbox,
                replicas: context.host.shards_of(thread).into_iter().map(take).collect(),
                clock: context.clock,
                tick_ms,
                writer: context.writer.clone(),
                outboxes: outboxes.clone(),
                snapshots: snapshots.clone(),
                lifecycle: context.lifecycle.clone(),
                metrics: context.metrics.clone(),
                board: context.board.clone(),
            });
            let name = format!("shards-{thread}");
            let run = {
                let name = name.clone();
                move || worker.run(&name)
            };
            let started = std::thread::Builder::new().name(name).spawn(run);
            self.shard_threads.push(started.map_err(|error| NodeError::Thread(error.to_string()))?);
        }
        Ok(())
    }

    fn spawn_until_leaving(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.context.lifecycle.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = lifecycle.reached(Phase::Leaving) => {}
                () = work => {}
            }
        });
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
