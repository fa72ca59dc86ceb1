//! A client's operations: each is recorded, sent to a gateway, and retried by the real retry
//! machine.
//!
//! Tries are counted as the SDK counts them.

use super::ask::{Answer, Ask, Done, What, answer_of};
use super::network::Place;
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::client::{Call, Purpose, Settled};
use super::state::event::{Event, Message};
use crate::checker::{Call as Asked, Holder, LifeNote, Mode, Operation, Outcome};
use link::retry::{Decision, Policy, Tries, TryFailure};
use locks::Mode as TableMode;
use std::sync::Arc;
use wire::ErrorClass;
use wire::v1::ErrorCode;
use wire::v1::operation_result::Result as OpResult;

/// The time for all tries of an operation together, as in the SDK. Each gateway gets half of it.
const TIMEOUT_MS: u64 = 5_000;

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
            first_try_timeout_ms: timeout_ms.div_ceil(gateways),
            retry_busy: true,
            targets_retry: true,
        };
        let now_ms = self.now_us / 1_000;
        let first = 1 + (u64::from(id) + self.rng.below(100) / 80) % gateways;
        let mut retry = Tries::new(policy, now_ms, first);
        let decision = retry.start_or_resume(now_ms);
        let number = self.number();
        let call = Call {
            operation,
            ask: Arc::new(ask),
            purpose,
            retry,
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

    fn client_failed(&mut self, id: u32, number: u64, failure: TryFailure<'_>) {
        let targets: Vec<u64> = self.gateways.keys().map(|id| u64::from(*id)).collect();
        let (now_ms, jitter) = (self.now_us / 1_000, self.rng.unit());
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(call) = client.calls.get_mut(&number) else { return };
        let decision = call.retry.after_failure(now_ms, jitter, failure, &targets);
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
                self.client_failed(id, number, TryFailure::Lost("no answer in time"));
            }
            None => {
                let decision = call.retry.start_or_resume(self.now_us / 1_000);
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
            TryFailure::Lost("connection lost")
        } else {
            TryFailure::NotSent("connection refused")
        };
        self.client_failed(id, number, failure);
    }

    pub(crate) fn client_reply(&mut self, id: u32, try_number: u64, result: OpResult, tries: u32) {
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(number) = client.tries.remove(&try_number) else { return };
        let Some(call) = client.calls.get_mut(&number) else { return };
        call.tries = call.tries.max(tries);
        match result {
            OpResult::Error(error) => self.client_failed(id, number, TryFailure::Refused(&error)),
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
        let tries = call.tries.max(call.retry.tries());
        let is_attack = matches!(call.purpose, Purpose::Attack);
        let outcome = match is_attack {
            true => outcome_of_attack(&call.ask, &answer),
            false => outcome(&call.ask, &answer),
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
        let Call { ask, purpose, first_sent_us, sent_us, retry, .. } = call;
        let tries = retry.tries();
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

/// The outcome of an attack: refused, only if the answer is exactly that to a token, request or
/// session that never was.
fn outcome_of_attack(ask: &Ask, answer: &Answer) -> Outcome {
    match (&ask.what, answer) {
        (What::CancelWait { .. }, Ok(Done::Cancelled { held: None, was_waiting: false }))
        | (What::CloseSession { .. }, Ok(Done::Closed { released: 0 })) => Outcome::Refused,
        (What::Release { .. } | What::Renew { .. }, Err(error))
            if error.code() == ErrorCode::NotOwner =>
        {
            Outcome::Refused
        }
        (What::Heartbeat { .. }, Err(error)) if error.code() == ErrorCode::SessionLost => {
            Outcome::Refused
        }
        // The table was not asked, or not heard of.
        (_, Err(error)) if error.class() == ErrorClass::TryLater => Outcome::NotDone,
        (_, Err(error)) if error.class() == ErrorClass::FixInput => Outcome::Fenced,
        _ => outcome(ask, answer),
    }
}
