//! A client's operations: each is recorded, sent to a gateway, and retried by the real retry
//! machine.
//!
//! Tries are counted as the SDK counts them.

use super::ask::{Answer, Ask, Done, What, answer_of};
use super::{Event, FaultKind, Message, Place, World};
use crate::checker::{Call as Asked, Holder, LifeNote, Mode, Operation, Outcome};
use client::lease::Lease;
use link::retry::{Attempt, Decision, Failure, Policy};
use locks::Mode as TableMode;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::ErrorClass;
use wire::v1::ErrorCode;
use wire::v1::operation_result::Result as OpResult;

/// The time for all tries of an operation together, as in the SDK. Each gateway gets half of it.
const TIMEOUT_MS: u64 = 5_000;

/// The next action of a client.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// An action that the client chooses at random.
    Something,
    /// A linearizable check of the name.
    Look {
        name: usize,
    },
    /// `hold` is the acquire's place in the record, because tokens of two shards can be equal.
    Renew {
        hold: usize,
    },
    Release {
        hold: usize,
    },
    /// An operation by a token that is most likely over.
    Stale {
        name: usize,
        token: u64,
        renew: bool,
    },
    Beat {
        session: u64,
        shard: ShardId,
        life: Life,
    },
    Retake {
        name: usize,
        request: u64,
    },
    /// An acquire with a session that has long been left alone.
    Revive {
        session: u64,
        ttl_ms: u32,
        shard: ShardId,
        life: Life,
    },
}

/// The client's knowledge of its session on a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pub life: u64,
    /// The number of grants of that life that others ended, as far as the client was told.
    pub broken_seen: u64,
}

/// The purpose of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// `fresh` says that the request id was not used before.
    Take {
        name: usize,
        fresh: bool,
    },
    Renew {
        hold: usize,
    },
    Release,
    Beat {
        session: u64,
        shard: ShardId,
    },
    /// Begins a session anew. The fields name its former life.
    Revive {
        session: u64,
        shard: ShardId,
        life: Life,
    },
    /// Gives up the request, which may still be granted.
    GiveUp,
    /// Acquires for a client that dies before its turn comes.
    DieInQueue,
    Look {
        name: usize,
    },
    /// Asks at the end of a run whether a name can be acquired.
    Audit {
        name: usize,
    },
    /// Touches a grant, wait or session of another identity. See [`World::attack`].
    Attack,
    Nothing,
}

/// A lock that its client believes it holds.
pub(crate) struct Held {
    pub name: usize,
    pub token: u64,
    pub session: u64,
    /// The life of the session. 0 if there is no session.
    pub life: u64,
    /// The acquire, as a place in the record.
    pub operation: usize,
    /// The private lease. `None` until the first renewal, if the guard must wait for it because the
    /// start of the TTL is unknown.
    pub lease: Option<Lease>,
    pub ttl_ms: u32,
}

/// A session as its client knows it.
pub(crate) struct Session {
    pub id: u64,
    pub ttl_ms: u32,
    /// The shards where the session holds a lock, or held one.
    pub shards: BTreeMap<ShardId, Life>,
    /// Whether the client has stopped the heartbeats of this session.
    pub forgotten: bool,
}

/// * `calls` holds the calls by number.
/// * `tries` names the call of each try under way.
pub(crate) struct Client {
    pub role: Role,
    pub paused_until_us: u64,
    pub held: Vec<Held>,
    pub session: Option<Session>,
    calls: BTreeMap<u64, Call>,
    tries: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes locks with private leases.
    Locker,
    /// Takes all its locks on one session.
    Sessioner,
    /// Checks locks, and breaks one now and then.
    Watcher,
    /// Asks only the questions at the end of a run.
    Auditor,
}

struct Call {
    operation: usize,
    ask: Arc<Ask>,
    purpose: Purpose,
    attempt: Attempt,
    turn: u32,
    trying: Option<(u64, u32)>,
    first_sent_us: u64,
    sent_us: u64,
    /// The largest number of tries that a gateway reported for this operation.
    tries: u32,
}

/// The result of an operation, for its client.
pub(crate) struct Settled {
    pub operation: usize,
    pub ask: Arc<Ask>,
    pub purpose: Purpose,
    pub answer: Answer,
    pub first_sent_us: u64,
    pub sent_us: u64,
    pub tries: u32,
}

impl Client {
    pub(crate) fn new(role: Role) -> Client {
        Client {
            role,
            paused_until_us: 0,
            held: Vec::new(),
            session: None,
            calls: BTreeMap::new(),
            tries: BTreeMap::new(),
        }
    }

    pub(crate) fn busy(&self) -> usize {
        self.calls.len()
    }
}

impl World {
    /// Starts an operation. Returns its place in the history.
    pub(crate) fn ask(&mut self, id: u32, ask: Ask, purpose: Purpose) -> usize {
        let timeout_ms = match purpose {
            Purpose::Audit { .. } => 4 * TIMEOUT_MS,
            _ => TIMEOUT_MS,
        };
        let operation = self.history.operations.len();
        self.identities.note_asker(id, &ask.what);
        self.history.operations.push(Operation {
            client: id,
            name: ask.name.clone(),
            shard: ask.shard.0,
            invoke_us: self.now_us,
            return_us: None,
            tries: 0,
            call: match purpose {
                Purpose::Attack => Asked::Attack(Box::new(asked(&ask.what))),
                _ => asked(&ask.what),
            },
            result: Outcome::Unknown,
        });
        self.trace.line(self.now_us, || {
            format!("client {id}  #{operation} asks {:?} {:?}", ask.name, ask.what)
        });
        let gateways = self.gateways.len() as u64;
        let policy = Policy {
            kind: ask.kind(),
            timeout_ms,
            wait_ms: ask.wait_ms(),
            attempt_timeout_ms: timeout_ms.div_ceil(gateways),
            retry_busy: true,
            relays: true,
        };
        let now_ms = self.now_us / 1_000;
        let first = 1 + (u64::from(id) + self.rng.below(100) / 80) % gateways;
        let mut attempt = Attempt::new(policy, now_ms, first);
        let decision = attempt.resume(now_ms);
        let number = self.number();
        let call = Call {
            operation,
            ask: Arc::new(ask),
            purpose,
            attempt,
            turn: 0,
            trying: None,
            first_sent_us: self.now_us,
            sent_us: self.now_us,
            tries: 0,
        };
        self.clients.get_mut(&id).expect("a client").calls.insert(number, call);
        self.client_do(id, number, decision);
        operation
    }

    fn client_do(&mut self, id: u32, number: u64, decision: Decision) {
        let try_number = self.number();
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(call) = client.calls.get_mut(&number) else { return };
        call.turn += 1;
        if let Some((old, _)) = call.trying.take() {
            client.tries.remove(&old);
        }
        let turn = call.turn;
        match decision {
            Decision::Send(next) => {
                let gateway = next.target as u32;
                call.trying = Some((try_number, gateway));
                call.sent_us = self.now_us;
                client.tries.insert(try_number, number);
                let wait_us = (next.timeout_ms + u64::from(next.wait_ms)) * 1_000;
                self.agenda.push(
                    self.now_us + wait_us,
                    Event::ClientTimer { client: id, call: number, turn },
                );
                let operation = call.ask.operation(try_number, next.timeout_ms, next.wait_ms);
                let message = Message::ClientRequest { operation: Box::new(operation) };
                self.send(Place::Client(id), Place::Gateway(gateway), message);
            }
            Decision::RetryAfter { ms } => {
                let at_us = self.now_us + ms * 1_000;
                self.agenda.push(at_us, Event::ClientTimer { client: id, call: number, turn });
            }
            Decision::GiveUp(error) => self.settle(id, number, Err(error)),
        }
    }

    fn client_failed(&mut self, id: u32, number: u64, failure: Failure<'_>) {
        let targets: Vec<u64> = self.gateways.keys().map(|id| u64::from(*id)).collect();
        let (now_ms, jitter) = (self.now_us / 1_000, self.rng.unit());
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(call) = client.calls.get_mut(&number) else { return };
        let decision = call.attempt.next(now_ms, jitter, failure, &targets);
        self.client_do(id, number, decision);
    }

    pub(crate) fn client_timer(&mut self, id: u32, number: u64, turn: u32) {
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(call) = client.calls.get_mut(&number).filter(|call| call.turn == turn) else {
            return;
        };
        match call.trying {
            Some((try_number, gateway)) => {
                self.send(
                    Place::Client(id),
                    Place::Gateway(gateway),
                    Message::ClientGone { call: try_number },
                );
                self.client_failed(id, number, Failure::Lost("no answer in time"));
            }
            None => {
                let decision = call.attempt.resume(self.now_us / 1_000);
                self.client_do(id, number, decision);
            }
        }
    }

    /// Sends a late copy of an earlier try, which may arrive after the client gave the request up.
    /// No client reads the answer.
    pub(crate) fn copy_late(&mut self, id: u32, ask: Ask) {
        self.faults.add(FaultKind::LateCopy);
        let gateway = 1 + self.rng.below(self.gateways.len() as u64) as u32;
        let (after_us, call) = (self.rng.range(50_000, 1_500_000), self.number());
        let (wait_ms, timeout_ms) = (ask.wait_ms().min(1_000), 3_000);
        let operation = Box::new(ask.operation(call, timeout_ms, wait_ms));
        let message = Message::ClientRequest { operation };
        let (from, to) = (Place::Client(id), Place::Gateway(gateway));
        self.agenda.push(self.now_us + after_us, Event::Deliver { from, to, message });
    }

    pub(crate) fn client_broken(&mut self, id: u32, try_number: u64, sent: bool) {
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(number) = client.tries.remove(&try_number) else { return };
        let failure = if sent {
            Failure::Lost("connection lost")
        } else {
            Failure::NotSent("connection refused")
        };
        self.client_failed(id, number, failure);
    }

    pub(crate) fn client_reply(&mut self, id: u32, try_number: u64, result: OpResult, tries: u32) {
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(number) = client.tries.remove(&try_number) else { return };
        let Some(call) = client.calls.get_mut(&number) else { return };
        call.tries = call.tries.max(tries);
        match result {
            OpResult::Error(error) => self.client_failed(id, number, Failure::Answer(&error)),
            result => {
                let answer = answer_of(result, &self.shown);
                self.settle(id, number, answer);
            }
        }
    }

    /// Ends an operation: records its answer, and passes the answer on by the operation's purpose.
    fn settle(&mut self, id: u32, number: u64, answer: Answer) {
        let Some(call) = self.clients.get_mut(&id).and_then(|client| client.calls.remove(&number))
        else {
            return;
        };
        let tries = call.tries.max(call.attempt.tries());
        let is_attack = matches!(call.purpose, Purpose::Attack);
        let outcome = match &answer {
            // These answers are given to any caller. They tell nothing, and change nothing.
            Ok(
                Done::Cancelled { held: None, was_waiting: false } | Done::Closed { released: 0 },
            ) if is_attack => Outcome::Refused,
            _ => outcome(&call.ask, &answer),
        };
        let record = &mut self.history.operations[call.operation];
        record.tries = tries;
        if outcome != Outcome::Unknown {
            record.return_us = Some(self.now_us);
        }
        record.result = outcome;
        if !is_attack {
            self.note_life(call.operation, &call.ask, &answer);
        }
        self.trace.mix(call.operation as u64);
        let operation = call.operation;
        self.trace.line(self.now_us, || {
            let record = &self.history.operations[operation];
            let code = answer.as_ref().err().map_or("", |error| error.code().name());
            format!(
                "client {id}  #{operation} {:?} {:?} -> {:?} {code} (tries {tries})",
                record.name, record.call, record.result
            )
        });
        let Call { ask, purpose, first_sent_us, sent_us, attempt, .. } = call;
        let tries = attempt.tries();
        self.settled(
            id,
            Settled { operation, ask, purpose, answer, first_sent_us, sent_us, tries },
        );
    }
}

impl World {
    /// Notes the facts about sessions and given-up requests that the checker needs.
    fn note_life(&mut self, operation: usize, ask: &Ask, answer: &Answer) {
        let note = match (&ask.what, answer) {
            (What::Acquire { session: 1.., .. }, Ok(Done::Granted { life, .. })) => {
                LifeNote { operation, life: *life, ..LifeNote::default() }
            }
            (What::Heartbeat { life, .. }, Ok(Done::HeartbeatOk { broken, overflow, .. })) => {
                LifeNote { operation, life: *life, broken: broken.clone(), overflow: *overflow }
            }
            (What::CancelWait { request }, Ok(Done::Cancelled { held: None, .. })) => {
                self.faults.add(FaultKind::GivenUp);
                self.given_up.insert(*request);
                return;
            }
            _ => return,
        };
        self.history.lives.push(note);
    }
}

fn asked(what: &What) -> Asked {
    match *what {
        What::Acquire { request, mode, ttl_ms, wait_ms, session, .. } => {
            let mode = match mode {
                TableMode::Exclusive => Mode::Exclusive,
                TableMode::Shared => Mode::Shared,
                TableMode::Permits { count, limit } => Mode::Permits { count, limit },
            };
            Asked::Acquire { request, mode, ttl_ms, wait_ms, session }
        }
        What::Renew { token } => Asked::Renew { token },
        What::Release { token, .. } => Asked::Release { token },
        What::Break { token } => Asked::Break { token },
        What::Check { linearizable } => Asked::Check { linearizable },
        What::Heartbeat { session, .. } => Asked::Heartbeat { session },
        What::CloseSession { session } => Asked::CloseSession { session },
        What::CancelWait { request } => Asked::CancelWait { request },
    }
}

fn outcome(ask: &Ask, answer: &Answer) -> Outcome {
    match answer {
        // A grant that must be claimed is valid for the claim TTL only.
        Ok(
            Done::Granted { token, claim_within_ms: ttl_ms @ 1.., .. }
            | Done::Granted { token, ttl_ms, .. },
        ) => Outcome::Granted { token: *token, ttl_ms: *ttl_ms },
        Ok(Done::Renewed) => Outcome::Renewed,
        Ok(Done::Released { already }) => Outcome::Released { already: *already },
        Ok(Done::Broken) => Outcome::Broken,
        Ok(Done::Holders { holders, waiters }) => Outcome::Holders {
            holders: holders
                .iter()
                .map(|&(token, request)| Holder { token, request: Some(request) })
                .collect(),
            waiters: *waiters,
        },
        Ok(Done::HeartbeatOk { .. }) => Outcome::HeartbeatOk,
        Ok(Done::Closed { .. }) => Outcome::Closed,
        Ok(Done::Cancelled { held, .. }) => Outcome::Cancelled { held: held.is_some() },
        Err(error) => match error.class() {
            ErrorClass::Retry => Outcome::NotDone,
            ErrorClass::TryLater | ErrorClass::FixInput | ErrorClass::Denied => Outcome::Refused,
            // The acquire's own grant has ended since.
            ErrorClass::Fenced
                if matches!(ask.what, What::Acquire { .. })
                    && error.code() == ErrorCode::Expired =>
            {
                Outcome::Refused
            }
            ErrorClass::Fenced => Outcome::Fenced,
            ErrorClass::Unknown | ErrorClass::Internal => Outcome::Unknown,
        },
    }
}
