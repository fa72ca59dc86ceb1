//! Watches served by nodes: a picture and then each change once, also on another replica.

use crate::cluster::*;
use routing::{NodeId, Settings};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{
    KeepRecent, StartWatch, WatchFrame, WatchPlace, WatchRequest, WatchResponse,
};
use wire::v1::{self, ErrorCode, EventKind, WatchFilter};

/// As for other tests of nodes.
fn calm() -> Settings {
    Settings { election_ticks: 20, ..Settings::default() }
}

/// One call for watches.
struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    frames: VecDeque<WatchFrame>,
}

impl Watching {
    async fn open(cluster: &Cluster, id: NodeId) -> Watching {
        let address = &cluster.config.node(id).unwrap().address;
        let mut client = ShardServiceClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, stream) = mpsc::channel(16);
        let mut call = tonic::Request::new(ReceiverStream::new(stream));
        cluster.identity(id.0).put(call.metadata_mut());
        let responses = client.watch(call).await.unwrap().into_inner();
        Watching { requests, responses, frames: VecDeque::new() }
    }

    async fn send(&self, request: WatchRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn start(
        &self,
        cluster: &Cluster,
        id: u64,
        shard: u32,
        filter: WatchFilter,
        after: Option<WatchPlace>,
    ) {
        let route = Some(cluster.shard_route(shard));
        let start = vec![StartWatch { id, route, filter: Some(filter), after }];
        self.send(WatchRequest { start, ..WatchRequest::default() }).await;
    }

    /// The next frame; `None` when the call has ended.
    async fn next(&mut self) -> Option<WatchFrame> {
        while self.frames.is_empty() {
            let next = tokio::time::timeout(HANGS, self.responses.message());
            self.frames.extend(next.await.expect("no frame").ok()??.frames);
        }
        self.frames.pop_front()
    }

    /// Frames until one says that its watch is over.
    async fn end(&mut self) -> (u64, ErrorCode) {
        loop {
            let frame = self.next().await.expect("it says why");
            if let Some(error) = frame.ended {
                return (frame.id, error.code());
            }
        }
    }
}

/// What one watch has told.
#[derive(Default)]
struct Told {
    held: BTreeMap<u64, String>,
    queued: BTreeMap<u64, String>,
    events: Vec<(u64, u32, EventKind)>,
    place: Option<WatchPlace>,
    resyncs: u32,
    is_complete: bool,
}

impl Told {
    fn take(&mut self, frame: WatchFrame) {
        assert_eq!(frame.ended, None);
        if let Some(state) = frame.state {
            if state.first {
                (self.held, self.queued) = Default::default();
                self.resyncs += u32::from(state.resync);
            }
            self.held.extend(state.held.into_iter().map(|g| (g.fencing_token, g.resource_name)));
            self.queued.extend(state.queued.into_iter().map(|w| (w.waiter, w.resource_name)));
            self.is_complete = state.last;
        }
        for event in frame.events {
            self.change(&event);
            let at = (event.index, event.ordinal, event.kind());
            assert!(
                self.events.last().is_none_or(|last| (last.0, last.1) < (at.0, at.1)),
                "{at:?}"
            );
            self.events.push(at);
        }
        self.place = frame.place;
    }

    fn change(&mut self, event: &v1::Event) {
        let name = event.resource_name.clone();
        match (event.kind(), &event.grant, &event.waiter) {
            (EventKind::Granted, Some(grant), waiter) => {
                assert_eq!(self.held.insert(grant.fencing_token, name), None);
                if let Some(waiter) = waiter {
                    assert!(self.queued.remove(&waiter.waiter).is_some(), "{event:?}");
                }
            }
            (EventKind::Queued, None, Some(waiter)) => {
                assert_eq!(self.queued.insert(waiter.waiter, name), None);
            }
            (EventKind::Cancelled, None, Some(waiter)) => {
                assert!(self.queued.remove(&waiter.waiter).is_some(), "{event:?}");
            }
            (_, Some(grant), None) => {
                assert!(self.held.remove(&grant.fencing_token).is_some(), "{event:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.events.iter().map(|(.., kind)| *kind).collect()
    }

    async fn read_until(&mut self, watching: &mut Watching, is_there: impl Fn(&Told) -> bool) {
        while !is_there(self) {
            self.take(watching.next().await.expect("it goes on"));
        }
    }
}

/// Takes a lock and releases it.
async fn turn(cluster: &Cluster, name: &str, request: u8) {
    let grant = granted(cluster.ask_leader(acquire(name, request)).await);
    cluster.ask_leader(release(name, grant.fencing_token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_a_picture_and_then_tells_each_change() {
    let cluster = Cluster::start(3, 1, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let mut caller = cluster.caller(leader).await;
    caller.send(cluster.route("orders"), [acquire_waiting("orders", 2)]).await;
    for id in [1, 2, 3].map(NodeId) {
        // Any replica serves it.
        let mut watching = Watching::open(&cluster, id).await;
        watching.start(&cluster, 7, 0, WatchFilter::default(), None).await;
        let mut told = Told::default();
        told.read_until(&mut watching, |told| told.is_complete && told.queued.len() == 1).await;
        assert_eq!(told.held.keys().copied().collect::<Vec<_>>(), [held.fencing_token]);
        assert_eq!(told.resyncs, 0);
        turn(&cluster, "users", id.0 as u8).await;
        let granted = |told: &Told| told.kinds().contains(&EventKind::Released);
        told.read_until(&mut watching, granted).await;
        assert!(told.kinds().ends_with(&[EventKind::Granted, EventKind::Released]));
    }
    let mut watching = Watching::open(&cluster, leader).await;
    let filter = WatchFilter {
        name: "orders".into(),
        kinds: vec![EventKind::Granted.into()],
        ..WatchFilter::default()
    };
    watching.start(&cluster, 1, 0, filter, None).await;
    let mut told = Told::default();
    told.read_until(&mut watching, |told| told.is_complete).await;
    told.held.clear();
    turn(&cluster, "users", 9).await;
    cluster.ask_leader(release("orders", held.fencing_token)).await;
    told.read_until(&mut watching, |told| !told.events.is_empty()).await;
    assert_eq!(told.kinds(), [EventKind::Granted]);
    let text = cluster.nodes[&leader].metrics_text();
    assert!(text.contains("palisade_watch_rings 1"), "{text}");
    cluster.stop_all().await;
}

/// The node that serves the watch dies, and with it the leader. The watch goes on at another node,
/// which was asked to keep what happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_another_replica_without_a_gap() {
    let mut cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let leader = cluster.leader_of("orders").await;
    let other = [1, 2, 3].map(NodeId).into_iter().find(|id| *id != leader).unwrap();
    let mut keeping = Watching::open(&cluster, other).await;
    let keep = Some(KeepRecent { shards: vec![0] });
    keeping.send(WatchRequest { keep, ..WatchRequest::default() }).await;
    // A second watch there shows that the first order was heard.
    keeping.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    Told::default().read_until(&mut keeping, |told| told.is_complete).await;

    let mut told = Told::default();
    let mut watching = Watching::open(&cluster, leader).await;
    watching.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    told.read_until(&mut watching, |told| told.is_complete).await;
    for request in 1..=5 {
        turn(&cluster, "orders", request).await;
    }
    told.read_until(&mut watching, |told| told.events.len() >= 3).await;
    let place = told.place.expect("it is complete");
    drop(watching);
    cluster.crash(leader).await;
    for request in 6..=8 {
        turn(&cluster, "orders", request).await;
    }
    keeping.start(&cluster, 2, 0, WatchFilter::default(), Some(place)).await;
    while told.events.len() < 16 {
        let frame = keeping.next().await.expect("it goes on");
        if frame.id == 2 {
            told.take(frame);
        }
    }
    let turns = [EventKind::Granted, EventKind::Released].repeat(8);
    assert_eq!((told.kinds(), told.resyncs), (turns, 0));
    cluster.stop_all().await;
}

/// A node that has started anew does not know what happened before. It says so, with a new picture.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_which_nothing_is_known_any_more_gets_a_new_picture() {
    let cluster = Cluster::start(3, 1, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let leader = cluster.leader_of("orders").await;
    let mut watching = Watching::open(&cluster, leader).await;
    let place = Some(WatchPlace { index: 1, ordinals: 0 });
    watching.start(&cluster, 1, 0, WatchFilter::default(), place).await;
    let mut told = Told::default();
    told.read_until(&mut watching, |told| told.is_complete).await;
    assert_eq!((told.resyncs, told.held.len()), (1, 1));
    assert!(told.held.contains_key(&held.fencing_token));
    let text = cluster.nodes[&leader].metrics_text();
    assert!(text.contains("palisade_watch_resyncs_total 1"), "{text}");
    cluster.stop_all().await;
}

/// One gateway does not read. Another one is told everything meanwhile, and the first one later.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_read_holds_up_no_other() {
    let cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let leader = cluster.leader_of("orders").await;
    let mut slow = Watching::open(&cluster, leader).await;
    slow.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    let (mut slowly, mut told) = (Told::default(), Told::default());
    slowly.read_until(&mut slow, |told| told.is_complete).await;
    let mut quick = Watching::open(&cluster, leader).await;
    quick.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    told.read_until(&mut quick, |told| told.is_complete).await;

    let mut caller = cluster.caller(leader).await;
    let mut turns = 0;
    // More than the channels between node and gateway hold.
    for _ in 0..30 {
        let names = (0..250).map(|nth| format!("{turns}/{nth}/{}", "x".repeat(400)));
        let mut ids = Vec::new();
        for name in names {
            ids.extend(caller.send(cluster.route(&name), [acquire(&name, 1)]).await);
        }
        turns += ids.len();
        for id in ids {
            granted(caller.result(id).await.expect("an answer"));
        }
        told.read_until(&mut quick, |told| told.events.len() >= turns).await;
    }
    slowly.read_until(&mut slow, |told| told.events.len() >= turns).await;
    assert_eq!(slowly.events, told.events);
    assert_eq!((slowly.resyncs, told.resyncs), (0, 0));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_ended_with_a_reason() {
    let cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let mut watching = Watching::open(&cluster, NodeId(1)).await;
    watching.start(&cluster, 3, 77, WatchFilter::default(), None).await;
    assert_eq!(watching.end().await, (3, ErrorCode::NoLeader), "the shard is not here");
    let filter = WatchFilter { kinds: vec![99], ..WatchFilter::default() };
    watching.start(&cluster, 4, 0, filter, None).await;
    assert_eq!(watching.end().await, (4, ErrorCode::InvalidArgument));
    watching.start(&cluster, 5, 0, WatchFilter::default(), None).await;
    Told::default().read_until(&mut watching, |told| told.is_complete).await;
    watching.send(WatchRequest { stop: vec![5], ..WatchRequest::default() }).await;
    watching.start(&cluster, 6, 0, WatchFilter::default(), None).await;
    turn(&cluster, "orders", 1).await;
    let mut told = Told::default();
    while told.events.len() < 2 && told.held.is_empty() && !told.is_complete {
        let frame = watching.next().await.expect("it goes on");
        if frame.id == 6 {
            told.take(frame);
        }
    }
    cluster.stop_all().await;
}

/// More watches than pages are read at a time. Those that come first stop before they have begun.
#[tokio::test(flavor = "multi_thread")]
async fn all_watches_of_a_call_begin_although_others_stop() {
    let cluster = Cluster::start(3, 1, calm()).await;
    let held = granted(cluster.ask_leader(acquire("orders", 1)).await);
    let mut watching = Watching::open(&cluster, NodeId(1)).await;
    let start = |id| StartWatch {
        id,
        route: Some(cluster.shard_route(0)),
        filter: Some(WatchFilter::default()),
        after: None,
    };
    let stop: Vec<u64> = (0..300).collect();
    let start = (0..400).map(start).collect();
    watching.send(WatchRequest { start, stop, ..WatchRequest::default() }).await;
    let mut told: BTreeMap<u64, Told> = BTreeMap::new();
    let stays = |told: &BTreeMap<u64, Told>| {
        let complete = |(id, told): &(&u64, &Told)| **id >= 300 && told.is_complete;
        told.iter().filter(complete).count()
    };
    while stays(&told) < 100 {
        let frame = watching.next().await.expect("it goes on");
        told.entry(frame.id).or_default().take(frame);
    }
    assert!(
        told.values().all(|told| !told.is_complete || told.held.contains_key(&held.fencing_token))
    );
    cluster.stop_all().await;
}

/// An id that is used twice names no watch any more. The call goes on with others.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once_while_its_watch_is_open() {
    let cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let mut watching = Watching::open(&cluster, NodeId(1)).await;
    for _ in 0..2 {
        watching.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    }
    assert_eq!(watching.end().await, (1, ErrorCode::InvalidArgument));
    watching.start(&cluster, 2, 0, WatchFilter::default(), None).await;
    let mut told = Told::default();
    while !told.is_complete {
        let frame = watching.next().await.expect("it goes on");
        if frame.id == 2 {
            told.take(frame);
        }
    }
    cluster.stop_all().await;
}

/// A gateway asks for more than a node tells it at once, and reads nothing. It is told the end of
/// each watch all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_watches_wait_for_a_gateway() {
    let mut cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let mut watching = Watching::open(&cluster, NodeId(1)).await;
    let kinds = vec![99; 1];
    let start = |id| StartWatch {
        id,
        route: Some(cluster.shard_route(0)),
        filter: Some(WatchFilter { kinds: kinds.clone(), ..WatchFilter::default() }),
        after: None,
    };
    for part in 0..20 {
        let start = (part * 1_000..(part + 1) * 1_000).map(start).collect();
        watching.send(WatchRequest { start, ..WatchRequest::default() }).await;
    }
    let mut ended: Vec<u64> = Vec::new();
    while ended.len() < 20_000 {
        let (id, code) = watching.end().await;
        assert_eq!(code, ErrorCode::InvalidArgument);
        ended.push(id);
    }
    ended.sort_unstable();
    assert!(ended.into_iter().eq(0..20_000));
    cluster.stop(NodeId(1)).await;
    cluster.stop_all().await;
}

/// A node stops while its gateway has not read much for a while. Each watch is told its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_tells_the_end_of_each_watch() {
    let mut cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let first = NodeId(1);
    let mut watching = Watching::open(&cluster, first).await;
    const WATCHES: usize = 6_000;
    let filter = WatchFilter { name: "users".into(), ..WatchFilter::default() };
    let start = |id| StartWatch {
        id,
        route: Some(cluster.route("users")),
        filter: Some(filter.clone()),
        after: None,
    };
    let start = (0..WATCHES as u64).map(start).collect();
    watching.send(WatchRequest { start, ..WatchRequest::default() }).await;
    let mut complete = 0;
    while complete < WATCHES {
        let frame = watching.next().await.expect("it goes on");
        complete += usize::from(frame.state.is_some_and(|state| state.last));
    }
    let ends = async {
        let mut ended = std::collections::BTreeSet::new();
        while ended.len() < WATCHES {
            let (id, code) = watching.end().await;
            assert_eq!(code, ErrorCode::ShuttingDown);
            assert!(ended.insert(id), "watch {id} ended twice");
        }
    };
    tokio::join!(cluster.stop(first), ends);
    cluster.stop_all().await;
}

/// Without a leader a replica may be behind. The watch ends, so that it can go on elsewhere. A node
/// that shuts down says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_where_no_leader_is_known_or_the_node_stops() {
    let mut cluster = Cluster::start(3, 1, calm()).await;
    turn(&cluster, "orders", 0).await;
    let [first, second, last] = [1, 2, 3].map(NodeId);
    let mut watching = Watching::open(&cluster, first).await;
    watching.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    Told::default().read_until(&mut watching, |told| told.is_complete).await;
    cluster.stop(first).await;
    assert_eq!(watching.end().await, (1, ErrorCode::ShuttingDown));
    assert!(watching.next().await.is_none());

    turn(&cluster, "orders", 1).await;
    let mut watching = Watching::open(&cluster, last).await;
    watching.start(&cluster, 1, 0, WatchFilter::default(), None).await;
    Told::default().read_until(&mut watching, |told| told.is_complete).await;
    cluster.crash(second).await;
    assert_eq!(watching.end().await, (1, ErrorCode::NoLeader));
    watching.start(&cluster, 2, 0, WatchFilter::default(), None).await;
    assert_eq!(watching.end().await, (2, ErrorCode::NoLeader), "it does not begin either");
    cluster.stop_all().await;
}
