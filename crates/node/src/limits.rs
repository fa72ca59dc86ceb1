//! Every bound of a node that is not a setting, in one place, with what happens at it. (What operations may hold is said
//! by [`wire::limits`].)

use std::ops::RangeInclusive;
use std::time::Duration;

/// The public surface and the lock table have the same limits. Otherwise a gateway would accept an operation that the table
/// refuses, or refuse one that it takes. Neither crate may use the other, so they are compared here.
const _: () = {
    const fn same(public: &RangeInclusive<u32>, table: &RangeInclusive<u32>) -> bool {
        *public.start() == *table.start() && *public.end() == *table.end()
    }
    assert!(same(&wire::limits::TTL_MS, &locks::TTL_MS));
    assert!(same(&wire::limits::CLAIM_TTL_MS, &locks::CLAIM_TTL_MS));
    assert!(wire::limits::NAME_BYTES_MAX == locks::NAME_BYTES_MAX);
    assert!(wire::limits::OWNER_BYTES_MAX == locks::OWNER_BYTES_MAX);
    assert!(wire::limits::SESSION_BYTES_MAX == locks::SESSION_BYTES_MAX);
    assert!(wire::limits::METADATA_BYTES_MAX == locks::METADATA_BYTES_MAX);
    assert!(wire::limits::TOKEN_END == locks::TOKEN_MAX + 1);
    // A frame that holds one operation of any size is accepted.
    assert!(wire::limits::OPERATION_BYTES_MAX <= wire::limits::FRAME_BYTES_MAX);
    // Rows are cut off before they outgrow the receiver's frame.
    assert!(RESULT_FRAME_BYTES + ROWS_BYTES_MAX <= wire::limits::RESULT_FRAME_BYTES_MAX);
};

/// The version of what nodes say to each other. A peer of another one is refused. (1 did not say which data directory it
/// comes with, 2 not how far that was, and 3 spoke in another package.)
pub(crate) const PROTOCOL: u32 = 4;

/// A frame of results is closed once it holds this much.
pub(crate) const RESULT_FRAME_BYTES: usize = 1 << 20;
/// Rows of one result (holders, grants, tenures) are cut off above this, so that it fits any receiver's frame.
pub(crate) const ROWS_BYTES_MAX: usize = 3 << 20;
/// Operations of one stream that are not answered yet, waits aside; the excess is refused with BUSY.
pub(crate) const STREAM_OPS_MAX: usize = 16_384;
/// Waiting acquires of one stream, beside them: as many as a gateway takes from all of its clients. They are kept, and cost
/// nothing while they wait.
pub(crate) const STREAM_WAITS_MAX: usize = wire::limits::GATEWAY_WAITS_MAX;
/// Results of one stream that its peer has not taken yet; above, nothing more is read from it.
pub(crate) const STREAM_RESULTS_MAX: usize = 32_768;
/// Open streams of operations; the excess is refused with RESOURCE_EXHAUSTED.
pub(crate) const STREAMS_MAX: usize = 4_096;
/// History reads that touch the disk at the same time; the excess waits.
pub(crate) const HISTORY_READS_MAX: usize = 16;

/// Bytes of peers' messages that wait for one shard thread; the excess is dropped (Raft sends again).
pub(crate) const INBOX_PEER_BYTES_MAX: usize = 64 << 20;
/// Ticks delivered at once after a pause: one that was long must not look like an election timeout.
pub(crate) const TICKS_AT_ONCE_MAX: u64 = 2;
/// A step of a replica that takes this long is logged: its peers and all else of its thread waited.
pub(crate) const SLOW_STEP: Duration = Duration::from_millis(200);
/// How often a shard thread publishes the status of its replicas.
pub(crate) const STATUS_EVERY_MS: u64 = 200;

/// Jobs and bytes that the log writer merges into one write.
pub(crate) const WRITE_JOBS_MAX: usize = 4_096;
/// See [`WRITE_JOBS_MAX`].
pub(crate) const WRITE_BYTES_MAX: usize = 16 << 20;

/// How often the disk's write under way is looked at, in milliseconds: a small part of two election timeouts.
pub(crate) const DISK_LOOK_MS: u64 = 50;
/// A snapshot that is put into memory for longer may wait for the disk. By then even a million records are in it.
pub(crate) const LOADING_MS_MAX: u64 = 10_000;
/// How often it is looked at how long syncs usually take, in milliseconds.
pub(crate) const SYNCS_LOOKED_AT_EVERY_MS: u64 = 10_000;
/// How long a shutdown waits for the node's threads: a disk that hangs holds the log writer.
pub(crate) const THREADS_END_MAX: Duration = Duration::from_secs(7);

/// Bytes of messages that wait for one peer; the newest are dropped above it.
pub(crate) const OUTBOX_BYTES_MAX: usize = 32 << 20;
/// Bytes of urgent messages (heartbeats, votes) that wait for one peer, beside those; the newest are dropped above it.
pub(crate) const OUTBOX_URGENT_BYTES_MAX: usize = 1 << 20;
/// A peer frame is closed once it holds this much.
pub(crate) const PEER_FRAME_BYTES: usize = 1 << 20;
/// Largest frame accepted from a peer: one Raft message may be larger than `PEER_FRAME_BYTES`.
pub(crate) const PEER_FRAME_BYTES_MAX: usize = 32 << 20;
/// First and longest pause between attempts to reach a peer.
pub(crate) const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A peer must answer a greeting within this time.
pub(crate) const GREET_TIMEOUT: Duration = Duration::from_secs(2);
/// How often what probes are told is brought up to date.
pub(crate) const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// How often refusals of callers of other clusters are logged.
pub(crate) const STRANGERS_SAID_EVERY: Duration = Duration::from_secs(10);
/// Descriptors that are not for connections: the store's files, and connections to peers.
pub(crate) const DESCRIPTORS_RESERVED: usize = 1_024;
/// How often a node tells its peers how far its directory and those of others are, if it has nothing else to say.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often what was told is written down.
pub(crate) const KEEP_EVERY: Duration = Duration::from_secs(3);
/// A node that starts with its usual directory waits so long for peers that do not greet it: any of them could know of a
/// newer state of it. Peers that are down for good cost it this time.
pub(crate) const GREETINGS_MAX: Duration = Duration::from_secs(2);
/// A re-seed is refused when peers have heard of the former directory for so long.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often a re-seed asks peers again that did not answer, or had just heard of the former directory.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often a node that does not take part yet says whom it still waits for.
pub(crate) const AWAITED_EVERY: Duration = Duration::from_secs(5);

/// Snapshots sent, and snapshots received, at the same time.
pub(crate) const SNAPSHOTS_AT_ONCE: usize = 2;
/// Snapshots that wait to be sent; the excess is reported as not sent (Raft asks again).
pub(crate) const SNAPSHOTS_QUEUED_MAX: usize = 8;
/// Largest snapshot of one shard.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
/// Size of one chunk of snapshot data.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// History records per chunk.
pub(crate) const SNAPSHOT_HISTORY_ROWS: usize = 256;
/// History records read at a time.
pub(crate) const SNAPSHOT_HISTORY_PAGE: usize = 16_384;
/// A snapshot's peer must take or send something within this time.
pub(crate) const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a leader placement must look better before it is acted on.
pub(crate) const PLACEMENT_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked at.
pub(crate) const PLACEMENT_EVERY: Duration = Duration::from_secs(1);
/// How long a shutdown waits for its leaderships to move.
pub(crate) const HANDOVER_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown waits for open connections.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(2);
