//! Three replicas of one shard with some history, so that one of them can be put back into its
//! place as often as needed.
//!
//! A replica's outputs follow from its inputs alone. Therefore two replicas with the same first
//! bytes and the same inputs are in the same state. A [`Situation`] consists of these bytes and
//! inputs. The module does not know the inputs that a target sends afterwards.

use locks::{Command, Mode, RequestId, Token};
use routing::{NodeId, ShardId};
use shard::{Input, Now, RaftSettings, Replica, ReplicaConfig, Wait};
use std::sync::LazyLock;
use storage::{Engine, MemoryEngine, Recovered};

/// The inputs that a replica gets in one step.
pub(crate) type Told = Vec<Input>;

/// The history that leads one replica to its present state.
#[derive(Clone)]
pub(crate) struct Situation {
    node: u64,
    recovered: Recovered,
    steps: Vec<(Now, Told)>,
}

/// A leader, a follower, a candidate, a replica that has just started empty, and a replica from a
/// checkpoint.
pub(crate) static SITUATIONS: LazyLock<Vec<Situation>> = LazyLock::new(|| {
    let mut group = Group::new();
    group.live();
    let (leader, follower) = (group.situation(1), group.situation(2));
    group.members[2].inbox.push(Input::Campaign);
    group.step(2);
    let candidate = group.situation(3);
    let fresh = Group::new().situation(2);
    group.restart(1);
    vec![leader, follower, candidate, fresh, group.situation(2)]
});

impl Situation {
    /// Builds the replica in this situation. Returns it with the time there.
    pub(crate) fn replica(&self) -> (Replica, Now) {
        let mut replica =
            Replica::open(Group::config(self.node), self.recovered.clone(), Group::START)
                .expect("it opened before");
        let mut at = Group::START;
        for (now, told) in &self.steps {
            replica.step(*now, told.clone()).expect("it went well before");
            at = *now;
        }
        (replica, at)
    }
}

struct Member {
    engine: MemoryEngine,
    replica: Replica,
    inbox: Told,
    so_far: Situation,
}

/// The three replicas, and all messages that they ever sent each other.
pub(crate) struct Group {
    members: Vec<Member>,
    now: Now,
    /// The sender, the receiver and the bytes of each message.
    pub(crate) messages: Vec<(u64, u64, Vec<u8>)>,
    /// The header and the data of each snapshot that was sent.
    pub(crate) snapshots: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Group {
    pub(crate) const START: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    pub(crate) const TICK_MS: u64 = 50;
    const SHARD: ShardId = ShardId(0);

    pub(crate) fn config(node: u64) -> ReplicaConfig {
        ReplicaConfig {
            shard: Self::SHARD,
            node: NodeId(node),
            incarnation: 0,
            voters: [1, 2, 3].map(NodeId).to_vec(),
            preferred_leader: NodeId(1),
            boot: 1,
            raft: RaftSettings {
                heartbeat_ticks: 2,
                election_ticks: 8,
                entry_bytes_max: 4 << 10,
                entries_in_flight_max: 4,
                append_hold_ms: 0,
                queue_ops_max: 100,
                checkpoint_log_bytes: 1 << 10,
                log_keep_bytes: 256,
                waiter_grace_ms: 1_000,
                take_over_rows: 64,
            },
            election_seed: Some(7),
        }
    }

    pub(crate) fn new() -> Group {
        let member = |node| Member {
            engine: MemoryEngine::new(),
            replica: Replica::open(Self::config(node), Recovered::default(), Self::START)
                .expect("opens empty"),
            inbox: Vec::new(),
            so_far: Situation { node, recovered: Recovered::default(), steps: Vec::new() },
        };
        Group {
            members: [1, 2, 3].map(member).into(),
            now: Self::START,
            messages: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    /// An acquire with its own request id, which waits if `ticket` is even.
    pub(crate) fn acquire(ticket: u64, name: &str, ttl_ms: u32) -> Input {
        let (request_id, wait) = (RequestId(u128::from(ticket) + 1), ticket.is_multiple_of(2));
        let session = if ticket.is_multiple_of(3) { "session" } else { "" };
        let command = Command::Acquire {
            request_id,
            name,
            owner: "owner",
            ttl_ms,
            mode: Mode::Exclusive,
            wait,
            session,
            metadata: "some metadata",
            claim_ttl_ms: 0,
        };
        Self::propose(ticket + 1, &command, wait.then_some(Wait { request_id, wait_ms: 60_000 }))
    }

    fn propose(ticket: u64, command: &Command<'_>, wait: Option<Wait>) -> Input {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        Input::Propose { ticket, command: bytes, wait, give_up_at_ms: u64::MAX }
    }

    /// Goes through an election, grants, waits, ends, reads, a snapshot for a replica that fell
    /// behind, and a change of leader and back.
    pub(crate) fn live(&mut self) {
        self.run(10);
        for nth in 0..24 {
            self.members[0].inbox.push(Self::acquire(
                nth,
                ["a", "b", "c", "d"][nth as usize % 4],
                60_000,
            ));
            self.settle(&[0, 1, 2]);
        }
        self.members[0].inbox.push(Self::propose(
            50,
            &Command::Release { name: "a", token: Token(1), by: None },
            None,
        ));
        for (member, ticket) in [(0, 51), (1, 52), (2, 53)] {
            let query = shard::Query::check("a");
            self.members[member].inbox.push(Input::Read { ticket, query, linearizable: true });
        }
        self.run(4);
        // The third replica receives no messages while the log is cut, and then gets a snapshot.
        for nth in 60..90 {
            self.members[0].inbox.push(Self::acquire(2 * nth + 1, &format!("lock:{nth}"), 600_000));
            self.settle(&[0, 1]);
        }
        self.members[2].inbox.clear();
        self.run(10);
        assert!(self.members[2].replica.status().snapshots_installed > 0, "a snapshot was sent");
        for to in [2, 1] {
            let leader = self
                .members
                .iter()
                .position(|member| member.replica.status().leader == Some(member.id()));
            self.members[leader.expect("one leads")].inbox.push(Input::Transfer { to: NodeId(to) });
            self.run(10);
        }
    }

    /// Continues the history: more of the same, and an election.
    pub(crate) fn live_on(&mut self) {
        for nth in 100..108 {
            self.members[0].inbox.push(Self::acquire(nth, "next", 1_000));
            let query = shard::Query::check("next");
            let member = &mut self.members[nth as usize % 3];
            member.inbox.push(Input::Read { ticket: 1_000 + nth, query, linearizable: true });
            self.settle(&[0, 1, 2]);
        }
        self.run(30);
        self.members[1].inbox.push(Input::Transfer { to: NodeId(3) });
        self.members[0].inbox.push(Input::Transfer { to: NodeId(3) });
        self.run(10);
    }

    pub(crate) fn recovered(&self, node: u64) -> Recovered {
        self.members[node as usize - 1].engine.recover(Self::SHARD).expect("recovers")
    }

    fn situation(&self, node: u64) -> Situation {
        self.members[node as usize - 1].so_far.clone()
    }

    /// Ticks, and settles all messages after each tick.
    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now.mono_ms += Self::TICK_MS;
            self.members.iter_mut().for_each(|member| member.inbox.push(Input::Tick));
            self.settle(&[0, 1, 2]);
        }
    }

    fn settle(&mut self, who: &[usize]) {
        while who.iter().any(|at| !self.members[*at].inbox.is_empty()) {
            who.iter().for_each(|at| self.step(*at));
        }
    }

    fn step(&mut self, at: usize) {
        let member = &mut self.members[at];
        let told = std::mem::take(&mut member.inbox);
        let outputs = member.replica.step(self.now, told.clone()).expect("no fatal error");
        member.so_far.steps.push((self.now, told));
        if let Some(write) = outputs.write {
            member.engine.write(&[write.write]).expect("writes");
            member.inbox.push(Input::Persisted { number: write.number });
        }
        let from = member.so_far.node;
        for message in outputs.messages {
            let mut bytes = message.bytes;
            if let Some(snapshot) = message.snapshot {
                self.members[at].inbox.push(Input::SnapshotSent { node: message.to, ok: true });
                let whole =
                    shard::join_snapshot(&bytes, &snapshot.data).expect("a snapshot message");
                self.snapshots.push((std::mem::replace(&mut bytes, whole), snapshot.data.to_vec()));
            }
            self.members[message.to.0 as usize - 1].inbox.push(Input::Peer(bytes.clone()));
            self.messages.push((from, message.to.0, bytes));
        }
    }

    /// Starts a member again from the data on its disk.
    fn restart(&mut self, at: usize) {
        let node = self.members[at].so_far.node;
        let recovered = self.recovered(node);
        let replica =
            Replica::open(Self::config(node), recovered.clone(), Self::START).expect("opens");
        let member = &mut self.members[at];
        (member.replica, member.so_far) =
            (replica, Situation { node, recovered, steps: Vec::new() });
    }
}

impl Member {
    fn id(&self) -> NodeId {
        NodeId(self.so_far.node)
    }
}
