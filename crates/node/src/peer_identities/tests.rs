//! The promises of the `peer_identities` module, one by one, against the engine in memory.

use super::*;
use crate::lineage::Run;
use peers::ALIVE_MS;
use routing::ShardId;
use std::sync::atomic::AtomicU64;
use storage::MemoryEngine;

const PEER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);
/// The incarnation of a re-seed, as the peers would choose it.
const NEXT: u32 = 8;

fn id(incarnation: u32, store: u64) -> StoreId {
    StoreId { incarnation, store }
}

/// The only run of a directory.
fn first_run(id: StoreId, record: u64) -> Claim {
    Claim { id, runs: vec![Run { boot: 1, life: id.store, opened: 0 }], record }
}

/// A start of the directory `former` with this record.
fn restarted(former: &Claim, opened: u64) -> Claim {
    let mut claim = Claim { record: opened, ..former.clone() };
    claim.runs.push(Run { boot: former.run().boot + 1, life: former.run().life + 1, opened });
    claim
}

fn groups() -> Vec<BTreeSet<NodeId>> {
    vec![BTreeSet::from([PEER, OTHER])]
}

fn peers() -> BTreeSet<NodeId> {
    BTreeSet::from([PEER, OTHER])
}

fn next() -> Beginning {
    Beginning { incarnation: NEXT, shards: BTreeSet::from([ShardId(3)]) }
}

fn try_open(
    engine: &Arc<MemoryEngine>,
    first_start: FirstStart,
) -> Result<PeerIdentities, NodeError> {
    engine.crash();
    let identity = Identity { fingerprint: [7; 16], node: 1 };
    PeerIdentities::open(engine.clone(), &identity, &peers(), groups(), first_start, &next(), None)
        .map(|(identities, _)| identities)
}

fn open(engine: &Arc<MemoryEngine>, first_start: FirstStart) -> PeerIdentities {
    try_open(engine, first_start).expect("open")
}

fn accept(
    identities: &PeerIdentities,
    peer: NodeId,
    claim: &Claim,
) -> Result<Arc<PeerRun>, NotAccepted> {
    identities.accept(peer, claim, false, 1)
}

#[track_caller]
fn refused(identities: &PeerIdentities, peer: NodeId, claim: &Claim, words: &str) {
    let refused = accept(identities, peer, claim).expect_err("it was accepted").to_string();
    assert!(refused.contains(words), "{words:?} is not in {refused}");
}

#[test]
fn a_store_keeps_its_name_and_two_have_different_ones() {
    let (engine, other) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
    let own = open(&engine, FirstStart::AskPeers).own();
    assert_eq!(own.incarnation, 0);
    assert_eq!(open(&engine, FirstStart::AskPeers).own(), own);
    assert_ne!(open(&other, FirstStart::AskPeers).own().store, own.store);
}

#[test]
fn a_store_remembers_its_runs_and_a_peer_takes_each_of_them() {
    let (engine, peer) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
    let peer = open(&peer, FirstStart::NewCluster);
    for boot in 1..=40u64 {
        let identities = open(&engine, FirstStart::AskPeers);
        let claim = identities.claim();
        assert!(
            claim.is_sound() && claim.run().boot == boot && claim.run().opened == boot - 1,
            "{claim:?}"
        );
        accept(&peer, OTHER, &claim).expect("a restart");
        engine
            .write(&[storage::ShardWrite { hard_state: Some(vec![1]), ..Default::default() }])
            .expect("written");
        assert_eq!(identities.claim().record, boot);
        accept(&peer, OTHER, &identities.claim()).expect("the same run");
    }
}

#[test]
fn only_an_empty_store_can_be_a_re_seeded_one() {
    let engine = Arc::new(MemoryEngine::new());
    let reseed = FirstStart::Reseed { force: false };
    check_empty(&*engine).expect("it is");
    let reseeded = open(&engine, reseed);
    assert_eq!(reseeded.own().incarnation, NEXT);
    assert_eq!(reseeded.standing(), Standing::Usual, "it is no member, so it need not wait");
    let again = try_open(&engine, reseed).err().expect("refused").to_string();
    assert!(again.contains("already re-seeded") && again.contains("without --reseed"), "{again}");
    assert_eq!(open(&engine, FirstStart::AskPeers).own(), reseeded.own());

    let ordinary = Arc::new(MemoryEngine::new());
    open(&ordinary, FirstStart::AskPeers);
    let refused = try_open(&ordinary, reseed).err().expect("refused").to_string();
    assert!(refused.contains("not empty") && refused.contains("move it away"), "{refused}");
    assert!(check_empty(&*ordinary).is_err());
}

#[test]
fn a_new_store_waits_for_all_peers_and_asks_once_in_its_life() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::AskPeers);
    identities.confirmed_by(PEER, false);
    assert_eq!(identities.awaited(), BTreeSet::from([OTHER]));
    let identities = open(&engine, FirstStart::AskPeers);
    assert_eq!(
        (identities.standing(), identities.awaited().len()),
        (Standing::New, 2),
        "half an answer is none"
    );
    identities.confirmed_by(PEER, false);
    identities.confirmed_by(OTHER, false);
    assert!(identities.awaited().is_empty() && !identities.takes_part());
    identities.take_part().expect("written");
    assert!(identities.takes_part());
    assert_eq!(open(&engine, FirstStart::AskPeers).standing(), Standing::Usual);
}

#[test]
fn a_new_cluster_waits_for_nobody() {
    let engine = Arc::new(MemoryEngine::new());
    open(&engine, FirstStart::AskPeers);
    assert_eq!(
        open(&engine, FirstStart::NewCluster).standing(),
        Standing::Usual,
        "also if it was asked before"
    );
    assert_eq!(open(&engine, FirstStart::AskPeers).standing(), Standing::Usual, "and for good");
}

#[test]
fn a_peer_is_known_by_its_first_store_until_it_is_re_seeded() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::NewCluster);
    for came_with in [id(0, 11), id(0, 11), id(5, 12), id(5, 12), id(9, 13)] {
        identities
            .accept(PEER, &first_run(came_with, 0), true, 1)
            .expect("the same, or a higher incarnation");
    }
    accept(&identities, OTHER, &first_run(id(0, 11), 0)).expect("another peer is another matter");
    let identities = open(&engine, FirstStart::AskPeers);
    assert_eq!(identities.known(), BTreeMap::from([(PEER, id(9, 13)), (OTHER, id(0, 11))]));
    for (came_with, hint) in [
        (id(9, 14), "--reseed once"),
        (id(5, 12), "has been replaced"),
        (id(0, 11), "has been replaced"),
        (id(0, 99), "has been replaced"),
    ] {
        let claim = first_run(came_with, 0);
        refused(&identities, PEER, &claim, "node 2 comes with another data directory");
        refused(&identities, PEER, &claim, hint);
        refused(&identities, PEER, &claim, "palisade node --help");
    }
    assert_eq!(identities.known()[&PEER], id(9, 13));
}

/// While this node lives, the last frame that arrived counts. After its death, the kept record
/// counts.
#[test]
fn a_copy_that_lacks_what_its_original_told_is_refused() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::NewCluster);
    let original = first_run(id(0, 11), 100);
    let live = accept(&identities, PEER, &original).expect("first contact");
    assert!(live.heard(900, 2));
    identities.keep().expect("written");
    assert!(live.heard(1_000, 3));
    refused(&identities, PEER, &restarted(&original, 999), "older copy");

    let after_a_kill = open(&engine, FirstStart::AskPeers);
    refused(&after_a_kill, PEER, &restarted(&original, 899), "older copy");
    accept(&after_a_kill, PEER, &restarted(&original, 900))
        .expect("what was not kept is not known");

    let successor = restarted(&original, 1_000);
    accept(&identities, PEER, &successor).expect("it lacks nothing");
    assert!(!live.heard(2_000, 4), "the former run is still listened to");
    refused(&identities, PEER, &original, "older copy");
}

#[test]
fn what_others_have_heard_counts_beside_what_was_heard_here() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::NewCluster);
    let original = first_run(id(0, 11), 100);
    accept(&identities, PEER, &original).expect("first contact");
    identities.hear_of([
        (PEER, Known { record: 500, ..original.known() }),
        (NodeId(9), original.known()),
    ]);
    refused(&identities, PEER, &restarted(&original, 499), "older copy");
    // Other peers saw the next run, and it went further.
    let next = restarted(&original, 500);
    identities.hear_of([(PEER, Known { record: 700, ..next.known() })]);
    identities.hear_of([(PEER, Known { record: 600, ..next.known() })]);
    refused(&identities, PEER, &restarted(&next, 699), "older copy");
    accept(&identities, PEER, &restarted(&next, 700)).expect("it lacks nothing");

    // Other peers accepted a copy that this node can tell. Their word does not make the copy good.
    let identities = open(&Arc::new(MemoryEngine::new()), FirstStart::NewCluster);
    accept(&identities, PEER, &Claim { record: 500, ..original.clone() }).expect("first contact");
    let copy = restarted(&original, 400);
    identities.hear_of([(PEER, copy.known())]);
    refused(&identities, PEER, &copy, "older copy");
}

#[test]
fn a_re_seed_waits_until_the_former_directory_is_silent() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::NewCluster);
    assert_eq!(identities.lost_by(PEER, false, 1).expect("never heard of"), 0);
    let original = first_run(id(6, 11), 100);
    let live = accept(&identities, PEER, &original).expect("first contact");
    assert!(live.heard(100, 10_000));
    let reseed = first_run(id(7, 12), 0);
    let alive = 10_000 + ALIVE_MS - 1;
    for said in [
        identities.lost_by(PEER, false, alive).expect_err("it lives").to_string(),
        identities.accept(PEER, &reseed, false, alive).expect_err("it lives").to_string(),
    ] {
        assert!(
            said.contains("is running with its former data directory") && said.contains("--force"),
            "{said}"
        );
    }
    assert!(live.heard(100, 10_000), "it is listened to as before");
    assert_eq!(identities.lost_by(PEER, true, alive).expect("forced"), 6);
    assert_eq!(identities.lost_by(PEER, false, alive + 1).expect("silent"), 6);
    identities.accept(PEER, &reseed, false, alive + 1).expect("silent");
    assert!(!live.heard(100, alive + 2), "what was replaced is still listened to");
}

#[test]
fn what_could_not_be_written_is_not_accepted() {
    let engine = Arc::new(MemoryEngine::new());
    let identities = open(&engine, FirstStart::NewCluster);
    engine.fail_next_write();
    assert!(matches!(
        accept(&identities, PEER, &first_run(id(0, 1), 0)),
        Err(NotAccepted::Storage(_))
    ));
    assert!(identities.known().is_empty());
}

#[test]
fn a_usual_start_awaits_all_and_a_copy_a_quorum_of_originals() {
    let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let greeted = |of: &[(u64, bool)]| {
        of.iter().map(|(id, is)| (NodeId(*id), *is)).collect::<BTreeMap<_, _>>()
    };
    let five = [nodes(&[2, 3, 4, 5])];
    assert_eq!(awaited(Standing::Usual, &five, &greeted(&[(2, true), (4, false)])), nodes(&[3, 5]));
    assert_eq!(
        awaited(Standing::Copied, &five, &greeted(&[(2, true), (4, false)])),
        nodes(&[3, 4, 5])
    );
    assert_eq!(
        awaited(Standing::Copied, &five, &greeted(&[(2, true), (3, true), (5, true)])),
        nodes(&[])
    );
    let all_copies = greeted(&[(2, false), (3, false), (4, false), (5, false)]);
    assert_eq!(awaited(Standing::Copied, &five, &all_copies), nodes(&[2, 3, 4, 5]));
    let two_groups = [nodes(&[2, 3]), nodes(&[3, 4])];
    assert_eq!(
        awaited(Standing::Copied, &two_groups, &greeted(&[(2, true), (3, true)])),
        nodes(&[4])
    );
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(quorum_of_others), [0, 1, 2, 3, 3, 4, 4]);
    assert!(!is_vouched(&nodes(&[]), &greeted(&[])), "a node without peers cannot tell");
}

/// An engine with files that were made at a given time.
struct Dated(Arc<MemoryEngine>, AtomicU64);

#[rustfmt::skip]
impl Engine for Dated {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> { self.0.claim(identity) }
    fn raise_format(&self, format: u32) -> Result<u32, StorageError> { self.0.raise_format(format) }
    fn write(&self, writes: &[storage::ShardWrite]) -> Result<(), StorageError> { self.0.write(writes) }
    fn host_shard(&self, shard: routing::ShardId, birth: u32) -> Result<(), StorageError> { self.0.host_shard(shard, birth) }
    fn drop_shard(&self, shard: routing::ShardId, birth: u32) -> Result<(), StorageError> { self.0.drop_shard(shard, birth) }
    fn lives(&self) -> std::collections::BTreeMap<routing::ShardId, storage::Lives> { self.0.lives() }
    fn recover(&self, shard: routing::ShardId) -> Result<storage::Recovered, StorageError> { self.0.recover(shard) }
    fn history(&self, shard: routing::ShardId, name: &str, limit: usize) -> Result<Vec<storage::HistoryRecord>, StorageError> { self.0.history(shard, name, limit) }
    fn history_since(&self, shard: routing::ShardId, after: u64, cursor: Option<Vec<u8>>, limit: usize) -> Result<(Vec<storage::HistoryRecord>, Option<Vec<u8>>), StorageError> { self.0.history_since(shard, after, cursor, limit) }
    fn drop_history_before(&self, shard: routing::ShardId, day: u32) -> Result<(), StorageError> { self.0.drop_history_before(shard, day) }
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> { self.0.node_record(name) }
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> { self.0.put_node_records(records) }
    fn last_record(&self) -> u64 { self.0.last_record() }
    fn born(&self) -> Option<u128> { Some(self.1.load(Ordering::Relaxed).into()) }
}

#[test]
fn a_copy_stays_one_until_it_is_accepted() {
    let engine = Arc::new(Dated(Arc::new(MemoryEngine::new()), AtomicU64::new(1)));
    let identity = Identity { fingerprint: [7; 16], node: 1 };
    let open = |first_start| {
        PeerIdentities::open(
            engine.clone(),
            &identity,
            &peers(),
            groups(),
            first_start,
            &next(),
            None,
        )
        .expect("open")
        .0
    };
    assert_eq!(open(FirstStart::NewCluster).standing(), Standing::Usual);
    assert_eq!(open(FirstStart::AskPeers).standing(), Standing::Usual);
    engine.1.store(2, Ordering::Relaxed);
    for _ in 0..2 {
        let identities = open(FirstStart::AskPeers);
        assert!(
            identities.standing() == Standing::Copied && identities.is_copy(),
            "also when it is started again"
        );
        identities.confirmed_by(PEER, true);
        assert_eq!(identities.awaited(), BTreeSet::from([PEER, OTHER]), "another copy cannot tell");
    }
    let identities = open(FirstStart::AskPeers);
    identities.confirmed_by(PEER, false);
    identities.confirmed_by(OTHER, false);
    assert!(identities.awaited().is_empty());
    identities.take_part().expect("written");
    assert!(!identities.is_copy());
    assert_eq!(open(FirstStart::AskPeers).standing(), Standing::Usual);
    engine.1.store(3, Ordering::Relaxed);
    assert_eq!(open(FirstStart::AcceptCopy { at_one_moment: true }).standing(), Standing::Usual);
    assert_eq!(open(FirstStart::AskPeers).standing(), Standing::Usual, "and for good");
}

/// The directories were copies of different moments. Each knew of the others' later states, so they
/// refused each other for ever.
#[test]
fn what_is_known_of_peers_is_given_up_for_copies_of_different_moments_only() {
    let original = first_run(id(5, 11), 100);
    let fifth = restarted(&restarted(&restarted(&restarted(&original, 200), 300), 400), 500);
    let copy = restarted(&fifth, 1_000);
    let knows = || {
        let engine = Arc::new(MemoryEngine::new());
        let identities = open(&engine, FirstStart::NewCluster);
        accept(&identities, PEER, &Claim { record: 1_100, ..fifth.clone() })
            .expect("first contact");
        engine
    };
    for first_start in [FirstStart::AskPeers, FirstStart::AcceptCopy { at_one_moment: true }] {
        refused(&open(&knows(), first_start), PEER, &copy, "older copy");
    }
    let engine = knows();
    let identities = open(&engine, FirstStart::AcceptCopy { at_one_moment: false });
    refused(&identities, PEER, &first_run(id(5, 12), 0), "another data directory");
    refused(&identities, PEER, &first_run(id(4, 11), 0), "has been replaced");
    accept(&identities, PEER, &copy).expect("it is put back");
    refused(&identities, PEER, &restarted(&copy, 999), "older copy");

    // The put-back must hold even if the node is killed before it has heard a peer.
    let engine = knows();
    open(&engine, FirstStart::AcceptCopy { at_one_moment: false }).keep().expect("written");
    accept(&open(&engine, FirstStart::AskPeers), PEER, &copy).expect("it is put back");
}

/// Regression of a design: a node that became a peer while this one ran had no entry in memory, so
/// that any directory was accepted as its first one.
#[test]
fn what_the_disk_knows_of_a_node_counts_when_it_becomes_a_peer_again() {
    let engine = Arc::new(MemoryEngine::new());
    let third = NodeId(4);
    accept(&open(&engine, FirstStart::NewCluster), third, &first_run(id(0, 11), 100))
        .expect("first contact");
    let identities = open(&engine, FirstStart::AskPeers);
    assert_eq!(identities.known(), BTreeMap::new(), "it is no peer by the cluster file");
    identities.admit([third]).expect("read");
    refused(&identities, third, &first_run(id(0, 12), 100), "another data directory");
    accept(&identities, third, &restarted(&first_run(id(0, 11), 100), 100)).expect("the known one");
    identities.admit([third]).expect("nothing to read");
    assert_eq!(identities.known(), BTreeMap::from([(third, id(0, 11))]));
}

#[test]
fn a_node_without_replicas_awaits_all_peers_for_a_moment() {
    let identities = open_with(&peers(), Vec::new());
    assert_eq!((identities.standing(), identities.awaited()), (Standing::Usual, peers()));
}

/// Opens an empty directory of a node with these peers and groups.
fn open_with(peers: &BTreeSet<NodeId>, groups: Vec<BTreeSet<NodeId>>) -> PeerIdentities {
    let (engine, identity) =
        (Arc::new(MemoryEngine::new()), Identity { fingerprint: [7; 16], node: 1 });
    let (first_start, beginning) = (FirstStart::AskPeers, Beginning::default());
    let opened =
        PeerIdentities::open(engine, &identity, peers, groups, first_start, &beginning, None);
    opened.expect("open").0
}

/// By the cluster file the node had the only replica of each of its shards, so it asked nobody. But
/// the shard had moved, and a lost directory began it a second time.
#[test]
fn a_new_directory_with_the_only_replicas_of_the_cluster_file_asks_all_peers() {
    let sole = || vec![BTreeSet::new(), BTreeSet::new()];
    let identities = open_with(&peers(), sole());
    assert_eq!((identities.standing(), identities.awaited()), (Standing::New, peers()));
    identities.confirmed_by(PEER, false);
    identities.confirmed_by(OTHER, true);
    assert!(identities.awaited().is_empty());
    let identities = open_with(&BTreeSet::new(), sole());
    assert_eq!(identities.standing(), Standing::Usual, "there is no other node");
}

#[test]
fn a_re_seeded_directory_remembers_which_replicas_it_begins_with() {
    let (engine, usual) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new()));
    open(&engine, FirstStart::Reseed { force: true });
    for _ in 0..2 {
        assert_eq!(begins(&*engine).expect("read"), Some(BTreeSet::from([ShardId(3)])));
        open(&engine, FirstStart::AskPeers);
    }
    open(&usual, FirstStart::NewCluster);
    assert_eq!(begins(&*usual).expect("read"), None);
}
