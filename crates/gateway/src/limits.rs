//! Every bound of a gateway, in one place, with what happens at it. (What operations may hold is said by [`wire::limits`].)

use std::time::Duration;

/// Waiting acquires of all clients; the excess is refused with BUSY.
pub(crate) const WAITS_MAX: usize = wire::limits::GATEWAY_WAITS_MAX;
/// Of these, those of one connection, over all its streams and calls: at most a quarter of what is free, too.
pub(crate) const CONNECTION_WAITS_MAX: usize = 4_096;
/// So many a connection gets however full the gateway is, as long as it is not quite full.
pub(crate) const WAITS_MIN: usize = 16;
/// Of a connection's waits, those that are calls of their own.
pub(crate) const CONNECTION_UNARY_WAITS_MAX: usize = 512;
/// Streams of one connection; the excess is refused with RESOURCE_EXHAUSTED.
pub(crate) const CONNECTION_STREAMS_MAX: usize = 16;
/// HTTP/2 streams of one connection, each a call or a stream; a client keeps the excess back by itself. So many that its waits and
/// streams leave as many for its short calls.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 1_024;
/// Operations of one client's streams that are not answered yet, beside its waits; the streams of a connection share them. The
/// excess is refused with BUSY.
pub(crate) const STREAM_OPS_MAX: usize = 4_096;
/// Of these, lists and histories: their answers can have megabytes each.
pub(crate) const STREAM_SCANS_MAX: usize = 64;
/// Operations in one frame; a frame with more ends its stream.
pub(crate) const FRAME_OPS_MAX: usize = 16_384;
/// Results that a client has not taken yet; above, nothing more is read from it.
pub(crate) const STREAM_RESULTS_MAX: usize = 8_192;
/// Bytes of results that a client has not taken yet; above, what else is answered is left where it is.
pub(crate) const STREAM_RESULT_BYTES_MAX: usize = 4 << 20;
/// Results packed at once: a frame is closed at so many, or at so many bytes.
pub(crate) const RESULT_FRAME_OPS: usize = 1_024;
/// See [`RESULT_FRAME_OPS`].
pub(crate) const RESULT_FRAME_BYTES: usize = 512 << 10;
/// Frames of results under way to the transport.
pub(crate) const RESULT_FRAMES_UNDER_WAY: usize = 2;
/// Open streams of clients; the excess is refused with RESOURCE_EXHAUSTED.
pub(crate) const STREAMS_MAX: usize = 16_384;
/// Unary calls at the same time, over all clients, waits aside; the excess is refused with BUSY.
pub(crate) const UNARY_MAX: usize = 16_384;

/// Operations that wait to be sent to one node; the excess is refused.
pub(crate) const NODE_QUEUE_OPS_MAX: usize = 16_384;
/// A node must be connected to within this time.
pub(crate) const NODE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent node is probed so often, and given up when it does not answer a probe for so long. Together less than the usual
/// grace of waiters: those that waited at a leader that hangs must be heard of by the next one before it drops them.
pub(crate) const NODE_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// A node that has not answered for so long may be gone: the operation is tried elsewhere, doubling with each time.
pub(crate) const ATTEMPT_TIMEOUT_MS: u64 = 1_500;
/// Likewise for a stale check, which any replica can answer.
pub(crate) const STALE_ATTEMPT_TIMEOUT_MS: u64 = 300;
/// For each replica in a cluster status.
pub(crate) const STATUS_TIMEOUT_MS: u64 = 1_000;
/// A client whose connection ended, and that lives, comes back with its waits within this time, and keeps their places. One that
/// comes later waits at the end of its queues. So a place is not kept for long, and the dead are granted nothing.
pub(crate) const COME_BACK_MAX: Duration = Duration::from_millis(300);
/// One try to leave a queue in the name of a client that is gone, or to let go of what it was granted.
pub(crate) const LEAVE_TIMEOUT_MS: u64 = 1_000;
/// First and longest pause between such tries.
pub(crate) const LEAVE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A wait that is in no queue when it is to be left is looked for so many times more.
pub(crate) const LEAVE_MISSES: u32 = 3;
/// Such tries at the same time on one shard.
pub(crate) const LEAVES_AT_ONCE: usize = 64;
/// Acquires of clients that are gone, not ended yet; the excess ends by its own time.
pub(crate) const LEAVES_MAX: usize = 2 * WAITS_MAX;

/// How often each node is asked what it knows.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Likewise, while some shard has no leader and the node answers.
pub(crate) const WATCH_KEENLY_EVERY: Duration = Duration::from_millis(100);
/// What is wrong with a lost node is logged anew, if it is something else, at most so often.
pub(crate) const WATCH_SAYS_EVERY: Duration = Duration::from_secs(10);
/// A shard whose leader was last heard of longer ago has none.
pub(crate) const LED_WITHIN: Duration = Duration::from_secs(2);
/// How often refusals are summed up in the log.
pub(crate) const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(10);
/// Descriptors that are not for clients' connections: what the gateway opens itself, beside four for each node.
pub(crate) const DESCRIPTORS_RESERVED: usize = 32;

/// What a unary call whose deadline is not longer than its wait gets for the operation itself. (The deadline stays.)
pub(crate) const OWN_TIMEOUT_MS: u32 = 500;

/// How long a shutdown lets operations finish.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown waits for open connections after that.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(1);
