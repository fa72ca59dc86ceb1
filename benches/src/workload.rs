//! Fixed work for measurements of parts: commands of the specification's sizes, and a group of
//! replicas in memory.
//!
//! The same numbers always give the same bytes, because this module reads no clock and uses no
//! randomness.

use locks::{
    BatchBuilder, Caller, Command, LeaseId, Mode, Outcome, Quota, RequestId, Stamp, Token,
};
use routing::{NodeId, ShardId};
use shard::{Input, Now, RaftSettings, Replica, ReplicaConfig, Reply, Role, Ticket};
use storage::Recovered;

/// A name of 100 bytes. It is made by hand, because formatting with padding would cost more than
/// the measured work.
pub fn name(number: u64) -> String {
    let mut bytes = [b'.'; 100];
    let (mut at, mut left) = (bytes.len(), number);
    while at == bytes.len() || left > 0 {
        at -= 1;
        bytes[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An owner of 50 bytes.
pub const OWNER: &str = "benches/workload/owner/of/fifty/bytes/............";

/// Takes a lock on a private lease.
pub fn acquire(request: u64, name: &str) -> Command<'_> {
    Command::Acquire {
        request_id: RequestId(u128::from(request) << 64 | 1),
        name,
        owner: OWNER,
        ttl_ms: 30_000,
        mode: Mode::Exclusive,
        wait: false,
        session: "",
        metadata: "",
        claim_ttl_ms: 0,
    }
}

/// Names of so many identities, as certificates have them.
pub fn principals(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("spiffe://example.org/jobs/{number:04}")).collect()
}

/// The caller of the command at this place: the identities take turns, each with a quota that it
/// never reaches. Without identities there is none.
pub fn caller(principals: &[String], at: usize) -> Caller<'_> {
    const QUOTA: Quota = Quota { locks: 1_000_000, sessions: 1_000, waits: 10_000 };
    match principals {
        [] => Caller::default(),
        _ => Caller { principal: &principals[at % principals.len()], quota: QUOTA },
    }
}

/// Encodes a command as bytes, as of this caller.
pub fn encoded(caller: Caller<'_>, command: &Command<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode_as(caller, &mut bytes);
    bytes
}

/// The time so many milliseconds after the start.
pub fn stamp(ms: u64) -> Stamp {
    Stamp { wall_ms: 1_700_000_000_000 + ms, shard_ms: ms }
}

/// Encodes a log entry of these commands, of identities that take turns.
pub fn batch(at: Stamp, principals: &[String], commands: &[Command<'_>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(at);
    let mut bytes = Vec::new();
    for (place, command) in commands.iter().enumerate() {
        bytes.clear();
        command.encode_as(caller(principals, place), &mut bytes);
        builder.push(&bytes);
    }
    builder.finish()
}

/// The token of a grant.
///
/// # Panics
/// If the outcome is no grant. The work is fixed, so that is a defect.
pub fn granted(outcome: &Outcome) -> Token {
    match outcome {
        Outcome::Granted(grant) => grant.token,
        other => panic!("not granted: {other:?}"),
    }
}

/// One shard's replicas in one thread. Their network and their disk are instant. The disk keeps no
/// data, because a replica reads it only when it starts.
pub struct Group {
    /// The identities that take turns as callers. Empty: identities are off.
    pub principals: Vec<String>,
    peers: Vec<Peer>,
    now_ms: u64,
    next_ticket: Ticket,
    sent: Vec<(usize, Vec<u8>)>,
    replies: Vec<(Ticket, Reply)>,
}

struct Peer {
    replica: Replica,
    inbox: Vec<Input>,
}

impl Group {
    /// Creates a group that has elected its first replica.
    pub fn new(replicas: u64) -> Group {
        let voters: Vec<NodeId> = (1..=replicas).map(NodeId).collect();
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_001_000 };
        // Time stands still while a group works, so a delayed append would never go.
        let raft =
            RaftSettings { append_hold_ms: 0, ..RaftSettings::from(&routing::Settings::default()) };
        let peers = voters.iter().map(|node| {
            let config = ReplicaConfig {
                shard: ShardId(0),
                node: *node,
                incarnation: 0,
                voters: voters.clone(),
                preferred_leader: NodeId(1),
                boot: 1,
                raft,
                election_seed: Some(7),
            };
            let replica = Replica::open(config, Recovered::default(), now).expect("opens");
            Peer { replica, inbox: Vec::new() }
        });
        let mut group = Group {
            principals: Vec::new(),
            peers: peers.collect(),
            now_ms: 1_000,
            next_ticket: 1,
            sent: Vec::new(),
            replies: Vec::new(),
        };
        for _ in 0..100 {
            group.tick();
            if group.peers[0].replica.status().role == Role::Leader {
                return group;
            }
        }
        panic!("the preferred replica was not elected");
    }

    /// Lets 50 ms pass.
    pub fn tick(&mut self) {
        self.now_ms += 50;
        self.peers.iter_mut().for_each(|peer| peer.inbox.push(Input::Tick));
        self.settle();
    }

    /// Proposes all commands to the leader at once, and returns their outcomes in order.
    pub fn run(&mut self, commands: &[Command<'_>]) -> Vec<Outcome> {
        let first = self.next_ticket;
        for (place, command) in commands.iter().enumerate() {
            let input = Input::Propose {
                ticket: self.next_ticket,
                command: encoded(caller(&self.principals, place), command),
                wait: None,
                give_up_at_ms: u64::MAX,
            };
            self.peers[0].inbox.push(input);
            self.next_ticket += 1;
        }
        self.settle();
        let mut outcomes: Vec<Option<Outcome>> = commands.iter().map(|_| None).collect();
        for (ticket, reply) in self.replies.drain(..) {
            let Reply::Done(outcome) = reply else { panic!("refused: {reply:?}") };
            outcomes[(ticket - first) as usize] = Some(outcome);
        }
        outcomes.into_iter().map(|outcome| outcome.expect("all are answered")).collect()
    }

    /// Acquires and releases each name of these numbers once, first all acquires, then all
    /// releases.
    pub fn acquire_release(&mut self, numbers: std::ops::Range<u64>) {
        let names: Vec<String> = numbers.clone().map(name).collect();
        let acquires: Vec<Command<'_>> =
            numbers.zip(&names).map(|(number, name)| acquire(number, name)).collect();
        let outcomes = self.run(&acquires);
        let tokens = outcomes.iter().map(granted);
        let releases: Vec<Command<'_>> = names
            .iter()
            .zip(tokens)
            .map(|(name, token)| Command::Release { name, token, by: Some(LeaseId(0)) })
            .collect();
        self.run(&releases);
    }

    /// Runs rounds until no message is left.
    fn settle(&mut self) {
        let now = Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms };
        loop {
            let mut busy = false;
            for peer in &mut self.peers {
                if peer.inbox.is_empty() {
                    continue;
                }
                busy = true;
                let outputs = peer.replica.step(now, peer.inbox.drain(..)).expect("no fatal error");
                self.sent
                    .extend(outputs.messages.into_iter().map(|m| (m.to.0 as usize - 1, m.bytes)));
                self.replies.extend(outputs.replies);
                if let Some(write) = outputs.write {
                    peer.inbox.push(Input::Persisted { number: write.number });
                }
            }
            for (to, bytes) in self.sent.drain(..) {
                busy = true;
                self.peers[to].inbox.push(Input::Peer(bytes));
            }
            if !busy {
                return;
            }
        }
    }
}
