//! The rows of the table: one per name in use, grant, waiter and session.
//!
//! Laid out to be small: a million held locks are the common case. They know nothing of how they come and go.

use super::chain::{Ends, Links};
use super::slab::{Durable, NONE};
use crate::types::{BROKEN_MEMORY_MAX, CLAIM_TTL_MS, LeaseEvent, LeaseId, LiveLease, Mode, RequestId, Token};
use std::collections::VecDeque;
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
    /// Grants.
    pub(super) holders: u32,
    /// Sum over its grants.
    pub(super) permits_used: u32,
}

impl LockRow {
    pub(super) fn new(name: &str) -> Self {
        LockRow {
            name: name.into(),
            grants: Ends::EMPTY,
            queue: Ends::EMPTY,
            queue_len: 0,
            holders: 0,
            permits_used: 0,
        }
    }
}

/// What a lease is given when it begins. Owner and metadata share an allocation, with each other and with rows of the same.
#[derive(Debug, Default)]
pub(super) struct Terms {
    joined: Arc<str>,
    pub(super) ttl_ms: u32,
    owner_len: u16,
    /// Of a lease: its TTL until it is claimed; of a waiter: what the lease is to begin with. 0: none. Shorter than `ttl_ms`.
    claim_ms: u16,
}

const _: () = assert!(*CLAIM_TTL_MS.end() <= u16::MAX as u32);

impl Terms {
    /// `joined` is owner and metadata.
    pub(super) fn new(ttl_ms: u32, owner: &str, joined: Arc<str>) -> Self {
        debug_assert!(joined.starts_with(owner), "{joined:?} is not of {owner:?}");
        let owner_len = u16::try_from(owner.len()).expect("owners are validated to be short");
        Terms { joined, ttl_ms, owner_len, claim_ms: 0 }
    }

    /// To be claimed within this, unless that is 0 or no shorter than the TTL.
    pub(super) fn with_claim(self, claim_ttl_ms: u32) -> Self {
        let claim_ms = if claim_ttl_ms < self.ttl_ms { u16::try_from(claim_ttl_ms).unwrap_or(0) } else { 0 };
        Terms { claim_ms, ..self }
    }

    /// From now on the lease has its full TTL with each renewal.
    pub(super) fn claim(&mut self) {
        self.claim_ms = 0;
    }

    /// 0: it is claimed.
    pub(super) fn claim_ms(&self) -> u32 {
        self.claim_ms.into()
    }

    /// The TTL from the last renewal, or the beginning.
    pub(super) fn ttl_now_ms(&self) -> u32 {
        if self.claim_ms == 0 { self.ttl_ms } else { self.claim_ms.into() }
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
    /// Shard time of the last renewal, or the start: what the table's clock was then, which a late stamp does not set back.
    pub(super) renewed_ms: u64,
}

impl Life {
    pub(super) fn new(shard_ms: u64) -> Self {
        Life { renewal_seq: 0, renewed_ms: shard_ms }
    }

    pub(super) fn renew(&mut self, shard_ms: u64) {
        self.renewal_seq += 1;
        self.renewed_ms = shard_ms;
    }

    /// What is left at this shard time.
    pub(super) fn rest_ms(&self, terms: &Terms, shard_ms: u64) -> u32 {
        let age_ms = u32::try_from(shard_ms.saturating_sub(self.renewed_ms)).unwrap_or(u32::MAX);
        terms.ttl_now_ms().saturating_sub(age_ms)
    }

    pub(super) fn event(&self, lease: LeaseId, terms: &Terms) -> LeaseEvent {
        LeaseEvent::Alive { lease, ttl_ms: terms.ttl_now_ms(), renewal_seq: self.renewal_seq }
    }

    pub(super) fn live(&self, lease: LeaseId, terms: &Terms) -> LiveLease {
        let &Life { renewal_seq, renewed_ms } = self;
        LiveLease { lease, ttl_ms: terms.ttl_now_ms(), renewal_seq, renewed_ms }
    }
}

/// The grants of one session's life that were ended by breaks.
///
/// - `tokens` holds the last of them, at most [`BROKEN_MEMORY_MAX`], oldest first.
#[derive(Debug, Default)]
pub(super) struct Broken {
    pub(super) count: u64,
    pub(super) tokens: VecDeque<u64>,
}

impl Broken {
    pub(super) fn note(&mut self, token: u64) {
        if self.tokens.len() >= BROKEN_MEMORY_MAX {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
        self.count += 1;
    }

    /// Those after the first `seen`, as far as they are remembered, and whether some are not. A caller that claims to have seen
    /// more than there were is told that it is in doubt.
    pub(super) fn since(&self, seen: u64) -> (Vec<Token>, bool) {
        let unseen = self.count.saturating_sub(seen);
        let told = self.tokens.len().min(usize::try_from(unseen).unwrap_or(usize::MAX));
        let tokens = self.tokens.range(self.tokens.len() - told..).map(|token| Token(*token)).collect();
        (tokens, unseen > told as u64 || seen > self.count)
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
    /// How many those are.
    pub(super) held: u32,
    /// By number.
    pub(super) waiters: Ends,
    /// Of this life. Breaks are rare.
    pub(super) broken: Option<Box<Broken>>,
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
            held: 0,
            waiters: Ends::EMPTY,
            broken: None,
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
        assert!(size_of::<LockRow>() <= 48, "{}", size_of::<LockRow>());
        assert!(size_of::<GrantRow>() <= 104, "{}", size_of::<GrantRow>());
    }
}
