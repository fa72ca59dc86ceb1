//! The plain twin: the rules of locking written with vectors and linear searches, for comparison.

use palisade_locks::*;

mod questions;

#[derive(Clone)]
struct Lease {
    id: u64,
    principal: String,
    session: String,
    owner: String,
    metadata: String,
    ttl_ms: u32,
    /// TTL until the lease is claimed, instead of `ttl_ms`; 0 once it is claimed.
    claim_ms: u32,
    seq: u64,
    renewed_ms: u64,
    broken: Vec<u64>,
}

#[derive(Clone)]
struct Hold {
    name: String,
    token: u64,
    request: RequestId,
    mode: Mode,
    lease: u64,
    seq_before: u64,
    acquired_wall_ms: u64,
    waited_ms: u64,
}

#[derive(Clone)]
struct Waiter {
    name: String,
    principal: String,
    request: RequestId,
    mode: Mode,
    session: String,
    owner: String,
    metadata: String,
    ttl_ms: u32,
    claim_ms: u32,
    since_ms: u64,
}

/// A grant that ended; or, without a token, a request that was given up before it was granted.
struct Ended {
    name: String,
    principal: String,
    token: u64,
    request: RequestId,
    end: EndKind,
    at_ms: u64,
}

#[derive(Default)]
pub struct Model {
    leases: Vec<Lease>,
    holds: Vec<Hold>,
    waiters: Vec<Waiter>,
    ended: Vec<Ended>,
    /// Id, identity, and when it ended.
    ended_sessions: Vec<(String, String, u64)>,
    pub last_token: u64,
    pub shard_ms: u64,
    wall_ms: u64,
    fx: Effects,
}

impl Model {
    pub fn apply(
        &mut self,
        stamp: Stamp,
        caller: Caller<'_>,
        command: &Command<'_>,
    ) -> (Outcome, Effects) {
        self.wall_ms = stamp.wall_ms;
        self.shard_ms = self.shard_ms.max(stamp.shard_ms);
        let (now, memory) = (self.shard_ms, REQUEST_MEMORY_MS);
        self.ended.retain(|ended| now - ended.at_ms < memory);
        self.ended_sessions.retain(|(.., at_ms)| now - at_ms < memory);
        let outcome = self.run(caller, command);
        (outcome, std::mem::take(&mut self.fx))
    }

    fn run(&mut self, caller: Caller<'_>, command: &Command<'_>) -> Outcome {
        let by_id = caller.principal;
        match *command {
            Command::Acquire {
                request_id,
                name,
                owner,
                ttl_ms,
                mode,
                wait,
                session,
                metadata,
                claim_ttl_ms,
            } => {
                let waiter = Waiter {
                    name: name.into(),
                    principal: by_id.into(),
                    request: request_id,
                    mode,
                    session: session.into(),
                    owner: owner.into(),
                    metadata: metadata.into(),
                    ttl_ms,
                    claim_ms: if claim_ttl_ms < ttl_ms { claim_ttl_ms } else { 0 },
                    since_ms: self.shard_ms,
                };
                self.acquire(caller, waiter, wait)
            }
            Command::Renew { name, token } => {
                let Some(hold) = self.hold(by_id, name, token) else {
                    return self.fenced(by_id, name, token);
                };
                self.renew_lease(hold.lease);
                let grant = self.show(&hold);
                Outcome::Renewed {
                    ttl_ms: grant.ttl_ms,
                    expires_wall_ms: grant.expires_wall_ms,
                    renewals: grant.renewals,
                }
            }
            Command::Release { name, token, by } => {
                if let Some(hold) = self.hold(by_id, name, token) {
                    if by.is_some_and(|life| life.0 != hold.lease) {
                        self.tell(&hold);
                    }
                    self.end(&hold, EndKind::Released, ["", "", ""]);
                    self.serve_queue(name);
                    return Outcome::Released { already: false };
                }
                match self.how_ended(by_id, name, token) {
                    Some(EndKind::Released) => Outcome::Released { already: true },
                    _ => self.fenced(by_id, name, token),
                }
            }
            Command::Heartbeat { session, life, broken_seen } => {
                let owner = self.session_owner(session, by_id);
                match owner.and_then(|owner| self.session_lease(session, &owner)) {
                    Some(lease) if life.0 == 0 || life.0 == lease => {
                        self.renew_lease(lease);
                        let Lease { ttl_ms, broken, .. } = self.lease(lease);
                        let all = broken.len() as u64;
                        let first =
                            broken_seen.min(all).max(all.saturating_sub(BROKEN_MEMORY_MAX as u64));
                        Outcome::HeartbeatOk(SessionAlive {
                            life: LeaseId(lease),
                            ttl_ms: *ttl_ms,
                            broken_count: all,
                            broken: broken[first as usize..]
                                .iter()
                                .map(|token| Token(*token))
                                .collect(),
                            broken_overflow: broken_seen != first,
                        })
                    }
                    _ => Outcome::SessionLost,
                }
            }
            Command::CloseSession { session } => {
                let released = match self.session_owner(session, by_id) {
                    Some(owner) => self.end_session(session, owner, EndKind::Released),
                    None => {
                        if !self.session_has_ended(session, by_id) {
                            let session = (session.into(), by_id.into(), self.shard_ms);
                            self.ended_sessions.push(session);
                        }
                        0
                    }
                };
                Outcome::Closed { released }
            }
            Command::CancelWait { name, request_id, given_up } => {
                let held = self.holds.iter().find(|hold| {
                    hold.request == request_id
                        && hold.name == name
                        && is_own(&self.lease(hold.lease).principal, by_id)
                });
                if let Some(hold) = held {
                    return Outcome::Granted(self.show(hold));
                }
                let is_it = |waiter: &&Waiter| {
                    waiter.request == request_id
                        && waiter.name == name
                        && is_own(&waiter.principal, by_id)
                };
                let waited = self.waiters.iter().find(is_it).cloned();
                if waited.is_some() {
                    self.waiters.retain(|waiter| waiter.request != request_id);
                }
                let is_known = self.holds.iter().any(|hold| hold.request == request_id)
                    || self.waiters.iter().any(|waiter| waiter.request == request_id)
                    || waited.is_none() && self.ended_request(request_id, by_id).is_some();
                if given_up && !is_known {
                    let (name, end, at_ms) = (name.to_owned(), EndKind::Released, self.shard_ms);
                    let owner = waited.as_ref().map_or(by_id, |waiter| &waiter.principal).into();
                    let request = request_id;
                    self.ended.push(Ended {
                        name,
                        principal: owner,
                        token: 0,
                        request,
                        end,
                        at_ms,
                    });
                }
                if waited.is_none() {
                    return Outcome::NotWaiting;
                }
                self.fx.dropped.push((request_id, DropReason::Cancelled));
                self.serve_queue(name);
                Outcome::Cancelled
            }
            Command::ExpireLease { lease, renewal_seq } => {
                let found =
                    self.leases.iter().find(|l| l.id == lease.0 && l.seq == renewal_seq).cloned();
                let Some(lease) = found else { return Outcome::Expired(false) };
                if lease.session.is_empty() {
                    let hold = self
                        .holds
                        .iter()
                        .find(|hold| hold.lease == lease.id)
                        .expect("private")
                        .clone();
                    self.end(&hold, EndKind::Expired, ["", "", ""]);
                    self.serve_queue(&hold.name);
                } else {
                    self.end_session(&lease.session, lease.principal, EndKind::Expired);
                }
                Outcome::Expired(true)
            }
            Command::Break { name, token, by, reason } => {
                let Some(hold) = self.hold("", name, token) else {
                    return match self.oldest(name) {
                        Some(_) => self.held(name),
                        None => Outcome::NotOwner { current: Token(0) },
                    };
                };
                self.tell(&hold);
                let tenure = self.end(&hold, EndKind::Broken, [by, reason, by_id]);
                self.serve_queue(name);
                Outcome::Broken(Box::new(tenure))
            }
        }
    }

    fn tell(&mut self, hold: &Hold) {
        let lease =
            self.leases.iter_mut().find(|lease| lease.id == hold.lease).expect("it is alive");
        lease.broken.push(hold.token);
    }

    fn acquire(&mut self, caller: Caller<'_>, mut ask: Waiter, wait: bool) -> Outcome {
        let Caller { principal, quota } = caller;
        let hold = self.holds.iter().find(|hold| hold.request == ask.request);
        let hold = hold.map(|hold| (hold, &self.lease(hold.lease).principal));
        let waiter = self.waiters.iter().find(|waiter| waiter.request == ask.request);
        if let Some((hold, owner)) = hold
            && is_own(owner, principal)
        {
            return if hold.name == ask.name {
                Outcome::Granted(self.show(hold))
            } else {
                Outcome::Conflict("")
            };
        }
        if let Some(waiter) = waiter
            && is_own(&waiter.principal, principal)
        {
            if waiter.name != ask.name {
                return Outcome::Conflict("");
            }
            if wait {
                return Outcome::Queued;
            }
            self.waiters.retain(|waiter| waiter.request != ask.request);
            self.fx.dropped.push((ask.request, DropReason::Cancelled));
            self.serve_queue(&ask.name);
            return self.held(&ask.name);
        }
        if let Some(ended) = self.ended_request(ask.request, principal) {
            if ended.name != ask.name {
                return Outcome::Conflict("");
            }
            if ended.token == 0 {
                return Outcome::CancelledBefore;
            }
            return Outcome::AlreadyEnded { token: Token(ended.token), end: ended.end };
        }
        if hold.is_some() || waiter.is_some() {
            return Outcome::Conflict("");
        }
        let session = self.session_owner(&ask.session, principal);
        match &session {
            Some(owner) if principal.is_empty() || owner == principal => {
                ask.principal = owner.clone();
            }
            Some(_) => return Outcome::SessionLost,
            None if self.session_has_ended(&ask.session, principal) => return Outcome::SessionLost,
            None => {}
        }
        if let (Some(Mode::Permits { limit, .. }), Mode::Permits { limit: asked, .. }) =
            (self.oldest(&ask.name).map(|hold| hold.mode), ask.mode)
            && limit != asked
        {
            return Outcome::Conflict("");
        }
        let is_free = self.queue_len(&ask.name) == 0 && self.fits(&ask.name, ask.mode);
        if !is_free && !wait {
            return self.held(&ask.name);
        }
        let has = self.holdings(principal);
        let refusal = [
            (Bound::Locks, quota.locks, has.locks + has.waits, true),
            (
                Bound::Sessions,
                quota.sessions,
                has.sessions,
                !ask.session.is_empty() && session.is_none(),
            ),
            (Bound::Waits, quota.waits, has.waits, !is_free),
        ];
        if let Some((bound, quota, ..)) = refusal
            .into_iter()
            .find(|(_, quota, has, counts)| *counts && *quota > 0 && has >= quota)
            && !principal.is_empty()
        {
            return Outcome::OverQuota { principal: principal.into(), bound, quota, has };
        }
        if is_free {
            return Outcome::Granted(self.grant(&Waiter { claim_ms: 0, ..ask }));
        }
        self.waiters.push(ask);
        Outcome::Queued
    }

    fn fits(&self, name: &str, mode: Mode) -> bool {
        let modes = || self.holds.iter().filter(|hold| hold.name == name).map(|hold| hold.mode);
        match mode {
            Mode::Exclusive => modes().next().is_none(),
            Mode::Shared => modes().all(|held| held == Mode::Shared),
            Mode::Permits { count, limit } => {
                let mut left = i64::from(limit) - i64::from(count);
                for held in modes() {
                    match held {
                        Mode::Permits { count, limit: l } if l == limit => left -= i64::from(count),
                        _ => return false,
                    }
                }
                left >= 0
            }
        }
    }

    fn grant(&mut self, ask: &Waiter) -> Grant {
        self.last_token += 1;
        let lease = self.session_lease(&ask.session, &ask.principal).unwrap_or(self.last_token);
        if lease == self.last_token {
            self.leases.push(Lease {
                id: lease,
                principal: ask.principal.clone(),
                session: ask.session.clone(),
                owner: ask.owner.clone(),
                metadata: ask.metadata.clone(),
                ttl_ms: ask.ttl_ms,
                claim_ms: ask.claim_ms,
                seq: 0,
                renewed_ms: self.shard_ms,
                broken: Vec::new(),
            });
            let (lease, ttl_ms) =
                (LeaseId(lease), if ask.claim_ms == 0 { ask.ttl_ms } else { ask.claim_ms });
            self.fx.leases.push(LeaseEvent::Alive { lease, ttl_ms, renewal_seq: 0 });
        }
        let hold = Hold {
            name: ask.name.clone(),
            token: self.last_token,
            request: ask.request,
            mode: ask.mode,
            lease,
            seq_before: self.lease(lease).seq,
            acquired_wall_ms: self.wall_ms,
            waited_ms: self.shard_ms - ask.since_ms,
        };
        self.holds.push(hold.clone());
        self.show(&hold)
    }

    fn serve_queue(&mut self, name: &str) {
        while let Some(at) = self.waiters.iter().position(|waiter| waiter.name == name) {
            if !self.fits(name, self.waiters[at].mode) {
                return;
            }
            let waiter = self.waiters.remove(at);
            let grant = self.grant(&waiter);
            self.fx.granted.push(grant);
        }
    }

    fn end(&mut self, hold: &Hold, end: EndKind, [by, reason, by_id]: [&str; 3]) -> Tenure {
        let principal = self.lease(hold.lease).principal.clone();
        let tenure = Tenure {
            grant: Grant { rest_ms: 0, claim_within_ms: 0, ..self.show(hold) },
            ended_wall_ms: self.wall_ms,
            end,
            broken_by: by.into(),
            break_reason: reason.into(),
            broken_by_principal: by_id.into(),
        };
        self.fx.ended.push(palisade_locks::Ended::of(&tenure));
        self.holds.retain(|other| other.token != hold.token);
        if self.lease(hold.lease).session.is_empty() {
            self.end_lease(hold.lease);
        }
        let (name, token, request) = (hold.name.clone(), hold.token, hold.request);
        self.ended.push(Ended { name, principal, token, request, end, at_ms: self.shard_ms });
        tenure
    }

    fn end_session(&mut self, session: &str, owner: String, end: EndKind) -> u32 {
        let (mut released, mut names) = (0, Vec::new());
        let lease = self.session_lease(session, &owner);
        for hold in self.holds.clone().into_iter().filter(|hold| Some(hold.lease) == lease) {
            self.end(&hold, end, ["", "", ""]);
            released += 1;
            names.push(hold.name);
        }
        let (dropped, kept) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|w| w.session == session && w.principal == owner);
        self.waiters = kept;
        self.ended_sessions.push((session.into(), owner, self.shard_ms));
        let dropped: Vec<Waiter> = dropped;
        for waiter in dropped {
            self.fx.dropped.push((waiter.request, DropReason::SessionEnded));
            names.push(waiter.name);
        }
        if let Some(lease) = lease {
            self.end_lease(lease);
        }
        for name in names {
            self.serve_queue(&name);
        }
        released
    }

    fn end_lease(&mut self, lease: u64) {
        self.leases.retain(|other| other.id != lease);
        self.fx.leases.push(LeaseEvent::Gone { lease: LeaseId(lease) });
    }

    fn renew_lease(&mut self, lease: u64) {
        let shard_ms = self.shard_ms;
        let lease = self.leases.iter_mut().find(|other| other.id == lease).expect("it is alive");
        lease.seq += 1;
        (lease.renewed_ms, lease.claim_ms) = (shard_ms, 0);
        let alive = LeaseEvent::Alive {
            lease: LeaseId(lease.id),
            ttl_ms: lease.ttl_ms,
            renewal_seq: lease.seq,
        };
        self.fx.leases.push(alive);
    }

    fn lease(&self, id: u64) -> &Lease {
        self.leases.iter().find(|lease| lease.id == id).expect("it is alive")
    }

    fn session_lease(&self, session: &str, owner: &str) -> Option<u64> {
        let is_it = |lease: &&Lease| lease.session == session && lease.principal == owner;
        self.leases.iter().find(|lease| !session.is_empty() && is_it(lease)).map(|lease| lease.id)
    }

    fn hold(&self, principal: &str, name: &str, token: Token) -> Option<Hold> {
        let is_it = |hold: &&Hold| {
            hold.name == name
                && hold.token == token.0
                && is_own(&self.lease(hold.lease).principal, principal)
        };
        self.holds.iter().find(is_it).cloned()
    }

    /// The newest remembered use of a request id that this identity may know of.
    fn ended_request(&self, request: RequestId, principal: &str) -> Option<&Ended> {
        let mut newest_first = self.ended.iter().rev();
        newest_first.find(|ended| ended.request == request && is_own(&ended.principal, principal))
    }

    /// The identity of the session of this id that `principal` may touch: of its lease, or of the
    /// waiters that it has.
    fn session_owner(&self, session: &str, principal: &str) -> Option<String> {
        let leases = self.leases.iter().map(|lease| (&lease.session, &lease.principal));
        let waiters = self.waiters.iter().map(|waiter| (&waiter.session, &waiter.principal));
        leases
            .chain(waiters)
            .filter(|(id, owner)| !id.is_empty() && *id == session && is_own(owner, principal))
            .map(|(_, owner)| owner)
            .min()
            .cloned()
    }

    fn session_has_ended(&self, session: &str, principal: &str) -> bool {
        self.ended_sessions.iter().any(|(id, owner, _)| id == session && is_own(owner, principal))
    }

    fn oldest(&self, name: &str) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.name == name)
    }

    fn held(&self, name: &str) -> Outcome {
        match self.oldest(name) {
            Some(hold) => Outcome::Held {
                token: Token(hold.token),
                owner: self.lease(hold.lease).owner.clone(),
            },
            None => Outcome::Held { token: Token(0), owner: String::new() },
        }
    }

    fn how_ended(&self, principal: &str, name: &str, token: Token) -> Option<EndKind> {
        self.ended
            .iter()
            .find(|ended| {
                ended.name == name && ended.token == token.0 && is_own(&ended.principal, principal)
            })
            .map(|ended| ended.end)
    }

    fn fenced(&self, principal: &str, name: &str, token: Token) -> Outcome {
        let current = Token(self.oldest(name).map_or(0, |hold| hold.token));
        match self.how_ended(principal, name, token) {
            Some(EndKind::Expired) => Outcome::LeaseExpired { current },
            _ => Outcome::NotOwner { current },
        }
    }

    fn show(&self, hold: &Hold) -> Grant {
        let lease = self.lease(hold.lease);
        let ttl_now_ms = if lease.claim_ms == 0 { lease.ttl_ms } else { lease.claim_ms };
        let rest_ms = u64::from(ttl_now_ms).saturating_sub(self.shard_ms - lease.renewed_ms);
        Grant {
            name: hold.name.clone(),
            owner: lease.owner.clone(),
            principal: lease.principal.clone(),
            token: Token(hold.token),
            mode: hold.mode,
            session: lease.session.clone(),
            metadata: lease.metadata.clone(),
            ttl_ms: lease.ttl_ms,
            claim_within_ms: lease.claim_ms,
            acquired_wall_ms: hold.acquired_wall_ms,
            rest_ms: rest_ms as u32,
            expires_wall_ms: self.wall_ms + rest_ms,
            renewals: lease.seq - hold.seq_before,
            waited_ms: hold.waited_ms,
            request_id: hold.request,
            lease: LeaseId(hold.lease),
        }
    }
}

/// Whether a caller may touch a grant, waiter or session of this owner.
fn is_own(owner: &str, caller: &str) -> bool {
    owner.is_empty() || caller.is_empty() || owner == caller
}
