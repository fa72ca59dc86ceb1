//! Watches through a gateway, in front of nodes that all know the same events.

use crate::fake::{Fakes, event};
use crate::identified::answer_all;
use palisade_gateway::{Gateway, GatewayHandle, GatewayOptions};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::{Error, ErrorCode, Event, EventKind, WatchFilter, WatchRequest, WatchResponse};

/// A test that hangs fails after this time.
const PATIENCE: Duration = Duration::from_secs(30);

async fn fakes(shards: u32) -> Fakes {
    Fakes::start(shards, 3, &[], answer_all).await
}

async fn connect(gateway: &GatewayHandle) -> LockServiceClient<Channel> {
    LockServiceClient::connect(format!("http://{}", gateway.address())).await.unwrap()
}

fn by_prefix(prefix: &str) -> WatchFilter {
    WatchFilter { prefix: prefix.into(), ..Default::default() }
}

fn by_name(name: &str) -> WatchFilter {
    WatchFilter { name: name.into(), ..Default::default() }
}

async fn watch(
    client: &mut LockServiceClient<Channel>,
    filter: WatchFilter,
    position: &str,
) -> Result<Streaming<WatchResponse>, Status> {
    let request = WatchRequest { filter: Some(filter), position: position.into() };
    client.watch(request).await.map(|response| response.into_inner())
}

async fn told(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    timeout(PATIENCE, stream.message()).await.expect("a response").unwrap().expect("no end")
}

fn granted(name: &str, token: u64) -> Event {
    event(EventKind::Granted, name, token, "")
}

fn broken(name: &str, token: u64) -> Event {
    event(EventKind::Broken, name, token, "")
}

/// What a client knows of a watch.
#[derive(Default)]
struct Seen {
    /// The tokens of events, by shard.
    events: BTreeMap<u32, Vec<u64>>,
    states: usize,
    resyncs: usize,
    position: String,
}

impl Seen {
    fn take(&mut self, told: WatchResponse) {
        if let Some(state) = told.state {
            self.states += usize::from(state.last);
            self.resyncs += usize::from(state.resync);
        }
        for event in told.events {
            self.events.entry(event.shard).or_default().push(event.grant.unwrap().fencing_token);
        }
        self.position = told.position;
    }

    fn count(&self) -> usize {
        self.events.values().map(Vec::len).sum()
    }

    async fn until(&mut self, stream: &mut Streaming<WatchResponse>, count: usize) {
        while self.count() < count {
            self.take(told(stream).await);
        }
    }

    async fn states(&mut self, stream: &mut Streaming<WatchResponse>, count: usize) {
        while self.states < count {
            self.take(told(stream).await);
        }
    }

    /// All events until now came once and in order: their tokens count from 1.
    fn assert_whole(&self) {
        for tokens in self.events.values() {
            assert_eq!(*tokens, (1..=tokens.len() as u64).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_watch_begins_with_the_state_and_goes_on_with_each_change() {
    let fakes = fakes(1).await;
    fakes.watches.push(0, vec![granted("a", 1), granted("b", 2)]);
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let first = told(&mut stream).await;
    let state = first.state.unwrap();
    assert!(state.first && state.last && !state.resync);
    assert_eq!(state.held.iter().map(|held| held.fencing_token).collect::<Vec<_>>(), [1]);
    fakes.watches.push(0, vec![broken("b", 2), broken("a", 1)]);
    let next = told(&mut stream).await;
    let [event] = &next.events[..] else { panic!("{next:?}") };
    assert_eq!((event.kind(), event.index, event.ordinal), (EventKind::Broken, 2, 1));
    let (node, start) = fakes.watches.started().remove(0);
    assert_eq!(node, fakes.leader(0).0, "the leader serves it");
    let route = fakes.config.shard_map().route("a");
    assert_eq!(start.route.unwrap().slot, u32::from(route.slot.index()));
    let kept: BTreeMap<u64, Vec<u32>> = (1..=3).map(|node| (node, vec![0])).collect();
    while fakes.watches.kept() != kept {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    while fakes.watches.stopped() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fakes.watches.kept(), kept, "events are kept for those who come back");
}

#[tokio::test]
async fn a_watch_that_moves_between_nodes_misses_nothing_and_tells_nothing_twice() {
    let fakes = fakes(2).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_prefix(""), "").await.unwrap();
    let mut seen = Seen::default();
    seen.states(&mut stream, 2).await;
    let (mut pushed, mut moved) = (0, 0);
    for round in 0..30u64 {
        for _ in 0..5 {
            pushed += 1;
            for shard in 0..2 {
                fakes.watches.push(shard, vec![granted("a", pushed)]);
            }
        }
        // Some end with a word, and some without.
        let serving = fakes.watches.started().last().unwrap().0;
        match round % 3 {
            0 => fakes.watches.cut(serving),
            1 => {
                let others: Vec<u64> = (1..=3).filter(|node| *node != serving).collect();
                others.iter().for_each(|node| fakes.watches.refuse(*node, false));
                fakes.watches.refuse(serving, true);
            }
            _ => seen.until(&mut stream, 2 * pushed as usize - 4).await,
        }
        moved = fakes.watches.started().len();
    }
    (1..=3).for_each(|node| fakes.watches.refuse(node, false));
    seen.until(&mut stream, 2 * pushed as usize).await;
    seen.assert_whole();
    assert_eq!((seen.count(), seen.states, seen.resyncs), (2 * pushed as usize, 2, 0));
    assert!(moved > 10, "it moved: {moved}");
}

#[tokio::test]
async fn a_state_that_breaks_off_begins_anew() {
    let fakes = fakes(1).await;
    fakes.watches.push(0, (1..=9).map(|token| granted("a", token)).collect());
    fakes.watches.tell_in_parts(3);
    let leader = fakes.leader(0).0;
    fakes.watches.refuse(leader, true);
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let mut held = Vec::new();
    loop {
        let Some(state) = told(&mut stream).await.state else { continue };
        if state.first {
            held.clear();
        }
        held.extend(state.held.iter().map(|held| held.fencing_token));
        if state.last {
            break;
        }
    }
    assert_eq!(held, (1..=9).collect::<Vec<u64>>());
    assert!(fakes.watches.started().iter().any(|(node, _)| *node != leader));
}

#[tokio::test]
async fn a_position_goes_on_through_another_gateway() {
    let fakes = fakes(2).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_prefix("a"), "").await.unwrap();
    let mut seen = Seen::default();
    seen.states(&mut stream, 2).await;
    (1..=5).for_each(|token| fakes.watches.push(1, vec![granted("a", token)]));
    seen.until(&mut stream, 3).await;
    drop(stream);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = Gateway::start(GatewayOptions {
        seeds: Vec::new(),
        cluster: fakes.config.clone(),
        inside: None,
        tls: None,
        listener,
        metrics_listener: None,
        reflection: false,
        audit: audit::Audit::off(),
        insecure: false,
    })
    .await
    .unwrap();
    let mut client = connect(&other).await;
    let mut stream = watch(&mut client, by_prefix("a"), &seen.position).await.unwrap();
    fakes.watches.push(1, vec![granted("a", 6)]);
    seen.until(&mut stream, 6).await;
    seen.assert_whole();
    assert_eq!((seen.states, seen.resyncs), (2, 0));
}

#[tokio::test]
async fn a_position_that_is_too_old_leads_to_a_resync() {
    let fakes = fakes(1).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let position = told(&mut stream).await.position;
    fakes.watches.push(0, vec![granted("a", 1)]);
    fakes.watches.forget(0);
    let mut stream = watch(&mut client, by_name("a"), &position).await.unwrap();
    let state = told(&mut stream).await.state.unwrap();
    assert!(state.first && state.resync && state.held.len() == 1);
}

#[tokio::test]
async fn a_wrong_filter_or_position_is_refused() {
    let fakes = fakes(1).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let position = told(&mut stream).await.position;
    let both = WatchFilter { prefix: "a".into(), ..by_name("a") };
    let unknown = WatchFilter { kinds: vec![99], ..by_name("a") };
    for (filter, position, words) in [
        (by_name("b"), position.as_str(), "another filter"),
        (by_name("a"), &position[1..], "is not one that a watch told"),
        (by_name("a"), "mine", "is not one that a watch told"),
        (both, "", "leave one of them out"),
        (unknown, "", "unknown kind"),
        (by_name("a\n"), "", "control character"),
    ] {
        let status = watch(&mut client, filter, position).await.unwrap_err();
        let error = Error::from_status(&status).unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_stopped_and_costs_the_others_nothing() {
    let fakes = fakes(1).await;
    let mut slow = connect(&fakes.gateway).await;
    let mut unread = watch(&mut slow, by_name("a"), "").await.unwrap();
    let mut seen = Seen::default();
    seen.states(&mut unread, 1).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let mut other = Seen::default();
    other.states(&mut stream, 1).await;
    let mut pushed = 0;
    while !fakes.get("/metrics").await.contains("watch_pauses_total 1") {
        for _ in 0..50 {
            pushed += 1;
            let mut large = granted("a", pushed);
            large.reason = "r".repeat(16 << 10);
            fakes.watches.push(0, vec![large]);
        }
        other.until(&mut stream, pushed as usize).await;
        assert!(pushed < 5_000, "the queue is not bounded");
    }
    other.assert_whole();
    assert_eq!(fakes.watches.stopped(), 1, "its watch is stopped at the node");
    seen.until(&mut unread, pushed as usize).await;
    seen.assert_whole();
    assert_eq!((seen.count(), seen.resyncs), (pushed as usize, 0));
    fakes.watches.push(0, vec![granted("a", pushed + 1)]);
    seen.until(&mut unread, pushed as usize + 1).await;
}

#[tokio::test]
async fn a_watch_counts_with_its_legs_until_its_client_is_gone() {
    let fakes = fakes(2).await;
    let mut client = connect(&fakes.gateway).await;
    let mut all = watch(&mut client, by_prefix(""), "").await.unwrap();
    let mut one = watch(&mut client, by_name("a"), "").await.unwrap();
    Seen::default().states(&mut all, 2).await;
    told(&mut one).await;
    let counts = |watches: usize, legs: usize| {
        let fakes = &fakes;
        async move {
            let lines = [("watches", watches), ("watch_legs", legs)];
            let lines = lines.map(|(name, count)| format!("palisade_gateway_{name} {count}\n"));
            while !{
                let text = fakes.get("/metrics").await;
                lines.iter().all(|line| text.contains(line))
            } {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(PATIENCE, counts(2, 3)).await.expect("three legs");
    drop(all);
    timeout(PATIENCE, counts(1, 1)).await.expect("one leg");
    drop(one);
    timeout(PATIENCE, counts(0, 0)).await.expect("none");
}

/// Regression: such a client kept the place of its watch, and its unread parts, for ever. The gateway
/// waits for it for 30 s, and so does this test.
#[tokio::test]
async fn a_client_that_never_reads_loses_its_watch_and_one_without_events_does_not() {
    let fakes = fakes(1).await;
    let mut quiet = connect(&fakes.gateway).await;
    let mut quiet = watch(&mut quiet, by_name("b"), "").await.unwrap();
    told(&mut quiet).await;
    let mut slow = connect(&fakes.gateway).await;
    let mut unread = watch(&mut slow, by_name("a"), "").await.unwrap();
    told(&mut unread).await;
    for token in 1..=300 {
        let mut large = granted("a", token);
        large.reason = "r".repeat(16 << 10);
        fakes.watches.push(0, vec![large]);
    }
    let gone = async {
        while !fakes.get("/metrics").await.contains("palisade_gateway_watches 1\n") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(4 * PATIENCE, gone).await.expect("the unread watch ends");
    while let Ok(message) = unread.message().await {
        assert!(message.is_some(), "it broke off");
    }
    fakes.watches.push(0, vec![granted("b", 1)]);
    while told(&mut quiet).await.events.is_empty() {}
}

#[tokio::test]
async fn a_node_that_knows_no_watches_is_passed_over() {
    let fakes = fakes(1).await;
    fakes.watches.be_old(fakes.leader(0).0);
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    assert!(told(&mut stream).await.state.is_some());
}

/// Regression: such a watch was silent for ever.
#[tokio::test]
async fn a_watch_of_nodes_that_know_no_watches_ends() {
    let fakes = fakes(1).await;
    (1..=3).for_each(|node| fakes.watches.be_old(node));
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    let status = timeout(PATIENCE, stream.message()).await.expect("an end").unwrap_err();
    assert_eq!(Error::from_status(&status).unwrap().code(), ErrorCode::NoLeader);
}

#[tokio::test]
async fn a_gateway_that_ends_says_so_to_its_watches() {
    let fakes = fakes(1).await;
    let mut client = connect(&fakes.gateway).await;
    let mut stream = watch(&mut client, by_name("a"), "").await.unwrap();
    told(&mut stream).await;
    fakes.shut_down().await;
    let status = timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(Error::from_status(&status).unwrap().code(), ErrorCode::ShuttingDown);
}

/// The stream of a watch over HTTP/1.1.
struct Sse(BufReader<TcpStream>);

impl Sse {
    async fn of(fakes: &Fakes, query: &str, headers: &str) -> Sse {
        let mut stream = BufReader::new(TcpStream::connect(fakes.gateway.address()).await.unwrap());
        let request = format!("GET /v1/watch?{query} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Sse(stream)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line").unwrap();
        line.trim_end().to_owned()
    }

    /// The next event: its name, data and id.
    async fn next(&mut self) -> (String, serde_json::Value, String) {
        let (mut name, mut data, mut id) = Default::default();
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
                Some(("id", value)) => id = value.to_owned(),
                None if line.is_empty() && name != String::new() => return (name, data, id),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_watch_over_http_is_a_stream_of_events_that_goes_on_by_its_last_id() {
    let fakes = fakes(1).await;
    fakes.watches.push(0, vec![granted("a", 1)]);
    let mut sse = Sse::of(&fakes, "name=a&kinds=granted,broken", "").await;
    assert_eq!(sse.line().await, "HTTP/1.1 200 OK");
    let mut head = String::new();
    while let line = sse.line().await
        && !line.is_empty()
    {
        head += &format!("{line}\n");
    }
    assert!(head.contains("content-type: text/event-stream\n"), "{head}");
    assert!(head.contains("cache-control: no-store\n"), "{head}");
    let (name, data, _) = sse.next().await;
    assert_eq!((name.as_str(), &data["held"][0]["fencing_token"]), ("state", &1.into()));
    fakes.watches.push(0, vec![broken("a", 1), granted("a", 2), broken("a", 2)]);
    let (name, data, id) = sse.next().await;
    assert_eq!((name.as_str(), &data["grant"]["fencing_token"]), ("broken", &1.into()));
    drop(sse);
    let header = format!("last-event-id: {id}\r\n");
    let mut sse = Sse::of(&fakes, "name=a&kinds=broken,granted&position=old", &header).await;
    for (kind, token) in [("granted", 2), ("broken", 2)] {
        let (name, data, _) = sse.next().await;
        assert_eq!((name.as_str(), &data["grant"]["fencing_token"]), (kind, &token.into()));
        assert_eq!(data["kind"], kind);
    }
    fakes.watches.forget(0);
    let mut late = Sse::of(&fakes, "name=a&kinds=broken,granted", &header).await;
    assert_eq!(late.next().await.0, "resync");
    assert_eq!(late.next().await.0, "state");
    for (query, status) in [
        ("name=a&prefix=a", "400"),
        ("kinds=stolen", "400"),
        ("names=a", "400"),
        ("name=a&position=mine", "400"),
    ] {
        let line = Sse::of(&fakes, query, "").await.line().await;
        assert_eq!(line.split(' ').nth(1), Some(status), "{query}");
    }
    fakes.shut_down().await;
    let (name, data, _) = sse.next().await;
    assert_eq!((name.as_str(), data["code"].as_str()), ("ended", Some("SHUTTING_DOWN")));
}
