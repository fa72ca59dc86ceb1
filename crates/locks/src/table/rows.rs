//! The rows of the table: one per name in use, grant, waiter and session.
//!
//! Laid out to be small: a million held locks are the common case. They know nothing of how they come and go.

use super::chain::{Ends, Links};
use super::slab::{Durable, NONE};
use crate::types::{LeaseEvent, LeaseId, Mode, RequestId};
use std::num::NonZeroU64;
use std::sync::Arc;

/// A name in use: it has a grant or a waiter. No record of its own: it follows from those of its grants and waiters.
#[derive(Debug)]
pub(super) struct LockRow {
    pub(super) name: Box<str>,
    /// By token.
    pub(super) grants: Ends,
    /// First come, first in line.
    pub(super) queue: Ends,
    pub(super) queue_len: u32,
    /// Sum over its grants.
    pub(super) permits_used: u32,
}

impl LockRow {
    pub(super) fn new(name: &str) -> Self {
        LockRow { name: name.into(), grants: Ends::EMPTY, queue: Ends::EMPTY, queue_len: 0, permits_used: 0 }
    }
}

/// What a lease is given when it begins. Owner and metadata share an allocation, with each other and with rows of the same.
#[derive(Debug, Default)]
pub(super) struct Terms {
    joined: Arc<str>,
    pub(super) ttl_ms: u32,
    owner_len: u16,
}

impl Terms {
    /// `joined` is owner and metadata.
    pub(super) fn new(ttl_ms: u32, owner: &str, joined: Arc<str>) -> Self {
        debug_assert!(joined.starts_with(owner), "{joined:?} is not of {owner:?}");
        let owner_len = u16::try_from(owner.len()).expect("owners are validated to be short");
        Terms { joined, ttl_ms, owner_len }
    }

    pub(super) fn owner(&self) -> &str {
        &self.joined[..self.owner_len.into()]
    }

    pub(super) fn metadata(&self) -> &str {
        &self.joined[self.owner_len.into()..]
    }
}

/// What a renewal changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Counts renewals, and so names the lease's lives.
    pub(super) renewal_seq: u64,
    /// Of the last renewal, or the start. Display only.
    pub(super) renewed_wall_ms: u64,
}

impl Life {
    pub(super) fn new(wall_ms: u64) -> Self {
        Life { renewal_seq: 0, renewed_wall_ms: wall_ms }
    }

    pub(super) fn renew(&mut self, wall_ms: u64) {
        self.renewal_seq += 1;
        self.renewed_wall_ms = wall_ms;
    }

    pub(super) fn expires_wall_ms(&self, terms: &Terms) -> u64 {
        self.renewed_wall_ms.saturating_add(terms.ttl_ms.into())
    }

    pub(super) fn event(&self, lease: LeaseId, terms: &Terms) -> LeaseEvent {
        LeaseEvent::Alive { lease, ttl_ms: terms.ttl_ms, renewal_seq: self.renewal_seq }
    }
}

/// What keeps a grant alive.
#[derive(Debug)]
pub(super) enum Lease {
    /// Its own lease, named by its token; ends with it.
    Private { life: Life, terms: Terms },
    /// A session's.
    Session {
        session: u32,
        /// Among the session's grants.
        links: Links,
        /// The session's renewals when it was granted.
        renewals_before: u64,
    },
}

/// A grant in force. Its record is numbered by its token.
#[derive(Debug)]
pub(super) struct GrantRow {
    pub(super) token: NonZeroU64,
    request: [u64; 2],
    pub(super) acquired_wall_ms: u64,
    pub(super) lease: Lease,
    pub(super) mode: Mode,
    pub(super) lock: u32,
    /// Among the lock's grants.
    pub(super) links: Links,
    /// Saturates at 49 days.
    pub(super) waited_ms: u32,
    changed_at: u32,
}

impl GrantRow {
    pub(super) fn new(token: NonZeroU64, request: RequestId, lock: u32, mode: Mode, lease: Lease) -> Self {
        GrantRow {
            token,
            request: [request.0 as u64, (request.0 >> 64) as u64],
            acquired_wall_ms: 0,
            lease,
            mode,
            lock,
            links: Links::LOOSE,
            waited_ms: 0,
            changed_at: NONE,
        }
    }

    pub(super) fn request(&self) -> RequestId {
        RequestId(u128::from(self.request[0]) | u128::from(self.request[1]) << 64)
    }

    pub(super) fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    pub(super) fn session_links(&self) -> Links {
        match self.lease {
            Lease::Session { links, .. } => links,
            Lease::Private { .. } => unreachable!("a private lease is in no session's chain"),
        }
    }

    pub(super) fn session_links_mut(&mut self) -> &mut Links {
        match &mut self.lease {
            Lease::Session { links, .. } => links,
            Lease::Private { .. } => unreachable!("a private lease is in no session's chain"),
        }
    }

    /// Permits that it takes; 0 if it is none of a semaphore's.
    pub(super) fn permits(&self) -> u32 {
        match self.mode {
            Mode::Permits { count, .. } => count,
            _ => 0,
        }
    }
}

impl Durable for GrantRow {
    fn number(&self) -> u64 {
        self.token.get()
    }
    fn changed_at(&mut self) -> &mut u32 {
        &mut self.changed_at
    }
}

/// An acquire in a queue. Its record is numbered by the table's count of waiters so far.
#[derive(Debug)]
pub(super) struct WaiterRow {
    pub(super) number: u64,
    pub(super) request: RequestId,
    /// In shard time.
    pub(super) since_ms: u64,
    /// Of the session that it begins if need be, or of its private lease.
    pub(super) terms: Terms,
    pub(super) mode: Mode,
    pub(super) lock: u32,
    /// In the queue.
    pub(super) links: Links,
    /// [`NONE`]: a private lease.
    pub(super) session: u32,
    /// Among the session's waiters.
    pub(super) session_links: Links,
    pub(super) changed_at: u32,
}

impl WaiterRow {
    pub(super) fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
    pub(super) fn session_links_mut(&mut self) -> &mut Links {
        &mut self.session_links
    }
}

impl Durable for WaiterRow {
    fn number(&self) -> u64 {
        self.number
    }
    fn changed_at(&mut self) -> &mut u32 {
        &mut self.changed_at
    }
}

/// A session's presence on this shard. Its record is numbered by its lease, once it has one.
///
/// - It has a lease, or at least one waiter.
/// - Without a lease it has no grants: it is known here only for its waiters' sake, and has no record.
#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) id: Box<str>,
    /// The token of the grant that began it; `None` until then.
    pub(super) lease: Option<NonZeroU64>,
    pub(super) life: Life,
    pub(super) terms: Terms,
    /// By token.
    pub(super) grants: Ends,
    /// By number.
    pub(super) waiters: Ends,
    pub(super) changed_at: u32,
}

impl SessionRow {
    pub(super) fn unknown(id: &str) -> Self {
        SessionRow {
            id: id.into(),
            lease: None,
            life: Life::default(),
            terms: Terms::default(),
            grants: Ends::EMPTY,
            waiters: Ends::EMPTY,
            changed_at: NONE,
        }
    }

    pub(super) fn lease_id(&self) -> Option<LeaseId> {
        self.lease.map(|token| LeaseId(token.get()))
    }
}

impl Durable for SessionRow {
    fn number(&self) -> u64 {
        self.lease.map_or(0, NonZeroU64::get)
    }
    fn changed_at(&mut self) -> &mut u32 {
        &mut self.changed_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_small() {
        assert!(size_of::<LockRow>() <= 40, "{}", size_of::<LockRow>());
        assert!(size_of::<GrantRow>() <= 104, "{}", size_of::<GrantRow>());
    }
}
