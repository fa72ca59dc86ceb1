//! The frames of results, and the table of operations in flight.

use super::op_table::{InFlight, OpTable};
use super::operate::next_frame;
use crate::host::Seat;
use crate::limits::{RESULT_FRAME_BYTES, STREAM_OPS_MAX, STREAM_WAITS_MAX};
use routing::ShardId;
use service::Follow;
use std::collections::VecDeque;
use std::time::Instant;
use wire::OperationKind;
use wire::internal::v1::OperationResult;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::v1;

#[test]
fn results_share_frames_up_to_their_size() {
    let error = |bytes: usize| Some(OpResult::Error(v1::Error::internal("x".repeat(bytes))));
    let mut ready: VecDeque<OperationResult> =
        (0..10).map(|id| OperationResult { id, result: error(RESULT_FRAME_BYTES / 4) }).collect();
    ready.push_back(OperationResult { id: 10, result: error(2 * RESULT_FRAME_BYTES) });
    let mut ids = Vec::new();
    while !ready.is_empty() {
        ids.push(next_frame(&mut ready).results.iter().map(|result| result.id).collect::<Vec<_>>());
    }
    assert_eq!(ids, [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8], vec![9], vec![10]]);
}

#[test]
fn slots_are_reused_only_after_their_answer() {
    let in_flight = |id: u64, waits: bool| InFlight {
        id,
        kind: OperationKind::Check,
        shard: ShardId(1),
        seat: Seat { thread: 0, index: 0 },
        received: Instant::now(),
        waits,
        follow: Follow::Nothing,
        span: None,
    };
    let mut ops = OpTable::default();
    let taken: Vec<u32> = (0..3).map(|id| ops.put(in_flight(id, id == 1))).collect();
    assert_eq!(taken, [0, 1, 2]);
    assert_eq!(ops.take(1).map(|op| op.id), Some(1));
    assert!(ops.take(1).is_none() && ops.take(99).is_none());
    assert_eq!((ops.put(in_flight(3, false)), ops.put(in_flight(4, false)), ops.len()), (1, 3, 4));
    while !ops.is_full(true) {
        ops.put(in_flight(5, true));
    }
    assert_eq!(
        (ops.len(), ops.short()),
        (4 + STREAM_WAITS_MAX, 4),
        "short operations have room of their own"
    );
    while !ops.is_full(false) {
        ops.put(in_flight(6, false));
    }
    assert_eq!(ops.short(), STREAM_OPS_MAX);
    assert_eq!(ops.take(10).map(|op| op.waits), Some(true));
    assert!(!ops.is_full(true) && ops.is_full(false));
}
