//! Shard threads with replicas that only record their inputs.

use super::ticker::Ticker;
use super::*;
use crate::board::Board;
use crate::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::transport::{Outboxes, SnapshotQueue};
use crate::writer::LogWriter;
use crossbeam_channel::{Receiver, Sender};
use routing::NodeId;
use shard::{Fatal, Now, Outputs, Query, Status, Watched};
use std::thread::JoinHandle;
use std::time::Duration;
use storage::{Engine, MemoryEngine, ShardWrite};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Announces each step that has other inputs than ticks. It returns from the step only when told
/// the result.
struct Scripted {
    steps: Sender<Vec<Input>>,
    outcomes: Receiver<Result<Outputs, String>>,
}

impl Stepper for Scripted {
    fn step(&mut self, _now: Now, inputs: &mut Vec<Input>) -> Result<Outputs, Fatal> {
        let told: Vec<Input> =
            inputs.drain(..).filter(|input| !matches!(input, Input::Tick)).collect();
        if told.is_empty() {
            return Ok(Outputs::default());
        }
        self.steps.send(told).unwrap();
        self.outcomes.recv().unwrap().map_err(|what| {
            assert!(!what.starts_with("panic"), "{what}");
            Fatal { shard: ShardId(0), what }
        })
    }

    fn status(&self) -> Status {
        Status::default()
    }

    /// The outcome of an operation that the replica had in flight is unknown.
    fn retire(self: Box<Self>) -> Vec<(Ticket, Reply)> {
        vec![(ticket(StreamKey(1), 0), Reply::Unknown)]
    }
}

/// A replica, the announcements of its steps, and the way to tell their results.
fn newcomer(shard: ShardId) -> (Newcomer, Receiver<Vec<Input>>, Sender<Result<Outputs, String>>) {
    let (step, steps) = crossbeam_channel::unbounded();
    let (outcomes, outcome) = crossbeam_channel::unbounded();
    let replica: Box<dyn Stepper> = Box::new(Scripted { steps: step, outcomes: outcome });
    (Newcomer { shard, replica }, steps, outcomes)
}

struct Fixture {
    host: Host,
    thread: JoinHandle<()>,
    steps: Receiver<Vec<Input>>,
    outcomes: Sender<Result<Outputs, String>>,
    lifecycle: Arc<Lifecycle>,
    engine: Arc<MemoryEngine>,
    board: Arc<Board>,
}

impl Fixture {
    /// One thread with shard 0, which takes part.
    fn new(operations_max: usize) -> Self {
        let fixture = Fixture::waiting(operations_max);
        fixture.host.take_part();
        fixture
    }

    /// One thread with shard 0. Its node does not know yet whether it may take part.
    fn waiting(operations_max: usize) -> Self {
        let (host, mut inboxes) = Host::new(&[ShardId(0)], 1, operations_max);
        let (newcomer, steps, outcomes) = newcomer(ShardId(0));
        let (lifecycle, metrics) = (Arc::new(Lifecycle::new()), crate::testing::metrics());
        let engine = Arc::new(MemoryEngine::new());
        let (writer, _) = LogWriter::start(
            engine.clone(),
            1,
            Box::new(|_, _| {}),
            lifecycle.clone(),
            metrics.clone(),
            crate::testing::disk(),
        )
        .unwrap();
        let board = Arc::new(Board::new([ShardId(0)]));
        let worker = Worker::new(WorkerParts {
            thread: 0,
            inbox: inboxes.remove(0),
            replicas: vec![newcomer],
            clock: Clock::start(),
            tick_ms: 1,
            writer,
            outboxes: Arc::new(Outboxes::new([NodeId(2)])),
            snapshots: SnapshotQueue::new().0,
            lifecycle: lifecycle.clone(),
            metrics,
            board: board.clone(),
        });
        let thread = std::thread::spawn(move || worker.run("shards-0"));
        Fixture { host, thread, steps, outcomes, lifecycle, engine, board }
    }

    fn open(&self, key: u32) -> UnboundedReceiver<Vec<Answer>> {
        let (port, answers) = unbounded_channel();
        self.host.open_stream(StreamKey(key), &port);
        answers
    }

    fn end(self) {
        self.host.stop();
        self.thread.join().unwrap();
    }
}

fn submission(key: u32, op_index: u32) -> Submission {
    submission_to(0, key, op_index)
}

fn submission_to(index: usize, key: u32, op_index: u32) -> Submission {
    let request = Request::Propose { command: vec![op_index as u8], wait: None };
    Submission { index, ticket: ticket(StreamKey(key), op_index), give_up_at_ms: u64::MAX, request }
}

/// The tickets of the operations among the inputs.
fn tickets(inputs: &[Input]) -> Vec<Ticket> {
    let ticket = |input: &Input| match input {
        Input::Propose { ticket, .. } | Input::Detach { ticket } => Some(*ticket),
        _ => None,
    };
    inputs.iter().filter_map(ticket).collect()
}

#[test]
fn what_arrives_during_a_step_is_one_step_in_order() {
    let f = Fixture::new(10_000);
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    assert_eq!(tickets(&f.steps.recv().unwrap()), [ticket(StreamKey(1), 0)]);
    for op_index in 1..=500 {
        f.host.submit(0, vec![submission(1, op_index)]).unwrap();
    }
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    let expected: Vec<Ticket> = (1..=500).map(|op_index| ticket(StreamKey(1), op_index)).collect();
    assert_eq!(tickets(&f.steps.recv().unwrap()), expected);
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    f.end();
}

#[test]
fn a_thread_that_is_held_up_finishes_no_round() {
    let f = Fixture::new(10);
    let rounds = || f.host.rounds()[0];
    let idle = rounds();
    while rounds() < idle + 2 {
        std::thread::yield_now(); // ticks are rounds, too
    }
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    f.steps.recv().unwrap();
    let held_up = rounds();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(rounds(), held_up);
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    while rounds() == held_up {
        std::thread::yield_now();
    }
    f.end();
}

#[test]
fn a_streams_answers_of_one_round_come_in_one_piece() {
    let f = Fixture::new(10);
    let (mut first, mut second) = (f.open(1), f.open(2));
    f.host.submit(0, vec![submission(1, 0), submission(2, 0), submission(1, 1)]).unwrap();
    f.steps.recv().unwrap();
    let replies = [(1, 0), (2, 0), (1, 1), (9, 0)]
        .map(|(key, op_index)| (ticket(StreamKey(key), op_index), Reply::NoLeader));
    f.outcomes.send(Ok(Outputs { replies: replies.into(), ..Outputs::default() })).unwrap();
    let indexes = |answers: Vec<Answer>| {
        answers.into_iter().map(|answer| answer.op_index).collect::<Vec<_>>()
    };
    assert_eq!(indexes(first.blocking_recv().unwrap()), [0, 1]);
    assert_eq!(indexes(second.blocking_recv().unwrap()), [0]);
    f.end();
}

#[test]
fn after_a_fatal_step_nothing_is_answered() {
    let f = Fixture::new(10);
    let mut answers = f.open(1);
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    f.steps.recv().unwrap();
    f.outcomes.send(Err("parted from the others".into())).unwrap();
    f.thread.join().unwrap();
    assert!(f.lifecycle.failure().unwrap().to_string().contains("parted from the others"));
    assert!(answers.try_recv().is_err());
}

/// Regression: the thread of a replica of META ended with it, and the whole node.
#[test]
fn a_fatal_step_of_meta_ends_its_replica_alone() {
    let f = Fixture::new(10);
    let mut answers = f.open(1);
    let (meta, steps, outcomes) = newcomer(META);
    let seat = f.host.admit(meta);
    f.host.submit(0, vec![submission_to(seat.index, 1, 1)]).unwrap();
    assert_eq!(tickets(&steps.recv().unwrap()), [ticket(StreamKey(1), 1)]);
    outcomes.send(Err("parted from the others".into())).unwrap();
    // Operation 0 was in flight, and 1 may be.
    let told = |answers: Vec<Answer>| -> Vec<_> {
        answers.into_iter().map(|answer| (answer.op_index, answer.reply)).collect()
    };
    let unknown = Some(Reply::Unknown);
    assert_eq!(
        told(answers.blocking_recv().unwrap()),
        [(0, unknown.clone()), (1, unknown)],
        "nobody waits for ever"
    );
    let failure = f.board.meta_failure().expect("it is told");
    assert!(failure.contains("parted from the others"), "{failure}");

    // What sits there now refuses, and the other replica of the thread goes on.
    f.host.submit(0, vec![submission_to(seat.index, 1, 2)]).unwrap();
    assert_eq!(told(answers.blocking_recv().unwrap()), [(2, Some(Reply::NoLeader))]);
    f.host.submit(0, vec![submission(1, 3)]).unwrap();
    assert_eq!(tickets(&f.steps.recv().unwrap()), [ticket(StreamKey(1), 3)]);
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    assert!(!f.lifecycle.failed());

    // It leaves as any other replica does.
    f.host.retire(META, 0).unwrap().blocking_recv().expect("its data are destroyed");
    assert_eq!(f.board.meta_failure(), None);
    f.end();
}

/// Regression: a panic in META's replica ended the node, although nobody needs META for locks.
#[test]
fn a_panic_in_metas_replica_ends_the_replica_alone() {
    let f = Fixture::new(10);
    let mut answers = f.open(1);
    let (meta, steps, outcomes) = newcomer(META);
    let seat = f.host.admit(meta);
    f.host.submit(0, vec![submission_to(seat.index, 1, 1)]).unwrap();
    steps.recv().unwrap();
    outcomes.send(Err("panic: to_commit 9 is out of range".into())).unwrap();
    let told = answers.blocking_recv().unwrap();
    assert_eq!((told.len(), told[0].op_index, &told[0].reply), (1, 1, &Some(Reply::Unknown)));
    let failure = f.board.meta_failure().expect("it is told");
    assert!(failure.contains("to_commit 9 is out of range"), "{failure}");

    f.host.submit(0, vec![submission_to(seat.index, 1, 2), submission(1, 3)]).unwrap();
    assert_eq!(tickets(&f.steps.recv().unwrap()), [ticket(StreamKey(1), 3)], "the other goes on");
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    assert_eq!(answers.blocking_recv().unwrap()[0].reply, Some(Reply::NoLeader));
    assert!(!f.lifecycle.failed());
    f.host.retire(META, 0).unwrap().blocking_recv().expect("its data are destroyed");
    f.end();
}

#[test]
fn before_it_takes_part_a_replica_hears_no_peer_and_decides_nothing() {
    let f = Fixture::waiting(10);
    let mut answers = f.open(1);
    assert_eq!(f.host.deliver([(ShardId(0), vec![1])]), 0);
    f.host.input(ShardId(0), Input::Peer(vec![2]));
    let read = |op_index, linearizable| {
        let request = Request::Read { query: Query::Status, linearizable };
        Submission { request, ..submission(1, op_index) }
    };
    f.host.submit(0, vec![submission(1, 0), read(1, true), read(2, false)]).unwrap();
    let told = f.steps.recv().unwrap();
    assert!(matches!(told[..], [Input::Read { linearizable: false, .. }]), "{told:?}");
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    let refused = answers.blocking_recv().unwrap();
    assert!(refused.iter().all(|answer| answer.reply == Some(Reply::NoLeader)), "{refused:?}");
    assert_eq!(refused.iter().map(|answer| answer.op_index).collect::<Vec<_>>(), [0, 1]);

    f.host.take_part();
    f.host.deliver([(ShardId(0), vec![3])]);
    let told = f.steps.recv().unwrap();
    assert!(matches!(&told[..], [Input::Peer(bytes)] if *bytes == [3]), "{told:?}");
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    f.end();
}

#[test]
fn a_full_inbox_refuses_whole_batches() {
    let f = Fixture::new(2);
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    f.steps.recv().unwrap(); // taken out of the inbox, and the thread held up
    f.host.submit(0, vec![submission(1, 1)]).unwrap();
    let refused = f.host.submit(0, vec![submission(1, 2), submission(1, 3)]).unwrap_err();
    assert_eq!(refused.len(), 2);
    f.host.submit(0, vec![submission(1, 4)]).unwrap();
    assert_eq!(f.host.queued_operations(), 2);
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    assert_eq!(
        tickets(&f.steps.recv().unwrap()),
        [1, 4].map(|op_index| ticket(StreamKey(1), op_index))
    );
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    f.end();
}

#[test]
fn an_operation_that_nobody_waits_for_is_not_handed_over() {
    let f = Fixture::new(10);
    let mut answers = f.open(1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    let late = Submission { give_up_at_ms: 0, ..submission(1, 0) };
    f.host.submit(0, vec![late, submission(1, 1)]).unwrap();
    assert_eq!(tickets(&f.steps.recv().unwrap()), [ticket(StreamKey(1), 1)]);
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    let answers = answers.blocking_recv().unwrap();
    assert_eq!((answers[0].op_index, &answers[0].reply), (0, &Some(Reply::Busy)));
    f.end();
}

#[test]
fn a_closed_stream_detaches_what_waits() {
    let f = Fixture::new(10);
    let mut answers = f.open(1);
    let seat = f.host.seat(ShardId(0)).unwrap();
    f.host.close_stream(StreamKey(1), vec![(seat, ticket(StreamKey(1), 5))]);
    let told = f.steps.recv().unwrap();
    assert!(
        matches!(told[..], [Input::Detach { ticket: t }] if t == ticket(StreamKey(1), 5)),
        "{told:?}"
    );
    f.outcomes
        .send(Ok(Outputs {
            replies: vec![(ticket(StreamKey(1), 5), Reply::Busy)],
            ..Outputs::default()
        }))
        .unwrap();
    assert!(answers.blocking_recv().is_none(), "a closed stream's port is dropped");
    f.end();
}

/// A replica that was admitted is stepped like the first one, and each has its own inputs.
#[test]
fn a_replica_can_be_admitted_while_the_thread_runs() {
    let f = Fixture::new(10);
    assert_eq!(f.host.deliver([(ShardId(7), vec![1])]), 1, "it is not hosted yet");
    f.host.disk(true, 1);
    assert!(matches!(f.steps.recv().unwrap()[..], [Input::Disk { hangs: true, .. }]));
    f.outcomes.send(Ok(Outputs::default())).unwrap();

    let (seventh, steps, outcomes) = newcomer(ShardId(7));
    assert_eq!(f.host.admit(seventh), Seat { thread: 0, index: 1 });
    let told = steps.recv().unwrap();
    assert!(matches!(told[..], [Input::Disk { hangs: true, .. }]), "{told:?}");
    outcomes.send(Ok(Outputs::default())).unwrap();
    assert_eq!(f.host.deliver([(ShardId(7), vec![2])]), 0);
    f.host.submit(0, vec![submission_to(1, 1, 5)]).unwrap();
    let mut told = steps.recv().unwrap();
    outcomes.send(Ok(Outputs::default())).unwrap();
    if told.len() == 1 {
        told.extend(steps.recv().unwrap());
        outcomes.send(Ok(Outputs::default())).unwrap();
    }
    assert!(matches!(&told[..], [Input::Peer(bytes), Input::Propose { .. }] if *bytes == [2]));
    assert!(f.steps.is_empty(), "the other replica heard nothing of it");
    f.end();
}

#[test]
fn a_retired_replica_hears_nothing_more_and_its_neighbour_everything() {
    let f = Fixture::new(10);
    let (seventh, steps, outcomes) = newcomer(ShardId(7));
    f.host.admit(seventh);
    let mut answers = f.open(1);
    let first = f.host.seat(ShardId(0)).unwrap();
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    f.steps.recv().unwrap(); // in flight, and the thread held up
    assert!(f.host.retire(ShardId(0), 1).is_some());
    assert!(f.host.retire(ShardId(0), 1).is_none(), "only once");
    assert_eq!(f.host.seat(ShardId(0)), None);
    assert_eq!(f.host.deliver([(ShardId(0), vec![1])]), 1);
    // These were on their way when the replica ended: their senders had looked up its seat.
    f.host.submit(first.thread, vec![submission(1, 1)]).unwrap();
    f.host.persisted(first.thread, vec![(first.index, 1)]);
    f.host.input_all(&Input::Unreachable { node: NodeId(2) });
    f.outcomes.send(Ok(Outputs::default())).unwrap();

    let told = steps.recv().unwrap();
    assert!(matches!(told[..], [Input::Unreachable { .. }]), "{told:?}");
    outcomes.send(Ok(Outputs::default())).unwrap();
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.extend(answers.blocking_recv().unwrap());
    }
    heard.sort_by_key(|answer| answer.op_index);
    let heard: Vec<_> = heard.iter().map(|answer| (answer.op_index, &answer.reply)).collect();
    assert_eq!(heard, [(0, &Some(Reply::Unknown)), (1, &None)]);
    assert!(f.steps.is_empty(), "the retired replica was stepped");
    f.end();
}

/// The order to destroy the data of a replica comes after its last write, which is on its way when
/// the replica is told to leave.
#[test]
fn a_retired_replica_is_destroyed_after_its_last_write() {
    let f = Fixture::new(10);
    f.engine.host_shard(ShardId(0), 7).unwrap();
    f.host.submit(0, vec![submission(1, 0)]).unwrap();
    f.steps.recv().unwrap(); // the thread is held up, so the next round takes what follows
    f.host.submit(0, vec![submission(1, 1)]).unwrap();
    let destroyed = f.host.retire(ShardId(0), 7).unwrap();
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    f.steps.recv().unwrap();
    let write = ShardWrite { hard_state: Some(vec![1]), ..ShardWrite::default() };
    let write = Some(shard::Write { number: 1, write });
    f.outcomes.send(Ok(Outputs { write, ..Outputs::default() })).unwrap();
    destroyed.blocking_recv().expect("the writer has done it");
    let lives = f.engine.lives()[&ShardId(0)];
    assert_eq!((lives.hosted, lives.destroyed), (None, Some(7)));
    assert_eq!(f.engine.recover(ShardId(0)).unwrap(), Default::default());
    assert!(!f.lifecycle.failed());
    f.end();
}

/// A node that is told to stop lets no replica ask for votes, not even one that comes then.
#[test]
fn a_replica_that_comes_while_its_node_leaves_stands_aside() {
    let f = Fixture::new(10);
    f.host.stand_aside();
    f.steps.recv().unwrap();
    f.outcomes.send(Ok(Outputs::default())).unwrap();
    let (seventh, steps, outcomes) = newcomer(ShardId(7));
    f.host.admit(seventh);
    let told = steps.recv_timeout(Duration::from_secs(60)).expect("it is not told");
    assert!(matches!(told[..], [Input::StandAside]), "{told:?}");
    outcomes.send(Ok(Outputs::default())).unwrap();
    f.end();
}

#[test]
fn a_shard_that_comes_back_has_a_seat_of_its_own() {
    let f = Fixture::new(10);
    let former = f.host.seat(ShardId(0)).unwrap();
    assert!(f.host.retire(ShardId(0), 1).is_some());
    let (again, steps, outcomes) = newcomer(ShardId(0));
    let seat = f.host.admit(again);
    assert_ne!(seat, former, "a late message would reach another replica");
    f.host.submit(former.thread, vec![submission_to(former.index, 1, 0)]).unwrap();
    // It was built of the former replica's data.
    f.host.input_at(former, Input::SnapshotBuilt(None));
    f.host.submit(seat.thread, vec![submission_to(seat.index, 1, 1)]).unwrap();
    assert_eq!(tickets(&steps.recv().unwrap()), [ticket(StreamKey(1), 1)]);
    outcomes.send(Ok(Outputs::default())).unwrap();
    f.end();
    assert!(steps.recv().is_err(), "it heard of one operation");
}

#[test]
fn a_pause_gives_few_ticks_and_keeps_the_beat() {
    let mut ticker = Ticker::new(0, 50);
    assert_eq!((ticker.due(49), ticker.due(50), ticker.due(50)), (0, 1, 0));
    assert_eq!(ticker.due(160), 2, "two periods, two ticks");
    assert_eq!(ticker.due(60_020), 2, "a minute's pause");
    assert_eq!((ticker.wait_ms(60_020), ticker.due(60_049), ticker.due(60_050)), (30, 0, 1));
}

#[test]
fn shards_are_spread_over_threads_and_found_again() {
    let shards: Vec<ShardId> = (0..5).map(ShardId).collect();
    let (host, inboxes) = Host::new(&shards, 2, 1);
    assert_eq!(inboxes.len(), 2);
    assert_eq!(host.shards_of(0), [ShardId(0), ShardId(2), ShardId(4)]);
    assert_eq!(host.shards_of(1), [ShardId(1), ShardId(3)]);
    for thread in 0..2 {
        for (index, shard) in host.shards_of(thread).into_iter().enumerate() {
            assert_eq!(host.seat(shard), Some(Seat { thread, index }));
        }
    }
    assert_eq!(host.seat(ShardId(5)), None);
}

/// The changes come with the answers that were read after them, and no stream gets these. The port
/// of a replica that ends is dropped.
#[tokio::test]
async fn news_go_to_the_reader_of_the_shard_until_the_replica_ends() {
    let f = Fixture::new(10);
    let (port, mut reader) = news(1 << 20);
    assert!(f.host.watch(ShardId(0), Some(port)));
    let told = f.steps.recv().unwrap();
    assert!(matches!(told[..], [Input::Watch { on: true }]), "{told:?}");
    let happened = Watched { begins_after: Some(4), entries: Vec::new(), applied_index: 4 };
    f.outcomes
        .send(Ok(Outputs {
            watched: Some(happened.clone()),
            replies: vec![(ticket(WATCH_STREAM, 5), Reply::Busy)],
            ..Outputs::default()
        }))
        .unwrap();
    let first = reader.next().await.unwrap();
    assert_eq!((first.has_leader, first.watched), (Some(false), None));
    let second = reader.next().await.unwrap();
    assert_eq!((second.watched, second.answers), (Some(happened), vec![(5, Reply::Busy)]));

    let (port, mut other) = news(1 << 20);
    assert!(!f.host.watch(ShardId(9), Some(port)), "it is not hosted here");
    assert!(other.next().await.is_none());
    assert!(f.host.retire(ShardId(0), 1).is_some());
    assert!(reader.next().await.is_none());
    f.end();
}
