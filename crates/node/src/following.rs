//! How this node learns of the topology, and keeps what it knows.
//!
//! ```text
//! META's replica here, with leader and vote ──┐    disk    view    context.cluster
//! another node's TopologyService.Watch ───────┴──►  1  ───► 2 ───►       3
//! ```
//!
//! * Nodes, members and settings are on disk before anything acts on them. So a cluster whose nodes
//!   all start at once needs nobody to tell them which replicas they have. Preferred leaders and
//!   the progress of jobs change often, and are written with the next change of the rest: until
//!   META tells them again, nothing is missed.
//! * Only a later version of the same cluster is taken. A replica of META that lags takes nothing
//!   back.
//! * A node whose replica of META has no leader, or no vote, watches another node as well. Such a
//!   replica may have been removed from its group, and is not told so.
//! * One other node is watched at a time. After a failure the next one is, and after a silence,
//!   which may be that of a node that does not learn any more.
//!
//! The module knows nothing of what follows from a topology, beyond its view.

use crate::context::Context;
use crate::error::NodeError;
use crate::limits::{
    FOLLOW_LOOK_EVERY, FOLLOW_PAUSE, FOLLOW_SILENCE_MAX, GREET_TIMEOUT, TOPOLOGY_BYTES_MAX,
};
use crate::rebuilt;
use crate::topology_copy::Unfit;
use crate::transport::{NotConnected, connect, take_view};
use crate::view::{Group, Later, View};
use routing::{Fingerprint, META, NodeId, ShardId};
use shard::TopologyNews;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Engine, Lives, StorageError};
use tonic::{Request, Streaming};
use topology::{DecodeError, Delta, NodeState, Shard, Topology};
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::topology_service_watch_response::Change;
use wire::internal::v1::{
    ClusterIdentity, TopologyServiceWatchRequest, TopologyServiceWatchResponse,
};
use wire::reason;

/// Key of the record of the last topology that this node knew.
const RECORD: &[u8] = b"topology";

/// The topology that this data directory has, or version 0, and the lives that it tells of.
///
/// # Errors
/// [`NodeError`] if the disk fails, or the record is damaged.
pub(crate) async fn recall(
    engine: Arc<dyn Engine>,
    of: Fingerprint,
) -> Result<(Topology, BTreeMap<ShardId, Lives>), NodeError> {
    let read = tokio::task::spawn_blocking(move || Ok((read(&*engine, of)?, engine.lives())));
    read.await.map_err(|error| NodeError::of_task("the reading of the topology", &error))?
}

/// Keeps a topology in this data directory, before anything acts on it.
///
/// # Errors
/// [`NodeError`] if the disk fails.
pub(crate) async fn keep(engine: &Arc<dyn Engine>, topology: &Topology) -> Result<(), NodeError> {
    let (engine, bytes) = (engine.clone(), topology.encode());
    let kept =
        tokio::task::spawn_blocking(move || engine.put_node_records(&[(RECORD.to_vec(), bytes)]));
    let kept = kept.await;
    Ok(kept.map_err(|error| NodeError::of_task("the keeping of the topology", &error))??)
}

/// Forgets the topology of this data directory. Copies of directories go on from what their groups
/// have, and that may be before the topology that one of them knew: by that one, replicas would be
/// destroyed that are members again. Blocks on the disk.
///
/// # Errors
/// [`StorageError`] if the disk fails.
pub(crate) fn forget(engine: &dyn Engine) -> Result<(), StorageError> {
    engine.put_node_records(&[(RECORD.to_vec(), Vec::new())])
}

/// Blocks on the disk.
fn read(engine: &dyn Engine, of: Fingerprint) -> Result<Topology, StorageError> {
    let Some(bytes) = engine.node_record(RECORD)?.filter(|bytes| !bytes.is_empty()) else {
        return Ok(Topology::default());
    };
    let damaged = |error: DecodeError| {
        StorageError::Damaged(format!("the record of the cluster's topology: {error}"))
    };
    let topology = Topology::decode(&bytes).map_err(damaged)?;
    // A directory of another cluster is refused when it is claimed, with more words.
    Ok(if topology.cluster().id == of.0 { topology } else { Topology::default() })
}

/// The reason why this node must not run, if the topology has removed it.
pub(crate) fn removal(topology: &Topology, id: NodeId) -> Option<NodeError> {
    let is_removed = topology.node(id).is_some_and(|node| node.state == NodeState::Removed);
    is_removed.then(|| NodeError::Removed { node: id, version: topology.version() })
}

/// Returns the reason why this node must not run once the topology has removed it.
pub(crate) async fn removed(context: &Context) -> NodeError {
    let is_removed = |topology: &Topology| removal(topology, context.id).is_some();
    let topology = context.cluster.once(is_removed).await;
    removal(&topology, context.id).expect("it was just removed")
}

/// Says that the cluster file describes the beginning, if the topology has moved on from it.
pub(crate) fn say_if_file_is_former(file: &View, now: &View) {
    let nodes = |view: &View| view.nodes.keys().copied().collect::<BTreeSet<NodeId>>();
    let has_other_members = |(shard, group): (&ShardId, &Group)| {
        now.groups.get(shard).is_none_or(|now| now.nodes != group.nodes)
    };
    if nodes(file) != nodes(now) || file.groups.iter().any(has_other_members) {
        tracing::info!(
            version = now.version,
            "the nodes or members of the cluster file are those of the beginning; this node goes on with the topology"
        );
    }
}

/// News that are not learnt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLearnt {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("it has the topology of another cluster")]
    OtherCluster,
    /// The disk failed, and the node stops.
    #[error("this node stops")]
    Stopping,
}

/// Follows the topology until the future is dropped.
pub(crate) async fn follow(context: Arc<Context>) {
    let follower = Follower { context };
    tokio::join!(follower.follow_meta(), follower.follow_others());
}

struct Follower {
    context: Arc<Context>,
}

/// Takes what is later in the news: to the disk, and then into use.
///
/// With a topology that was built again, all former groups of META are given up. A founder of the new
/// one keeps what it founds META with, whichever way that topology comes.
///
/// # Errors
/// [`NotLearnt`]. Then nothing was taken.
pub(crate) async fn learn(context: &Arc<Context>, news: TopologyNews) -> Result<(), NotLearnt> {
    let _one_at_a_time = context.learning.lock().await;
    let known = context.cluster.now();
    let Some(next) = context.cluster.after(&news)? else { return Ok(()) };
    if next.cluster().id != context.fingerprint.0 {
        return Err(NotLearnt::OtherCluster);
    }
    let generation = next.cluster().generation;
    let is_built_again = generation > known.cluster().generation.max(rebuilt::FIRST);
    let mut records = Vec::new();
    if must_be_kept(&known, &next) {
        records.push((RECORD.to_vec(), next.encode()));
    }
    let founds = next.shard(META).is_some_and(|meta| meta.founders.contains_key(&context.id));
    if is_built_again && founds {
        records.push(rebuilt::founding(&next));
    }
    let engine = context.engine.clone();
    let kept = tokio::task::spawn_blocking(move || {
        if is_built_again {
            let latest = rebuilt::given_up_for(&*engine)?.max(generation);
            records.push(rebuilt::given_up(latest));
        }
        if records.is_empty() {
            return Ok(false);
        }
        engine.put_node_records(&records)?;
        let meta = engine.lives().get(&META).and_then(|meta| meta.hosted);
        meta.map_or(Ok(false), |birth| rebuilt::is_given_up(&*engine, birth))
    });
    let ends = match kept.await {
        Ok(Ok(is_given_up)) => is_given_up,
        Ok(Err(error)) => {
            context.lifecycle.fail(error.to_string());
            return Err(NotLearnt::Stopping);
        }
        Err(_) => return Err(NotLearnt::Stopping), // the runtime ends
    };
    if ends && is_built_again {
        tracing::warn!(generation, "the topology was built again: its former group is given up");
        let why = format!("of a group before generation {generation} of the topology");
        if let Some(ended) = context.host.end_meta(why) {
            let _ = ended.await; // it has ended, or the node stops
        }
    }
    take_view(context, View::of_topology(&next)).await;
    if let Some(removed) = removal(&next, context.id)
        && removal(&known, context.id).is_none()
    {
        tracing::error!("{removed}");
    }
    context.cluster.put(next, news);
    Ok(())
}

impl Follower {
    async fn learn(&self, news: TopologyNews) -> Result<(), NotLearnt> {
        learn(&self.context, news).await
    }

    /// Learns what META's replica here applies.
    async fn follow_meta(&self) {
        let (applied, known) = (&self.context.board.topology, &self.context.cluster);
        loop {
            applied.later_than(known.now().version()).await;
            let Some(news) = applied.since(known.now().version()) else { continue };
            if let Err(error) = self.learn(news).await {
                tracing::error!(reason = %error, "what META's replica tells of the topology is not taken");
                tokio::time::sleep(FOLLOW_PAUSE.1).await;
            }
        }
    }

    /// Watches other nodes, one at a time, while META's replica here does not tell what they know.
    async fn follow_others(&self) {
        if self.context.host.seat(META).is_some() {
            tokio::time::sleep(FOLLOW_LOOK_EVERY).await; // it has no leader at first
        }
        let mut turns = Turns::default();
        loop {
            if self.is_told_by_meta(&turns) {
                tokio::time::sleep(FOLLOW_LOOK_EVERY).await;
                continue;
            }
            let (sources, of_meta) = sources(&self.context.view.now(), self.context.id);
            turns.turn %= sources.len().max(1);
            let listed = sources.get(turns.turn).copied();
            let ahead = self.ahead(&turns);
            let Some(source) = ahead.as_ref().map(|later| later.node).or(listed) else {
                tokio::time::sleep(FOLLOW_LOOK_EVERY).await; // this is the only node
                continue;
            };
            let mut addresses = self.context.addresses(source);
            addresses.splice(0..0, ahead.iter().map(|later| later.address.clone()));
            addresses.retain(|address| !address.is_empty());
            turns.asked = ahead.or(turns.asked);
            let began = Instant::now();
            let ended = self.watch_at(source, &addresses, &turns).await;
            tracing::debug!(node = %source, reason = %ended, "does not watch this node any more");
            turns.end(&ended, began.elapsed() >= FOLLOW_LOOK_EVERY, of_meta);
            if turns.failures > 0 && turns.failures as usize == sources.len() {
                let version = self.context.cluster.now().version();
                tracing::warn!(
                    %version, reason = %ended,
                    "no other node tells the topology now; this one goes on with the version that it knows, and tries on"
                );
            }
            tokio::time::sleep(turns.pause().mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    /// Whether META's replica here tells what there is to know.
    fn is_told_by_meta(&self, turns: &Turns) -> bool {
        self.context.board.get(META).is_some_and(|status| status.hears_its_group())
            && self.ahead(turns).is_none()
    }

    /// A node that says it knows more, unless it was asked since.
    fn ahead(&self, turns: &Turns) -> Option<Later> {
        self.context.view.later().filter(|later| turns.asked.as_ref() != Some(later))
    }

    /// Watches a node at the first of its addresses at which it answers.
    async fn watch_at(&self, node: NodeId, addresses: &[String], turns: &Turns) -> Ended {
        let mut first = None;
        for address in addresses {
            match self.ask(node, address, turns.asks_all).await {
                Ok(changes) => {
                    return self.watch(changes, turns).await.unwrap_or_else(Ended::Failed);
                }
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        Ended::Unreachable(first.unwrap_or(Failed::NoAddress))
    }

    async fn ask(
        &self,
        node: NodeId,
        address: &str,
        asks_all: bool,
    ) -> Result<Streaming<TopologyServiceWatchResponse>, Failed> {
        let channel = connect(self.context.tls.as_ref(), node, address).await?;
        let known = self.context.cluster.now().version();
        let version = if asks_all { 0 } else { known.0 };
        let mut request = Request::new(TopologyServiceWatchRequest { version });
        let meant = ClusterIdentity { node: node.0, ..self.context.identity.clone() };
        meant.put(request.metadata_mut());
        let mut client =
            TopologyServiceClient::new(channel).max_decoding_message_size(TOPOLOGY_BYTES_MAX);
        let answer = tokio::time::timeout(GREET_TIMEOUT, client.watch(request)).await;
        Ok(answer.map_err(|_| Failed::NoAnswer)?.map_err(Box::new)?.into_inner())
    }

    /// Learns what a node tells, until another source is better.
    async fn watch(
        &self,
        mut changes: Streaming<TopologyServiceWatchResponse>,
        turns: &Turns,
    ) -> Result<Ended, Failed> {
        let mut looks = tokio::time::interval(FOLLOW_LOOK_EVERY);
        let mut is_behind = false;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                change = changes.message() => {
                    let Some(change) = change.map_err(Box::new)? else { return Ok(Ended::Closed) };
                    heard = Instant::now();
                    if let Some(news) = news_of(change)? {
                        self.learn(news).await?;
                    }
                }
                _ = looks.tick() => {
                    if self.is_told_by_meta(turns) {
                        return Ok(Ended::NotNeeded);
                    }
                    if heard.elapsed() >= FOLLOW_SILENCE_MAX {
                        return Ok(Ended::Silent);
                    }
                    // It is given one more look to tell what the other node knows.
                    let was_behind = std::mem::replace(&mut is_behind, self.ahead(turns).is_some());
                    if was_behind && is_behind {
                        return Ok(Ended::Behind);
                    }
                }
            }
        }
    }
}

/// Whether the later of two topologies must be on disk before it is used. `known` is on disk, apart
/// from what need not be.
fn must_be_kept(known: &Topology, next: &Topology) -> bool {
    let without_preference = |shard: &Shard| Shard { preference: None, ..shard.clone() };
    let is_same = |id: &ShardId, shard: &Shard| {
        let known = known.shard(*id).map(without_preference);
        known == Some(without_preference(shard))
    };
    known.cluster() != next.cluster()
        || known.nodes() != next.nodes()
        || known.slots() != next.slots()
        || known.shards().len() != next.shards().len()
        || !next.shards().iter().all(|(id, shard)| is_same(id, shard))
}

pub(crate) fn news_of(
    response: TopologyServiceWatchResponse,
) -> Result<Option<TopologyNews>, DecodeError> {
    Ok(match response.change {
        Some(Change::All(bytes)) => Some(TopologyNews::All(Box::new(Topology::decode(&bytes)?))),
        Some(Change::Delta(bytes)) => Some(TopologyNews::Deltas(vec![Delta::decode(&bytes)?])),
        None => None,
    })
}

/// The other nodes that can be watched, META's members first, and the number of these.
fn sources(view: &View, own: NodeId) -> (Vec<NodeId>, usize) {
    let of_meta = view.others_of(META, own);
    let others = view.peers(own).filter(|node| !of_meta.contains(node));
    (of_meta.iter().copied().chain(others).collect(), of_meta.len())
}

/// How the watch of a node ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("META's replica here tells it")]
    NotNeeded,
    #[error("another node says that it knows more")]
    Behind,
    #[error("it has told nothing for {} s", FOLLOW_SILENCE_MAX.as_secs())]
    Silent,
    #[error("it has ended the call")]
    Closed,
    /// It did not begin.
    #[error(transparent)]
    Unreachable(Failed),
    #[error(transparent)]
    Failed(Failed),
}

/// The reason why a node does not tell the topology.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("its address is not known")]
    NoAddress,
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    #[error("no answer within {} s", GREET_TIMEOUT.as_secs())]
    NoAnswer,
    #[error("{}", reason(.0))]
    Status(#[from] Box<tonic::Status>),
    #[error(transparent)]
    Bytes(#[from] DecodeError),
    #[error(transparent)]
    NotLearnt(#[from] NotLearnt),
}

/// Whose turn it is to be watched.
#[derive(Debug, Default)]
struct Turns {
    /// The place of the node in [`sources`], past the last one from the first one again.
    turn: usize,
    /// Failures in a row.
    failures: u32,
    /// The last node that said it knew more, if it was asked for that.
    asked: Option<Later>,
    /// Whether the last changes did not fit.
    asks_all: bool,
}

impl Turns {
    /// Notes the end of a watch. `lasted` tells that it was no short one, and `of_meta` how many
    /// sources are members of META.
    ///
    /// A silent node is followed by the next member of META: nodes that are none may watch each
    /// other in a circle.
    fn end(&mut self, ended: &Ended, lasted: bool, of_meta: usize) {
        match ended {
            Ended::NotNeeded | Ended::Behind => {}
            Ended::Silent => self.turn = if self.turn + 1 < of_meta { self.turn + 1 } else { 0 },
            Ended::Closed | Ended::Unreachable(_) | Ended::Failed(_) => self.turn += 1,
        }
        self.asks_all = matches!(ended, Ended::Failed(Failed::NotLearnt(NotLearnt::Unfit(_))));
        let is_failure = match ended {
            Ended::Unreachable(_) => true,
            Ended::Closed | Ended::Failed(_) => !lasted,
            Ended::NotNeeded | Ended::Behind | Ended::Silent => false,
        };
        self.failures = if is_failure { self.failures.saturating_add(1) } else { 0 };
    }

    /// The time until the next node is asked.
    fn pause(&self) -> Duration {
        let (first, longest) = FOLLOW_PAUSE;
        match self.failures {
            0 => Duration::ZERO,
            failures => (first * 2u32.pow(failures.min(10) - 1)).min(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FINGERPRINT, context, founded, founded_from, preferring};
    use routing::ClusterConfig;
    use topology::{Command, Proposal, Version};

    fn all(topology: &Topology) -> TopologyNews {
        TopologyNews::All(Box::new(topology.clone()))
    }

    fn follower() -> Follower {
        let (context, _inbox) = context(NodeId(1), 10);
        Follower { context }
    }

    #[tokio::test]
    async fn what_is_learnt_is_on_disk_and_in_the_view_and_nothing_older_comes_back() {
        let follower = follower();
        let context = &follower.context;
        assert!(!read(&*context.engine, FINGERPRINT).unwrap().is_founded());
        let (first, mut topology) = (founded(), founded());
        follower.learn(all(&first)).await.unwrap();
        let delta = preferring(&mut topology);
        follower.learn(TopologyNews::Deltas(vec![delta])).await.unwrap();
        // A replica of META that lags.
        follower.learn(all(&first)).await.unwrap();
        assert_eq!(*context.cluster.now(), topology);
        assert_eq!(context.view.version(), 2);
        // What changes often waits for what must not be forgotten.
        let found = recall(context.engine.clone(), FINGERPRINT).await.unwrap().0;
        assert_eq!(found, first);
        let drain = Command::SetNodeState { node: NodeId(1), state: NodeState::Draining };
        let delta = topology.apply(&Proposal::new(1_800_000_000, drain)).unwrap().unwrap();
        follower.learn(TopologyNews::Deltas(vec![delta])).await.unwrap();
        let (found, _) = recall(context.engine.clone(), FINGERPRINT).await.unwrap();
        assert_eq!(found, topology);
        let other = recall(context.engine.clone(), Fingerprint([9; 16])).await.unwrap().0;
        assert!(!other.is_founded(), "the claim of the directory refuses it");
        // Regression: a copy of a directory went on with the topology of the time that was given up.
        forget(&*context.engine).unwrap();
        let forgotten = recall(context.engine.clone(), FINGERPRINT).await.unwrap().0;
        assert!(!forgotten.is_founded());
    }

    #[tokio::test]
    async fn news_that_do_not_fit_or_are_of_another_cluster_change_nothing() {
        let follower = follower();
        let other = founded_from(&ClusterConfig::dev(2, 2, 20_000).unwrap());
        let refused = follower.learn(all(&other)).await.expect_err("another cluster");
        assert!(matches!(refused, NotLearnt::OtherCluster), "{refused}");
        let delta = preferring(&mut founded());
        let refused = follower.learn(TopologyNews::Deltas(vec![delta])).await.expect_err("a gap");
        assert!(refused.to_string().contains("ask for the whole topology"), "{refused}");
        assert_eq!(follower.context.cluster.now().version(), Version(0));
        // The next node is asked for all.
        let mut turns = Turns::default();
        turns.end(&Ended::Failed(Failed::NotLearnt(refused)), true, 1);
        assert!(turns.asks_all);
        turns.end(&Ended::Silent, true, 1);
        assert!(!turns.asks_all);
    }

    #[tokio::test]
    async fn a_damaged_record_says_what_to_do() {
        let follower = follower();
        let engine = follower.context.engine.clone();
        engine.put_node_records(&[(RECORD.to_vec(), vec![1, 2, 3])]).unwrap();
        let refused = recall(engine, FINGERPRINT).await.expect_err("it is none").to_string();
        assert!(refused.contains("topology") && refused.contains("re-seed"), "{refused}");
    }

    #[test]
    fn the_members_of_meta_are_watched_first_and_a_circle_of_others_is_left() {
        let cluster = ClusterConfig { replicas: 3, ..ClusterConfig::dev(1, 5, 20_000).unwrap() };
        let view = View::of(&cluster);
        let of_meta = view.others_of(META, NodeId(5));
        let (order, first) = sources(&view, NodeId(5));
        assert_eq!((order.len(), first), (4, 3));
        assert!(order[..3].iter().all(|node| of_meta.contains(node)));

        let failed = || Ended::Unreachable(Failed::NoAnswer);
        let mut turns = Turns::default();
        let mut places = Vec::new();
        for ended in [Ended::Silent, Ended::Silent, Ended::Silent, failed(), failed(), failed()] {
            turns.end(&ended, true, first);
            turns.turn %= order.len();
            places.push(turns.turn);
        }
        assert_eq!(places, [1, 2, 0, 1, 2, 3]);
        turns.end(&Ended::Silent, true, first);
        assert_eq!((turns.turn, turns.failures), (0, 0), "no other node for long");
    }

    #[test]
    fn pauses_grow_with_failures_and_are_bounded() {
        let mut turns = Turns::default();
        assert_eq!(turns.pause(), Duration::ZERO);
        turns.end(&Ended::Closed, true, 1);
        assert_eq!(turns.pause(), Duration::ZERO, "it had lasted");
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            turns.end(&Ended::Closed, false, 1);
            assert!(turns.pause() >= last.max(FOLLOW_PAUSE.0));
            last = turns.pause();
        }
        assert_eq!(last, FOLLOW_PAUSE.1);
    }
}
