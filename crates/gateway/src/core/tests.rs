//! Calls against a script of outcomes, and under random ones.

use super::*;
use link::mux::{Answer, Failure, Outcome};
use proptest::prelude::*;
use routing::{ClusterConfig, MapVersion, Member, NodeId, Replicas, RouteTable, ShardId, ShardMap};
use std::collections::BTreeMap;
use wire::ErrorClass;
use wire::internal::v1::ShardPage;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::v1::operation::Op;
use wire::v1::*;

struct At(u64);

impl Env for At {
    fn now_ms(&self) -> u64 {
        self.0
    }

    fn jitter(&mut self) -> f64 {
        0.5
    }

    fn request_id(&mut self) -> [u8; 16] {
        [7; 16]
    }
}

/// Two shards on nodes 1 to 3. Node 1 should lead shard 0, node 2 shard 1.
fn directory() -> Directory {
    Directory::new(ClusterConfig::dev(2, 3, 20_000).unwrap().shard_map())
}

/// A call and the steps that it said last.
struct Driven {
    directory: Directory,
    call: Call,
    now_ms: u64,
    steps: Vec<Step>,
}

impl Driven {
    fn begin(op: Op) -> Driven {
        Driven::begin_with(directory(), op)
    }

    fn begin_with(directory: Directory, op: Op) -> Driven {
        let mut steps = Vec::new();
        let operation = Operation { timeout_ms: 5_000, ..Operation::of(op) };
        let call = Call::begin(Caller::Anyone, operation, &directory, &mut At(0), &mut steps);
        Driven { directory, call, now_ms: 0, steps }
    }

    fn on_outcome(&mut self, part: u32, outcome: Outcome<RoutedAnswer>) -> &mut Driven {
        self.now_ms += 1;
        self.steps.clear();
        let env = &mut At(self.now_ms);
        self.call.on_outcome(part, outcome, &self.directory, env, &mut self.steps);
        self
    }

    fn fails(&mut self, failure: Failure) -> &mut Driven {
        self.on_outcome(0, Err(failure))
    }

    fn on_pause_over(&mut self, part: u32) -> &mut Driven {
        self.now_ms += 1_000;
        self.steps.clear();
        self.call.on_pause_over(part, &self.directory, &mut At(self.now_ms), &mut self.steps);
        self
    }

    /// The only step, which sends.
    fn sent(&self) -> &Outgoing {
        match &self.steps[..] {
            [Step::Send(send)] => send,
            steps => panic!("not one send: {steps:?}"),
        }
    }

    /// The only step, which answers.
    fn answer(&self) -> &Answer {
        match &self.steps[..] {
            [Step::Answer(answer)] => answer,
            steps => panic!("not one answer: {steps:?}"),
        }
    }

    fn error(&self) -> ErrorCode {
        match self.answer() {
            Answer::Error(error) => error.code(),
            answer => panic!("no error: {answer:?}"),
        }
    }
}

fn acquire() -> Op {
    Op::Acquire(AcquireRequest { name: "jobs/1".into(), owner: "me".into(), ..Default::default() })
}

fn refused(code: ErrorCode) -> Failure {
    Failure::Refused(Box::new(Error::new(code, "says the node")))
}

fn lost() -> Failure {
    Failure::Lost("cut".into())
}

fn grant(token: u64) -> Grant {
    Grant { resource_name: "jobs/1".into(), fencing_token: token, ..Default::default() }
}

#[test]
fn an_operation_goes_to_the_leader_and_its_answer_comes_back() {
    let mut call = Driven::begin(acquire());
    let (shard, node) = (call.sent().operation.route.unwrap().shard, call.sent().node);
    let preferred = call.directory.replicas().into_iter().find(|of| of.0 == ShardId(shard));
    assert_eq!(Some((ShardId(shard), NodeId(node))), preferred);
    call.on_outcome(0, Ok(RoutedAnswer::Grant(grant(9))));
    assert_eq!(call.answer().grant().unwrap().fencing_token, 9);
    assert!(call.on_outcome(0, Ok(RoutedAnswer::Grant(grant(10)))).steps.is_empty(), "one answer");
}

#[test]
fn a_hint_is_followed_at_once_and_remembered_for_the_next_call() {
    let mut call = Driven::begin(acquire());
    let (first, shard) = (call.sent().node, call.sent().operation.route.unwrap().shard);
    let leader = if first == 3 { 1 } else { 3 };
    call.fails(Failure::NotLeader { leader: Some(NodeId(leader)), term: 4, why: "not me".into() });
    assert_eq!(call.sent().node, leader);
    assert_eq!(call.directory.leader(ShardId(shard)), Some(NodeId(leader)));
    assert_eq!(Driven::begin_with(call.directory, acquire()).sent().node, leader);
}

#[test]
fn every_try_of_an_acquire_has_the_request_id_of_the_first() {
    let mut call = Driven::begin(acquire());
    let id = |call: &Driven| match &call.sent().operation.op {
        Some(RoutedOp::Acquire(acquire)) => acquire.request_id.clone(),
        op => panic!("{op:?}"),
    };
    assert_eq!(id(&call), [7; 16]);
    call.fails(lost());
    assert_eq!(id(&call), [7; 16]);
}

#[test]
fn an_acquire_that_is_refused_while_in_doubt_is_cancelled_before_its_client_hears() {
    for (cancelled, told) in [
        (Ok(CancelWaitResponse { cancelled: true, grant: None }), Some(ErrorCode::Held)),
        (Ok(CancelWaitResponse { cancelled: false, grant: Some(grant(4)) }), None),
        (Err(refused(ErrorCode::Internal)), Some(ErrorCode::OutcomeUnknown)),
    ] {
        let mut call = Driven::begin(acquire());
        call.fails(lost()).fails(refused(ErrorCode::Held));
        assert!(matches!(&call.sent().operation.op, Some(RoutedOp::CancelWait(_))));
        call.on_outcome(0, cancelled.map(RoutedAnswer::CancelWait));
        match told {
            Some(code) => assert_eq!(call.error(), code),
            None => assert_eq!(call.answer().grant().unwrap().fencing_token, 4),
        }
    }
}

#[test]
fn nothing_is_tried_again_for_a_client_that_is_gone() {
    let mut call = Driven::begin(acquire());
    call.call.abandon();
    assert_eq!(call.fails(refused(ErrorCode::NoLeader)).error(), ErrorCode::OutcomeUnknown);
    let mut call = Driven::begin(acquire());
    call.call.abandon();
    call.on_outcome(0, Ok(RoutedAnswer::Grant(grant(9))));
    assert!(call.answer().grant().is_some(), "the try under way still counts");
}

/// The route table of [`directory`], with a map of another version and the shards' slots exchanged.
fn exchanged(version: u64) -> RouteTable {
    let file = RouteTable::of(&ClusterConfig::dev(2, 3, 20_000).unwrap());
    let map = file.map();
    let replicas = |shard| Replicas { ..map.replicas(ShardId(shard)).unwrap().clone() };
    let shards = BTreeMap::from([(ShardId(0), replicas(1)), (ShardId(5), replicas(0))]);
    file.with_map(ShardMap::even(MapVersion(version), shards)).unwrap()
}

/// The route table of [`directory`] at a later version of the topology: node 4 has come, and shard 0
/// is on nodes 2 to 4.
fn moved(topology: u64) -> RouteTable {
    let file = RouteTable::of(&ClusterConfig::dev(2, 3, 20_000).unwrap());
    let mut nodes: Vec<_> = file.members().map(|(node, member)| (node, member.clone())).collect();
    nodes.push((NodeId(4), Member { address: "four:1".into(), ..nodes[0].1.clone() }));
    let shards = file.map().shards().map(|(shard, replicas)| {
        let here = Replicas { nodes: [2, 3, 4].map(NodeId).into(), preferred_leader: NodeId(4) };
        (shard, if shard == ShardId(0) { here } else { replicas.clone() })
    });
    file.as_of(topology, shards, nodes).unwrap().expect("later")
}

/// Routes say the version of the slots only, so a node that has not heard of the move yet takes them.
#[test]
fn a_replica_that_moved_is_asked_without_another_version_of_the_slots() {
    let mut call = Driven::begin(of_shard_0());
    let before = call.sent().operation.route.unwrap();
    call.fails(refused(ErrorCode::NoLeader));
    assert!(call.directory.take(&moved(7)) && !call.directory.take(&moved(6)), "later only");
    call.on_pause_over(0);
    assert_eq!(call.sent().node, 4, "the preferred leader of the later map");
    assert_eq!(call.sent().operation.route, Some(before));
}

/// Regression: a leader that was no replica by the gateway's map was not asked before the next map
/// came, half a second later.
#[test]
fn a_leader_that_the_map_does_not_have_is_asked_if_it_is_a_node() {
    let told = |leader| {
        let directory = directory();
        directory.take(&moved(7));
        let mut call = Driven::begin_with(directory, of_shard_0());
        let (leader, why) = (Some(NodeId(leader)), "led elsewhere".into());
        call.fails(Failure::NotLeader { leader, term: 9, why });
        call
    };
    let call = told(1);
    assert_eq!(call.sent().node, 1);
    assert_eq!(Driven::begin_with(call.directory, of_shard_0()).sent().node, 1, "it is remembered");
    let is_stranger = |step: &Step| matches!(step, Step::Send(send) if send.node == 9);
    assert!(!told(9).steps.iter().any(is_stranger), "no node of the cluster");
}

/// An acquire of a name of shard 0.
fn of_shard_0() -> Op {
    let names = (0..).map(|number| format!("jobs/{number}"));
    let name = names.into_iter().find(|name| directory().route(name).shard == ShardId(0)).unwrap();
    Op::Acquire(AcquireRequest { name, owner: "me".into(), ..Default::default() })
}

#[test]
fn a_stale_route_fetches_the_newer_map_and_takes_the_new_route_after_a_pause() {
    // This name is of the upper half of the slots, which the other map gives to shard 5.
    let name =
        (0..).map(|n| format!("jobs/{n}")).find(|name| exchanged(9).map().route(name).shard.0 == 5);
    let check = Op::Check(CheckRequest { name: name.unwrap(), ..Default::default() });
    let mut call = Driven::begin(check);
    let node = call.sent().node;
    call.fails(Failure::StaleRoute { map_version: 9, why: "older map".into() });
    match &call.steps[..] {
        [Step::Refresh { node: newer, map_version: 9 }, Step::Pause { part: 0, .. }] => {
            assert_eq!(*newer, node);
        }
        steps => panic!("{steps:?}"),
    }
    assert!(
        call.directory.take(&exchanged(9)) && !call.directory.take(&exchanged(8)),
        "newer only"
    );
    call.on_pause_over(0);
    let route = call.sent().operation.route.unwrap();
    assert_eq!((route.shard, route.map_version), (5, 9));
    assert_eq!(call.sent().retry_of, Some(wire::OperationKind::Check));
}

#[test]
fn a_heartbeat_goes_to_each_shard_and_names_those_that_failed() {
    let leases = [0, 1, 77].map(|shard| SessionLease { shard, ..Default::default() }).to_vec();
    let session_id = "00000000000000000000000000000001".into();
    let mut call = Driven::begin(Op::Heartbeat(HeartbeatRequest { session_id, leases }));
    assert_eq!(call.steps.len(), 2, "one send for each shard that exists");
    let renewed = SessionLeaseState { shard: 0, life: 3, ..Default::default() };
    assert!(
        call.on_outcome(0, Ok(RoutedAnswer::Heartbeat(renewed))).steps.is_empty(),
        "not complete"
    );
    call.on_outcome(1, Err(refused(ErrorCode::Internal)));
    let Answer::Heartbeat(answer) = call.answer() else { panic!("{:?}", call.steps) };
    assert_eq!((answer.renewed_shards, &answer.lost_shards[..]), (1, &[77][..]));
    assert_eq!(answer.failed_shards, [1]);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let nameless = Op::Check(CheckRequest::default());
    assert_eq!(Driven::begin(nameless).error(), ErrorCode::InvalidArgument);
    let of_no_shard = CloseSessionRequest { session_id: "s".repeat(32), shards: vec![77] };
    assert_eq!(Driven::begin(Op::CloseSession(of_no_shard)).error(), ErrorCode::InvalidArgument);
}

fn outcomes() -> impl Strategy<Value = Outcome<RoutedAnswer>> {
    prop_oneof![
        Just(Ok(RoutedAnswer::Grant(grant(3)))),
        Just(Ok(RoutedAnswer::CancelWait(CancelWaitResponse::default()))),
        Just(Ok(RoutedAnswer::List(ShardPage::default()))),
        Just(Err(lost())),
        Just(Err(Failure::NotSent("refused".into()))),
        (prop::option::of(1..5u64), 1..9u64).prop_map(|(leader, term)| Err(Failure::NotLeader {
            leader: leader.map(NodeId),
            term,
            why: "not me".into()
        })),
        Just(Err(Failure::StaleRoute { map_version: 9, why: "older map".into() })),
        prop_oneof![
            Just(ErrorCode::NoLeader),
            Just(ErrorCode::Held),
            Just(ErrorCode::Busy),
            Just(ErrorCode::OutcomeUnknown),
            Just(ErrorCode::ShuttingDown),
            Just(ErrorCode::WaitCancelled),
            Just(ErrorCode::Internal),
        ]
        .prop_map(|code| Err(refused(code))),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let list = Op::List(ListRequest { limit: 10, ..Default::default() });
    let session_id = "s".repeat(32);
    let close = Op::CloseSession(CloseSessionRequest { session_id, shards: vec![0, 1] });
    prop_oneof![Just(acquire()), Just(list), Just(close)]
}

proptest! {
    /// Whichever outcomes come, a call has one answer and no step after it, a part has at most one
    /// step under way, and an acquire that may have been done is not told as not done.
    #[test]
    fn a_call_ends_once(
        op in any_op(),
        outcomes in prop::collection::vec(outcomes(), 1..400),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let is_acquire = matches!(op, Op::Acquire(_));
        let mut call = Driven::begin(op);
        let mut under_way: BTreeMap<u32, bool> = BTreeMap::new(); // part → whether it pauses
        let (mut answers, mut unanswered) = (Vec::new(), 0);
        // Whether the operation under way is a cancel, and whether a cancel was answered.
        let (mut cancelling, mut cancelled) = (false, false);
        let mut outcomes = outcomes.into_iter().cycle();
        for pick in picks {
            for step in std::mem::take(&mut call.steps) {
                prop_assert!(answers.is_empty(), "a step after the answer: {step:?}");
                match step {
                    Step::Send(send) => {
                        cancelling |= matches!(send.operation.op, Some(RoutedOp::CancelWait(_)));
                        prop_assert_eq!(under_way.insert(send.part, false), None);
                    }
                    Step::Pause { part, .. } => prop_assert_eq!(under_way.insert(part, true), None),
                    Step::Refresh { .. } => {}
                    Step::Answer(answer) => answers.push(answer),
                }
            }
            if under_way.is_empty() {
                break;
            }
            let part = *pick.get(&under_way.keys().copied().collect::<Vec<_>>());
            match under_way.remove(&part) {
                Some(true) => call.on_pause_over(part),
                _ => {
                    let outcome = outcomes.next().unwrap();
                    unanswered += usize::from(
                        !cancelling && matches!(&outcome, Err(Failure::Lost(_))),
                    );
                    cancelled |=
                        cancelling && matches!(&outcome, Ok(RoutedAnswer::CancelWait(_)));
                    call.on_outcome(part, outcome)
                }
            };
        }
        prop_assert_eq!(answers.len(), 1, "{} under way", under_way.len());
        if let (true, [Answer::Error(error)]) = (is_acquire && unanswered > 0, &answers[..]) {
            let told_not_done =
                matches!(error.class(), ErrorClass::Retry | ErrorClass::TryLater);
            prop_assert!(!told_not_done || cancelled, "told as not done: {error:?}");
        }
    }
}

#[test]
fn a_cleanup_of_our_own_acquire_cancels_and_then_releases_its_grant() {
    let acquire = AcquireRequest { name: "jobs/1".into(), wait_ms: 100, ..Default::default() };
    let mut ours = Cleanup::of(Caller::Anyone, &acquire, 0, true, 0);
    assert!(matches!(ours.operation(), RoutedOp::CancelWait(cancel) if !cancel.abandoned));
    let granted = CancelWaitResponse { cancelled: false, grant: Some(grant(5)) };
    assert_eq!(ours.on_answer(&Answer::CancelWait(granted.clone()), 1), Next::AtOnce);
    assert!(matches!(ours.operation(), RoutedOp::Release(release) if release.fencing_token == 5));
    assert_eq!(ours.on_answer(&Answer::Release(ReleaseResponse::default()), 2), Next::Done);

    let mut theirs = Cleanup::of(Caller::Anyone, &acquire, 0, false, 0);
    assert!(matches!(theirs.operation(), RoutedOp::CancelWait(cancel) if cancel.abandoned));
    assert_eq!(theirs.on_answer(&Answer::CancelWait(granted), 1), Next::Done, "it may be in use");
}

#[test]
fn a_cleanup_is_tried_until_its_acquire_has_ended_by_itself() {
    let acquire = AcquireRequest { name: "jobs/1".into(), ttl_ms: 1_000, ..Default::default() };
    let mut cleanup = Cleanup::of(Caller::Anyone, &acquire, 500, true, 0);
    let no_leader = Answer::Error(Error::no_leader("none"));
    assert_eq!(cleanup.on_answer(&no_leader, 1_499), Next::Later);
    assert_eq!(cleanup.on_answer(&no_leader, 1_500), Next::Done);
}
