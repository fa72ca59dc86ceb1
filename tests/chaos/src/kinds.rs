//! The kinds of faults, and the pairs of them. The module does not know what a fault does.

use clap::ValueEnum;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Nothing: late expiry and the order of queues are judged here.
    Nothing,
    /// A node that leads at least one shard.
    KillLeader,
    /// A node that leads as little as any.
    KillFollower,
    /// All nodes at once.
    KillAll,
    /// One of the two.
    KillGateway,
    /// Long enough for another to be elected.
    PausePastElection,
    /// Long enough for everything held to run out.
    PausePastTtl,
    /// Its clients' streams stay open, and nothing comes.
    PauseGateway,
    /// It wakes up with locks that may be another's.
    PauseClient,
    /// Two nodes and a gateway against three nodes and a gateway.
    Halves,
    /// From its peers, not from its clients.
    IsolatedLeader,
    /// Each node hears two others.
    Ring,
    /// A leader that speaks and does not hear, or hears and does not speak.
    OneWay,
    /// Only the names of that leader's shards fail, and only through that gateway.
    GatewayCut,
    /// Everywhere.
    Loss,
    /// Between gateways and nodes and among nodes, by a proxy.
    Delay,
    /// Of a leader, while it runs.
    WallClock,
    /// Of a leader's clocks.
    Drift,
    /// Of one node.
    FullDisk,
    /// Of a leader.
    FailedSync,
    /// In the files of two stopped nodes, which are re-seeded then.
    FlippedBits,
    /// One node after the other, by SIGTERM.
    RollingRestart,
    /// It must be refused.
    OtherSettings,
    /// A leader's writes and syncs do not return.
    HungDisk,
    /// Only those of a leader's log writer do not.
    HungWriter,
    /// A node comes back with its directory as it was some seconds before. It must be refused.
    OldCopy,
    /// A client ends, or falls silent, while it waits for a lock.
    KilledInQueue,
    /// The leader of a shard changes every few seconds, more often than a lease lasts.
    MovedLeaders,
    /// A client's machine sleeps: one of its clocks jumps.
    SuspendedClient,
    /// A gateway knows an address at which a leader does not listen any more.
    OldAddresses,
    /// A node that the cluster file does not have joins.
    NodeJoined,
    /// A leader that is dead or alive is replaced by a node that has joined.
    NodeReplaced,
    /// A leader is drained, killed and taken back.
    NodeDrained,
    /// A leader is removed. Its replicas move to a node that has joined.
    NodeRemoved,
    /// All shards go from five replicas to three, and back.
    ReplicaCount,
    /// Two members of a shard move away and come back in other lives.
    MemberReturned,
    /// The group of the topology has no quorum for a while, within a job.
    MetaWithoutQuorum,
    /// Five nodes become eight, which all get replicas, and five again.
    NodeCount,
    /// All nodes get other addresses at once.
    AllAddresses,
}

impl Kind {
    /// All kinds of faults.
    pub fn all() -> impl Iterator<Item = Kind> {
        Kind::value_variants().iter().copied()
    }

    /// The title of the fault, for people.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Nothing => "nothing (control)",
            Kind::KillLeader => "kill -9 of a leader",
            Kind::KillFollower => "kill -9 of a follower",
            Kind::KillAll => "kill -9 of all nodes",
            Kind::KillGateway => "kill -9 of a gateway",
            Kind::PausePastElection => "leader paused past the election timeout",
            Kind::PausePastTtl => "leader paused past the TTLs",
            Kind::PauseGateway => "gateway paused",
            Kind::PauseClient => "client process paused past its TTLs",
            Kind::Halves => "partition: halves",
            Kind::IsolatedLeader => "partition: isolated leader",
            Kind::Ring => "partition: ring",
            Kind::OneWay => "partition: one way",
            Kind::GatewayCut => "gateway cut from a leader",
            Kind::Loss => "packet loss 5-50 %",
            Kind::Delay => "delays of 10-120 ms and their fivefold",
            Kind::WallClock => "wall clock ±1 h",
            Kind::Drift => "clock rate ×0.5-2",
            Kind::FullDisk => "disk full",
            Kind::FailedSync => "failed fsync",
            Kind::FlippedBits => "flipped bits in two stopped nodes, re-seeded",
            Kind::RollingRestart => "rolling restart",
            Kind::OtherSettings => "a node with other frozen settings",
            Kind::HungDisk => "leader's disk hangs: all threads",
            Kind::HungWriter => "leader's disk hangs: the log writer",
            Kind::OldCopy => "directory put back from an older copy",
            Kind::KilledInQueue => "client killed or silent in the queue",
            Kind::MovedLeaders => "leader moved every few seconds",
            Kind::SuspendedClient => "client's machine suspended",
            Kind::OldAddresses => "gateway with a leader's old address",
            Kind::NodeJoined => "topology: node joined",
            Kind::NodeReplaced => "topology: node replaced",
            Kind::NodeDrained => "topology: node drained and taken back",
            Kind::NodeRemoved => "topology: node removed",
            Kind::ReplicaCount => "topology: replicas 5 → 3 → 5",
            Kind::MemberReturned => "topology: members moved away and back",
            Kind::MetaWithoutQuorum => "topology: its group without quorum",
            Kind::NodeCount => "topology: nodes 5 → 8 → 5",
            Kind::AllAddresses => "topology: all addresses changed at once",
        }
    }

    /// Whether the kind changes the nodes or members of the cluster. Such kinds have a cluster of
    /// their own, because the others count on its first nodes.
    pub fn is_of_topology(self) -> bool {
        matches!(
            self,
            Kind::NodeJoined
                | Kind::NodeReplaced
                | Kind::NodeDrained
                | Kind::NodeRemoved
                | Kind::ReplicaCount
                | Kind::MemberReturned
                | Kind::MetaWithoutQuorum
                | Kind::NodeCount
                | Kind::AllAddresses
        )
    }

    /// Whether the fault cannot be inflicted on loopback.
    pub fn needs_namespaces(self) -> bool {
        matches!(
            self,
            Kind::Halves
                | Kind::IsolatedLeader
                | Kind::Ring
                | Kind::OneWay
                | Kind::GatewayCut
                | Kind::Loss
                | Kind::Delay
                | Kind::FullDisk
        )
    }
}

/// Pairs of faults that are inflicted together.
pub const COMBINATIONS: &[[Kind; 2]] = &[
    [Kind::KillLeader, Kind::Loss],
    [Kind::PauseClient, Kind::KillLeader],
    [Kind::IsolatedLeader, Kind::KillGateway],
    [Kind::PausePastTtl, Kind::OneWay],
    [Kind::Halves, Kind::PauseClient],
    [Kind::Drift, Kind::KillLeader],
    [Kind::FullDisk, Kind::PausePastElection],
    [Kind::FailedSync, Kind::OneWay],
    [Kind::Delay, Kind::KillFollower],
    [Kind::WallClock, Kind::KillAll],
    [Kind::HungWriter, Kind::KillFollower],
    [Kind::OldCopy, Kind::PauseClient],
];
