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

use super::ask::Ask;
use super::finding::{Known, Use, principal_of};
use super::index::Ref;
use super::principals::Counted;
use super::rows::{GrantRow, Lease, RenewalState, SessionRow, Terms, WaiterRow};
use super::slab::NONE;
use super::{LockTable, chain::Links};
use crate::command::{Caller, Command, Prefix};
use crate::effects::{Effects, WaitEnd};
use crate::hash::{hash_number, hash_str};
use crate::planted_bugs;
use crate::types::*;
use std::num::NonZeroU64;

/// The place of a new acquire: a grant if `is_free`, otherwise the end of the queue.
struct Place {
    /// `None` for a name that comes into use.
    lock: Option<u32>,
    /// `None` for a private lease, or for a session that this shard does not know.
    session: Option<u32>,
    is_free: bool,
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
        let has_ended = |earlier: &Use| matches!(earlier, Use::Own(Ref::Ended(_)));
        let earlier = self.find_request(ask.request, ask.principal);
        match planted_bugs::repeated(earlier, has_ended) {
            Some(Use::Own(earlier)) => return self.acquire_again(at, ask, earlier, effects),
            // The answer tells nothing of the other use, and changes nothing of it.
            Some(Use::OfAnother) => {
                return Outcome::Conflict(
                    "the request id is in use: choose a fresh one for each acquire",
                );
            }
            None => {}
        }
        let Place { lock, session, is_free } = match self.place(ask) {
            Ok(place) => place,
            Err(refusal) => return refusal,
        };
        let lock = lock.unwrap_or_else(|| self.new_lock(ask.name));
        // All that hangs on a session belongs to the identity of the session, also while identities
        // are off.
        let principal = session.map(|session| self.sessions[session].terms.clone());
        let principal = principal.as_ref().map_or(ask.principal, Terms::principal);
        let terms = self.terms(ask.ttl_ms, &[principal, ask.owner, ask.metadata]);
        let session = match ask.session {
            "" => NONE,
            id => session.unwrap_or_else(|| self.unknown_session(id, terms.clone())),
        };
        if is_free {
            let claim =
                Claim { request: ask.request, mode: ask.mode, terms, session, waited_ms: 0 };
            let grant = self.grant(at, lock, claim, effects);
            self.tell_granted(at, grant, None, effects);
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
        self.tell_queued(at, lock, effects);
        Outcome::Queued
    }

    /// The refusal that an encoded command would get at this shard time because of its caller's
    /// quota, or of its share of the memory for ended requests and sessions. `None` for all
    /// commands that get any other answer, a retry of a granted acquire included.
    ///
    /// A leader asks before it proposes, so that an identity at its quota cannot fill the log. It
    /// is no promise: when the command is applied, [`apply_as`](Self::apply_as) decides again.
    ///
    /// Commands that are under way do not count. So an acquire right behind a release of the same
    /// identity may be refused, although it would be granted once the release is applied. Its
    /// caller tries again.
    pub fn over_quota(&self, command: &[u8], shard_ms: u64) -> Option<Outcome> {
        let (Prefix::Named(caller), rest) = Prefix::of(command).ok()? else { return None };
        let Caller { principal, quota } = Caller::read(caller).ok()?;
        if Command::may_leave_mark(rest) {
            return self.over_share(principal, rest, shard_ms);
        }
        if quota == Quota::default() || !Command::has_quota(rest) {
            return None;
        }
        // Most callers are far from their quota, and then need not be decoded any further.
        let has = self.holdings(principal);
        let exceeds = |quota: u32, has: u32| quota > 0 && has >= quota;
        if !exceeds(quota.locks, has.locks + has.waits)
            && !exceeds(quota.sessions, has.sessions)
            && !exceeds(quota.waits, has.waits)
        {
            return None;
        }
        let (caller, command) = Command::decode_as(command).ok()?;
        let ask = Ask::of(caller, &command)?;
        if self.find_request(ask.request, principal).is_some() {
            return None;
        }
        self.place(&ask).err().filter(|refusal| matches!(refusal, Outcome::OverQuota { .. }))
    }

    /// Chooses the place of an acquire that repeats no other. Changes nothing.
    ///
    /// # Errors
    /// The refusal, if there is no place for it.
    #[inline(always)]
    #[expect(clippy::result_large_err, reason = "a refusal is common: a box would allocate")]
    fn place(&self, ask: &Ask<'_>) -> Result<Place, Outcome> {
        let session = match ask.session {
            "" => None,
            id => match self.find_session(id, ask.principal) {
                // A lock in it would belong to no identity: any could touch it, and none counts it.
                Known::Live(session) if self.is_from_before(session, ask.principal) => {
                    return Err(Outcome::SessionLost);
                }
                Known::Live(session) => Some(session),
                Known::Ended => return Err(Outcome::SessionLost),
                Known::Nothing => None,
            },
        };
        if self.last_token >= TOKEN_MAX {
            return Err(Outcome::Full(
                "this shard has issued its last fencing token: move its locks to another shard",
            ));
        }
        let lock = self.find_lock(ask.name);
        let is_free = match lock {
            None => true,
            Some(lock) if self.of_another_limit(lock, ask.mode) => {
                return Err(Outcome::Conflict(
                    "the name is in use as a semaphore with another limit: use that limit",
                ));
            }
            Some(lock) => self.locks[lock].queue.is_empty() && self.fits(lock, ask.mode),
        };
        if !is_free && !ask.wait {
            return Err(self.held_by_another(ask.name));
        }
        let is_crowded = |lock: u32| self.locks[lock].queue_len >= WAITERS_PER_NAME_MAX;
        if !is_free && lock.is_some_and(is_crowded) {
            return Err(Outcome::Full(
                "the queue of this name is full (10000 waiters): try again later",
            ));
        }
        let place = Place { lock, session, is_free };
        match self.exceeded_bound(ask, &place) {
            None => Ok(place),
            Some((bound, quota)) => Err(Outcome::OverQuota {
                principal: ask.principal.to_owned(),
                bound,
                quota,
                has: self.holdings(ask.principal),
            }),
        }
    }

    /// Whether a session began without identities, while this caller has one.
    fn is_from_before(&self, session: u32, caller: &str) -> bool {
        !caller.is_empty() && self.sessions[session].terms.principal().is_empty()
    }

    /// The bound of its quota that an acquire at this place would exceed, and its value.
    ///
    /// A waiter counts as a lock from its start. Otherwise the quota would be exceeded when its
    /// turn comes, or the table would have to pass it over:
    ///
    /// 1. An identity with a quota of two locks holds one, and waits for two others.
    /// 2. Both of these are released. Their queues grant each to its head.
    /// 3. The identity holds three locks.
    fn exceeded_bound(&self, ask: &Ask<'_>, place: &Place) -> Option<(Bound, u32)> {
        let quota = ask.quota;
        if ask.principal.is_empty() || quota == Quota::default() {
            return None;
        }
        let has = self.holdings(ask.principal);
        let begins_session = !ask.session.is_empty() && place.session.is_none();
        let bounds = [
            (true, Bound::Locks, quota.locks, has.locks + has.waits),
            (begins_session, Bound::Sessions, quota.sessions, has.sessions),
            (!place.is_free, Bound::Waits, quota.waits, has.waits),
        ];
        bounds.into_iter().find_map(|(counts, bound, quota, has)| {
            (counts && quota > 0 && has >= quota).then_some((bound, quota))
        })
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
                self.drop_waiter(at, waiter, WaitEnd::Cancelled, effects);
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
    /// Of `terms` only the principal counts until then.
    pub(super) fn unknown_session(&mut self, id: &str, terms: Terms) -> u32 {
        self.principals.add(terms.principal(), Counted::Session);
        let session = self.sessions.insert(SessionRow::unknown(id, terms));
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
        let principal = principal_of(&self.grants[grant], &self.sessions);
        self.principals.add(principal, Counted::Lock);
        self.index_grant(token, Ref::Live(grant));
        grant
    }
}
