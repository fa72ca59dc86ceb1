//! Watches over real processes: what they tell while leaders and gateways die, and how fast a
//! holder hears that its lock was broken.

use client::{
    AcquireOptions, Client, ClientOptions, EventKind, Held, LostReason, SessionOptions,
    WatchOptions,
};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(3_600);
/// A test that hangs fails after this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// An event as it is compared: its kind, name and token.
type Seen = (EventKind, String, u64);

/// Watches all names, and passes on what it is told, until the receiver is gone.
fn watch(client: &Client) -> mpsc::UnboundedReceiver<Seen> {
    let (seen, told) = mpsc::unbounded_channel();
    let mut watch = client.watch(WatchOptions::new().prefix("w:"));
    tokio::spawn(async move {
        let mut last = BTreeMap::new();
        loop {
            let update = watch.next().await.expect("it goes on for ever");
            if let Some(state) = &update.state {
                assert!(!state.resync, "the rings of the other nodes have all events");
            }
            for event in update.events {
                let place = (event.index, event.ordinal);
                let former = last.insert(event.shard, place);
                assert!(former < Some(place), "{place:?} after {former:?}");
                let token = event.grant.as_ref().map_or(0, |grant| grant.fencing_token);
                if seen.send((event.kind(), event.resource_name.clone(), token)).is_err() {
                    return;
                }
            }
        }
    });
    told
}

/// Takes and releases a name, for as long as each takes. Returns the token.
async fn cycle(client: &Client, name: &str) -> u64 {
    let grant = eventually("a grant", async || {
        let options = AcquireOptions::new(name).ttl(LONG).wait(Duration::from_secs(5));
        client.acquire(options).await.ok()
    })
    .await;
    let token = grant.fencing_token;
    eventually("a release", async || client.release(name, token).await.ok()).await;
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_once_and_in_order_over_the_kill_of_a_leader_and_a_gateway() {
    let spec = Spec { gateways: 2, shards: 2, ..Spec::default() };
    let mut cluster = Cluster::start(spec).await;
    // The watch uses the first gateway as long as it lives, and the workers the second.
    let mut told = watch(&cluster.client());
    let worker = Client::connect([cluster.gateway(2)]);
    eventually("all nodes keep recent events", async || {
        let keeps = |node| cluster.node_metrics(node).contains("palisade_watch_rings 2");
        (1..=3).all(keeps).then_some(())
    })
    .await;
    let names: Vec<String> = (0..4).map(|n| format!("w:{n}")).collect();
    let mut expected: BTreeMap<&String, Vec<u64>> = BTreeMap::new();
    for round in 0..24 {
        for name in &names {
            expected.entry(name).or_default().push(cycle(&worker, name).await);
        }
        match round {
            7 => {
                let leader = cluster.leader(0).await;
                cluster.kill_node(leader);
            }
            15 => cluster.kill_gateway(1),
            _ => {}
        }
    }
    let mut seen: BTreeMap<String, Vec<(EventKind, u64)>> = BTreeMap::new();
    let ends = |seen: &BTreeMap<String, Vec<(EventKind, u64)>>| {
        expected.iter().all(|(name, tokens)| {
            let last = Some((EventKind::Released, *tokens.last().expect("a token")));
            seen.get(*name).and_then(|events| events.last().copied()) == last
        })
    };
    while !ends(&seen) {
        let next = tokio::time::timeout(PATIENCE, told.recv()).await;
        let (kind, name, token) = next.expect("an event").expect("the watch goes on");
        if matches!(kind, EventKind::Granted | EventKind::Released) {
            seen.entry(name).or_default().push((kind, token));
        }
    }
    for (name, tokens) in expected {
        // A retry may have been granted a token that its client did not see, and given it back. So
        // there may be more holds than the worker knows of, and each is whole.
        let (mut granted, events) = (Vec::new(), &seen[name]);
        for pair in events.chunks(2) {
            let [(EventKind::Granted, got), (EventKind::Released, back)] = pair else {
                panic!("{name}: {events:?}");
            };
            assert_eq!(got, back, "{name}");
            granted.push(*got);
        }
        assert!(granted.is_sorted_by(|a, b| a < b), "{name}: {granted:?}");
        assert!(tokens.iter().all(|token| granted.contains(token)), "{name}: {granted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_reaches_a_guard_and_a_session_at_once() {
    let cluster = Cluster::start(Spec::default()).await;
    let options = ClientOptions::new().owner("me").renew_interval_max(LONG);
    let holder = Client::with_options([cluster.gateway(1)], options);
    let guard = holder.lock(AcquireOptions::new("a").ttl(LONG)).await.expect("a lock");
    let session = holder.open_session(SessionOptions::new().ttl(LONG)).await.expect("a session");
    let of_session = session.acquire("b").await.expect("a lock");
    let other = session.acquire("c").await.expect("a lock");
    eventually("both are watched", async || {
        let served = cluster.gateway_metrics(1).contains("palisade_gateway_watches 2");
        let nodes = (1..=3).map(|node| cluster.node_metrics(node));
        let lines = nodes.flat_map(|page| page.lines().map(str::to_owned).collect::<Vec<_>>());
        let counts = lines.filter_map(|line| {
            line.strip_prefix("palisade_watches ").and_then(|count| count.parse::<u32>().ok())
        });
        (served && counts.sum::<u32>() == 2).then_some(())
    })
    .await;
    let breaker = cluster.client();
    for (name, token) in [("a", guard.token()), ("b", of_session.token())] {
        breaker.break_lock(name, token, "stuck", "op").await.expect("a break");
    }
    let lost = async { (guard.lost().await, of_session.lost().await) };
    let (of_guard, in_session) = tokio::time::timeout(PATIENCE, lost).await.expect("both are lost");
    for reason in [of_guard, in_session] {
        assert!(matches!(&reason, LostReason::Fenced(_)), "{reason}");
        assert_eq!(reason.to_string(), "it was broken by op: stuck");
    }
    assert!(other.is_valid());
    let tenures = breaker.history("a", 1).await.expect("a history");
    assert_eq!(tenures[0].renewal_count, 0, "no renewal was due");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_changes_and_ends_with_ctrl_c() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let held = client.acquire(AcquireOptions::new("a:held").ttl(LONG)).await.expect("a lock");
    // A test run may ignore signals, and its children would too.
    let set = cluster.palisade(&["watch", "--prefix", "a:", "--json"]);
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(set.get_program()).args(set.get_args());
    command.envs(set.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run");
    let stdout = child.stdout.take().expect("it is piped");
    let (lines, mut told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
            let document: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if lines.send(document).is_err() {
                return;
            }
        }
    });
    let mut next = async || {
        tokio::time::timeout(PATIENCE, told.recv()).await.expect("a line").expect("no end")
    };
    let first = next().await;
    assert_eq!(first["state"]["held"][0]["fencing_token"], held.fencing_token, "{first}");
    client.release("a:held", held.fencing_token).await.expect("a release");
    let change = next().await;
    assert_eq!(change["events"][0]["kind"], "released", "{change}");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, Signal::SIGINT).expect("it runs");
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic");
    assert_eq!(status.expect("it ends").code(), Some(0));
    // In words, and on from the position of the last line.
    let position = change["position"].as_str().expect("a position");
    let args = ["watch", "--prefix", "a:", "--position", position];
    let mut child = cluster.palisade(&args).spawn().expect("run");
    let stdout = child.stdout.take().expect("it is piped");
    client.acquire(AcquireOptions::new("a:next").ttl(LONG)).await.expect("a lock");
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
        line
    });
    let line = tokio::time::timeout(PATIENCE, line).await.expect("a line").expect("no panic");
    assert!(line.contains("granted") && line.contains("a:next"), "{line}");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
