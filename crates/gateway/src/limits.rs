//! Every bound of a gateway, in one place, with what happens at it. (What operations may hold is said by [`wire::limits`].)

use std::time::Duration;

/// Operations of one client stream that are not answered yet, and as many waiting acquires beside them; the excess is
/// refused with BUSY.
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
/// Unary calls at the same time, over all clients; the excess is refused with BUSY.
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
/// For leaving a queue in the name of a client that is gone, and for letting go of what it was granted.
pub(crate) const LEAVE_TIMEOUT_MS: u64 = 5_000;

/// What a unary call whose deadline is not longer than its wait gets for the operation itself. (The deadline stays.)
pub(crate) const OWN_TIMEOUT_MS: u32 = 500;

/// How long a shutdown lets operations finish.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown waits for open connections after that.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(1);
