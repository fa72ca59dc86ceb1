//! The part of the cluster file's settings that concerns replicas. It knows nothing of the file.

/// How the replicas of a shard elect, propose, and keep their logs: a part of the cluster file's
/// settings.
///
/// ```
/// use palisade_shard::RaftSettings;
///
/// let settings = RaftSettings::from(&routing::Settings::default());
/// assert!(settings.election_ticks > settings.heartbeat_ticks);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RaftSettings {
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// The least election timeout, in ticks. The longest is twice that.
    pub election_ticks: usize,
    /// At most this many bytes of commands go into an entry.
    pub entry_bytes_max: usize,
    /// At most this many entries are proposed and not applied.
    pub entries_in_flight_max: usize,
    /// Appends for spare followers are delayed by at most this long, to go together with those that
    /// follow. 0: they go at once.
    pub append_hold_ms: u64,
    /// At most this many operations are queued. More are refused as [`Reply::Busy`](crate::Reply::Busy).
    pub queue_ops_max: usize,
    /// Log bytes applied between two checkpoints, about: each replica takes another share of this,
    /// between three and five quarters.
    pub checkpoint_log_bytes: u64,
    /// Log bytes kept below a checkpoint, for followers that lag.
    pub log_keep_bytes: u64,
    /// The time that a waiter keeps its place after its stream is gone.
    pub waiter_grace_ms: u64,
    /// Rows of the table that a new leader takes over per step. All at once held up a shard with
    /// 250,000 locks for 25 to 87 ms.
    pub take_over_rows: u32,
}

impl From<&routing::Settings> for RaftSettings {
    fn from(settings: &routing::Settings) -> RaftSettings {
        RaftSettings {
            heartbeat_ticks: settings.heartbeat_ticks,
            election_ticks: settings.election_ticks,
            entry_bytes_max: settings.entry_bytes_max,
            entries_in_flight_max: settings.entries_in_flight_max,
            append_hold_ms: settings.append_hold_ms,
            queue_ops_max: settings.queue_ops_max,
            checkpoint_log_bytes: settings.checkpoint_log_bytes,
            log_keep_bytes: settings.log_keep_bytes,
            waiter_grace_ms: settings.waiter_grace_ms,
            take_over_rows: 8_192,
        }
    }
}
