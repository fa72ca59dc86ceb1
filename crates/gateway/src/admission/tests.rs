//! Bounds by connection, identity and gateway.

use super::*;
use crate::core::Caller;
use wire::v1::ErrorCode;

/// A visitor by a connection of its own.
fn connected() -> Visitor {
    Visitor::default()
}

fn fill(visitor: &Visitor, gateway: &Admission) -> Vec<WaitPlace> {
    std::iter::from_fn(|| gateway.wait(visitor, false).ok()).collect()
}

#[test]
fn greedy_connections_leave_room_for_the_others() {
    let gateway = Admission::default();
    let greedy: Vec<Vec<WaitPlace>> = (0..24).map(|_| fill(&connected(), &gateway)).collect();
    assert_eq!(greedy[0].len(), CONNECTION_WAITS_MAX);
    let modest = fill(&connected(), &gateway);
    assert!(modest.len() >= WAITS_MIN, "{} after {}", modest.len(), gateway.waits());
    assert!(gateway.waits() <= WAITS_MAX);
    drop((greedy, modest));
    assert_eq!(gateway.waits(), 0);
}

#[test]
fn a_refused_wait_takes_no_place() {
    let (visitor, gateway) = (connected(), Admission::default());
    let unary: Vec<_> = std::iter::from_fn(|| gateway.wait(&visitor, true).ok()).collect();
    assert_eq!(unary.len(), CONNECTION_UNARY_WAITS_MAX);
    assert_eq!(gateway.waits(), CONNECTION_UNARY_WAITS_MAX);
    assert!(gateway.wait(&visitor, false).is_ok(), "on a stream there is room");
}

#[test]
fn bodies_and_large_answers_of_a_connection_are_bounded() {
    let (visitor, gateway) = (connected(), Admission::default());
    let bodies: Vec<_> = std::iter::from_fn(|| gateway.body(&visitor).ok()).collect();
    let scans: Vec<_> = std::iter::from_fn(|| gateway.scan_call(&visitor).ok()).collect();
    assert_eq!((bodies.len(), scans.len()), (CONNECTION_BODIES_MAX, CONNECTION_SCANS_MAX));
    let other = connected();
    assert!(gateway.body(&other).is_ok() && gateway.scan_call(&other).is_ok());
    drop((bodies, scans));
    assert!(gateway.body(&visitor).is_ok() && gateway.scan_call(&visitor).is_ok());
    assert_eq!(gateway.scans.available_permits(), SCANS_MAX, "a refused one takes no place");
}

#[test]
fn streams_of_a_connection_share_what_it_may_have_in_flight() {
    let (visitor, gateway) = (connected(), Admission::default());
    let first = gateway.stream(&visitor).unwrap();
    assert_eq!(first.part(4_096), 4_096);
    let others: Vec<_> = std::iter::from_fn(|| gateway.stream(&visitor).ok()).collect();
    assert_eq!(others.len(), CONNECTION_STREAMS_MAX - 1);
    assert_eq!(first.part(4_096), 4_096 / CONNECTION_STREAMS_MAX);
    drop(others);
    assert_eq!(first.part(4_096), 4_096);
}

/// Clients of an identity without a quota, each by a connection of its own.
fn clients_of(name: &str) -> impl Fn() -> Visitor + use<> {
    clients_within(name, access::Quota::default())
}

fn clients_within(name: &str, quota: access::Quota) -> impl Fn() -> Visitor + use<> {
    let identity = Identity::unrestricted(name.parse().unwrap(), quota);
    let caller = Caller::Client(Arc::new(identity));
    move || Visitor { caller: caller.clone(), ..connected() }
}

/// Regression: one identity with many connections took all waits and streams of a gateway.
#[test]
fn a_greedy_identity_leaves_room_for_the_others_however_many_connections_it_has() {
    for name in ["mallory", access::ANONYMOUS] {
        let gateway = Admission::default();
        let greedy = clients_of(name);
        let waits: Vec<_> = (0..64).flat_map(|_| fill(&greedy(), &gateway)).collect();
        let fifth = |all: usize| all / 5 - 1..=all / 5 + 1;
        assert!(fifth(WAITS_MAX).contains(&waits.len()), "{}", waits.len());
        let refused = gateway.wait(&greedy(), false).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
        assert!(refused.message.contains("its full share of the waits"), "{}", refused.message);
        assert!(gateway.wait(&clients_of("alice")(), false).is_ok());

        let open = || std::iter::from_fn(|| gateway.stream(&greedy()).ok());
        let streams: Vec<_> = open().take(STREAMS_MAX).collect();
        assert!(fifth(STREAMS_MAX).contains(&streams.len()), "{}", streams.len());
        let refused = gateway.stream(&greedy()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(gateway.stream(&clients_of("alice")()).is_ok());
        drop((waits, streams));
        assert_eq!((gateway.waits(), gateway.streams.available_permits()), (0, STREAMS_MAX));
    }
}

#[test]
fn watches_are_bounded_by_connection_identity_and_gateway() {
    let gateway = Admission::default();
    let of = |visitor: &Visitor| -> Vec<WatchSeat> {
        std::iter::from_fn(|| gateway.watch(visitor, 1).ok()).collect()
    };
    let one = of(&connected());
    assert_eq!((one.len(), gateway.watches()), (CONNECTION_WATCHES_MAX, one.len()));
    let greedy = clients_of("mallory");
    let many: Vec<_> = (0..64).flat_map(|_| of(&greedy())).collect();
    assert!(many.len() < WATCHES_MAX / 4, "{}", many.len());
    let refused = gateway.watch(&greedy(), 1).unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
    let quota = access::Quota { watches: NonZeroU32::new(2), ..Default::default() };
    assert_eq!(of(&clients_within("alice", quota)()).len(), 2);
    drop((one, many));
    assert_eq!((gateway.watches(), gateway.watch_legs()), (0, 0));
}

/// Regression: a watch of a prefix counted as one, however many shards it asked. So a few
/// connections took all that the nodes serve to a gateway.
#[test]
fn watches_of_many_shards_are_bounded_by_their_legs_and_leave_room_for_single_names() {
    const SHARDS: usize = 1_024;
    let of = |gateway: &Admission, visitor: &Visitor, legs| -> Vec<WatchSeat> {
        std::iter::from_fn(|| gateway.watch(visitor, legs).ok()).collect()
    };
    let gateway = Admission::default();
    let greedy = connected();
    let of_connection = of(&gateway, &greedy, SHARDS);
    assert_eq!(of_connection.len(), WATCH_LEGS_MAX / 5 / SHARDS, "a quarter of what is left");
    assert_eq!(gateway.watch_legs(), of_connection.len() * SHARDS);
    let refused = gateway.watch(&greedy, SHARDS).unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
    let mallory = clients_of("mallory");
    let of_identity: Vec<_> = (0..64).flat_map(|_| of(&gateway, &mallory(), SHARDS)).collect();
    assert!(of_identity.len() <= of_connection.len(), "{}", of_identity.len());
    // However many connections ask for many shards, single names can still be watched.
    let all: Vec<_> = (0..1_000).flat_map(|_| of(&gateway, &connected(), SHARDS)).collect();
    let left = WATCH_LEGS_MAX - gateway.watch_legs();
    assert!(left >= 3 * SHARDS, "{left}");
    assert_eq!(of(&gateway, &connected(), 1).len(), CONNECTION_WATCHES_MAX);
    drop((of_connection, of_identity, all));
    assert_eq!((gateway.watches(), gateway.watch_legs()), (0, 0));
}

#[test]
fn an_identity_gets_a_few_waits_and_streams_while_any_are_left() {
    let gateway = Admission::default();
    let (mut waits, mut streams) = (Vec::new(), Vec::new());
    for n in 0.. {
        let by = clients_of(&format!("greedy-{n}"));
        let free = (WAITS_MAX - gateway.waits(), gateway.streams.available_permits());
        if free == (0, 0) {
            break;
        }
        let all_waits: Vec<_> = (0..8).flat_map(|_| fill(&by(), &gateway)).collect();
        let open = std::iter::from_fn(|| gateway.stream(&by()).ok());
        let all_streams: Vec<_> = open.take(STREAMS_MAX).collect();
        assert!(all_waits.len() >= WAITS_MIN.min(free.0.div_ceil(2)), "{n}: {free:?}");
        assert!(all_streams.len() >= STREAMS_MIN.min(free.1.div_ceil(2)), "{n}: {free:?}");
        waits.push(all_waits);
        streams.push(all_streams);
    }
    assert_eq!(gateway.waits(), WAITS_MAX);
}

/// Regression: a quota above the share gave no more than the share.
#[test]
fn a_quota_takes_the_place_of_the_share_within_what_the_gateway_has() {
    for (max, waits_got, streams_got) in
        [(10_000, 10_000, 10_000), (u32::MAX, WAITS_MAX, STREAMS_MAX)]
    {
        let gateway = Admission::default();
        let quota = access::Quota {
            waits: NonZeroU32::new(max),
            streams: NonZeroU32::new(max),
            ..Default::default()
        };
        let by = clients_within("batch", quota);
        let waits: Vec<_> = (0..8_000)
            .take_while(|_| gateway.waits() < waits_got)
            .flat_map(|_| fill(&by(), &gateway))
            .collect();
        let open = std::iter::from_fn(|| gateway.stream(&by()).ok());
        let streams: Vec<_> = open.take(2 * STREAMS_MAX).collect();
        assert_eq!((waits.len(), streams.len()), (waits_got, streams_got));
    }
}

#[test]
fn an_identity_has_its_quota_over_all_its_connections() {
    let (gateway, two) = (Admission::default(), NonZeroU32::new(2));
    let quota = access::Quota { waits: two, streams: two, ..Default::default() };
    let by = clients_within("alice", quota);
    let (one, Visitor { caller, .. }) = (by(), by());
    let other = Visitor { caller: Caller::Traced(Box::new((caller, [9; 25]))), ..connected() };
    let places = (gateway.wait(&one, false).unwrap(), gateway.wait(&other, true).unwrap());
    let refused = gateway.wait(&other, false).unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Busy, 1_000));
    assert_eq!(gateway.waits(), 2, "a refused wait takes no place");
    let streams = (gateway.stream(&one).unwrap(), gateway.stream(&other).unwrap());
    assert_eq!(gateway.stream(&by()).unwrap_err().code(), tonic::Code::ResourceExhausted);
    drop((places, streams));
    assert!(gateway.wait(&one, false).is_ok() && gateway.stream(&one).is_ok());
}
