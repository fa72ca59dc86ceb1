//! The behaviour of clients: they acquire, renew, release, check and break locks.
//!
//! Clients also forget a lock, come late with it, and retry a request with an unknown outcome.

use super::ask::{Answer, Ask, Done, What};
use super::clock::SECOND_US;
use super::identities::Identities;
use super::state::chaos::FaultKind;
use super::state::client::{Act, Client, Held, Life, Purpose, Role, Session, Settled};
use super::state::event::Event;
use super::state::{AUDITOR, World};
use crate::checker::Belief;
use client::lease::Lease;
use locks::REQUEST_MEMORY_MS;
use routing::ShardId;
use std::time::Duration;
use tokio::time::Instant;
use wire::v1::ErrorCode;

/// The largest number of operations that one client has under way.
const CALLS_MAX: usize = 4;
const HELD_MAX: usize = 3;
/// The TTLs of first leases that must be claimed, in milliseconds.
pub(crate) const CLAIM_TTL_MS: std::ops::Range<u32> = 600..1_500;

impl World {
    pub(crate) fn begin_clients(&mut self) {
        let count = self.rng.range(5, 8) as u32;
        self.identities = Identities::choose(&mut self.rng, count, AUDITOR);
        for id in 1..=count {
            let role = match id % 4 {
                1 | 3 => Role::Locker,
                2 => Role::Sessioner,
                _ => Role::Watcher,
            };
            self.clients.insert(id, Client::new(role));
            let at_us = self.rng.range(SECOND_US, 4 * SECOND_US);
            self.agenda.push(at_us, Event::Act { client: id, act: Act::Something });
        }
        self.clients.insert(AUDITOR, Client::new(Role::Auditor));
    }

    pub(crate) fn act(&mut self, id: u32, act: Act) {
        self.trace.mix(u64::from(id));
        if self.ending.silent {
            return;
        }
        match act {
            Act::Something => {
                let pace_us = if self.chaos.busy(self.now_us) { 350_000 } else { 6 * SECOND_US };
                let after_us = self.rng.around(pace_us).min(8 * SECOND_US);
                self.agenda
                    .push(self.now_us + after_us, Event::Act { client: id, act: Act::Something });
                if self.clients[&id].busy() < CALLS_MAX {
                    self.something(id);
                }
            }
            Act::Look { name } => {
                self.ask_named(
                    id,
                    name,
                    What::Check { linearizable: true },
                    Purpose::Look { name },
                );
            }
            Act::Renew { hold } => self.renew(id, hold),
            Act::Release { hold } => self.release(id, hold),
            Act::Stale { name, token, renew } => {
                let what =
                    if renew { What::Renew { token } } else { What::Release { token, life: 0 } };
                self.faults.add(FaultKind::StaleHolder);
                self.ask_named(id, name, what, Purpose::Nothing);
            }
            Act::Beat { session, shard, life } => self.beat(id, session, shard, life),
            Act::Retake { name, request } => self.take(id, name, Some(request)),
            Act::Revive { session, ttl_ms, shard, life } => {
                self.revive(id, session, ttl_ms, shard, life)
            }
        }
    }

    fn something(&mut self, id: u32) {
        let name = self.rng.below(self.names.len() as u64) as usize;
        let role = self.clients[&id].role;
        match (role, self.rng.below(100)) {
            (Role::Watcher, 0..70) => {
                self.ask_named(
                    id,
                    name,
                    What::Check { linearizable: true },
                    Purpose::Look { name },
                );
            }
            (Role::Watcher, 70..90) | (_, 0..8) => {
                self.ask_named(id, name, What::Check { linearizable: false }, Purpose::Nothing);
            }
            (_, 8..16) => {
                self.ask_named(id, name, What::Check { linearizable: true }, Purpose::Nothing);
            }
            (Role::Watcher, _) => self.take(id, name, None),
            (Role::Sessioner, 16..22) => self.leave_session(id),
            _ if self.clients[&id].held.len() < HELD_MAX => self.take(id, name, None),
            _ => {}
        }
    }

    fn ask_named(&mut self, id: u32, name: usize, what: What, purpose: Purpose) -> usize {
        let ask = Ask { name: self.names[name].name.clone(), shard: self.names[name].shard, what };
        self.ask(id, ask, purpose)
    }

    // ---- taking ---------------------------------------------------------------------------------

    fn take(&mut self, id: u32, name: usize, again: Option<u64>) {
        let request = match again {
            Some(request) => request,
            None => self.number(),
        };
        let mode = *self.rng.pick(&self.names[name].modes.clone());
        let ttl_ms = self.rng.range(1_000, 6_000) as u32;
        let wait_ms = if self.rng.percent(65) {
            self.rng.range(300, self.chaos.wait_ms_max()) as u32
        } else {
            0
        };
        let (session, ttl_ms) = if self.clients[&id].role == Role::Sessioner {
            let session = self.session(id, ttl_ms);
            (session.id, session.ttl_ms)
        } else {
            (0, ttl_ms)
        };
        let what = match again.and_then(|request| self.asked_before(request)) {
            Some(before) => before,
            None => {
                let claim_ttl_ms = if wait_ms > 0 && self.rng.percent(40) {
                    self.rng.range(CLAIM_TTL_MS.start.into(), CLAIM_TTL_MS.end.into()) as u32
                } else {
                    0
                };
                What::Acquire { request, mode, ttl_ms, wait_ms, session, claim_ttl_ms }
            }
        };
        self.ask_named(id, name, what, Purpose::Take { name, fresh: again.is_none() });
    }

    /// Finds the acquire that was asked with this request id.
    fn asked_before(&self, request: u64) -> Option<What> {
        use crate::checker::{Call, Mode};
        self.history.operations.iter().rev().take(400).find_map(|operation| match operation.call {
            Call::Acquire { request: r, mode, ttl_ms, wait_ms, session } if r == request => {
                let mode = match mode {
                    Mode::Exclusive => locks::Mode::Exclusive,
                    Mode::Shared => locks::Mode::Shared,
                    Mode::Permits { count, limit } => locks::Mode::Permits { count, limit },
                };
                Some(What::Acquire { request, mode, ttl_ms, wait_ms, session, claim_ttl_ms: 0 })
            }
            _ => None,
        })
    }

    fn session(&mut self, id: u32, ttl_ms: u32) -> &Session {
        let fresh = self.number();
        let client = self.clients.get_mut(&id).expect("a client");
        client.session.get_or_insert_with(|| Session {
            id: fresh,
            ttl_ms,
            shards: Default::default(),
            forgotten: false,
        })
    }

    pub(crate) fn settled(&mut self, id: u32, settled: Settled) {
        match settled.purpose {
            Purpose::Audit { name } => return self.audited(name, &settled),
            Purpose::GiveUp => return self.gave_up(id, &settled),
            Purpose::DieInQueue => return self.died_in_queue(id, &settled),
            _ => {}
        }
        if self.ending.silent {
            return;
        }
        if matches!(settled.answer, Ok(Done::Granted { .. } | Done::Released { .. }))
            && self.rng.percent(40)
        {
            self.look_soon(&settled.ask.name);
        }
        match settled.purpose.clone() {
            Purpose::Take { name, .. } => self.taken(id, name, &settled),
            Purpose::Renew { hold } => self.renewed(id, hold, &settled),
            Purpose::Release => self.released(id, &settled),
            Purpose::Beat { session, shard } => self.beaten(id, session, shard, &settled),
            Purpose::Revive { session, shard, life } => {
                self.revived(id, session, shard, life, &settled.answer)
            }
            Purpose::Look { name } => self.looked(id, name, &settled.answer),
            Purpose::Audit { .. }
            | Purpose::GiveUp
            | Purpose::DieInQueue
            | Purpose::Attack
            | Purpose::Nothing => {}
        }
    }

    fn taken(&mut self, id: u32, name: usize, settled: &Settled) {
        let What::Acquire { request, session, .. } = settled.ask.what else {
            unreachable!("only acquires take")
        };
        let Purpose::Take { fresh, .. } = &settled.purpose else {
            unreachable!("only takings are taken")
        };
        let (token, ttl_ms, waited_ms, claim_within_ms, life) = match &settled.answer {
            Ok(Done::Granted { token, ttl_ms, waited_ms, claim_within_ms, life }) => {
                (*token, *ttl_ms, *waited_ms, *claim_within_ms, *life)
            }
            Err(error) => {
                if error.code() == ErrorCode::Busy && error.message.contains("its quota") {
                    self.faults.add(FaultKind::OverQuota);
                }
                // The client retries once, and within the time for which the table remembers the
                // result of a request.
                let spent_us = self.now_us - settled.first_sent_us;
                let memory_us = (REQUEST_MEMORY_MS as f64 * 1_000.0 / self.chaos.rate_max) as u64;
                let in_time = 2 * spent_us + 3 * SECOND_US < memory_us;
                if error.code() == ErrorCode::OutcomeUnknown
                    && *fresh
                    && in_time
                    && self.rng.percent(70)
                {
                    let after_us = self.rng.range(1_000, 2 * SECOND_US);
                    self.agenda.push(
                        self.now_us + after_us,
                        Event::Act { client: id, act: Act::Retake { name, request } },
                    );
                } else if settled.tries > 1 || error.code() == ErrorCode::OutcomeUnknown {
                    // An earlier try may still be on its way, unless all tries were answered as not
                    // done.
                    if error.class() != wire::ErrorClass::Retry && self.rng.percent(40) {
                        self.copy_late(id, (*settled.ask).clone());
                    }
                    self.give_up(id, &settled.ask);
                }
                if error.code() == ErrorCode::SessionLost {
                    self.lose_session(id, session);
                }
                return;
            }
            Ok(other) => unreachable!("an acquire that came to {other:?}"),
        };
        let client = self.clients.get_mut(&id).expect("a client");
        if client.held.iter().any(|held| held.token == token && held.name == name) {
            return;
        }
        let hold = settled.operation;
        // The SDK's guard does the same: it renews a grant first if its TTL may have begun long
        // ago. This is so if the request waited, was tried again, or was asked before. A grant that
        // must be claimed is also renewed, even if it waited for less than a millisecond.
        let known = *fresh && waited_ms == 0 && claim_within_ms == 0 && settled.tries == 1;
        let lease = known.then(|| Lease::new(instant(settled.first_sent_us), ms(ttl_ms)));
        client.held.push(Held { name, token, session, life, operation: hold, lease, ttl_ms });
        if session == 0 {
            self.believe(id, hold);
        }
        let client = self.clients.get_mut(&id).expect("a client");
        let (now_us, shard) = (self.now_us, settled.ask.shard);
        if session != 0 {
            let ours = client.session.as_mut().filter(|ours| ours.id == session);
            let Some(ours) = ours else { return };
            let known = ours.shards.get(&shard).map(|known| known.life);
            if known != Some(life) {
                let life = Life { life, broken_seen: 0 };
                ours.shards.insert(shard, life);
                let names = &self.names;
                // Grants that belong to a former life of the session are lost.
                client.held.retain(|held| {
                    known.is_none()
                        || held.operation == hold
                        || held.session != session
                        || names[held.name].shard != shard
                });
                self.agenda.push(
                    now_us,
                    Event::Act { client: id, act: Act::Beat { session, shard, life } },
                );
            }
        }
        if claim_within_ms > 0 {
            self.faults.add(FaultKind::Claimed);
        }
        let fate = self.rng.below(100);
        let hold_us = self.rng.around(2 * SECOND_US);
        if session == 0 && fate < 14 {
            // The client forgets its lock, and remembers it too late.
            let late_us = u64::from(ttl_ms) * 1_000 + self.rng.range(0, 8 * SECOND_US);
            let (act, again) = (fate < 7, self.rng.percent(50));
            for (after_us, renew) in [(late_us, act), (late_us + SECOND_US, again)] {
                self.agenda.push(
                    now_us + after_us,
                    Event::Act { client: id, act: Act::Stale { name, token, renew } },
                );
            }
            self.clients.get_mut(&id).expect("a client").held.retain(|held| held.operation != hold);
            return;
        }
        if session == 0 {
            let at_us =
                if known { settled.first_sent_us + u64::from(ttl_ms) * 1_000 / 3 } else { now_us };
            self.agenda
                .push(at_us.max(now_us), Event::Act { client: id, act: Act::Renew { hold } });
        }
        self.agenda.push(now_us + hold_us, Event::Act { client: id, act: Act::Release { hold } });
    }

    // ---- keeping and letting go -----------------------------------------------------------------

    fn renew(&mut self, id: u32, hold: usize) {
        let client = self.clients.get_mut(&id).expect("a client");
        if let Some(held) = client.held.iter().find(|held| held.operation == hold) {
            let (name, token) = (held.name, held.token);
            self.ask_named(id, name, What::Renew { token }, Purpose::Renew { hold });
        }
    }

    fn renewed(&mut self, id: u32, hold: usize, settled: &Settled) {
        let now = instant(self.now_us);
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(held) = client.held.iter_mut().find(|held| held.operation == hold) else { return };
        let next_us = match &settled.answer {
            Ok(_) => {
                let (sent, ttl) = (instant(settled.sent_us), ms(held.ttl_ms));
                match &mut held.lease {
                    Some(lease) => {
                        lease.renewed(now, sent, ttl);
                    }
                    None => held.lease = Some(Lease::new(sent, ttl)),
                }
                settled.sent_us + u64::from(held.ttl_ms) * 1_000 / 3
            }
            Err(error) if error.class() == wire::ErrorClass::Fenced => {
                let (name, token, renew) = (held.name, held.token, self.rng.percent(50));
                client.held.retain(|held| held.operation != hold);
                let after_us = self.rng.range(0, 4 * SECOND_US);
                self.agenda.push(
                    self.now_us + after_us,
                    Event::Act { client: id, act: Act::Stale { name, token, renew } },
                );
                return;
            }
            Err(_) => self.now_us + u64::from(held.ttl_ms) * 1_000 / 20,
        };
        self.agenda.push(
            next_us.max(self.now_us + 1),
            Event::Act { client: id, act: Act::Renew { hold } },
        );
        self.believe(id, hold);
    }

    /// Records the time until which the SDK's lease says that this lock is held.
    fn believe(&mut self, id: u32, hold: usize) {
        let held = self.clients[&id].held.iter().find(|held| held.operation == hold);
        if let Some(Held { token, lease: Some(lease), .. }) = held {
            let until_us = self.now_us + lease.valid_for(instant(self.now_us)).as_micros() as u64;
            self.history.beliefs.push(Belief {
                operation: hold,
                token: *token,
                from_us: self.now_us,
                until_us,
            });
        }
    }

    fn release(&mut self, id: u32, hold: usize) {
        let client = self.clients.get_mut(&id).expect("a client");
        if let Some(at) = client.held.iter().position(|held| held.operation == hold) {
            let held = client.held.remove(at);
            let what = What::Release { token: held.token, life: held.life };
            self.ask_named(id, held.name, what, Purpose::Release);
        }
    }

    fn released(&mut self, id: u32, settled: &Settled) {
        let What::Release { token, .. } = settled.ask.what else {
            unreachable!("only releases let go")
        };
        let name = self
            .names
            .iter()
            .position(|name| name.name == settled.ask.name)
            .expect("one of the names");
        if self.rng.percent(12) {
            let (after_us, renew) = (self.rng.range(0, 3 * SECOND_US), self.rng.percent(30));
            self.agenda.push(
                self.now_us + after_us,
                Event::Act { client: id, act: Act::Stale { name, token, renew } },
            );
        }
    }

    // ---- sessions -------------------------------------------------------------------------------

    fn beat(&mut self, id: u32, session: u64, shard: ShardId, life: Life) {
        let Life { life, broken_seen } = life;
        let what = What::Heartbeat { session, life, broken_seen };
        self.ask(id, Ask { name: String::new(), shard, what }, Purpose::Beat { session, shard });
    }

    fn beaten(&mut self, id: u32, session: u64, shard: ShardId, settled: &Settled) {
        let What::Heartbeat { life: asked, .. } = settled.ask.what else {
            unreachable!("only heartbeats beat")
        };
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(ours) =
            client.session.as_mut().filter(|ours| ours.id == session && !ours.forgotten)
        else {
            return;
        };
        let Some(life) = ours.shards.get_mut(&shard).filter(|life| life.life == asked) else {
            return;
        };
        let after_us = match &settled.answer {
            Ok(Done::HeartbeatOk { broken_count, broken, .. }) => {
                life.broken_seen = *broken_count;
                let names = &self.names;
                client.held.retain(|held| {
                    names[held.name].shard != shard
                        || held.session != session
                        || !broken.contains(&held.token)
                });
                if !broken.is_empty() {
                    self.faults.add(FaultKind::BreakTold);
                }
                u64::from(ours.ttl_ms) * 1_000 / 3
            }
            Ok(other) => unreachable!("a heartbeat that came to {other:?}"),
            Err(error) if error.code() == ErrorCode::SessionLost => {
                return self.lose_session(id, session);
            }
            Err(_) => u64::from(ours.ttl_ms) * 1_000 / 20,
        };
        let life = *life;
        self.agenda.push(
            self.now_us + after_us,
            Event::Act { client: id, act: Act::Beat { session, shard, life } },
        );
    }

    // ---- giving up ------------------------------------------------------------------------------

    /// Tells the shard that the client has given up an acquire, and repeats this until it is
    /// answered.
    fn give_up(&mut self, id: u32, acquire: &Ask) {
        let (What::Acquire { request, .. } | What::CancelWait { request }) = acquire.what else {
            unreachable!("only an acquire is given up")
        };
        let what = What::CancelWait { request };
        self.ask(id, Ask { what, ..acquire.clone() }, Purpose::GiveUp);
    }

    fn gave_up(&mut self, id: u32, settled: &Settled) {
        match &settled.answer {
            // The request was granted meanwhile, so the client releases the unwanted grant.
            Ok(Done::Cancelled { held: Some(token), .. }) => {
                let what = What::Release { token: *token, life: 0 };
                self.ask(id, Ask { what, ..(*settled.ask).clone() }, Purpose::Nothing);
            }
            Ok(_) => {}
            Err(error) if error.class() == wire::ErrorClass::FixInput => {}
            Err(_) => self.give_up(id, &settled.ask),
        }
    }

    /// The client is dead by now, so a grant out of the queue has no owner. A grant that did not
    /// wait is released.
    fn died_in_queue(&mut self, id: u32, settled: &Settled) {
        match &settled.answer {
            Ok(Done::Granted { waited_ms: 1.., .. }) => self.faults.add(FaultKind::DiedInQueue),
            Ok(Done::Granted { token, .. }) => {
                let what = What::Release { token: *token, life: 0 };
                self.ask(id, Ask { what, ..(*settled.ask).clone() }, Purpose::Nothing);
            }
            _ => self.give_up(id, &settled.ask),
        }
    }

    /// Acquires with a session that expired long ago. The session begins anew under its id.
    fn revive(&mut self, id: u32, session: u64, ttl_ms: u32, shard: ShardId, life: Life) {
        let Some(name) = self.names.iter().position(|name| name.shard == shard) else { return };
        let request = self.number();
        let mode = self.names[name].modes[0];
        let what =
            What::Acquire { request, mode, ttl_ms, wait_ms: 2_000, session, claim_ttl_ms: 0 };
        self.ask_named(id, name, what, Purpose::Revive { session, shard, life });
    }

    fn revived(&mut self, id: u32, session: u64, shard: ShardId, former: Life, answer: &Answer) {
        if let Ok(Done::Granted { life, .. }) = answer
            && *life != former.life
        {
            self.faults.add(FaultKind::SessionRevived);
            let act = Act::Beat { session, shard, life: former };
            self.agenda.push(self.now_us + 1_000, Event::Act { client: id, act });
        }
    }

    /// The session ended on a shard, so the client opens a new one for its next operations.
    fn lose_session(&mut self, id: u32, session: u64) {
        let client = self.clients.get_mut(&id).expect("a client");
        if client.session.as_ref().is_some_and(|ours| ours.id == session) {
            client.session = None;
            client.held.retain(|held| held.session != session);
        }
    }

    /// Closes the client's session, or forgets it and remembers it too late.
    fn leave_session(&mut self, id: u32) {
        let client = self.clients.get_mut(&id).expect("a client");
        let Some(session) = client.session.take() else { return };
        client.held.retain(|held| held.session != session.id);
        let closes = self.rng.percent(50);
        for (shard, life) in session.shards {
            if closes {
                let what = What::CloseSession { session: session.id };
                self.ask(id, Ask { name: String::new(), shard, what }, Purpose::Nothing);
            } else {
                self.faults.add(FaultKind::SessionForgotten);
                let after_us = u64::from(session.ttl_ms) * 1_000 + self.rng.range(0, 6 * SECOND_US);
                let act = Act::Beat { session: session.id, shard, life };
                self.agenda.push(self.now_us + after_us, Event::Act { client: id, act });
                if self.rng.percent(50) {
                    // By then the table has forgotten the session's end, even on the slowest clock.
                    let memory_us = (REQUEST_MEMORY_MS + u64::from(session.ttl_ms) + 4_000) * 1_000;
                    let after_us = (memory_us as f64 / self.chaos.rate_min) as u64
                        + self.rng.range(0, 5 * SECOND_US);
                    let act =
                        Act::Revive { session: session.id, ttl_ms: session.ttl_ms, shard, life };
                    self.agenda.push(self.now_us + after_us, Event::Act { client: id, act });
                }
            }
        }
    }

    // ---- looking --------------------------------------------------------------------------------

    /// A check right after an acknowledged operation must show it, whichever replica answers.
    fn look_soon(&mut self, name: &str) {
        let name =
            self.names.iter().position(|known| known.name == name).expect("one of the names");
        let watchers: Vec<u32> = (self.clients.iter())
            .filter(|(_, client)| client.role == Role::Watcher && client.busy() < 2 * CALLS_MAX)
            .map(|(id, _)| *id)
            .collect();
        if !watchers.is_empty() {
            let (client, after_us) = (*self.rng.pick(&watchers), self.rng.range(0, 3_000));
            self.agenda
                .push(self.now_us + after_us, Event::Act { client, act: Act::Look { name } });
        }
    }

    fn looked(&mut self, id: u32, name: usize, answer: &Answer) {
        let Ok(Done::Holders { holders, .. }) = answer else { return };
        let Some(&(token, request)) = holders.first() else { return };
        match self.rng.below(100) {
            0..4 => {
                self.ask_named(id, name, What::Break { token }, Purpose::Nothing);
            }
            4..6 if !self.identities.is_barred_from(id, request) => {
                self.faults.add(FaultKind::ReleasedByAnother);
                self.ask_named(id, name, What::Release { token, life: 0 }, Purpose::Nothing);
            }
            6..20 => self.attack(id, name, token, request),
            _ => {}
        }
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

/// Converts the clients' clock into the SDK's type. Only differences between such instants matter.
fn instant(us: u64) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_micros(us)
}
