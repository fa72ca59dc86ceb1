//! Starting a node: it claims the store, recovers every hosted shard, starts the threads, and opens
//! the sockets last. So no peer is heard before every part is ready.

use crate::beginning::{Around, beginning};
use crate::board::Board;
use crate::certificates::{accepted, record_certificates};
use crate::clock::Clock;
use crate::context::Context;
use crate::disk::{DiskWatch, Watched, Watcher, keep_sizes, read_sizes};
use crate::error::NodeError;
use crate::following;
use crate::founding::begin_meta;
use crate::guard::Guard;
use crate::handle::NodeHandle;
use crate::host::{Host, InboxEnd, Newcomer, Worker, WorkerParts, shard_threads};
use crate::hosting::Hosting;
use crate::joining::Joiner;
use crate::levels;
use crate::lifecycle::{Lifecycle, Phase, StopsOnDrop};
use crate::limits::{HISTORY_READS_MAX, PREVIEWS_AT_ONCE, PROPOSALS_AT_ONCE};
use crate::metrics::Metrics;
use crate::peer_identities::{FirstStart, PeerIdentities};
use crate::recovery::{Opened, Opening, begin_new_terms, groups_of, hosted_shards};
use crate::refusals::say_refusals;
use crate::routes::KnownRoutes;
use crate::seeds::find_peers;
use crate::service::Shards;
use crate::taking_part::{keep_identities, take_part};
use crate::topology_copy::TopologyCopy;
use crate::transport::{Greeter, Outboxes, Peers, SnapshotQueue, keep_links, send_snapshots};
use crate::view::{KnownView, View};
use crate::writer::{LogWriter, Report};
use crate::{control, draining, members, placement, reports, retention, server};
use audit::{Audit, Event, Kind};
use net::tls::Inside;
use routing::{ClusterConfig, META, Member, NodeConfig, NodeId, RouteTable};
use shard::Input;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{Engine, Identity};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use topology::{NodeTold, Seed, Topology};
use wire::internal::v1::ClusterIdentity;

/// The parts and settings that a node starts with.
pub struct NodeOptions {
    /// The cluster file. The peers' addresses in it must be the real ones.
    pub cluster: ClusterConfig,
    /// The node that this process runs.
    pub id: NodeId,
    /// This node, if the cluster file does not have it. It joins the cluster at its first start.
    pub joins: Option<NodeConfig>,
    /// Addresses of further nodes as `host:port`, for a node that joins, is re-seeded, or does not find
    /// its peers: the cluster file may have none of the present ones.
    pub seeds: Vec<String>,
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
            seeds,
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
        levels::check(&topology)?;
        // The topology takes one directory for an id. So there is no former one that peers could know.
        let joins = joins.is_some() && topology.node(id).is_none();
        let first_start = if joins { first_start.of_joiner() } else { first_start };
        let mut view = match topology.is_founded() {
            true => View::of_topology(&topology),
            false => file.clone(),
        };
        if first_start.puts_back() {
            // Nodes and addresses stay known until META says what they are by now.
            (topology, view.version) = (Topology::default(), 0);
        }
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
        let identity = ClusterIdentity::new(fingerprint.0, cluster.cluster.clone(), cluster.shards);
        let beginning = {
            let around = Around { view: &view, seeds: &seeds, identity: &identity };
            beginning(&engine, first_start, named, tls.as_ref(), around, clock).await?
        };
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
                    following::forget(&*engine)?;
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
        let told = reports::told(id, identities.claim(), &me);
        if joins {
            let listed = cluster.nodes.iter().map(|node| (node.id, node.address.clone())).collect();
            let (told, identity) = (told.clone(), identity.clone());
            let joiner = Joiner { told, identity, tls: tls.as_ref(), listed, seeds: &seeds };
            let joined = joiner.join().await;
            topology = joined.map_err(|reason| NodeError::NotJoined { node: Some(id), reason })?;
            levels::check(&topology)?;
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
            view: KnownView::beginning(&file, view),
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
            previews: Arc::new(Semaphore::new(PREVIEWS_AT_ONCE)),
            history_reads: Semaphore::new(HISTORY_READS_MAX),
            zone: me.zone.clone(),
            learning: Default::default(),
            refounding: Default::default(),
            heard_generation: Default::default(),
        });

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
        if !seeds.is_empty() {
            handle.spawn_until_leaving(find_peers(context.clone(), seeds));
        }
        handle.spawn_until_leaving(following::follow(context.clone()));
        handle.spawn_until_leaving(members::give_wishes(context.clone()));
        handle.spawn_until_leaving(levels::keep_level(context.clone()));
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
        handle.spawn_until_leaving(draining::lead_nothing_when_drained(context.clone()));
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
            Arc::new(Shards::new(context.clone(), election)),
            Arc::new(Peers::new(context.clone(), greeter, outboxes)),
        );
        handle.tasks.spawn(server::serve(listener, context.clone(), shards, peers));
        tracing::info!(node = %id, %address, "node serves");
        context.audit.record(Event::of(Kind::Started));
        Ok(handle)
    }
}

impl NodeHandle {
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
