//! All bounds of a gateway, each with the effect of reaching it. [`wire::limits`] has the bounds of
//! operations.

use std::time::Duration;

/// Waiting acquires of all clients. The excess is refused with BUSY.
pub(crate) const WAITS_MAX: usize = wire::limits::GATEWAY_WAITS_MAX;
/// Waits of one connection, over all its streams and calls. A connection gets at most a quarter of
/// the free places, too.
pub(crate) const CONNECTION_WAITS_MAX: usize = 4_096;
/// Waits that a connection gets however full the gateway is, while places are left. An identity
/// gets as many, over all its connections, and at most a quarter of the free places, too.
pub(crate) const WAITS_MIN: usize = 16;
/// Waits of one connection that are calls of their own.
pub(crate) const CONNECTION_UNARY_WAITS_MAX: usize = 512;
/// Streams of one connection. The excess is refused with RESOURCE_EXHAUSTED.
pub(crate) const CONNECTION_STREAMS_MAX: usize = 16;
/// HTTP/2 streams of one connection, each a call or a stream. The client itself holds the excess
/// back. The bound is high enough that waits and streams leave about half for short calls.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 1_024;
/// Size of the headers of one request.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Size of the body of a request over HTTP: that of a message of gRPC. A larger one is refused.
pub(crate) const HTTP_BODY_BYTES_MAX: usize = wire::limits::FRAME_BYTES_MAX;
/// Time for the body of a request over HTTP to come.
pub(crate) const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests over HTTP of all clients, while their bodies are on the way. The excess is refused with
/// BUSY. A body that came with its headers is not counted.
pub(crate) const BODIES_MAX: usize = 1_024;
/// Those of one connection.
pub(crate) const CONNECTION_BODIES_MAX: usize = 64;
/// Unanswered operations of one connection's streams, waits aside. The streams of the connection
/// share them, and the excess is refused with BUSY.
pub(crate) const STREAM_OPS_MAX: usize = 4_096;
/// Lists and histories among [`STREAM_OPS_MAX`]. They are few, because each answer can have
/// megabytes.
pub(crate) const STREAM_SCANS_MAX: usize = 64;
/// Lists, histories and cluster statuses of all clients at the same time, in streams and as calls.
/// The excess is refused with BUSY.
pub(crate) const SCANS_MAX: usize = 256;
/// Those of one connection that are calls, until the client has taken their answers. The excess is
/// refused with BUSY, because each answer can have megabytes.
pub(crate) const CONNECTION_SCANS_MAX: usize = 32;
/// Time for a client to take some of a large answer, or of what a watch has for it. After it the
/// connection ends, with its next probe.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Size of a piece of a large answer. The transport has one or two of them, and the rest stays
/// here.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// Holders and waiters of a check, above which its answer counts as large.
pub(crate) const CHECK_ROWS_SMALL: usize = 64;
/// Operations in one frame. A larger frame ends its stream.
pub(crate) const FRAME_OPS_MAX: usize = 16_384;
/// Results that a client has not taken yet. Above the bound its stream is not read.
pub(crate) const STREAM_RESULTS_MAX: usize = 8_192;
/// Bytes of results that a client has not taken yet. Above the bound no more answers are collected.
pub(crate) const STREAM_RESULT_BYTES_MAX: usize = 4 << 20;
/// Most results in one frame. A frame also closes at [`RESULT_FRAME_BYTES`].
pub(crate) const RESULT_FRAME_OPS: usize = 1_024;
/// Most bytes of results in one frame. A frame also closes at [`RESULT_FRAME_OPS`].
pub(crate) const RESULT_FRAME_BYTES: usize = 512 << 10;
/// Frames of results on their way to the transport.
pub(crate) const RESULT_FRAMES_UNDER_WAY: usize = 2;
/// Open streams of all clients. The excess is refused with RESOURCE_EXHAUSTED. An identity gets at
/// most a quarter of the free places, over all its connections.
pub(crate) const STREAMS_MAX: usize = 16_384;
/// Streams that an identity gets however full the gateway is, while places are left.
pub(crate) const STREAMS_MIN: usize = 16;
/// Watches of all clients. The excess is refused with BUSY. An identity gets at most a quarter of
/// the free places, over all its connections.
pub(crate) const WATCHES_MAX: usize = 16_384;
/// Watches that an identity gets however full the gateway is, while places are left.
pub(crate) const WATCHES_MIN: usize = 16;
/// Watches of one connection. The excess is refused with BUSY.
pub(crate) const CONNECTION_WATCHES_MAX: usize = 256;
/// Legs of the watches of all clients: one for each shard that a watch asks. A watch that does not
/// fit is refused with BUSY. A connection, and an identity, gets at most a quarter of the free ones.
pub(crate) const WATCH_LEGS_MAX: usize = wire::limits::GATEWAY_WATCH_LEGS_MAX;
/// Legs that a connection or an identity gets however full the gateway is, while any are left. They
/// are few, so that watches of many shards leave the last legs to watches of single names.
pub(crate) const WATCH_LEGS_MIN: usize = 16;
/// Parts that the client of a watch has not taken yet. Above the bound its watch is stopped at the
/// nodes, and goes on once the client has taken them all.
pub(crate) const WATCH_PARTS_MAX: usize = 4_096;
/// The same bound in bytes.
pub(crate) const WATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes that a client has not taken yet while it is told the state of a shard. A state that does
/// not fit ends the watch, because it would be begun again and again.
pub(crate) const WATCH_STATE_BYTES_MAX: usize = 32 << 20;
/// Bytes that the clients of all watches together have not taken yet. A connection that has a
/// quarter of what is free has room for [`WATCH_BYTES_MIN`] on each of its watches.
pub(crate) const WATCHES_BYTES_MAX: usize = 256 << 20;
/// Room of a watch however much others have not taken yet.
pub(crate) const WATCH_BYTES_MIN: usize = 64 << 10;
/// Watches in one message to a node. Each has less than a kilobyte, so that they fit a frame.
pub(crate) const STARTS_AT_ONCE: usize = 500;
/// Ends of watches in one message to a node.
pub(crate) const STOPS_AT_ONCE: usize = 16_384;
/// States of shards that one watch is told at the same time.
pub(crate) const WATCH_STATES_AT_ONCE: usize = 2;
/// First and longest pause, in milliseconds, of a leg that no replica of its shard serves.
pub(crate) const WATCH_PAUSE_MS: (u64, u64) = (50, 1_000);
/// Time without a replica that serves a leg, in milliseconds, after which its watch ends with an
/// error. Elections and restarts of nodes are shorter.
pub(crate) const WATCH_UNSERVED_MS_MAX: u64 = 30_000;
/// Time, in milliseconds, for which nodes are asked to keep the recent events of a shard after the
/// end of its last watch.
pub(crate) const WATCH_KEEP_MS: u64 = 30_000;
/// Events in one message to the client of a watch. It is closed at [`RESULT_FRAME_BYTES`], too.
pub(crate) const WATCH_EVENTS_MAX: usize = 1_024;
/// How often the client of a watch is told how far the watch is, if no event tells it.
pub(crate) const WATCH_POSITION_EVERY: Duration = Duration::from_secs(5);
/// How often a watch over HTTP that has nothing to tell sends a comment.
pub(crate) const WATCH_COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Frames of nodes that are not handed to their watches yet.
pub(crate) const WATCH_FRAMES_UNDER_WAY: usize = 64;
/// Beginnings and ends of watches that are served before the next frame of a node.
pub(crate) const WATCH_REQUESTS_PER_TURN: usize = 512;
/// Shortest time between two resumptions of one watch, if its client reads too slowly.
pub(crate) const WATCH_RESUME_EVERY: Duration = Duration::from_secs(1);
/// First and longest pause between two tries to call a node for watches.
pub(crate) const WATCH_CALL_PAUSE: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(1));

/// How often a stream looks whether its client still has its identity.
pub(crate) const PROVE_AGAIN_EVERY: Duration = Duration::from_millis(500);
/// Longest time for which a stream is not read when the renewals or heartbeats of its client are
/// above the rate. The time is short against leases, because the same stream carries operations
/// that still find room.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(250);
/// Time for which a stream is not read after a frame with all its operations above the rate. So
/// such frames are few, and the renewals behind them come hardly later.
pub(crate) const HOLD_AFTER_NOTHING: Duration = Duration::from_millis(20);
/// Unary calls of all clients at the same time, waits aside. The excess is refused with BUSY.
pub(crate) const UNARY_MAX: usize = 16_384;

/// Operations in the send queue of one node. The excess is refused.
pub(crate) const NODE_QUEUE_OPS_MAX: usize = 16_384;
/// Time to connect to a node.
pub(crate) const NODE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a silent node is probed, and how long it has to answer a probe.
///
/// Together they are less than the usual grace of waiters. If a leader hangs, its waiters must
/// reach the next leader before that leader drops them.
pub(crate) const NODE_KEEPALIVE: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(2));

/// Time for one try. A node that does not answer in time may be gone, so the operation is tried
/// elsewhere. The time doubles with each unanswered try.
pub(crate) const ATTEMPT_TIMEOUT_MS: u64 = 1_500;
/// First lease of a lock, in milliseconds, if its acquire waited with a request id of this
/// gateway's choice. The gateway makes it the full lease before it answers, so a gateway or client
/// that is lost in between blocks the name for this long only.
pub(crate) const CLAIM_TTL_MS: u32 = 5_000;
/// Time for one try of a stale check. It is shorter, because any replica can answer.
pub(crate) const STALE_ATTEMPT_TIMEOUT_MS: u64 = 300;
/// Time for each replica to answer in a cluster status.
pub(crate) const STATUS_TIMEOUT_MS: u64 = 1_000;
/// Time for a client that lost its connection to come back with its waits and keep their places. A
/// later one waits at the end of its queues. The time is short, so that dead clients hold few
/// places and get no grants.
pub(crate) const COME_BACK_MAX: Duration = Duration::from_millis(300);
/// Time for one try to leave a queue, or to release a grant, of a client that is gone.
pub(crate) const LEAVE_TIMEOUT_MS: u64 = 1_000;
/// First and longest pause between tries of such a cleanup.
pub(crate) const LEAVE_PAUSE: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(5));
/// How many more times a cleanup looks for a wait that is in no queue.
pub(crate) const LEAVE_MISSES: u32 = 3;
/// Cleanups at the same time on one shard.
pub(crate) const LEAVES_AT_ONCE: usize = 64;
/// Acquires of clients that are gone and that have not ended yet. The excess ends by its own time.
pub(crate) const LEAVES_MAX: usize = 2 * WAITS_MAX;

/// How often each node is asked for its report.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How often an answering node is asked while some shard has no leader.
pub(crate) const WATCH_KEENLY_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between two log lines about one lost node. Only a new reason is logged again.
pub(crate) const WATCH_SAYS_EVERY: Duration = Duration::from_secs(10);
/// A shard counts as without a leader if its leader was last heard of longer ago.
pub(crate) const LED_WITHIN: Duration = Duration::from_secs(2);
/// How often refusals are summed up in the log.
pub(crate) const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(10);
/// File descriptors kept for the gateway's own use, in addition to four for each node.
pub(crate) const DESCRIPTORS_RESERVED: usize = 32;

/// Time for the operation itself, in a unary call with a deadline no longer than its wait. The
/// deadline still holds.
pub(crate) const OWN_TIMEOUT_MS: u32 = 500;

/// How long a stream is still read in a shutdown. Operations that were on their way are refused, so
/// that their client knows that they were not done, and turns to another gateway.
pub(crate) const LINGER: Duration = Duration::from_millis(200);
/// How often a shutdown looks whether streams and watches are still open.
pub(crate) const OPEN_LOOKED_AT_EVERY: Duration = Duration::from_millis(20);
/// Time for operations to finish in a shutdown.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Time for open connections to close after that.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A node must tell the topology within this time.
pub(crate) const TOPOLOGY_ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before all nodes are asked again for the topology or a change of it.
pub(crate) const TOPOLOGY_ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a topology is awaited that is not older than one that was told before.
pub(crate) const TOPOLOGY_NEWEST_PATIENCE: Duration = Duration::from_secs(1);
/// A node must tell what it knows, or take the topology, within this time if that is built again.
pub(crate) const REBUILD_ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a call about the topology gives up.
pub(crate) const TOPOLOGY_PATIENCE: Duration = Duration::from_secs(4);
