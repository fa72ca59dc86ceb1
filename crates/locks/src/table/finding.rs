//! Finding rows by name, token, request id and session id, for a caller.
//!
//! Each lookup for a caller finds only rows that the caller's identity may know of. A row of another
//! identity is not found, so that its caller gets the answer that it would get if the row did not
//! exist. The exception is a request id that another identity uses at present: it can be used once at a
//! time, so the caller has to be refused. Each identity has session ids of its own.
//!
//! This module knows nothing of the commands that look for rows, and changes none of them.

use super::LockTable;
use super::index::Ref;
use super::recent::{EndedGrant, Ring};
use super::rows::{GrantRow, Lease, LockRow, SessionRow, Terms};
use super::slab::Tracked;
use crate::hash::{hash_principal, hash_request, hash_str};
use crate::types::*;
use std::cell::Cell;

/// A use of a request id, as its caller may know of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// The caller may touch it: a waiter, or a grant in force or ended.
    Own(Ref),
    /// Another identity has a waiter or a grant with this request id.
    OfAnother,
}

/// A session, as a caller may know of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// The caller may touch it.
    Live(u32),
    /// It has ended and is remembered.
    Ended,
    Nothing,
}

impl LockTable {
    pub(super) fn find_lock(&self, name: &str) -> Option<u32> {
        self.names.get(hash_str(name), |lock| &*self.locks[lock].name == name)
    }

    /// Adds a lock for a name that comes into use. The caller adds a grant or a waiter to it.
    pub(super) fn new_lock(&mut self, name: &str) -> u32 {
        let lock = self.locks.insert(LockRow::new(name));
        self.names.insert(hash_str(name), lock);
        if let Some(order) = &mut self.order {
            order.insert(lock, &self.locks);
        }
        lock
    }

    pub(super) fn terms(&mut self, ttl_ms: u32, texts: &[&str; 3]) -> Terms {
        let rows = self.grants.len() + self.waiters.len();
        Terms::new(ttl_ms, texts, self.texts.joined(texts, rows))
    }

    /// Finds the use of a request id that `principal` may know of: a waiter or grant, in force or
    /// ended. A request that ended too long ago is not found.
    ///
    /// A request id is in one use only, as long as its waiter or grant lives. After that, other
    /// identities may use it again while it is remembered, because they must not learn of its use.
    /// Of several remembered uses the newest is found, so that all replicas find the same.
    pub(super) fn find_request(&self, request: RequestId, principal: &str) -> Option<Use> {
        let (found, best) = (Cell::new(None), Cell::new(0));
        let offer = |rank: u64, to: Use| {
            if rank > best.get() {
                best.set(rank);
                found.set(Some(to));
            }
        };
        self.requests.get(hash_request(request), |entry| {
            let to = self.resolve(entry);
            let (is_it, owner) = match to {
                Ref::Waiting(waiter) => {
                    let row = &self.waiters[waiter];
                    (row.request == request, row.terms.principal())
                }
                Ref::Live(grant) => {
                    let row = &self.grants[grant];
                    (row.request() == request, principal_of(row, &self.sessions))
                }
                Ref::Ended(ended) => {
                    let row = self.ended_grants.get(ended);
                    if row.request() == request
                        && self.remembers(row.ended_ms)
                        && is_own_memory(row.principal, principal)
                    {
                        offer(2 + self.ended_grants.number(ended), Use::Own(to));
                    }
                    return false;
                }
                Ref::Recent(_) => unreachable!("it was resolved"),
            };
            if is_it && is_own(owner, principal) {
                offer(u64::MAX, Use::Own(to));
            } else if is_it {
                offer(1, Use::OfAnother);
            }
            // Go on: a better use may follow.
            false
        });
        found.get()
    }

    /// Whether a request id is in use, or remembered, for exactly this identity. It is given by its
    /// [hash](hash_principal).
    pub(super) fn is_used_by(&self, request: RequestId, principal: u64) -> bool {
        let is_it = |entry| match self.resolve(entry) {
            Ref::Waiting(waiter) => {
                let row = &self.waiters[waiter];
                row.request == request && hash_principal(row.terms.principal()) == principal
            }
            Ref::Live(grant) => {
                let row = &self.grants[grant];
                row.request() == request
                    && hash_principal(principal_of(row, &self.sessions)) == principal
            }
            Ref::Ended(ended) => {
                let row = self.ended_grants.get(ended);
                row.request() == request
                    && row.principal == principal
                    && self.remembers(row.ended_ms)
            }
            Ref::Recent(_) => unreachable!("it was resolved"),
        };
        self.requests.get(hash_request(request), is_it).is_some()
    }

    /// The row that an entry of `requests` refers to. An entry that is a short name leads there by
    /// way of its token.
    pub(super) fn resolve(&self, entry: u32) -> Ref {
        match Ref::unpack(entry) {
            Ref::Recent(token) => Ref::unpack(self.tokens.by_name(token)),
            direct => direct,
        }
    }

    /// Indexes a grant that is already stored, in force or ended, by token and request id.
    ///
    /// Storing a token may move others out of the window of recent tokens. These lose their short
    /// names, so the callback replaces their entries in `requests`.
    pub(super) fn index_grant(&mut self, token: u64, to: Ref) {
        let request = self.request_of(to);
        let (requests, grants, ended) = (&mut self.requests, &self.grants, &self.ended_grants);
        self.tokens.insert(token, to.pack(), |name, moved| {
            let request = request_of(grants, ended, Ref::unpack(moved));
            requests.replace(hash_request(request), name.pack(), moved);
        });
        let name = self.tokens.window_ref(token).unwrap_or(to);
        self.requests.insert(hash_request(request), name.pack());
    }

    fn request_of(&self, grant: Ref) -> RequestId {
        request_of(&self.grants, &self.ended_grants, grant)
    }

    /// Finds the grant of a token. A grant that ended too long ago is not found.
    pub(super) fn find_token(&self, token: u64) -> Option<Ref> {
        let found = self.tokens.get(token, |entry| match Ref::unpack(entry) {
            Ref::Live(grant) => self.grants[grant].token.get() == token,
            Ref::Ended(ended) => {
                let ended = self.ended_grants.get(ended);
                ended.token == token && self.remembers(ended.ended_ms)
            }
            other => unreachable!("{other:?} is no grant"),
        });
        found.map(Ref::unpack)
    }

    /// Finds the grant in force of this name and token, if `principal` may touch it.
    pub(super) fn find_grant(&self, principal: &str, name: &str, token: Token) -> Option<u32> {
        let Ref::Live(grant) = self.find_token(token.0)? else { return None };
        let row = &self.grants[grant];
        let is_it = &*self.locks[row.lock].name == name
            && is_own(principal_of(row, &self.sessions), principal);
        is_it.then_some(grant)
    }

    /// Finds a session as `principal` may know of it.
    pub(super) fn find_session(&self, id: &str, principal: &str) -> Known {
        match self.find_live_session(id, |owner| is_own(owner, principal)) {
            Some(session) => Known::Live(session),
            None if self.has_ended_session(id, |owner| is_own_memory(owner, principal)) => {
                Known::Ended
            }
            None => Known::Nothing,
        }
    }

    /// Finds the session of this id and of an identity that `of` accepts.
    ///
    /// Of several, which a caller can only reach while identities are off, that of the first
    /// identity by name is found, so that all replicas find the same.
    pub(super) fn find_live_session(&self, id: &str, of: impl Fn(&str) -> bool) -> Option<u32> {
        let found: Cell<Option<u32>> = Cell::new(None);
        let owner = |session: u32| self.sessions[session].terms.principal();
        self.session_ids.get(hash_str(id), |entry| {
            if let Ref::Live(session) = Ref::unpack(entry)
                && &*self.sessions[session].id == id
                && of(owner(session))
                && found.get().is_none_or(|other| owner(session) < owner(other))
            {
                found.set(Some(session));
            }
            // Go on: an earlier one may follow.
            false
        });
        found.get()
    }

    /// Whether a session of this id is remembered as ended. `of` says whether the identity with this
    /// [hash](hash_principal) counts. A session that ended too long ago does not.
    pub(super) fn has_ended_session(&self, id: &str, of: impl Fn(u64) -> bool) -> bool {
        let is_it = |entry| match Ref::unpack(entry) {
            Ref::Ended(ended) => {
                let ended = self.ended_sessions.get(ended);
                &*ended.id == id && self.remembers(ended.ended_ms) && of(ended.principal)
            }
            _ => false,
        };
        self.session_ids.get(hash_str(id), is_it).is_some()
    }

    pub(super) fn index_session(&mut self, id: &str, to: Ref) {
        self.session_ids.insert(hash_str(id), to.pack());
    }

    pub(super) fn remembers(&self, ended_ms: u64) -> bool {
        self.shard_ms < ended_ms.saturating_add(REQUEST_MEMORY_MS)
    }
}

/// The identity of a grant: its own, or that of its session.
#[inline]
pub(super) fn principal_of<'a>(row: &'a GrantRow, sessions: &'a Tracked<SessionRow>) -> &'a str {
    match &row.lease {
        Lease::Private { terms, .. } => terms.principal(),
        Lease::Session { session, .. } => sessions[*session].terms.principal(),
    }
}

/// Whether a caller may touch a row of this owner. An empty caller stands for identities that are
/// off, and an empty owner for the time before they were on.
fn is_own(owner: &str, caller: &str) -> bool {
    caller.is_empty() || owner.is_empty() || owner == caller
}

/// The same for a remembered row, which keeps only the [hash](hash_principal) of its owner.
pub(super) fn is_own_memory(owner: u64, caller: &str) -> bool {
    caller.is_empty() || owner == 0 || owner == hash_principal(caller)
}

fn request_of(grants: &Tracked<GrantRow>, ended: &Ring<EndedGrant>, grant: Ref) -> RequestId {
    match grant {
        Ref::Live(grant) => grants[grant].request(),
        Ref::Ended(grant) => ended.get(grant).request(),
        other => unreachable!("{other:?} is no grant"),
    }
}
