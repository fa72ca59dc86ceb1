//! Every bound of a node that is not a setting, in one place, with the effect of reaching it.
//! ([`wire::limits`] has the bounds of operations.)

use std::time::Duration;
use watch::{Limits, Room};

const _: () = {
    // A frame that holds one operation of any size is accepted.
    assert!(wire::limits::OPERATION_BYTES_MAX <= wire::limits::FRAME_BYTES_MAX);
    // Rows are cut off before they outgrow the receiver's frame.
    assert!(RESULT_FRAME_BYTES + service::ROWS_BYTES_MAX <= wire::limits::RESULT_FRAME_BYTES_MAX);
};

/// The version of the protocol between nodes. A peer of another version is refused. Version 1 did
/// not name the peer's data directory, version 2 not how far the directory was, version 3 spoke in
/// another package, version 4 did not tell the topology, version 5 cannot read entries that name a
/// caller by its number, version 6 cannot read the wish for members in entries and snapshots,
/// version 7 did not tell which version of the topology it knows, and version 8 cannot read the
/// founding of META.
///
/// It stays as it is now. What two builds would read or apply differently belongs to a level, which
/// is active only once all nodes know it ([`topology::LEVELS`]). So nodes may run different builds
/// during an upgrade.
pub(crate) const PROTOCOL: u32 = 9;

/// A frame of results is closed once it holds this much.
pub(crate) const RESULT_FRAME_BYTES: usize = 1 << 20;
/// Unanswered operations of one stream, without waits. Excess operations are refused with BUSY.
pub(crate) const STREAM_OPS_MAX: usize = 16_384;
/// Waiting acquires of one stream, beside the other operations. The bound equals the waits that a
/// gateway takes from all of its clients. The stream keeps them, and they cost nothing while they
/// wait.
pub(crate) const STREAM_WAITS_MAX: usize = wire::limits::GATEWAY_WAITS_MAX;
/// Results of one stream that its peer has not taken yet. Above the bound, the node stops reading
/// from the stream.
pub(crate) const STREAM_RESULTS_MAX: usize = 32_768;
/// Open streams of operations. Excess streams are refused with RESOURCE_EXHAUSTED.
pub(crate) const STREAMS_MAX: usize = 4_096;
/// History reads that touch the disk at the same time. Excess reads wait.
pub(crate) const HISTORY_READS_MAX: usize = 16;

/// Open calls for watches: one for each gateway is usual. Excess calls are refused with
/// RESOURCE_EXHAUSTED.
pub(crate) const WATCH_CALLS_MAX: usize = 256;
/// Watches of one call, each a leg of a client's watch: as many as a gateway takes. Excess watches
/// end at once with BUSY.
pub(crate) const WATCHES_MAX: usize = wire::limits::GATEWAY_WATCH_LEGS_MAX;
/// Watches of all calls. Excess watches end at once with BUSY.
pub(crate) const WATCHES_OF_NODE_MAX: usize = 524_288;
/// Orders of one call that no shard's task has taken. While there are as many, nothing more is read
/// of the call.
pub(crate) const WATCH_ORDERS_UNDER_WAY: usize = 64;
/// Responses of one call that its gateway has not taken. While there are as many, its watches are
/// told nothing.
pub(crate) const WATCH_RESPONSES_UNDER_WAY: usize = 4;
/// The recent events of a shard that are kept while it is watched. A watcher that is further behind
/// is told a new picture. A node with many shards keeps less of each: see [`WATCH_NODE_BYTES`].
pub(crate) const WATCH_LIMITS: Limits = Limits { events: 65_536, bytes: 32 << 20 };
/// Bytes of events for all watched shards of a node: those that are kept, and those that are on
/// their way from a shard's thread to its task.
pub(crate) const WATCH_NODE_BYTES: usize = 1 << 30;
/// Events of one watcher in one frame.
pub(crate) const WATCH_ROOM: Room = Room { events: 512, bytes: 128 << 10 };
/// Rows of one page of a picture. Of the largest rows it has about half a frame of results.
pub(crate) const WATCH_PAGE_ROWS: usize = 256;
/// Pages that are read at the same time for the watches of one shard. They are few, so that
/// listings find room too, and few pages wait for a gateway that does not read.
pub(crate) const WATCH_PAGES_AT_ONCE: usize = 32;
/// Frames in one response, besides its ends of watches.
pub(crate) const WATCH_FRAMES: usize = 256;
/// The period at which the watchers of which nothing is told hear of their places.
pub(crate) const WATCH_PLACES_EVERY: Duration = Duration::from_secs(10);
/// The period at which a watched replica asks its leader whether it is behind.
pub(crate) const WATCH_ASK_EVERY: Duration = Duration::from_secs(2);
/// A replica that has had no answer to that for as long ends its watches.
pub(crate) const WATCH_BEHIND_MAX: Duration = Duration::from_secs(10);
/// The time for which the recent events of a shard are kept after the last need of them.
pub(crate) const WATCH_KEEP: Duration = Duration::from_secs(30);
/// The period at which a watched shard looks whether its replica may be behind.
pub(crate) const WATCH_LOOK_EVERY: Duration = Duration::from_millis(250);

/// Bytes of peers' messages that wait for one shard thread. Excess messages are dropped, because
/// Raft sends again.
pub(crate) const INBOX_PEER_BYTES_MAX: usize = 64 << 20;
/// Ticks delivered at once after a pause, because a long pause must not look like an election
/// timeout.
pub(crate) const TICKS_AT_ONCE_MAX: u64 = 2;
/// A step of a replica that takes this long is logged, because its peers and the rest of its thread
/// waited.
pub(crate) const SLOW_STEP: Duration = Duration::from_millis(200);
/// The period at which a shard thread publishes the status of its replicas.
pub(crate) const STATUS_EVERY_MS: u64 = 200;

/// Jobs that the log writer merges into one write.
pub(crate) const WRITE_JOBS_MAX: usize = 4_096;
/// Bytes that the log writer merges into one write: see [`WRITE_JOBS_MAX`].
pub(crate) const WRITE_BYTES_MAX: usize = 16 << 20;

/// The period at which the disk's write under way is looked at, in milliseconds: a small part of
/// two election timeouts.
pub(crate) const DISK_LOOK_MS: u64 = 50;
/// A snapshot that is put into memory for longer may be waiting for the disk. In this time even a
/// million records are loaded.
pub(crate) const LOADING_MS_MAX: u64 = 10_000;
/// The period at which the usual duration of syncs is looked at, in milliseconds.
pub(crate) const SYNCS_LOOKED_AT_EVERY_MS: u64 = 10_000;
/// The time that a shutdown waits for the node's threads, because a disk that hangs holds the log
/// writer.
pub(crate) const THREADS_END_MAX: Duration = Duration::from_secs(7);

/// Bytes of messages that wait for one peer. Above it the newest messages are dropped.
pub(crate) const OUTBOX_BYTES_MAX: usize = 32 << 20;
/// Bytes of urgent messages (heartbeats, votes) that wait for one peer, beside the usual ones.
/// Above it the newest messages are dropped.
pub(crate) const OUTBOX_URGENT_BYTES_MAX: usize = 1 << 20;
/// A peer frame is closed once it holds this much.
pub(crate) const PEER_FRAME_BYTES: usize = 1 << 20;
/// Largest frame accepted from a peer, because one Raft message may be larger than
/// `PEER_FRAME_BYTES`.
pub(crate) const PEER_FRAME_BYTES_MAX: usize = 32 << 20;
/// First and longest pause between attempts to reach a peer.
pub(crate) const RECONNECT: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(1));

/// First and longest pause before a node asks another one for the topology, after a failure.
pub(crate) const FOLLOW_PAUSE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));
/// The period at which a node looks whether it is told the topology.
pub(crate) const FOLLOW_LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause between two questions to seeds, while a peer is not connected.
pub(crate) const SEEDS_ASKED_EVERY: Duration = Duration::from_secs(5);
/// A node that watches the topology of another one goes on to the next after this silence. Most
/// silences are those of a topology that does not change, so this costs a call now and again.
pub(crate) const FOLLOW_SILENCE_MAX: Duration = Duration::from_secs(60);
/// How far a generation of the topology may be above the one that a node knows, to be believed. Each
/// try to build the topology again takes one, and a node may have been away during some.
pub(crate) const GENERATIONS_MAX: u64 = 1_000;
/// Largest topology, encoded. A shard takes some 200 bytes of it.
pub(crate) const TOPOLOGY_BYTES_MAX: usize = 64 << 20;
/// Calls that watch the topology. Excess calls are refused with RESOURCE_EXHAUSTED.
pub(crate) const TOPOLOGY_WATCHES_MAX: usize = 1_024;
/// Changes of the topology on their way to one watcher. What comes later waits as a version.
pub(crate) const TOPOLOGY_CHANGES_UNDER_WAY: usize = 4;
/// A watcher of the topology that takes no change for this time is ended.
pub(crate) const TOPOLOGY_WATCHER_SLOW: Duration = Duration::from_secs(30);
/// First and longest pause before a replica that did not come or go is tried again.
pub(crate) const MEMBERS_PAUSE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));
/// The period at which the groups that are led here are given the members that they shall have.
pub(crate) const WISHES_EVERY: Duration = Duration::from_millis(500);

/// The period at which a node tries again to begin META, and looks whether its replica of META has
/// its vote.
pub(crate) const META_RETRY: Duration = Duration::from_millis(200);
/// A peer must answer a greeting within this time.
pub(crate) const GREET_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer to a node that lost its directory waits for replicas to apply what they know to be
/// committed. Less than [`GREET_TIMEOUT`]: the others are told then, and the node asks again.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(1);
/// The period at which the answers to probes are brought up to date.
pub(crate) const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// A node whose shard thread finishes no round for this time does not live. The watchdog of the
/// systemd units has the same limit.
pub(crate) const THREAD_STUCK_AFTER: Duration = Duration::from_secs(30);
/// A node with less free room on its disk is not ready. A start needs about as much.
pub(crate) const DISK_FREE_BYTES_MIN: u64 = 64 << 20;
/// A replica that knows to lack more log entries is not ready. Spare followers lack some hundreds
/// on purpose.
pub(crate) const BEHIND_ENTRIES_MAX: u64 = 10_000;
/// The period at which the sizes of the store and of its disk are read.
pub(crate) const SIZES_EVERY: Duration = Duration::from_secs(10);
/// The period at which refusals are summed up in the log.
pub(crate) const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(10);
/// The shortest time between logged refusals of callers of other clusters.
pub(crate) const STRANGERS_SAID_EVERY: Duration = Duration::from_secs(10);
/// Descriptors that are not for connections: the store's files, and connections to peers.
pub(crate) const DESCRIPTORS_RESERVED: usize = 1_024;
/// The period at which an idle node tells its peers how far its directory and those of other nodes
/// are.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(1);
/// The period at which the progress of directories is written to disk.
pub(crate) const KEEP_EVERY: Duration = Duration::from_secs(3);
/// The time that a node with its usual directory waits for peers that do not greet it. It waits
/// because any of them could know of a newer state of it. Peers that are down for good delay its
/// start by this time.
pub(crate) const GREETINGS_MAX: Duration = Duration::from_secs(2);
/// A re-seed is refused when peers still hear of the former directory after this time.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The period at which a re-seed asks again the peers that did not answer, or had just heard of the
/// former directory.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(500);
/// The period at which a node that does not take part yet names the peers that it awaits.
pub(crate) const AWAITED_EVERY: Duration = Duration::from_secs(5);

/// Snapshots sent, and snapshots received, at the same time.
pub(crate) const SNAPSHOTS_AT_ONCE: usize = 2;
/// Snapshots that wait to be sent. An excess snapshot is reported as not sent, and Raft asks again.
pub(crate) const SNAPSHOTS_QUEUED_MAX: usize = 8;
/// Largest snapshot of one shard.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
/// Size of one chunk of snapshot data.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// History records per chunk.
pub(crate) const SNAPSHOT_HISTORY_ROWS: usize = 256;
/// History records read at a time.
pub(crate) const SNAPSHOT_HISTORY_PAGE: usize = 16_384;
/// A snapshot's peer must take or send a message within this time.
pub(crate) const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The time for which a leader placement must look better before the node acts on it.
pub(crate) const PLACEMENT_PATIENCE: Duration = Duration::from_secs(3);
/// The period at which the placement is looked at.
pub(crate) const PLACEMENT_EVERY: Duration = Duration::from_secs(1);
/// The shards that a drained node hands over at a time.
pub(crate) const DRAINED_AT_ONCE: usize = 4;
/// The period at which a drained node looks which shards it can hand over.
pub(crate) const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// A drained node waits so long for the next leader that a plan prefers, and then chooses one itself.
pub(crate) const PREFERENCE_MAX: Duration = Duration::from_secs(1);
/// The time that a shutdown waits for its leaderships to move. It is longer than an election, so
/// that a second replica can be asked if the first one fails.
pub(crate) const HANDOVER_MAX: Duration = Duration::from_secs(3);
/// The time after which a shutdown asks another replica to take over a shard.
pub(crate) const HANDOVER_TRY: Duration = Duration::from_secs(1);
/// The time that a shutdown serves on without leading anything. Operations that are on their way
/// here meanwhile are told which replica leads, and are not left in doubt when their stream ends.
pub(crate) const LINGER: Duration = Duration::from_millis(200);
/// The time that a shutdown waits for open connections.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The period at which a node looks whether it has news for the leader of META.
pub(crate) const REPORT_LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest time between two reports, and the longest pause after attempts that failed.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(5);
/// The longest time between two reports while another node leads META than the one that should. So
/// the next leader hears of all nodes soon.
pub(crate) const REPORT_SOON: Duration = Duration::from_secs(1);
/// A node must take a report within this time.
pub(crate) const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// The nodes that are asked, at most, until one takes a report.
pub(crate) const REPORT_TRIES: usize = 8;
/// The period at which the controller plans.
pub(crate) const CONTROL_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two plans, however many reports come.
pub(crate) const CONTROL_PAUSE: Duration = Duration::from_millis(100);
/// A proposal that is not in the log after this time is given up.
pub(crate) const PROPOSAL_GIVE_UP: Duration = Duration::from_secs(5);
/// The outcome of a proposal is awaited for this time.
pub(crate) const PROPOSAL_MAX: Duration = Duration::from_secs(10);
/// Proposals of other processes that are under way here. Excess ones are refused with
/// RESOURCE_EXHAUSTED.
pub(crate) const PROPOSALS_AT_ONCE: usize = 64;
/// Previews of changes that are worked out here at a time. One of a big cluster may take seconds of a
/// processor, also after its caller has gone.
pub(crate) const PREVIEWS_AT_ONCE: usize = 2;

/// A node that joins gives up after this time, and tries again after pauses of about the other.
pub(crate) const JOIN_MAX: Duration = Duration::from_secs(60);
pub(crate) const JOIN_PAUSE: Duration = Duration::from_millis(500);
