//! The lock table of one shard.
//!
//! This file defines its shape, dispatches commands, and answers questions. The modules below hold
//! the rest:
//!
//! - `acquire` and `queue` grant locks, `lease` keeps them alive, `ending` ends them.
//! - `rows`, `slab`, `chain`, `index`, `tokens`, `recent` and `texts` store and find the rows.
//! - `durable` and `records` turn rows into bytes, `hashing` and `sums` hash these.
//! - `pages` and `order` serve reads of many rows.
//!
//! The table knows nothing of the log that its commands come from.

mod acquire;
mod chain;
mod durable;
mod ending;
mod hashing;
mod index;
mod lease;
mod order;
mod pages;
mod queue;
mod recent;
mod records;
mod rows;
mod slab;
mod sums;
#[cfg(test)]
mod tests;
mod texts;
mod tokens;

use crate::command::Command;
use crate::hash::{hash_request, hash_str};
use crate::types::*;
use index::{Index, Ref};
use order::Order;
pub use pages::{HoldersPage, ListPage, Paused};
use recent::{EndedGrant, EndedSession, Ring};
use records::Header;
use rows::{GrantRow, Lease, LockRow, RenewalState, SessionRow, Terms, WaiterRow};
use slab::{NONE, Slab, Tracked};
use texts::Texts;
use tokens::Tokens;

/// All locks, leases, queues and recent requests of one shard. The crate's page has an example.
///
/// - Tokens and waiter numbers rise and are never reused. A lease is named by the token of the
///   grant that began it.
/// - The grants of one name are compatible with each other.
/// - Only the head of a queue is ever granted. After each command, no head of a queue could be
///   granted.
/// - A session is either known on this shard or remembered as ended, never both. So no waiter's
///   session is remembered as ended.
/// - Places in slabs and hash order decide nothing that is visible from outside, because they
///   differ between replicas.
#[derive(Debug)]
pub struct LockTable {
    locks: Slab<LockRow>,
    grants: Tracked<GrantRow>,
    waiters: Tracked<WaiterRow>,
    sessions: Tracked<SessionRow>,
    ended_grants: Ring<EndedGrant>,
    ended_sessions: Ring<EndedSession>,

    /// Finds a lock by its name.
    names: Index,
    /// Finds a grant by its token, in force or ended.
    tokens: Tokens,
    /// Finds a waiter or a grant, in force or ended, by its request id. The entry of a grant is its
    /// token's short name for as long as the token has one (see [`Tokens`]).
    requests: Index,
    /// Finds a session by its id, known or ended.
    session_ids: Index,
    /// Finds a session by its lease.
    session_leases: Index,

    texts: Texts,

    last_token: u64,
    last_waiter: u64,
    shard_ms: u64,
    /// Number of locks with a grant. The other locks only have waiters.
    held: u64,
    /// Number of sessions with a lease.
    begun: u64,
    saved_header: Option<Header>,
    /// Locks sorted by name. Exists only while listings are asked for.
    order: Option<Box<Order>>,
}

impl LockTable {
    /// Makes an empty table.
    pub fn new() -> Self {
        LockTable {
            locks: Slab::new(),
            grants: Tracked::new(),
            waiters: Tracked::new(),
            sessions: Tracked::new(),
            ended_grants: Ring::new(),
            ended_sessions: Ring::new(),
            names: Index::new(),
            tokens: Tokens::new(0),
            requests: Index::new(),
            session_ids: Index::new(),
            session_leases: Index::new(),
            texts: Texts::new(),
            last_token: 0,
            last_waiter: 0,
            shard_ms: 0,
            held: 0,
            begun: 0,
            saved_header: None,
            order: None,
        }
    }

    /// Applies one command of the log, appends its side effects to `effects`, and returns its
    /// answer.
    ///
    /// The command must be within its limits ([`validate`](crate::validate)), as every decoded one
    /// is.
    pub fn apply(&mut self, stamp: Stamp, command: &Command<'_>, effects: &mut Effects) -> Outcome {
        debug_assert!(crate::validate(command).is_ok(), "{command:?} was never validated");
        self.shard_ms = self.shard_ms.max(stamp.shard_ms);
        self.forget_some();
        let at = Stamp { wall_ms: stamp.wall_ms, shard_ms: self.shard_ms };
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
                let request = request_id;
                let ask = acquire::Ask {
                    request,
                    name,
                    owner,
                    ttl_ms,
                    mode,
                    wait,
                    session,
                    metadata,
                    claim_ttl_ms,
                };
                self.acquire(at, &ask, effects)
            }
            Command::Renew { name, token } => self.renew(at, name, token, effects),
            Command::Release { name, token, by } => self.release(at, name, token, by, effects),
            Command::Heartbeat { session, life, broken_seen } => {
                self.heartbeat(at, session, life, broken_seen, effects)
            }
            Command::CloseSession { session } => self.close_session(at, session, effects),
            Command::CancelWait { name, request_id, given_up } => {
                self.cancel_wait(at, name, request_id, given_up, effects)
            }
            Command::ExpireLease { lease, renewal_seq } => {
                self.expire(at, lease, renewal_seq, effects)
            }
            Command::Break { name, token, by, reason } => {
                self.break_hold(at, name, token, by, reason, effects)
            }
        }
    }

    /// The holders of a name, oldest grant first. `at` gives the shard time by which the rest of
    /// each lease is computed.
    ///
    /// It reads every holder. For names with many, use [`holders_page`](Self::holders_page).
    pub fn holders(&self, name: &str, at: Stamp) -> Vec<Grant> {
        self.find_lock(name)
            .map(|lock| self.grants_of(lock).map(|grant| self.show(grant, at)).collect())
            .unwrap_or_default()
    }

    /// Number of waiters in the queue of a name.
    pub fn queue_len(&self, name: &str) -> u32 {
        self.find_lock(name).map_or(0, |lock| self.locks[lock].queue_len)
    }

    /// All leases in force, by id. A new leader needs them to give each lease the rest of its time.
    pub fn leases(&self) -> impl Iterator<Item = LiveLease> + '_ {
        let private = self.grants.iter().filter_map(|(_, grant)| match &grant.lease {
            Lease::Private { state, terms } => Some((LeaseId(grant.token.get()), state, terms)),
            Lease::Session { .. } => None,
        });
        let of_sessions = self
            .sessions
            .iter()
            .filter_map(|(_, row)| Some((row.lease_id()?, &row.state, &row.terms)));
        let mut leases: Vec<LiveLease> = private
            .chain(of_sessions)
            .map(|(lease, state, terms)| state.live(lease, terms))
            .collect();
        leases.sort_unstable_by_key(|live| live.lease);
        leases.into_iter()
    }

    /// All waiters as (name, request id), longest waiting first. A new leader needs them to give
    /// each waiter time to report again.
    pub fn waiters(&self) -> impl Iterator<Item = (&str, RequestId)> + '_ {
        self.waiters.by_number().into_iter().map(|at| {
            let waiter = &self.waiters[at];
            (&*self.locks[waiter.lock].name, waiter.request)
        })
    }

    /// The highest token issued so far.
    pub fn last_token(&self) -> Token {
        Token(self.last_token)
    }

    /// Shard time of the last stamp. A new leader continues from here.
    pub fn shard_ms(&self) -> u64 {
        self.shard_ms
    }

    /// Sizes of the table, for metrics. O(1).
    pub fn counts(&self) -> Counts {
        Counts {
            locks: self.held,
            grants: self.grants.len() as u64,
            waiters: self.waiters.len() as u64,
            sessions: self.begun,
        }
    }

    // ---- finding --------------------------------------------------------------------------------

    fn find_lock(&self, name: &str) -> Option<u32> {
        self.names.get(hash_str(name), |lock| &*self.locks[lock].name == name)
    }

    /// Adds a lock for a name that comes into use. The caller adds a grant or a waiter to it.
    fn new_lock(&mut self, name: &str) -> u32 {
        let lock = self.locks.insert(LockRow::new(name));
        self.names.insert(hash_str(name), lock);
        if let Some(order) = &mut self.order {
            order.insert(lock, &self.locks);
        }
        lock
    }

    fn terms(&mut self, ttl_ms: u32, owner: &str, metadata: &str) -> Terms {
        let rows = self.grants.len() + self.waiters.len();
        Terms::new(ttl_ms, owner, self.texts.joined(owner, metadata, rows))
    }

    /// Finds the waiter or grant of a request id. A request that ended too long ago is not found.
    fn find_request(&self, request: RequestId) -> Option<Ref> {
        let found = self.requests.get(hash_request(request), |entry| match self.resolve(entry) {
            Ref::Waiting(waiter) => self.waiters[waiter].request == request,
            Ref::Ended(ended) if !self.remembers(self.ended_grants.get(ended).ended_ms) => false,
            grant => self.request_of(grant) == request,
        });
        found.map(|entry| self.resolve(entry))
    }

    /// The row that an entry of `requests` refers to. An entry that is a short name leads there by
    /// way of its token.
    fn resolve(&self, entry: u32) -> Ref {
        match Ref::unpack(entry) {
            Ref::Recent(token) => Ref::unpack(self.tokens.by_name(token)),
            direct => direct,
        }
    }

    /// Indexes a grant that is already stored, in force or ended, by token and request id.
    ///
    /// Storing a token may move others out of the window of recent tokens. These lose their short
    /// names, so the callback replaces their entries in `requests`.
    fn index_grant(&mut self, token: u64, to: Ref) {
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
    fn find_token(&self, token: u64) -> Option<Ref> {
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

    /// Finds the grant in force of this name and token.
    fn find_grant(&self, name: &str, token: Token) -> Option<u32> {
        match self.find_token(token.0)? {
            Ref::Live(grant) => {
                (&*self.locks[self.grants[grant].lock].name == name).then_some(grant)
            }
            _ => None,
        }
    }

    /// Finds the session of this id, known or ended. A session that ended too long ago is not
    /// found.
    fn find_session(&self, id: &str) -> Option<Ref> {
        let found = self.session_ids.get(hash_str(id), |entry| match Ref::unpack(entry) {
            Ref::Live(session) => &*self.sessions[session].id == id,
            Ref::Ended(ended) => {
                let ended = self.ended_sessions.get(ended);
                &*ended.id == id && self.remembers(ended.ended_ms)
            }
            other => unreachable!("{other:?} is no session"),
        });
        found.map(Ref::unpack)
    }

    fn index_session(&mut self, id: &str, to: Ref) {
        self.session_ids.insert(hash_str(id), to.pack());
    }

    fn remembers(&self, ended_ms: u64) -> bool {
        self.shard_ms < ended_ms.saturating_add(REQUEST_MEMORY_MS)
    }

    // ---- showing --------------------------------------------------------------------------------

    fn grants_of(&self, lock: u32) -> impl Iterator<Item = u32> {
        self.locks[lock].grants.walk(&self.grants, |grant| grant.links)
    }

    /// Session id (empty for none), lease, renewal state and terms of a grant's lease, and the number of
    /// renewals that it had before this grant.
    fn lease_of<'a>(
        &'a self,
        row: &'a GrantRow,
    ) -> (&'a str, LeaseId, &'a RenewalState, &'a Terms, u64) {
        match &row.lease {
            Lease::Private { state, terms } => ("", LeaseId(row.token.get()), state, terms, 0),
            Lease::Session { session, renewals_before, .. } => {
                let session = &self.sessions[*session];
                let lease = session.lease_id().expect("a session with grants has a lease");
                (&*session.id, lease, &session.state, &session.terms, *renewals_before)
            }
        }
    }

    /// The answer to an acquire of a lock that the request itself holds.
    fn granted(&self, grant: u32, at: Stamp, effects: &Effects) -> Outcome {
        if effects.unheard { Outcome::Unheard } else { Outcome::Granted(self.show(grant, at)) }
    }

    fn show(&self, grant: u32, at: Stamp) -> Grant {
        let row = &self.grants[grant];
        let (session, lease, state, terms, renewals_before) = self.lease_of(row);
        let rest_ms = state.rest_ms(terms, at.shard_ms);
        Grant {
            name: self.locks[row.lock].name.to_string(),
            owner: terms.owner().to_owned(),
            token: Token(row.token.get()),
            mode: row.mode,
            session: session.to_owned(),
            metadata: terms.metadata().to_owned(),
            ttl_ms: terms.ttl_ms,
            claim_within_ms: terms.claim_ms(),
            acquired_wall_ms: row.acquired_wall_ms,
            rest_ms,
            expires_wall_ms: at.wall_ms.saturating_add(rest_ms.into()),
            renewals: state.renewal_seq - renewals_before,
            waited_ms: row.waited_ms.into(),
            request_id: row.request(),
            lease,
        }
    }

    /// Token of the oldest holder, for the answer to a caller that does not hold the name. 0 if the
    /// name is free.
    fn current(&self, name: &str) -> Token {
        let first = self.find_lock(name).map_or(NONE, |lock| self.locks[lock].grants.first);
        Token(self.grants.get(first).map_or(0, |grant| grant.token.get()))
    }

    /// The answer to a caller that does not hold the lock and does not wait.
    fn held_by_another(&self, name: &str) -> Outcome {
        match self.find_lock(name).and_then(|lock| self.grants_of(lock).next()) {
            Some(grant) => {
                let row = &self.grants[grant];
                let terms = match &row.lease {
                    Lease::Private { terms, .. } => terms,
                    Lease::Session { session, .. } => &self.sessions[*session].terms,
                };
                Outcome::Held { token: Token(row.token.get()), owner: terms.owner().to_owned() }
            }
            None => Outcome::Held { token: Token(0), owner: String::new() },
        }
    }
}

fn request_of(grants: &Tracked<GrantRow>, ended: &Ring<EndedGrant>, grant: Ref) -> RequestId {
    match grant {
        Ref::Live(grant) => grants[grant].request(),
        Ref::Ended(grant) => ended.get(grant).request(),
        other => unreachable!("{other:?} is no grant"),
    }
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}
