//! Replicas that come to a node while it runs, leave it, and come back, each by a call of the test.

use crate::cluster::*;
use palisade_node::{FirstStart, HostingError, Node, NodeOptions};
use routing::{NodeId, Settings, ShardId};
use shard::{NotYet, Recorded, Role, Status, Wanted, WantedLife};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use storage::{
    Engine, HistoryRecord, Identity, Lives, MemoryEngine, Recovered, ShardWrite, StorageError,
};
use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1::{Consistency, ErrorCode};

const SHARD: ShardId = ShardId(0);

/// A wanted life on a node whose data directory the topology does not know yet.
fn life(birth: u32) -> WantedLife {
    WantedLife { birth, ..WantedLife::default() }
}

/// Four nodes, and one shard on three of them.
struct Four {
    cluster: Cluster,
    founders: Vec<NodeId>,
    outsider: NodeId,
}

impl Four {
    async fn start() -> Four {
        let settings = Settings { election_ticks: 20, ..Settings::default() };
        let cluster = Cluster::start_with(4, 1, settings, true).await;
        let founders = cluster.map.replicas(SHARD).unwrap().nodes.clone();
        let outsider = (1..=4).map(NodeId).find(|node| !founders.contains(node)).unwrap();
        Four { cluster, founders, outsider }
    }

    fn status(&self, node: NodeId) -> Option<Status> {
        self.cluster.nodes[&node].statuses().into_iter().find(|status| status.shard == SHARD)
    }

    /// Hosts a life once the node takes part.
    async fn host(&self, node: NodeId, birth: u32) -> Result<(), HostingError> {
        let hosted = async {
            loop {
                match self.cluster.nodes[&node].host(SHARD, life(birth)).await {
                    Err(HostingError::StandsBy) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => return other,
                }
            }
        };
        tokio::time::timeout(HANGS, hosted).await.expect("it never takes part")
    }

    /// Destroys a life once the node takes part: until then it waits, because its directory may be a
    /// copy.
    async fn unhost(&self, node: NodeId, birth: u32) -> Result<(), HostingError> {
        let destroyed = async {
            loop {
                match self.cluster.nodes[&node].unhost(SHARD, birth).await {
                    Err(HostingError::StandsBy) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => return other,
                }
            }
        };
        tokio::time::timeout(HANGS, destroyed).await.expect("it never takes part")
    }

    /// Wants these members until all of them are voters, and no one else.
    async fn want(&self, version: u64, members: &[(NodeId, u32)]) {
        let wanted = Wanted::new(version, members.iter().copied()).unwrap();
        self.members_become(members, || {
            self.cluster.nodes.values().for_each(|node| node.want(SHARD, wanted.clone()));
        })
        .await;
    }

    /// Waits until these are the members, and all of them vote. Calls `meanwhile` now and again.
    async fn members_become(&self, members: &[(NodeId, u32)], meanwhile: impl Fn()) {
        let members: BTreeMap<NodeId, u32> = members.iter().copied().collect();
        let has = |status: &Status| {
            let voters = status.members.iter().map(|member| (member.node, member.incarnation));
            status.role == Role::Leader
                && status.members.iter().all(|member| !member.learner)
                && voters.eq(members.clone())
        };
        let changed = async {
            while !self.cluster.nodes.keys().any(|id| self.status(*id).as_ref().is_some_and(has)) {
                meanwhile();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, changed).await.expect("the members do not change");
    }

    /// Waits until the replicas on these nodes have applied the same entries, and compares them.
    async fn agree(&self, nodes: &[NodeId]) {
        let agreed = async {
            loop {
                let mut seen = Vec::new();
                for id in nodes {
                    seen.push(self.cluster.status(*id, SHARD.0).await);
                }
                if seen.iter().all(|status| status.applied_index == seen[0].applied_index) {
                    assert!(seen.iter().all(|it| it.state_hash == seen[0].state_hash), "{seen:#?}");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, agreed).await.expect("the replicas do not catch up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_comes_to_a_node_leaves_it_and_comes_back() {
    let mut f = Four::start().await;
    let held = granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let leader = f.cluster.leader_of("orders").await;
    let [stays, leaves] =
        f.founders.iter().copied().filter(|node| *node != leader).collect::<Vec<_>>()[..]
    else {
        panic!("three founders")
    };
    assert!(f.status(f.outsider).is_none());
    f.host(f.outsider, 100).await.unwrap();
    f.host(f.outsider, 100).await.expect("it is here already");
    let other = f.host(f.outsider, 101).await.expect_err("another life is here").to_string();
    assert!(other.contains("drop birth 100 first"), "{other}");
    let unknown =
        f.cluster.nodes[&leader].host(ShardId(9), life(1)).await.expect_err("no such shard");
    assert!(unknown.to_string().contains("shard 9 is not in the topology"), "{unknown}");

    f.want(1, &[(leader, 0), (stays, 0), (f.outsider, 100)]).await;
    let mut caller = f.cluster.caller(f.outsider).await;
    let read = check("orders", Consistency::Linearizable);
    let Some(OpResult::Check(check)) = caller.ask(f.cluster.route("orders"), read).await else {
        panic!("it does not serve")
    };
    assert_eq!(
        (check.answered_by, check.holders[0].fencing_token),
        (f.outsider.0, held.fencing_token)
    );
    let shown = |f: &Four, node: NodeId| {
        f.cluster.nodes[&node].metrics_text().contains(r#"palisade_raft_term{shard="0"}"#)
    };
    assert!(shown(&f, f.outsider) && shown(&f, leaves));

    // The life that has left is destroyed for good.
    f.cluster.nodes[&leaves].unhost(SHARD, 0).await.unwrap();
    f.cluster.nodes[&leaves].unhost(SHARD, 0).await.expect("nothing is left to do");
    assert!(f.status(leaves).is_none() && !shown(&f, leaves));
    let lives = f.cluster.engines[&leaves].lives()[&SHARD];
    assert_eq!((lives.hosted, lives.destroyed), (None, Some(0)));
    assert_eq!(f.cluster.engines[&leaves].recover(SHARD).unwrap(), Recovered::default());
    let mut caller = f.cluster.caller(leaves).await;
    let answer = caller.ask(f.cluster.route("orders"), acquire("orders", 1)).await;
    assert!(matches!(answer, Some(OpResult::StaleRoute(_))), "{answer:?}");
    let again = f.host(leaves, 0).await.expect_err("its votes are forgotten").to_string();
    assert!(again.contains("host the shard under a higher birth"), "{again}");
    // The cluster file still names it there, and describes the beginning only.
    f.cluster.stop(leaves).await;
    f.cluster.restart(leaves).await;
    assert!(f.status(leaves).is_none());

    f.host(leaves, 200).await.unwrap();
    f.want(2, &[(leader, 0), (stays, 0), (leaves, 200)]).await;
    f.cluster.nodes[&f.outsider].unhost(SHARD, 100).await.unwrap();
    f.cluster.nodes[&leaves].unhost(SHARD, 0).await.expect("a later life is here");
    f.cluster.crash(leaves).await;
    f.cluster.restart(leaves).await;
    assert_eq!(f.status(leaves).unwrap().incarnation, 200);
    f.agree(&[leader, stays, leaves]).await;
    let released = f.cluster.ask_leader(release("orders", held.fencing_token)).await;
    assert!(matches!(released, OpResult::Release(_)), "{released:?}");
    f.cluster.stop_all().await;
}

/// The leader goes on to send to a life that was destroyed, because it was not told, while the next
/// life is on the same node. That one hears none of it.
#[tokio::test(flavor = "multi_thread")]
async fn messages_for_a_destroyed_life_do_not_reach_the_next_one() {
    let f = Four::start().await;
    granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let leader = f.cluster.leader_of("orders").await;
    let others: Vec<(NodeId, u32)> = f.founders.iter().map(|node| (*node, 0)).collect();
    f.host(f.outsider, 100).await.unwrap();
    let with = |birth| [&others[..], &[(f.outsider, birth)]].concat();
    f.want(1, &with(100)).await;
    f.cluster.nodes[&f.outsider].unhost(SHARD, 100).await.unwrap();
    f.host(f.outsider, 200).await.unwrap();
    // The leader does send, and what it sends arrives.
    let received = || {
        let text = f.cluster.nodes[&f.outsider].metrics_text();
        let name =
            format!(r#"palisade_peer_messages_total{{direction="received",peer="{leader}"}} "#);
        let count = text.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned);
        count.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<u64>().unwrap()
    };
    let before = received();
    let heard = async {
        while received() < before + 20 {
            granted(f.cluster.ask_leader(acquire("orders", 1)).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANGS, heard).await.expect("the leader has fallen silent");
    let next = f.status(f.outsider).unwrap();
    assert_eq!(
        (next.incarnation, next.term, next.last_index, next.leader),
        (200, 0, 0, None),
        "it took a message for the life before"
    );
    f.want(2, &with(200)).await;
    f.agree(&[leader, f.outsider]).await;
    f.cluster.stop_all().await;
}

/// The cluster file gives the node no replica, and one has moved to it. Nobody was asked about that one
/// when the directory was lost. It comes back with the incarnation of the new directory, and the group
/// takes that one in without another wish.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_moved_to_a_node_comes_back_with_its_new_directory() {
    let mut f = Four::start().await;
    granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let leader = f.cluster.leader_of("orders").await;
    let founders: Vec<(NodeId, u32)> = f.founders.iter().map(|node| (*node, 0)).collect();
    let with = |birth| [&founders[..], &[(f.outsider, birth)]].concat();
    // No clock of these days goes so far.
    let ahead = u32::MAX - 99;
    f.host(f.outsider, ahead).await.unwrap();
    f.want(1, &with(ahead)).await;
    f.cluster.crash(f.outsider).await;
    let empty = Arc::new(MemoryEngine::new());
    f.cluster.engines.insert(f.outsider, empty.clone());
    let options = NodeOptions {
        first_start: FirstStart::Reseed { force: true },
        ..f.cluster.options(f.outsider, empty)
    };
    f.cluster.nodes.insert(f.outsider, Node::start(options).await.unwrap());
    assert_eq!(f.status(f.outsider).unwrap().incarnation, ahead + 1);
    f.members_become(&with(ahead + 1), || ()).await;
    f.agree(&[leader, f.outsider]).await;
    // The topology has not recorded the directory, so no wanted life begins on it.
    let refused = f.host(f.outsider, ahead + 2).await.expect_err("it is not recorded");
    assert!(matches!(refused, HostingError::NotYet(NotYet::NotRecorded)), "{refused}");
    let of_another = Recorded { store: Some(topology::StoreId([9; 16])), ..Recorded::default() };
    let wanted = WantedLife { directory: of_another, ..life(ahead + 2) };
    let refused = f.cluster.nodes[&f.outsider].host(SHARD, wanted).await.expect_err("another's");
    assert!(matches!(refused, HostingError::NotYet(NotYet::NotRecorded)), "{refused}");
    f.cluster.crash(f.outsider).await;
    f.cluster.restart(f.outsider).await;
    assert_eq!(f.status(f.outsider).unwrap().incarnation, ahead + 1);
    f.cluster.stop_all().await;
}

/// A node that the file gives a replica of a shard lost its directory after the shard had moved away.
/// It began an empty replica of it again, for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_moved_away_does_not_come_back_with_a_new_directory() {
    let mut f = Four::start().await;
    granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let leader = f.cluster.leader_of("orders").await;
    let leaves = f.founders.iter().copied().find(|node| *node != leader).unwrap();
    let stay = f.founders.iter().copied().filter(|node| *node != leaves).map(|node| (node, 0));
    let members: Vec<(NodeId, u32)> = stay.chain([(f.outsider, 100)]).collect();
    f.host(f.outsider, 100).await.unwrap();
    f.want(1, &members).await;
    f.cluster.crash(leaves).await;
    let empty = Arc::new(MemoryEngine::new());
    f.cluster.engines.insert(leaves, empty.clone());
    let options = NodeOptions {
        first_start: FirstStart::Reseed { force: true },
        ..f.cluster.options(leaves, empty)
    };
    f.cluster.nodes.insert(leaves, Node::start(options).await.unwrap());
    assert!(f.status(leaves).is_none());
    // It takes part once its peers have accepted the directory.
    let refused = f.host(leaves, u32::MAX).await.expect_err("it is not recorded");
    assert!(matches!(refused, HostingError::NotYet(NotYet::NotRecorded)), "{refused}");
    f.cluster.crash(leaves).await;
    f.cluster.restart(leaves).await;
    assert!(f.status(leaves).is_none(), "nor by the cluster file at a later start");
    f.cluster.stop_all().await;
}

/// Regression of a design: while a replica left, operations that waited for it were never answered.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_replica_that_leaves_is_answered() {
    let f = Four::start().await;
    granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let leader = f.cluster.leader_of("orders").await;
    let (route, mut caller) = (f.cluster.route("orders"), f.cluster.caller(leader).await);
    let waits = caller.send(route, [acquire_waiting("orders", 2)]).await;
    let queued = async {
        while f.status(leader).unwrap().counts.waiters == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANGS, queued).await.expect("it does not wait");
    f.cluster.nodes[&leader].unhost(SHARD, 0).await.unwrap();
    let answer = caller.result(waits[0]).await.expect("the stream lives");
    assert_eq!(code(answer), ErrorCode::OutcomeUnknown);
    let later = caller.ask(route, acquire("orders", 3)).await;
    assert!(matches!(later, Some(OpResult::StaleRoute(_))), "{later:?}");
    f.cluster.stop_all().await;
}

/// An engine that fails at a step of a life, as a crash there would leave it.
struct Cut {
    inner: Arc<MemoryEngine>,
    at: AtomicU8,
    begun: Mutex<Vec<u8>>,
    /// Holds up the next end of a life until something is sent.
    held: Mutex<Option<mpsc::Receiver<()>>>,
}

const BEFORE_BIRTH: u8 = 1;
const AFTER_BIRTH: u8 = 2;
const BEFORE_END: u8 = 3;
const AFTER_END: u8 = 4;

impl Cut {
    fn new(inner: Arc<MemoryEngine>) -> Cut {
        let (begun, held) = Default::default();
        Cut { inner, at: AtomicU8::new(0), begun, held }
    }

    fn step(&self, step: u8) -> Result<(), StorageError> {
        self.begun.lock().unwrap().push(step);
        match self.at.load(Ordering::SeqCst) == step {
            true => Err(StorageError::Io(format!("cut at step {step}"))),
            false => Ok(()),
        }
    }
}

impl Engine for Cut {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.inner.claim(identity)
    }
    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        self.inner.raise_format(format)
    }
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        self.inner.write(writes)
    }
    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.step(BEFORE_BIRTH)?;
        self.inner.host_shard(shard, birth)?;
        self.step(AFTER_BIRTH)
    }
    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.step(BEFORE_END)?;
        let held = self.held.lock().unwrap().take();
        held.map(|held| held.recv());
        self.inner.drop_shard(shard, birth)?;
        self.step(AFTER_END)
    }
    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.inner.lives()
    }
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.inner.recover(shard)
    }
    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        self.inner.history(shard, name, limit)
    }
    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        self.inner.history_since(shard, after_index, cursor, limit)
    }
    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.inner.drop_history_before(shard, day)
    }
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.node_record(name)
    }
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        self.inner.put_node_records(records)
    }
    fn last_record(&self) -> u64 {
        self.inner.last_record()
    }
    fn born(&self) -> Option<u128> {
        self.inner.born()
    }
}

/// After a crash at any step, the next start finds the whole replica or nothing of it, and the order
/// that was under way can be given again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_two_steps_of_a_life_leaves_the_whole_replica_or_nothing() {
    let mut f = Four::start().await;
    granted(f.cluster.ask_leader(acquire("orders", 1)).await);
    let founders: Vec<(NodeId, u32)> = f.founders.iter().map(|node| (*node, 0)).collect();
    let (outsider, mut version) = (f.outsider, 0);
    for (nth, at) in [BEFORE_BIRTH, AFTER_BIRTH, BEFORE_END, AFTER_END].into_iter().enumerate() {
        let birth = 100 * (nth as u32 + 1);
        f.cluster.stop(outsider).await;
        let inner = f.cluster.engines[&outsider].clone();
        let engine = Arc::new(Cut::new(inner));
        let options = f.cluster.options(outsider, engine.clone());
        f.cluster.nodes.insert(outsider, Node::start(options).await.unwrap());
        let is_end = at >= BEFORE_END;
        if is_end {
            f.host(outsider, birth).await.unwrap();
            version += 1;
            f.want(version, &[&founders[..], &[(outsider, birth)]].concat()).await;
            version += 1;
            f.want(version, &founders).await;
        }
        engine.at.store(at, Ordering::SeqCst);
        let node = &f.cluster.nodes[&outsider];
        let failed = match is_end {
            false => f.host(outsider, birth).await,
            true => node.unhost(SHARD, birth).await,
        };
        assert!(failed.is_err(), "cut at {at}");
        assert!(node.wait_failed().await.to_string().contains("cut at step"));
        assert_eq!(engine.begun.lock().unwrap().last(), Some(&at), "nothing came after it");
        f.cluster.nodes.remove(&outsider).unwrap().shutdown().await.expect_err("it has failed");
        f.cluster.engines[&outsider].crash();

        f.cluster.restart(outsider).await;
        let is_here = f.status(outsider).map(|status| status.incarnation);
        let expected = matches!(at, AFTER_BIRTH | BEFORE_END).then_some(birth);
        assert_eq!(is_here, expected, "cut at {at}");
        if !is_end {
            f.host(outsider, birth).await.unwrap_or_else(|e| panic!("cut at {at}: {e}"));
        }
        f.unhost(outsider, birth).await.unwrap();
        assert!(f.status(outsider).is_none());
        let refused = f.host(outsider, birth).await.expect_err("its votes are forgotten");
        assert!(matches!(refused, HostingError::Refused(_)), "{refused}");
    }
    f.cluster.stop_all().await;
}

/// The caller of an order went away while the disk worked, and left the way free for the next order.
/// A life began again, and its data were destroyed under it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_caller_goes_away_is_done_before_the_next_one() {
    let mut f = Four::start().await;
    let outsider = f.outsider;
    f.cluster.stop(outsider).await;
    let engine = Arc::new(Cut::new(f.cluster.engines[&outsider].clone()));
    let options = f.cluster.options(outsider, engine.clone());
    f.cluster.nodes.insert(outsider, Node::start(options).await.unwrap());
    f.host(outsider, 100).await.unwrap();
    let (go_on, held) = mpsc::channel();
    *engine.held.lock().unwrap() = Some(held);
    let node = &f.cluster.nodes[&outsider];
    let is_held = async {
        while !engine.begun.lock().unwrap().contains(&BEFORE_END) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = node.unhost(SHARD, 100) => panic!("it is held up: {ended:?}"),
        () = is_held => {}
    }
    let again = node.host(SHARD, life(100));
    let (again, ()) = tokio::join!(again, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        go_on.send(()).unwrap();
    });
    let refused = again.expect_err("its votes are forgotten").to_string();
    assert!(refused.contains("host the shard under a higher birth"), "{refused}");
    f.host(outsider, 200).await.unwrap();
    f.cluster.stop_all().await;
}
