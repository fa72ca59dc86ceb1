//! Acquiring: new requests, retries, and the making of grants.
//!
//! A retry must get the answer of the first attempt. Without the memory of requests it goes wrong
//! like this:
//!
//! 1. A client sends an acquire. The leader grants token 7, and the answer is lost on the way.
//! 2. The client sends the acquire again. If that were a new request, it would find the lock held
//!    (by itself) and wait.
//! 3. The holder of token 7 never learns of it, so the lock is blocked until the lease runs out.
//!
//! So [`find_request`](LockTable::find_request) comes before any other rule, and covers grants that
//! have ended since: a retry of those must not be granted once more.
//!
//! This module knows nothing of how a grant ends, nor of how waiters are granted locks: it only
//! appends to the queue.

use super::index::Ref;
use super::rows::{GrantRow, Lease, RenewalState, SessionRow, Terms, WaiterRow};
use super::slab::NONE;
use super::{LockTable, chain::Links};
use crate::hash::{hash_number, hash_str};
use crate::planted_bugs;
use crate::types::*;
use std::num::NonZeroU64;

/// The fields of an acquire command.
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

/// The fields of a grant in the making, whether its acquire waited or not.
pub(super) struct Claim {
    pub(super) request: RequestId,
    pub(super) mode: Mode,
    /// Terms of the private lease; or of the session's lease, if this grant begins it.
    pub(super) terms: Terms,
    /// Place of the session; [`NONE`] for a private lease.
    pub(super) session: u32,
    pub(super) waited_ms: u64,
}

impl LockTable {
    pub(super) fn acquire(&mut self, at: Stamp, ask: &Ask<'_>, effects: &mut Effects) -> Outcome {
        let earlier = self.find_request(ask.request);
        let has_ended = |earlier: &Ref| matches!(earlier, Ref::Ended(_));
        if let Some(earlier) = planted_bugs::repeated(earlier, has_ended) {
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
            return Outcome::Full(
                "this shard has issued its last fencing token: move its locks to another shard",
            );
        }
        let found = self.find_lock(ask.name);
        let free = match found {
            None => true,
            Some(lock) if self.of_another_limit(lock, ask.mode) => {
                return Outcome::Conflict(
                    "the name is in use as a semaphore with another limit: use that limit",
                );
            }
            Some(lock) => self.locks[lock].queue.is_empty() && self.fits(lock, ask.mode),
        };
        if !free && !ask.wait {
            return self.held_by_another(ask.name);
        }
        let crowded = |lock: u32| self.locks[lock].queue_len >= WAITERS_PER_NAME_MAX;
        if !free && found.is_some_and(crowded) {
            return Outcome::Full(
                "the queue of this name is full (10000 waiters): try again later",
            );
        }

        let lock = found.unwrap_or_else(|| self.new_lock(ask.name));
        let session = match ask.session {
            "" => NONE,
            id => known.unwrap_or_else(|| self.unknown_session(id)),
        };
        let terms = self.terms(ask.ttl_ms, ask.owner, ask.metadata);
        if free {
            let claim =
                Claim { request: ask.request, mode: ask.mode, terms, session, waited_ms: 0 };
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

    /// Answers a retry, or refuses a request id that is in use for another name.
    fn acquire_again(
        &mut self,
        at: Stamp,
        ask: &Ask<'_>,
        earlier: Ref,
        effects: &mut Effects,
    ) -> Outcome {
        const OTHER_NAME: Outcome = Outcome::Conflict(
            "the request id is in use for another name: choose a fresh one for each acquire",
        );
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
                self.serve_queue(at, lock, effects);
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

    /// Whether the holders form a semaphore with another limit than `mode` asks for.
    fn of_another_limit(&self, lock: u32, mode: Mode) -> bool {
        let held = self.grants.get(self.locks[lock].grants.first).map(|grant| grant.mode);
        matches!((held, mode), (Some(Mode::Permits { limit, .. }), Mode::Permits { limit: asked, .. }) if limit != asked)
    }

    /// Whether a grant in this mode is compatible with the present grants of the lock.
    pub(super) fn fits(&self, lock: u32, mode: Mode) -> bool {
        let row = &self.locks[lock];
        let Some(oldest) = self.grants.get(row.grants.first) else { return true };
        match (oldest.mode, mode) {
            (Mode::Shared, asked) => {
                planted_bugs::joins_shared(asked == Mode::Shared, asked == Mode::Exclusive)
            }
            (Mode::Permits { limit, .. }, Mode::Permits { count, limit: asked }) => {
                let limit_now = planted_bugs::permit_limit(limit);
                limit == asked && count <= limit_now.saturating_sub(row.permits_used)
            }
            _ => false,
        }
    }

    /// Adds a session that this shard does not know. It gets a lease with its first grant.
    pub(super) fn unknown_session(&mut self, id: &str) -> u32 {
        let session = self.sessions.insert(SessionRow::unknown(id));
        self.index_session(id, Ref::Live(session));
        session
    }

    /// Makes a grant, which must [fit](Self::fits), with the next token.
    pub(super) fn grant(
        &mut self,
        at: Stamp,
        lock: u32,
        claim: Claim,
        effects: &mut Effects,
    ) -> u32 {
        assert!(self.last_token < TOKEN_MAX, "no token is left after {}", self.last_token);
        let terms = planted_bugs::granted_terms(claim.terms, Terms::claim);
        self.last_token += 1;
        let token = NonZeroU64::new(self.last_token).expect("1 was added");
        let lease = if claim.session == NONE {
            let state = RenewalState::new(at.shard_ms);
            effects.leases.push(state.event(LeaseId(token.get()), &terms));
            Lease::Private { state, terms }
        } else {
            let session = &mut self.sessions[claim.session];
            if session.lease.is_none() {
                (session.state, session.terms) = (RenewalState::new(at.shard_ms), terms);
                effects.leases.push(session.state.event(LeaseId(token.get()), &session.terms));
                self.begin_session(claim.session, token);
            }
            let renewals_before = self.sessions[claim.session].state.renewal_seq;
            Lease::Session { session: claim.session, links: Links::LOOSE, renewals_before }
        };
        let mut row = GrantRow::new(token, claim.request, lock, claim.mode, lease);
        row.acquired_wall_ms = at.wall_ms;
        row.waited_ms = u32::try_from(claim.waited_ms).unwrap_or(u32::MAX);
        self.link_grant(row)
    }

    /// Gives a session its lease. From now on the shard knows it by that lease.
    pub(super) fn begin_session(&mut self, session: u32, lease: NonZeroU64) {
        self.sessions[session].lease = Some(lease);
        self.sessions.touch(session);
        self.begun += 1;
        self.session_leases.insert(hash_number(lease.get()), session);
    }

    /// Stores a grant that is newer than all others and links it to its lock and session.
    pub(super) fn link_grant(&mut self, row: GrantRow) -> u32 {
        let (token, lock, permits) = (row.token.get(), row.lock, row.permits());
        let grant = self.grants.insert(row);
        if let Lease::Session { session, .. } = self.grants[grant].lease {
            self.sessions[session].grants.append(
                &mut self.grants,
                grant,
                GrantRow::session_links_mut,
            );
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
