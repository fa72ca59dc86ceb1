//! The task of a shard, with a shard thread that the test plays.

use super::{CallId, Handle, Hub};
use crate::host::{HostMessage, InboxEnd, News, NewsPort};
use crate::limits::{WATCH_LIMITS, WATCH_PAGES_AT_ONCE};
use crate::mailbox::Received;
use ::shard::{Answer, EntryEvents, Input, Query, Reply, Watched};
use locks::{Event, Mode, PicturePage, Waiter};
use routing::{NodeId, ShardId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;
use wire::internal::v1::{StartWatch, WatchFrame, WatchResponse};
use wire::v1::ErrorCode;

const SHARD: ShardId = ShardId(0);
/// No step of a test takes this long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Events of one entry.
const EVENTS: u64 = 1_000;

struct Fixture {
    hub: Hub,
    inbox: InboxEnd,
    messages: VecDeque<HostMessage>,
}

impl Fixture {
    fn new(election_timeout: Duration) -> Fixture {
        let (context, inbox) = crate::testing::context(NodeId(1), 10);
        Fixture { hub: Hub::new(context, election_timeout), inbox, messages: VecDeque::new() }
    }

    /// The next message to the shard thread.
    ///
    /// The questions whether the replica is behind come by time, so they are left out.
    fn next(&mut self) -> HostMessage {
        while self.messages.is_empty() {
            let mut batch = Vec::new();
            let received = self.inbox.receiver.take_all(&mut batch, Some(HANGS));
            assert_eq!(received, Received::Some);
            batch.retain(|message| {
                !matches!(
                    message,
                    HostMessage::Input(_, Input::Read { query: Query::Position, .. })
                )
            });
            self.messages.extend(batch);
        }
        self.messages.pop_front().expect("one came")
    }

    /// The port that the replica gets, which begins after entry 10.
    fn port(&mut self) -> NewsPort {
        let HostMessage::Watch(0, Some(port)) = self.next() else { panic!("it is not watched") };
        let watched = Watched { begins_after: Some(10), entries: vec![], applied_index: 10 };
        let has_leader = Some(true);
        port.send(News { watched: Some(watched), has_leader, ..News::default() });
        port
    }

    /// The ticket of the next read of a page, and whether it is linearizable.
    fn read(&mut self) -> (u32, bool) {
        match self.next() {
            HostMessage::Input(0, Input::Read { ticket, query, linearizable }) => {
                assert!(matches!(query, Query::Picture { .. }), "{query:?}");
                (ticket as u32, linearizable)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A call with the test in the part of its gateway.
struct Gateway {
    call: Arc<Handle>,
    responses: mpsc::Receiver<Result<WatchResponse, Status>>,
    frames: VecDeque<WatchFrame>,
}

impl Gateway {
    fn new(id: u64) -> Gateway {
        let (outbound, responses) = mpsc::channel(1);
        Gateway { call: Handle::new(CallId(id), outbound), responses, frames: VecDeque::new() }
    }

    async fn start(&self, hub: &Hub, id: u64) {
        self.call.open(id, SHARD, hub.admit(SHARD).expect("it is hosted"));
        hub.start(SHARD, &self.call, StartWatch { id, ..StartWatch::default() }).await;
    }

    async fn next(&mut self) -> WatchFrame {
        while self.frames.is_empty() {
            let next = tokio::time::timeout(HANGS, self.responses.recv()).await;
            self.frames.extend(next.expect("no frame").unwrap().unwrap().frames);
        }
        self.frames.pop_front().unwrap()
    }

    async fn state(&mut self) -> (bool, bool) {
        let state = self.next().await.state.expect("a state");
        assert!(state.first && state.last);
        (state.resync, state.held.is_empty())
    }
}

fn empty_page(port: &NewsPort, index: u32) {
    let answer = Answer::Picture(PicturePage::default());
    let reply = Reply::Read { answer, applied_index: 10, stale_by_ms: 0 };
    port.send(News { answers: vec![(index, reply)], ..News::default() });
}

fn entry(port: &NewsPort, index: u64) {
    let event = |number: u64| {
        Event::Queued(Box::new(Waiter {
            name: "orders".into(),
            owner: "ann".into(),
            principal: String::new(),
            number,
            place: 1,
            mode: Mode::Exclusive,
            session: String::new(),
            metadata: String::new(),
            queued_wall_ms: 0,
        }))
    };
    let events = (0..EVENTS).map(|nth| event(index * EVENTS + nth)).collect();
    let entries = vec![EntryEvents { index, wall_ms: 0, events }];
    let watched = Watched { begins_after: None, entries, applied_index: index };
    port.send(News { watched: Some(watched), ..News::default() });
}

/// The ring goes past a gateway that does not read. That gateway gets the frames that were on the
/// way, and then a new picture. Another one gets all events meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_the_ring_has_passed_gets_a_new_picture() {
    let mut f = Fixture::new(HANGS);
    let (mut slow, mut quick) = (Gateway::new(1), Gateway::new(2));
    slow.start(&f.hub, 7).await;
    let port = f.port();
    let (first, linearizable) = f.read();
    assert!(linearizable, "it shows that the replica is not behind");
    empty_page(&port, first);
    assert_eq!(slow.state().await, (false, true));
    quick.start(&f.hub, 8).await;
    let (second, _) = f.read();
    empty_page(&port, second);
    assert_eq!(quick.state().await, (false, true));

    let mut told = 0;
    let entries = WATCH_LIMITS.events as u64 / EVENTS + 40;
    for index in 11..11 + entries {
        entry(&port, index);
        while told < (index - 10) * EVENTS {
            let frame = quick.next().await;
            told += frame.events.len() as u64;
            assert!(frame.place.is_some() && frame.state.is_none());
        }
    }
    let mut numbers = Vec::new();
    while let Some(frame) =
        slow.frames.pop_front().or(slow.responses.try_recv().ok().and_then(|response| {
            slow.frames.extend(response.unwrap().frames);
            slow.frames.pop_front()
        }))
    {
        numbers.extend(frame.events.iter().map(|event| event.waiter.as_ref().unwrap().waiter));
    }
    let in_order: Vec<u64> = (11 * EVENTS..).take(numbers.len()).collect();
    assert_eq!(numbers, in_order);
    assert!(numbers.len() < told as usize, "it did not read, and was told all");
    let (again, _) = f.read();
    empty_page(&port, again);
    assert_eq!(slow.state().await, (true, true));
    // From here on it goes on as before.
    entry(&port, 11 + entries);
    assert_eq!(slow.next().await.events[0].index, 11 + entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_pages_are_read_at_a_time_for_one_gateway() {
    let mut f = Fixture::new(HANGS);
    let mut gateway = Gateway::new(1);
    let watches = 3 * WATCH_PAGES_AT_ONCE as u64;
    gateway.start(&f.hub, 0).await;
    let port = f.port();
    for id in 1..watches {
        gateway.start(&f.hub, id).await;
    }
    let mut reads: VecDeque<u32> = (0..WATCH_PAGES_AT_ONCE).map(|_| f.read().0).collect();
    for told in 1..=watches {
        assert!(f.messages.is_empty(), "more are read at once");
        empty_page(&port, reads.pop_front().expect("each watch reads a page"));
        assert_eq!(gateway.state().await, (false, true));
        if told + WATCH_PAGES_AT_ONCE as u64 <= watches {
            reads.push_back(f.read().0);
        }
    }
}

/// The shard has too many reads. The page is asked for again, and the pages of all calls together
/// are few.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_shard_is_asked_again_and_all_calls_share_its_pages() {
    let mut f = Fixture::new(HANGS);
    let (mut first, mut second) = (Gateway::new(1), Gateway::new(2));
    first.start(&f.hub, 0).await;
    let port = f.port();
    let (page, _) = f.read();
    port.send(News { answers: vec![(page, Reply::Busy)], ..News::default() });
    let (again, linearizable) = f.read();
    assert!(linearizable && again != page);
    empty_page(&port, again);
    assert_eq!(first.state().await, (false, true));

    // Enough that each answer below is followed by a read, however late the second call comes in.
    let watches = 3 * WATCH_PAGES_AT_ONCE as u64;
    for id in 1..=watches {
        first.start(&f.hub, id).await;
    }
    let mut reads: VecDeque<u32> = (0..WATCH_PAGES_AT_ONCE).map(|_| f.read().0).collect();
    second.start(&f.hub, 1).await;
    // The second call is told its picture before all of the first one's are read.
    for _ in 0..2 * WATCH_PAGES_AT_ONCE {
        assert!(f.messages.is_empty(), "more are read at once");
        empty_page(&port, reads.pop_front().expect("a page is under way"));
        tokio::select! {
            state = first.state() => assert_eq!(state, (false, true)),
            state = second.state() => return assert_eq!(state, (false, true)),
        }
        reads.push_back(f.read().0);
    }
    panic!("the second call waits for all of the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_replica_and_where_no_leader_is_known() {
    let mut f = Fixture::new(Duration::ZERO);
    let mut gateway = Gateway::new(1);
    gateway.start(&f.hub, 7).await;
    let port = f.port();
    empty_page(&port, f.read().0);
    gateway.state().await;
    port.send(News { has_leader: Some(false), ..News::default() });
    let ended = gateway.next().await;
    assert_eq!((ended.id, ended.ended.map(|error| error.code())), (7, Some(ErrorCode::NoLeader)));
    assert!(gateway.call.opened().is_empty());

    port.send(News { has_leader: Some(true), ..News::default() });
    gateway.start(&f.hub, 8).await;
    empty_page(&port, f.read().0);
    gateway.state().await;
    drop(port);
    let ended = gateway.next().await;
    assert_eq!((ended.id, ended.ended.map(|error| error.code())), (8, Some(ErrorCode::NoLeader)));
    assert!(matches!(f.next(), HostMessage::Watch(0, None)));
    // A later watch gets a task of its own.
    gateway.start(&f.hub, 9).await;
    let port = f.port();
    empty_page(&port, f.read().0);
    assert_eq!(gateway.state().await, (false, true));
}
