//! Taking: answers to retries, and grants.
//!
//! It knows nothing of how a grant ends, nor of how waiters are handed locks; it only appends to the queue.

use super::index::Ref;
use super::rows::{GrantRow, Lease, Life, SessionRow, Terms, WaiterRow};
use super::slab::NONE;
use super::{LockTable, chain::Links};
use crate::hash::{hash_number, hash_str};
use crate::planted::{self, Bug};
use crate::types::*;
use std::num::NonZeroU64;

/// An acquire, as it came.
pub(super) struct Ask<'a> {
    pub(super) request: RequestId,
    pub(super) name: &'a str,
    pub(super) owner: &'a str,
    pub(super) ttl_ms: u32,
    pub(super) mode: Mode,
    pub(super) wait: bool,
    pub(super) session: &'a str,
    pub(super) metadata: &'a str,
    pub(super) claim_ttl_ms: u32,
}

/// What a grant is made of, whether its acquire waited or not.
pub(super) struct Claim {
    pub(super) request: RequestId,
    pub(super) mode: Mode,
    /// Of the private lease, or of the session's if it begins with this.
    pub(super) terms: Terms,
    /// [`NONE`]: a private lease.
    pub(super) session: u32,
    pub(super) waited_ms: u64,
}

impl LockTable {
    pub(super) fn acquire(&mut self, at: Stamp, ask: &Ask<'_>, effects: &mut Effects) -> Outcome {
        if let Some(earlier) = self.find_request(ask.request)
            && !(planted::is(Bug::RetryGrantedTwice) && matches!(earlier, Ref::Ended(_)))
        // planted: what was granted and has ended is granted again
        {
            return self.acquire_again(at, ask, earlier, effects);
        }
        let known = match ask.session {
            "" => None,
            id => match self.find_session(id) {
                Some(Ref::Ended(_)) => return Outcome::SessionLost,
                Some(Ref::Live(session)) => Some(session),
                Some(other) => unreachable!("{other:?} is no session"),
                None => None,
            },
        };
        if self.last_token >= TOKEN_MAX {
            return Outcome::Full("this shard has issued its last fencing token: move its locks to another shard");
        }
        let found = self.find_lock(ask.name);
        let free = match found {
            None => true,
            Some(lock) if self.of_another_limit(lock, ask.mode) => {
                return Outcome::Conflict("the name is in use as a semaphore with another limit: use that limit");
            }
            Some(lock) => self.locks[lock].queue.is_empty() && self.fits(lock, ask.mode),
        };
        if !free && !ask.wait {
            return self.held_by_another(ask.name);
        }
        let crowded = |lock: u32| self.locks[lock].queue_len >= WAITERS_PER_NAME_MAX;
        if !free && found.is_some_and(crowded) {
            return Outcome::Full("too many wait for this name already (10000): try later");
        }

        let lock = found.unwrap_or_else(|| self.new_lock(ask.name));
        let session = match ask.session {
            "" => NONE,
            id => known.unwrap_or_else(|| self.unknown_session(id)),
        };
        let terms = self.terms(ask.ttl_ms, ask.owner, ask.metadata);
        if free {
            let claim = Claim { request: ask.request, mode: ask.mode, terms, session, waited_ms: 0 };
            let grant = self.grant(at, lock, claim, effects);
            return self.granted(grant, at, effects);
        }
        self.last_waiter += 1;
        let waiter = WaiterRow {
            number: self.last_waiter,
            request: ask.request,
            since_ms: at.shard_ms,
            terms: terms.with_claim(ask.claim_ttl_ms),
            mode: ask.mode,
            lock,
            links: Links::LOOSE,
            session,
            session_links: Links::LOOSE,
            changed_at: NONE,
        };
        self.enqueue(waiter);
        Outcome::Queued
    }

    /// A retry, or a request id that is in use for something else.
    fn acquire_again(&mut self, at: Stamp, ask: &Ask<'_>, earlier: Ref, effects: &mut Effects) -> Outcome {
        const OTHER_NAME: Outcome =
            Outcome::Conflict("the request id is in use for another name: choose a fresh one for each acquire");
        match earlier {
            Ref::Live(grant) => {
                if *self.locks[self.grants[grant].lock].name != *ask.name {
                    return OTHER_NAME;
                }
                self.granted(grant, at, effects)
            }
            Ref::Waiting(waiter) => {
                let lock = self.waiters[waiter].lock;
                if *self.locks[lock].name != *ask.name {
                    return OTHER_NAME;
                }
                if ask.wait {
                    return Outcome::Queued;
                }
                self.drop_waiter(waiter, DropReason::Cancelled, effects);
                self.settle(at, lock, effects);
                self.held_by_another(ask.name)
            }
            Ref::Recent(_) => unreachable!("it was resolved"),
            Ref::Ended(ended) => {
                let ended = self.ended_grants.get(ended);
                if ended.name_hash != hash_str(ask.name) {
                    return OTHER_NAME;
                }
                if ended.is_tombstone() {
                    return Outcome::CancelledBefore;
                }
                Outcome::AlreadyEnded { token: Token(ended.token), end: ended.end }
            }
        }
    }

    /// Whether the holders make a semaphore with another limit than this asks for.
    fn of_another_limit(&self, lock: u32, mode: Mode) -> bool {
        let held = self.grants.get(self.locks[lock].grants.first).map(|grant| grant.mode);
        matches!((held, mode), (Some(Mode::Permits { limit, .. }), Mode::Permits { limit: asked, .. }) if limit != asked)
    }

    /// Whether a grant in this mode can join the present ones.
    pub(super) fn fits(&self, lock: u32, mode: Mode) -> bool {
        let row = &self.locks[lock];
        let Some(oldest) = self.grants.get(row.grants.first) else { return true };
        match (oldest.mode, mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Shared, Mode::Exclusive) => planted::is(Bug::SharedWithExclusive), // planted: together
            (Mode::Permits { limit, .. }, Mode::Permits { count, limit: asked }) => {
                let spare = u32::from(planted::is(Bug::PermitTooMany)); // planted: one more than there are
                limit == asked && count <= (limit + spare).saturating_sub(row.permits_used)
            }
            _ => false,
        }
    }

    /// A session that this shard has not heard of: it gets a lease with its first grant.
    pub(super) fn unknown_session(&mut self, id: &str) -> u32 {
        let session = self.sessions.insert(SessionRow::unknown(id));
        self.index_session(id, Ref::Live(session));
        session
    }

    /// Makes a grant that [`fits`](Self::fits), with the next token.
    pub(super) fn grant(&mut self, at: Stamp, lock: u32, mut claim: Claim, effects: &mut Effects) -> u32 {
        assert!(self.last_token < TOKEN_MAX, "no token is left after {}", self.last_token);
        if planted::is(Bug::ClaimIgnored) {
            claim.terms.claim(); // planted: a full TTL for whoever was in the queue
        }
        self.last_token += 1;
        let token = NonZeroU64::new(self.last_token).expect("1 was added");
        let lease = if claim.session == NONE {
            let life = Life::new(at.shard_ms);
            effects.leases.push(life.event(LeaseId(token.get()), &claim.terms));
            Lease::Private { life, terms: claim.terms }
        } else {
            let session = &mut self.sessions[claim.session];
            if session.lease.is_none() {
                (session.life, session.terms) = (Life::new(at.shard_ms), claim.terms);
                effects.leases.push(session.life.event(LeaseId(token.get()), &session.terms));
                self.begin_session(claim.session, token);
            }
            let renewals_before = self.sessions[claim.session].life.renewal_seq;
            Lease::Session { session: claim.session, links: Links::LOOSE, renewals_before }
        };
        let mut row = GrantRow::new(token, claim.request, lock, claim.mode, lease);
        row.acquired_wall_ms = at.wall_ms;
        row.waited_ms = u32::try_from(claim.waited_ms).unwrap_or(u32::MAX);
        self.link_grant(row)
    }

    /// From now on the session is known here, by this lease.
    pub(super) fn begin_session(&mut self, session: u32, lease: NonZeroU64) {
        self.sessions[session].lease = Some(lease);
        self.sessions.touch(session);
        self.begun += 1;
        self.session_leases.insert(hash_number(lease.get()), session);
    }

    /// Puts a grant, newer than all others, into the table.
    pub(super) fn link_grant(&mut self, row: GrantRow) -> u32 {
        let (token, lock, permits) = (row.token.get(), row.lock, row.permits());
        let grant = self.grants.insert(row);
        if let Lease::Session { session, .. } = self.grants[grant].lease {
            let row = &mut self.sessions[session];
            row.held += 1;
            row.grants.append(&mut self.grants, grant, GrantRow::session_links_mut);
        }
        let row = &mut self.locks[lock];
        self.held += u64::from(row.grants.is_empty());
        row.grants.append(&mut self.grants, grant, GrantRow::links_mut);
        row.permits_used += permits;
        row.holders += 1;
        self.index_grant(token, Ref::Live(grant));
        grant
    }
}
