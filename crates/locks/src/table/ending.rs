//! Releasing and breaking, and the memory of grants and sessions that ended.
//!
//! An ended grant is remembered by request id and token, an ended session by its id, for
//! [`REQUEST_MEMORY_MS`]. Within that time a late retry gets the answer of the first attempt. Which
//! waiter is next is decided in `queue.rs`.

use super::LockTable;
use super::finding::{Known, Use, is_own_memory, principal_of};
use super::index::Ref;
use super::principals::Counted;
use super::recent::{EndedGrant, EndedSession, Ring, RingItem};
use super::rows::{GrantRow, Lease};
use crate::command::Command;
use crate::effects::Effects;
use crate::hash::{hash_principal, hash_request, hash_str};
use crate::planted_bugs;
use crate::tenure::{End, Parts};
use crate::types::*;

/// At most this many items of each kind are forgotten per command, so that a command after a burst
/// does not pay for [`REQUEST_MEMORY_MS`] of backlog. It is more than a command usually adds. Items
/// that are due and still there are ignored by lookups.
const FORGET_PER_COMMAND: usize = 4;

pub(super) const TOO_MANY_GIVEN_UP: Outcome = Outcome::Full(
    "this identity gave up 65536 requests on this shard of late, and no more are remembered",
);
pub(super) const TOO_MANY_CLOSED: Outcome = Outcome::Full(
    "this identity closed 65536 sessions on this shard of late, and no more are remembered",
);
const _: () = assert!(REQUEST_MEMORY_SHARE == 65_536);

impl LockTable {
    pub(super) fn release(
        &mut self,
        at: Stamp,
        principal: &str,
        name: &str,
        token: Token,
        by_session: Option<LeaseId>,
        effects: &mut Effects,
    ) -> Outcome {
        let token = planted_bugs::released_token(token, || self.current(name));
        let principal = planted_bugs::releasing_principal(principal);
        let Some(grant) = self.find_grant(principal, name, token) else {
            return match self.how_ended(principal, name, token) {
                Some(EndKind::Released) => Outcome::Released { already: true },
                _ => self.fenced(principal, name, token),
            };
        };
        // `None` is an entry of an earlier version, for which no session is told.
        let told = by_session.and_then(|by_session| self.session_to_tell(by_session, grant));
        self.note_end(planted_bugs::told_of_release(told), grant);
        let lock = self.end_grant(at, grant, &End::of(EndKind::Released), effects);
        self.serve_queue(at, lock, effects);
        Outcome::Released { already: false }
    }

    /// Ends a grant of any identity by force.
    pub(super) fn break_hold(
        &mut self,
        at: Stamp,
        name: &str,
        token: Token,
        end: &End<'_>,
        effects: &mut Effects,
    ) -> Outcome {
        // Unlike a repeated release, a repeated break is not answered as done, because that answer
        // needs the tenure, which is not remembered here. It is refused like any stale token. After
        // a break in doubt, `link::retry` reports this refusal as an unknown outcome.
        // The empty principal finds the grants of all identities.
        let Some(grant) = self.find_grant("", name, token) else {
            return match self.current(name) {
                Token(0) => Outcome::NotOwner { current: Token(0) },
                _ => self.held_by_another(name),
            };
        };
        let told = self.session_to_tell(LeaseId::NONE, grant);
        self.note_end(planted_bugs::told_of_break(told), grant);
        let lock = self.end_grant(at, grant, end, effects);
        // The tenure is decoded from the record that was just written, so that answer and history
        // agree. It must be read here: `serve_queue` removes the rows of an unused lock.
        let tenure = effects.ended.last().filter(|_| !effects.unheard).map(|ended| ended.tenure());
        self.serve_queue(at, lock, effects);
        match tenure {
            Some(tenure) => Outcome::Broken(Box::new(tenure.expect("it was just encoded"))),
            None => Outcome::Unheard,
        }
    }

    /// The session of a grant, if the session must hear of the grant's end. `by_session` is the
    /// session life that asked for the end. It is not told of its own request.
    fn session_to_tell(&self, by_session: LeaseId, grant: u32) -> Option<u32> {
        let Lease::Session { session, .. } = self.grants[grant].lease else { return None };
        (self.sessions[session].lease_id() != Some(by_session)).then_some(session)
    }

    /// Notes in `session` that another caller ended the grant. The session hears of that with its
    /// next heartbeat.
    fn note_end(&mut self, session: Option<u32>, grant: u32) {
        let Some(session) = session else { return };
        let token = self.grants[grant].token.get();
        self.sessions[session].ended_by_others.get_or_insert_default().note(token);
        self.sessions.touch(session);
    }

    /// Leaves a tombstone: no copy of this request by this identity is granted any more, for as
    /// long as an ended grant is remembered. The identity is given by its [hash](hash_principal).
    /// No acquire of another identity is refused.
    ///
    /// Without it, a lock can be held that no client knows of:
    ///
    /// 1. A client's acquire is delayed in the network. The client gives up and cancels it.
    /// 2. The cancel arrives first and finds nothing to cancel.
    /// 3. The acquire arrives and is granted. Its client is gone, so the lock is blocked until the
    ///    lease runs out.
    ///
    /// The ring must [take it](super::recent::Ring::takes_mark).
    pub(super) fn bury(&mut self, request: RequestId, principal: u64, name: &str, ended_ms: u64) {
        self.make_room_for_ended_grant();
        let tombstone = EndedGrant::tombstone(request, hash_str(name), ended_ms);
        let tombstone = self.ended_grants.push(tombstone.of(principal));
        self.requests.insert(hash_request(request), tombstone.pack());
    }

    /// The identity, by its [hash](hash_principal), for which giving up a request would leave a
    /// tombstone. `found` is the use of the request that the caller may know of.
    pub(super) fn buried_for(
        &self,
        found: Option<Use>,
        principal: &str,
        name: &str,
    ) -> Option<u64> {
        match found {
            None => Some(hash_principal(principal)),
            Some(Use::Own(Ref::Waiting(waiter))) => {
                let row = &self.waiters[waiter];
                let is_it = &*self.locks[row.lock].name == name;
                is_it.then(|| hash_principal(row.terms.principal()))
            }
            Some(_) => None,
        }
    }

    /// The refusal that an encoded cancel or close of this identity would get at this shard time,
    /// because the identity has left its share of marks.
    ///
    /// Marks that are due are forgotten only with the next command, so while there are any, none is
    /// refused. Otherwise an identity that is alone on a shard would be refused for ever.
    pub(super) fn over_share(
        &self,
        principal: &str,
        command: &[u8],
        shard_ms: u64,
    ) -> Option<Outcome> {
        let owner = hash_principal(principal);
        let (grants, sessions) = (&self.ended_grants, &self.ended_sessions);
        if grants.takes_mark(owner) && sessions.takes_mark(owner) {
            return None;
        }
        match Command::decode(command).ok()? {
            Command::CancelWait { name, request_id, given_up: true } => {
                let found = self.find_request(request_id, principal);
                let owner = self.buried_for(found, principal, name)?;
                let is_refused = !grants.takes_mark(owner) && !has_due(grants, shard_ms);
                is_refused.then_some(TOO_MANY_GIVEN_UP)
            }
            Command::CloseSession { session } => {
                let is_unknown = matches!(self.find_session(session, principal), Known::Nothing);
                let is_refused = !sessions.takes_mark(owner) && !has_due(sessions, shard_ms);
                (is_unknown && is_refused).then_some(TOO_MANY_CLOSED)
            }
            _ => None,
        }
    }

    /// The answer to a token that does not hold the name for this identity.
    pub(super) fn fenced(&self, principal: &str, name: &str, token: Token) -> Outcome {
        let current = self.current(name);
        match self.how_ended(principal, name, token) {
            Some(EndKind::Expired) => Outcome::LeaseExpired { current },
            _ => Outcome::NotOwner { current },
        }
    }

    /// How the grant of this name and token ended, if that is remembered, and for this identity.
    fn how_ended(&self, principal: &str, name: &str, token: Token) -> Option<EndKind> {
        match self.find_token(token.0)? {
            Ref::Ended(ended) => {
                let ended = self.ended_grants.get(ended);
                let is_it =
                    ended.name_hash == hash_str(name) && is_own_memory(ended.principal, principal);
                is_it.then_some(ended.end)
            }
            _ => None,
        }
    }

    /// Ends a grant and records its tenure. Returns the row index of its lock. The caller must then
    /// call [`serve_queue`](Self::serve_queue), or waiters are never granted.
    pub(super) fn end_grant(
        &mut self,
        at: Stamp,
        grant: u32,
        end: &End<'_>,
        effects: &mut Effects,
    ) -> u32 {
        effects.ended.push(self.tenure_record(grant, at, end));
        self.tell_ended(end.with_session, effects);
        let row = &self.grants[grant];
        let (token, request, lock, permits) =
            (row.token.get(), row.request(), row.lock, row.permits());
        let principal = principal_of(row, &self.sessions);
        self.principals.remove(principal, Counted::Lock);
        let principal = hash_principal(principal);
        match row.lease {
            Lease::Private { .. } => {
                effects.leases.push(LeaseEvent::Gone { lease: LeaseId(token) })
            }
            Lease::Session { session, .. } => {
                self.sessions[session].grants.unlink(
                    &mut self.grants,
                    grant,
                    GrantRow::session_links_mut,
                );
            }
        }
        let row = &mut self.locks[lock];
        row.grants.unlink(&mut self.grants, grant, GrantRow::links_mut);
        row.permits_used -= permits;
        row.holders -= 1;
        self.held -= u64::from(row.grants.is_empty());

        // The indexes keep the same token and request id, which now refer to the ended grant. While
        // a token is in the window of `Tokens`, `requests` refers to it by its short form and not
        // to the grant, so only `tokens` has to change. For an older token, `requests` refers to
        // the grant itself and has to change too.
        if self.ended_grants.takes(principal) {
            self.make_room_for_ended_grant();
            let remembered = EndedGrant::new(
                request,
                token,
                hash_str(&self.locks[lock].name),
                end.kind,
                at.shard_ms,
            );
            let remembered = self.ended_grants.push(remembered.of(principal)).pack();
            self.tokens.replace(token, Ref::Live(grant).pack(), remembered);
            if self.tokens.window_ref(token).is_none() {
                self.requests.replace(hash_request(request), Ref::Live(grant).pack(), remembered);
            }
        } else {
            self.unindex_grant(token, request, Ref::Live(grant));
        }
        self.grants.remove(grant);
        lock
    }

    /// Removes a grant, in force or ended, from the indexes of tokens and requests.
    #[inline]
    fn unindex_grant(&mut self, token: u64, request: RequestId, grant: Ref) {
        let of_request = self.tokens.window_ref(token).unwrap_or(grant);
        self.requests.remove(hash_request(request), of_request.pack());
        self.tokens.remove(token, grant.pack());
    }

    fn tenure_record(&self, grant: u32, at: Stamp, end: &End<'_>) -> Ended {
        let ended_wall_ms = at.wall_ms;
        let row = &self.grants[grant];
        let (session, lease, state, terms, renewals_before) = self.lease_of(row);
        let parts = Parts {
            end: end.kind,
            mode: row.mode,
            request: row.request(),
            lease,
            ttl_ms: terms.ttl_ms(),
            acquired_wall_ms: row.acquired_wall_ms,
            expires_wall_ms: at.wall_ms.saturating_add(state.rest_ms(terms, at.shard_ms).into()),
            ended_wall_ms,
            renewals: state.renewal_seq - renewals_before,
            waited_ms: row.waited_ms.into(),
            texts: [terms.owner(), session, terms.metadata(), end.broken_by, end.reason],
            principals: [terms.principal(), end.principal],
        };
        let name = self.locks[row.lock].name.to_string();
        Ended {
            name,
            token: Token(row.token.get()),
            ended_wall_ms,
            held_ms: ended_wall_ms.saturating_sub(parts.acquired_wall_ms),
            end: end.kind,
            record: parts.encode(),
        }
    }

    /// Remembers the end of a session, unless that would push out an end of an identity below its
    /// share.
    pub(super) fn remember_session(&mut self, id: Box<str>, principal: &str, ended_ms: u64) {
        let principal = hash_principal(principal);
        if !self.ended_sessions.takes(principal) {
            return;
        }
        if self.ended_sessions.len() >= REQUEST_MEMORY_MAX {
            self.forget_oldest_session();
        }
        let ended = EndedSession { id: id.clone(), principal, ended_ms };
        let remembered = self.ended_sessions.push(ended);
        self.index_session(&id, remembered);
    }

    /// Forgets items that are due, a few at a time.
    pub(super) fn forget_some(&mut self) {
        for _ in 0..FORGET_PER_COMMAND {
            match self.ended_grants.oldest() {
                Some((_, ended)) if !self.remembers(ended.ended_ms) => self.forget_oldest_grant(),
                _ => break,
            }
        }
        for _ in 0..FORGET_PER_COMMAND {
            match self.ended_sessions.oldest() {
                Some((_, ended)) if !self.remembers(ended.ended_ms) => self.forget_oldest_session(),
                _ => break,
            }
        }
    }

    fn make_room_for_ended_grant(&mut self) {
        if self.ended_grants.len() >= REQUEST_MEMORY_MAX {
            self.forget_oldest_grant();
        }
    }

    fn forget_oldest_grant(&mut self) {
        if let Some((reference, ended)) = self.ended_grants.oldest() {
            let (token, request) = (ended.token, ended.request());
            if ended.is_tombstone() {
                self.requests.remove(hash_request(request), reference.pack());
            } else {
                self.unindex_grant(token, request, reference);
            }
            self.ended_grants.pop();
        }
    }

    fn forget_oldest_session(&mut self) {
        if let Some((reference, ended)) = self.ended_sessions.oldest() {
            self.session_ids.remove(hash_str(&ended.id), reference.pack());
            self.ended_sessions.pop();
        }
    }
}

/// Whether the oldest item is due to be forgotten at this shard time.
fn has_due<T: RingItem>(ring: &Ring<T>, shard_ms: u64) -> bool {
    ring.oldest()
        .is_some_and(|(_, oldest)| shard_ms >= oldest.ended_ms().saturating_add(REQUEST_MEMORY_MS))
}
