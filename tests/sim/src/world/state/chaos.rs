//! The kinds of faults, how often each happened, and the plan of a run.

use crate::rng::Rng;
use crate::world::clock::SECOND_US;
use std::fmt;

macro_rules! kinds {
    ($($kind:ident $text:literal,)*) => {
        /// One kind of fault.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind { $($kind,)* }

        impl FaultKind {
            /// All kinds of faults.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind,)*];
        }

        impl fmt::Display for FaultKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(FaultKind::$kind => $text,)* })
            }
        }
    };
}

kinds! {
    MessageLost "message lost",
    MessageCut "message cut off",
    MessageDelayed "message delayed",
    MessageDuplicated "message duplicated",
    MessageReordered "message reordered",
    PartitionHalves "partition: halves",
    PartitionLeader "partition: leader isolated",
    PartitionRing "partition: ring",
    PartitionOneWay "partition: one way",
    GatewayCut "gateway cut from nodes",
    ClientCut "client cut from a gateway",
    NodeKilled "node killed",
    PowerCut "node: power cut",
    AllDown "all nodes: power cut",
    NodePaused "node paused",
    LeaderPaused "leader paused",
    GatewayKilled "gateway killed",
    GatewayPaused "gateway paused",
    ClientPaused "client paused",
    StaleHolder "late use of an old token",
    SessionForgotten "session forgotten",
    SlowSync "slow sync",
    SyncFailed "sync failed",
    DiskFull "disk full",
    TornTail "torn tail",
    UnsyncedLost "unsynced write lost",
    BitFlip "bit flipped",
    DamageDetected "damage detected",
    DiskLost "disk lost",
    WitnessLost "disk lost that a commit stood on",
    Reseeded "node re-seeded",
    ClockDrift "clock drift",
    WallJump "wall clock jump",
    MapRenewed "newer map at one node",
    LeaderMoved "leadership moved",
    SnapshotSent "snapshot needed",
    MembersGrown "members: three to five",
    MembersShrunk "members: five to three",
    DeadReplaced "member on a dead node replaced",
    MemberMoved "member moved",
    MemberReturned "member back in another life",
    LeaderUnwanted "leader not wanted",
    WishUnderWay "wish changed while under way",
    OlderWishTold "older wish told",
    LeadersRestless "leadership moved every second",
    LateCopy "late copy of a request",
    GivenUp "request given up in doubt",
    SessionRevived "session begun anew under its id",
    BreakTold "end by another told to its session",
    ReleasedByAnother "lock released by another",
    Attacked "attack of another identity",
    Probed "copy of a table attacked",
    OverQuota "acquire over a quota",
    Claimed "queued grant claimed",
    DiedInQueue "client dead before its turn",
    MetaLate "topology's group begun late",
    FounderReplaced "founder of the topology's group in a later life",
    TopologyChanged "topology changed",
    TopologyRefused "change of the topology refused",
    TopologyRead "topology read",
    LevelTold "level told to a leader",
    NodeJoined "node joined",
    NodeReplaced "job done: node replaced",
    NodeRemoved "job done: node removed",
    NodeDrained "job done: node drained",
    NodeTakenBack "job done: node taken back",
    ReplicasRaised "job done: more replicas",
    ReplicasLowered "job done: fewer replicas",
    MembersEvened "job done: members evened out",
    LeadersEvened "job done: leaders evened out",
    JobCancelled "job cancelled",
    JobRefused "job refused",
    PlansPaused "plans paused",
    SilentReplaced "silent node's replicas replaced",
    LifeReturned "replica back in another life, by the topology",
    RemovedEnded "removed node ended by itself",
    MetaSilenced "topology's group without quorum",
    MetaLeaderKilled "topology's leader killed within a job",
    LostInMove "disk lost while members change",
    WatchMoved "watch begun or moved",
    WatchResynced "watch begun anew, events lost",
}

/// The number of faults of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; FaultKind::ALL.len()],
    /// The number of names for which the linearization search was given up.
    pub undecided_names: u64,
}

impl Default for FaultCounts {
    fn default() -> FaultCounts {
        FaultCounts { counts: [0; FaultKind::ALL.len()], undecided_names: 0 }
    }
}

impl FaultCounts {
    pub(crate) fn add(&mut self, kind: FaultKind) {
        self.counts[kind as usize] += 1;
    }

    /// The number of faults of one kind.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &FaultCounts) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.undecided_names += other.undecided_names;
    }
}

/// The plan of a run.
///
/// * `rate_max` and `rate_min` bound every node clock of the run.
pub(crate) struct Chaos {
    pub rate_max: f64,
    pub rate_min: f64,
    pub drift: bool,
    /// The number of disks that may still be lost or damaged.
    pub losses_left: u32,
    pub ends_us: u64,
    pub calm_since_us: Option<u64>,
    pub busy_until_us: u64,
    pub turn: u32,
}

impl Chaos {
    /// Whether faults are still to come.
    pub(crate) fn is_on(&self, now_us: u64) -> bool {
        now_us < self.ends_us
    }

    pub(crate) fn new(rng: &mut Rng) -> Chaos {
        let drift = rng.percent(25);
        let (rate_min, rate_max) = if drift { (0.5, 2.0) } else { (1.0 - 2e-4, 1.0 + 2e-4) };
        let ends_us = rng.range(430, 670) * SECOND_US;
        let losses_left = *rng.pick(&[0, 0, 1, 2, 4]);
        Chaos {
            rate_max,
            rate_min,
            drift,
            losses_left,
            ends_us,
            calm_since_us: Some(0),
            busy_until_us: 20 * SECOND_US,
            turn: 0,
        }
    }

    /// The longest wait of an acquire. All tries of such an acquire stay within the table's memory
    /// of requests, even on the fastest clock.
    pub(crate) fn wait_ms_max(&self) -> u64 {
        if self.drift { 5_000 } else { 12_000 }
    }

    /// Whether node clocks run at rates far from each other.
    pub(crate) fn drifts(&self) -> bool {
        self.drift
    }

    /// Whether clients are busy now. They come in bursts.
    pub(crate) fn busy(&self, now_us: u64) -> bool {
        now_us < self.busy_until_us
    }
}
