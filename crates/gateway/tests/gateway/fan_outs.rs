//! What operations on many shards cost the identity that asks, and how many run at the same time.

use crate::fake;
use crate::fake::{Fakes, NodeOp, Reaction};
use crate::identified::{Call, Door, Files, Who, answer_all};
use std::collections::BTreeSet;
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::*;

const SHARDS: u32 = 64;

/// Twice the operations on all shards are above the burst, and so are those on all replicas.
const POLICY: &str = r#"
roles: { all: { hold: [""], read: [""], observe: true } }
bindings: [{ identities: ["*"], roles: [all] }]
quotas: { default: { operations_per_second: 1, burst: 100 } }
"#;

fn heartbeat(shards: std::ops::Range<u32>) -> Call {
    let leases = shards.map(|shard| SessionLease { shard, ..Default::default() }).collect();
    Call::Op(Op::Heartbeat(HeartbeatRequest { session_id: "0".repeat(31) + "1", leases }))
}

#[tokio::test]
async fn a_fan_out_counts_as_one_operation_for_each_shard_that_it_asks() {
    let files = Files::of(POLICY);
    let access = files.access();
    let change = |options: &mut palisade_gateway::GatewayOptions| {
        options.cluster.access = Some(access);
    };
    let fakes = Fakes::start_changed(SHARDS, 3, &[], change, answer_all).await;
    let door = Door::of(&fakes).await;
    let close =
        CloseSessionRequest { session_id: "0".repeat(31) + "1", shards: (0..SHARDS).collect() };
    // A heartbeat needs room for one operation, and owes the rest: the third one finds none.
    assert_eq!(door.call(Who::Named("holder"), heartbeat(0..SHARDS)).await, None);
    for (who, call) in [
        ("reader", Call::Op(Op::List(ListRequest::default()))),
        ("holder", heartbeat(0..SHARDS)),
        ("both", Call::Op(Op::CloseSession(close))),
        // Its cost is above the burst, and counts as the burst.
        ("operator", Call::ClusterStatus),
    ] {
        assert_eq!(door.call(Who::Named(who), call.clone()).await, None, "{call:?}");
        let again = door.call(Who::Named(who), call.clone()).await;
        assert_eq!(again, Some(ErrorCode::Busy), "{call:?}");
    }
    for _ in 0..3 {
        let of_none = heartbeat(SHARDS..SHARDS + 64);
        let of_one = heartbeat(1..2);
        assert_eq!(door.call(Who::Named("flooder"), of_none).await, None);
        assert_eq!(door.call(Who::Named("flooder"), of_one).await, None);
    }
}

/// Scans as calls of their own have a bound, like those in streams. It holds over all connections.
#[tokio::test]
async fn scans_and_statuses_of_all_clients_are_bounded_together() {
    const SCANS_MAX: usize = 256;
    let files = Files::of(&POLICY.replace("operations_per_second: 1, burst: 100", ""));
    let fakes = files
        .start(|node, operation| match &operation.op {
            Some(NodeOp::History(_)) => Reaction::Silence,
            _ => answer_all(node, operation),
        })
        .await;
    let history = |name: String| Op::History(HistoryRequest { name, limit: 0 });
    let (other, who) = (Door::of(&fakes).await, Who::Named("both"));
    // One connection has no more than 32 as calls.
    let mut doors = Vec::new();
    for _ in 0..SCANS_MAX / 32 + 1 {
        doors.push(Door::of(&fakes).await);
    }
    let mut open = other.open(who).await;
    open.send(history("a:stream".into())).await;
    let calls: Vec<_> = (1..SCANS_MAX)
        .map(|n| {
            let (door, call) = (doors[n % doors.len()].clone(), history(format!("a:{n}")).into());
            tokio::spawn(async move { door.call(who, call).await })
        })
        .collect();
    let all_run = async {
        let mut names = BTreeSet::new();
        while names.len() < SCANS_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
            names.extend(fakes.seen().into_iter().filter_map(
                |(_, operation)| match operation.op {
                    Some(NodeOp::History(history)) => Some(history.name),
                    _ => None,
                },
            ));
        }
    };
    tokio::time::timeout(fake::LONG, all_run).await.expect("all scans run");
    let busy = Some(ErrorCode::Busy);
    assert_eq!(other.call(who, history("a:more".into()).into()).await, busy);
    assert_eq!(other.call(who, Call::ClusterStatus).await, busy);
    assert_eq!(open.ask(history("a:more".into())).await, Ok(busy));
    let check = Op::Check(CheckRequest { name: "a:1".into(), ..Default::default() });
    assert_eq!(other.call(who, check.into()).await, None, "other operations have room");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    for call in calls {
        let _ = call.await;
    }
    // The gateway sees the hang-ups a moment later.
    let again = async {
        while other.call(who, Call::ClusterStatus).await == busy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(fake::LONG, again).await.expect("the room is given back");
}
