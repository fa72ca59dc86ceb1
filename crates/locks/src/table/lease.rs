//! Renewals, heartbeats, and leases that end together with all that hangs on them.
//!
//! This module knows nothing of deadlines. The leader keeps them: it is told the renewal number of
//! each lease, and its expiry names the renewal that it timed. Otherwise a live holder can lose its
//! lock:
//!
//! 1. The deadline of lease 7 passes on the leader, which proposes its expiry.
//! 2. A renewal of lease 7 is ahead of the expiry in the log. It is applied, and the holder is told
//!    that it has another TTL.
//! 3. The expiry is applied. Without a renewal number it would end the lease, and the next waiter
//!    would hold the lock together with the first holder.
//!
//! With the number, the expiry names renewal 3, the lease is at renewal 4, and nothing happens.

use super::LockTable;
use super::ending::TOO_MANY_CLOSED;
use super::finding::Known;
use super::index::Ref;
use super::principals::Counted;
use super::rows::{Lease, SessionRow};
use super::slab::NONE;
use crate::effects::{Effects, WaitEnd};
use crate::hash::{hash_number, hash_principal, hash_str};
use crate::planted_bugs;
use crate::tenure::End;
use crate::types::*;

impl LockTable {
    pub(super) fn renew(
        &mut self,
        at: Stamp,
        principal: &str,
        name: &str,
        token: Token,
        effects: &mut Effects,
    ) -> Outcome {
        let Some(grant) = self.find_grant(principal, name, token) else {
            return planted_bugs::refused_renewal(self.fenced(principal, name, token), at);
        };
        match &mut self.grants[grant].lease {
            Lease::Private { state, terms } => {
                terms.claim();
                state.renew(at.shard_ms);
                effects.leases.push(state.event(LeaseId(token.0), terms));
                self.grants.touch(grant);
            }
            &mut Lease::Session { session, .. } => self.renew_session(at, session, effects),
        }
        let (state, terms, before) = match &self.grants[grant].lease {
            Lease::Private { state, terms } => (state, terms, 0),
            Lease::Session { session, renewals_before, .. } => {
                let session = &self.sessions[*session];
                (&session.state, &session.terms, *renewals_before)
            }
        };
        Outcome::Renewed {
            ttl_ms: terms.ttl_ms(),
            expires_wall_ms: at.wall_ms.saturating_add(terms.ttl_ms().into()),
            renewals: state.renewal_seq - before,
        }
    }

    /// Renews a session by one of its lives.
    ///
    /// A session that ended and began anew under the same id is a new life. A heartbeat that names
    /// the former life is refused, because its holders must learn that they have lost their locks.
    pub(super) fn heartbeat(
        &mut self,
        at: Stamp,
        principal: &str,
        id: &str,
        life: LeaseId,
        broken_seen: u64,
        effects: &mut Effects,
    ) -> Outcome {
        match self.find_session(id, principal) {
            Known::Live(session) if self.is_alive(session, life) => {
                self.renew_session(at, session, effects);
                Outcome::HeartbeatOk(self.alive(session, broken_seen))
            }
            Known::Ended => planted_bugs::dead_sessions_heartbeat(Outcome::SessionLost, life),
            _ => Outcome::SessionLost,
        }
    }

    fn is_alive(&self, session: u32, life: LeaseId) -> bool {
        let any_life = planted_bugs::is_for_any_life(life == LeaseId::NONE);
        self.sessions[session].lease_id().is_some_and(|lease| any_life || lease == life)
    }

    fn alive(&self, session: u32, broken_seen: u64) -> SessionAlive {
        let row = &self.sessions[session];
        let broken_count = row.ended_by_others.as_ref().map_or(0, |broken| broken.count);
        let (broken, broken_overflow) = match &row.ended_by_others {
            Some(broken) => broken.since(broken_seen),
            None => (Vec::new(), broken_seen > 0),
        };
        let life = row.lease_id().expect("only a session with a lease is renewed");
        SessionAlive { life, ttl_ms: row.terms.ttl_ms(), broken_count, broken, broken_overflow }
    }

    fn renew_session(&mut self, at: Stamp, session: u32, effects: &mut Effects) {
        let row = &mut self.sessions[session];
        row.terms.claim();
        row.state.renew(at.shard_ms);
        let lease = row.lease_id().expect("only a session with a lease is renewed");
        effects.leases.push(row.state.event(lease, &row.terms));
        self.sessions.touch(session);
    }

    pub(super) fn expire(
        &mut self,
        at: Stamp,
        lease: LeaseId,
        renewal_seq: u64,
        effects: &mut Effects,
    ) -> Outcome {
        let by_lease = |session: u32| self.sessions[session].lease_id() == Some(lease);
        if let Some(session) = self.session_leases.get(hash_number(lease.0), by_lease) {
            let same_life = self.sessions[session].state.renewal_seq == renewal_seq;
            let same_life = planted_bugs::is_timed_life(same_life);
            if same_life {
                self.end_session(at, session, EndKind::Expired, effects);
            }
            return Outcome::Expired(same_life);
        }
        // A private lease has the number of its grant's token.
        if let Some(Ref::Live(grant)) = self.find_token(lease.0)
            && let Lease::Private { state, .. } = &self.grants[grant].lease
            && planted_bugs::is_timed_life(state.renewal_seq == renewal_seq)
        {
            let lock = self.end_grant(at, grant, &End::of(EndKind::Expired), effects);
            let queue_len = self.locks[lock].queue_len;
            self.serve_queue(
                at,
                planted_bugs::settled_after_expiry(lock, queue_len, NONE),
                effects,
            );
            return Outcome::Expired(true);
        }
        Outcome::Expired(false)
    }

    pub(super) fn close_session(
        &mut self,
        at: Stamp,
        principal: &str,
        id: &str,
        effects: &mut Effects,
    ) -> Outcome {
        let released = match self.find_session(id, principal) {
            Known::Live(session) => self.end_session(at, session, EndKind::Released, effects),
            Known::Ended => 0,
            Known::Nothing if !self.ended_sessions.takes_mark(hash_principal(principal)) => {
                return TOO_MANY_CLOSED;
            }
            Known::Nothing => {
                // An acquire of this session may still be on its way. It must not bring the session
                // back to life.
                self.remember_session(id.into(), principal, at.shard_ms);
                0
            }
        };
        Outcome::Closed { released }
    }

    /// Ends a session with its grants, by token, and its waiters, first come first. Returns the
    /// number of grants that it had.
    fn end_session(&mut self, at: Stamp, session: u32, end: EndKind, effects: &mut Effects) -> u32 {
        // No lock is granted to a waiter before all grants and waiters of the session are gone.
        // Otherwise a lock of the session might go to a waiter of the same session.
        let mut touched = Vec::new();
        let row = &self.sessions[session];
        let waiters: Vec<u32> =
            row.waiters.walk(&self.waiters, |waiter| waiter.session_links).collect();
        let grants: Vec<u32> =
            row.grants.walk(&self.grants, |grant| grant.session_links()).collect();
        for &grant in &grants {
            let end = End { with_session: true, ..End::of(end) };
            touched.push(self.end_grant(at, grant, &end, effects));
        }
        for &waiter in &waiters {
            self.tell_cancelled(at, &self.waiters[waiter], WaitEnd::SessionEnded, effects);
            self.unlink_from_session(waiter);
            self.waiters[waiter].session = NONE;
        }
        for waiter in planted_bugs::waiters_that_leave(waiters) {
            let row = self.unqueue(waiter);
            effects.dropped.push((row.request, DropReason::SessionEnded));
            touched.push(row.lock);
        }
        if let Some(lease) = self.sessions[session].lease_id() {
            effects.leases.push(LeaseEvent::Gone { lease });
        }
        let SessionRow { id, terms, .. } = self.forget_session(session);
        self.remember_session(id, terms.principal(), at.shard_ms);
        for lock in touched {
            self.serve_queue(at, lock, effects);
        }
        grants.len() as u32
    }

    /// Removes a session without grants and waiters from the table.
    pub(super) fn forget_session(&mut self, session: u32) -> SessionRow {
        let row = &self.sessions[session];
        assert!(
            row.grants.is_empty() && row.waiters.is_empty(),
            "session {:?} still has grants or waiters",
            row.id
        );
        self.session_ids.remove(hash_str(&row.id), Ref::Live(session).pack());
        if let Some(lease) = row.lease_id() {
            self.session_leases.remove(hash_number(lease.0), session);
            self.begun -= 1;
        }
        self.principals.remove(row.terms.principal(), Counted::Session);
        self.sessions.remove(session)
    }
}
