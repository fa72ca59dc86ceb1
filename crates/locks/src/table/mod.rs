//! The lock table of one shard.
//!
//! This file defines its shape, dispatches commands, and answers questions. The modules below hold
//! the rest:
//!
//! - `acquire` and `queue` grant locks, `lease` keeps them alive, `ending` ends them.
//! - `finding` finds rows, and says which of them an identity may touch.
//! - `rows`, `slab`, `chain`, `index`, `tokens`, `recent`, `shares`, `texts` and `principals` store
//!   them.
//! - `durable`, `header` and `records` turn rows into bytes, `hashing` and `sums` hash these.
//! - `pages`, `picture` and `order` serve reads of many rows, `timed` those of a new leader, and
//!   `telling` makes events.
//!
//! The table knows nothing of the log that its commands come from.

mod acquire;
mod ask;
mod chain;
mod durable;
mod ending;
mod finding;
mod hashing;
mod header;
mod index;
mod lease;
mod merge;
mod order;
mod pages;
mod picture;
mod principals;
mod queue;
mod recent;
mod records;
mod rows;
mod shares;
mod slab;
mod sums;
mod telling;
#[cfg(test)]
mod tests;
mod texts;
mod timed;
mod tokens;

use crate::command::{Caller, Command};
use crate::effects::Effects;
use crate::tenure::End;
use crate::types::*;
use ask::Ask;
pub use durable::SnapshotBuilder;
use header::Header;
use index::Index;
use order::Order;
pub use pages::{HoldersPage, ListOf, ListPage, Paused};
pub use picture::{PictureOf, PicturePage, PicturePlace};
use principals::Principals;
use recent::{EndedGrant, EndedSession, Ring};
use rows::{GrantRow, Lease, LockRow, RenewalState, SessionRow, Terms, WaiterRow};
use slab::{NONE, Slab, Tracked};
use texts::Texts;
pub use timed::{Timed, TimedPlace};
use tokens::Tokens;

/// All locks, leases, queues and recent requests of one shard. The crate's page has an example.
///
/// - Tokens and waiter numbers rise and are never reused. A lease is named by the token of the
///   grant that began it.
/// - The grants of one name are compatible with each other.
/// - Only the head of a queue is ever granted. After each command, no head of a queue could be
///   granted.
/// - The key of a session is its id together with its identity.
/// - To one identity, a session is either known on this shard or remembered as ended, never both.
///   So no waiter's session is remembered as ended.
/// - All grants and waiters of a session belong to the identity of the session.
/// - `principals` has the number of grants, sessions and waiters of each identity. It has no
///   record: it follows from the rows, and is counted anew when a table is loaded.
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
    principals: Principals,

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
            principals: Principals::new(),
            last_token: 0,
            last_waiter: 0,
            shard_ms: 0,
            held: 0,
            begun: 0,
            saved_header: None,
            order: None,
        }
    }

    /// [Applies](Self::apply_as) a command without a caller: nothing is compared with an identity.
    pub fn apply(&mut self, stamp: Stamp, command: &Command<'_>, effects: &mut Effects) -> Outcome {
        self.apply_as(stamp, Caller::default(), command, effects)
    }

    /// Applies one command of the log, appends its side effects to `effects`, and returns its
    /// answer.
    ///
    /// For another identity, a grant is as if it had another token, and a session, waiter or
    /// remembered request as if it did not exist. Only a break may touch a grant of any identity:
    /// the permission to break is decided elsewhere.
    ///
    /// Caller and command must be within their limits ([`validate`](crate::validate),
    /// [`validate_principal`](crate::validate_principal)), as every decoded one is.
    pub fn apply_as(
        &mut self,
        stamp: Stamp,
        caller: Caller<'_>,
        command: &Command<'_>,
        effects: &mut Effects,
    ) -> Outcome {
        debug_assert!(crate::validate(command).is_ok(), "{command:?} was never validated");
        debug_assert!(crate::validate_principal(caller.principal).is_ok(), "{caller:?}");
        self.shard_ms = self.shard_ms.max(stamp.shard_ms);
        self.forget_some();
        let at = Stamp { wall_ms: stamp.wall_ms, shard_ms: self.shard_ms };
        let principal = caller.principal;
        if let Some(ask) = Ask::of(caller, command) {
            return self.acquire(at, &ask, effects);
        }
        match *command {
            Command::Acquire { .. } => unreachable!("it asks"),
            Command::Renew { name, token } => self.renew(at, principal, name, token, effects),
            Command::Release { name, token, by } => {
                self.release(at, principal, name, token, by, effects)
            }
            Command::Heartbeat { session, life, broken_seen } => {
                self.heartbeat(at, principal, session, life, broken_seen, effects)
            }
            Command::CloseSession { session } => {
                self.close_session(at, principal, session, effects)
            }
            Command::CancelWait { name, request_id, given_up } => {
                self.cancel_wait(at, principal, name, request_id, given_up, effects)
            }
            Command::ExpireLease { lease, renewal_seq } => {
                self.expire(at, lease, renewal_seq, effects)
            }
            Command::Break { name, token, by, reason } => {
                let end = End::broken(by, reason, principal);
                self.break_hold(at, name, token, &end, effects)
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

    /// The highest token issued so far.
    pub fn last_token(&self) -> Token {
        Token(self.last_token)
    }

    /// Shard time of the last stamp. A new leader continues from here.
    pub fn shard_ms(&self) -> u64 {
        self.shard_ms
    }

    /// The holdings of an identity on this shard. O(1). The empty principal has none: its grants,
    /// sessions and waiters are not counted.
    pub fn holdings(&self, principal: &str) -> Holdings {
        self.principals.holdings(principal)
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

    /// When the oldest grant among these many rows from this place on was made, in Unix
    /// milliseconds by its leader's wall clock, and the place after them. `None` for the place:
    /// that was the end.
    pub fn oldest_grant(&self, from: u32, rows: u32) -> (Option<u64>, Option<u32>) {
        let next = from.saturating_add(rows).min(self.grants.places());
        let grants = (from..next).filter_map(|at| self.grants.get(at));
        let oldest = grants.map(|grant| grant.acquired_wall_ms).min();
        (oldest, (next < self.grants.places()).then_some(next))
    }

    fn grants_of(&self, lock: u32) -> impl Iterator<Item = u32> {
        self.locks[lock].grants.walk(&self.grants, |grant| grant.links)
    }

    /// Session id (empty for none), lease, renewal state and terms of a grant's lease, and the
    /// number of renewals that it had before this grant.
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
            principal: terms.principal().to_owned(),
            token: Token(row.token.get()),
            mode: row.mode,
            session: session.to_owned(),
            metadata: terms.metadata().to_owned(),
            ttl_ms: terms.ttl_ms(),
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

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}
