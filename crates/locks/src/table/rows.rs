//! The rows of the table: one per name in use, grant, waiter and session.
//!
//! They are laid out to be small, because a million held locks are the common case. They know
//! nothing of how rows come and go.

use super::chain::{Ends, Links};
use super::slab::{Durable, NONE};
use crate::types::{
    BROKEN_MEMORY_MAX, CLAIM_TTL_MS, LeaseEvent, LeaseId, LiveLease, Mode, OWNER_BYTES_MAX,
    PRINCIPAL_BYTES_MAX, RequestId, TTL_MS, Token,
};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

/// A name in use: it has a grant or a waiter. It has no record of its own, because it follows from
/// the records of its grants and waiters.
#[derive(Debug)]
pub(super) struct LockRow {
    pub(super) name: Box<str>,
    /// The grants of the name, by token.
    pub(super) grants: Ends,
    /// The waiters of the name, first come first.
    pub(super) queue: Ends,
    pub(super) queue_len: u32,
    /// Number of its grants.
    pub(super) holders: u32,
    /// Sum of the permits of its grants.
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

/// The terms of a lease, fixed when it begins. Principal, owner and metadata share one allocation,
/// with each other and with rows of equal texts.
///
/// The numbers share one word, so that a principal makes no row larger:
///
/// ```text
/// bits  0..27  TTL in milliseconds
///      27..43  claim TTL in milliseconds, or 0 for none
///      43..52  length of the principal in bytes
///      52..61  length of the owner in bytes
/// ```
///
/// For a lease, the claim TTL is its TTL until it is claimed; for a waiter, that of its later
/// lease. It is shorter than the TTL.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    joined: Arc<str>,
    packed: u64,
}

const CLAIM_AT: u32 = 27;
const PRINCIPAL_AT: u32 = 43;
const OWNER_AT: u32 = 52;
const END_AT: u32 = 61;

const _: () = {
    assert!(*TTL_MS.end() < 1 << CLAIM_AT);
    assert!(*CLAIM_TTL_MS.end() < 1 << (PRINCIPAL_AT - CLAIM_AT));
    assert!(PRINCIPAL_BYTES_MAX < 1 << (OWNER_AT - PRINCIPAL_AT));
    assert!(OWNER_BYTES_MAX < 1 << (END_AT - OWNER_AT));
};

impl Terms {
    /// Makes terms without a claim TTL, from the texts and the same texts joined: principal, owner,
    /// metadata.
    pub(super) fn new(ttl_ms: u32, texts: &[&str; 3], joined: Arc<str>) -> Self {
        let [principal, owner, _] = texts.map(|text| text.len() as u64);
        debug_assert!(joined.ends_with(texts[2]), "{joined:?} is not {texts:?}");
        let packed = u64::from(ttl_ms) | principal << PRINCIPAL_AT | owner << OWNER_AT;
        Terms { joined, packed }
    }

    /// The number in these bits.
    fn bits(&self, from: u32, to: u32) -> u32 {
        (self.packed >> from & ((1 << (to - from)) - 1)) as u32
    }

    /// Sets a claim TTL, unless it is 0 or no shorter than the TTL.
    pub(super) fn with_claim(mut self, claim_ttl_ms: u32) -> Self {
        self.claim();
        if claim_ttl_ms < self.ttl_ms() && claim_ttl_ms <= *CLAIM_TTL_MS.end() {
            self.packed |= u64::from(claim_ttl_ms) << CLAIM_AT;
        }
        self
    }

    /// Claims the lease: from its next renewal on it has its full TTL.
    pub(super) fn claim(&mut self) {
        self.packed &= !(((1 << (PRINCIPAL_AT - CLAIM_AT)) - 1) << CLAIM_AT);
    }

    /// The TTL of the lease once it is claimed.
    pub(super) fn ttl_ms(&self) -> u32 {
        self.bits(0, CLAIM_AT)
    }

    /// The claim TTL while the lease is unclaimed; 0 once it is claimed.
    pub(super) fn claim_ms(&self) -> u32 {
        self.bits(CLAIM_AT, PRINCIPAL_AT)
    }

    /// The TTL that counts from the beginning or the last renewal.
    pub(super) fn ttl_now_ms(&self) -> u32 {
        match self.claim_ms() {
            0 => self.ttl_ms(),
            claim_ms => claim_ms,
        }
    }

    fn owner_at(&self) -> usize {
        self.bits(PRINCIPAL_AT, OWNER_AT) as usize
    }

    fn metadata_at(&self) -> usize {
        self.owner_at() + self.bits(OWNER_AT, END_AT) as usize
    }

    /// The identity that the lease belongs to. Empty if it began while identities were off.
    #[inline]
    pub(super) fn principal(&self) -> &str {
        &self.joined[..self.owner_at()]
    }

    pub(super) fn owner(&self) -> &str {
        &self.joined[self.owner_at()..self.metadata_at()]
    }

    pub(super) fn metadata(&self) -> &str {
        &self.joined[self.metadata_at()..]
    }
}

/// The part of a lease that a renewal changes. It is no *life*: that is the presence of a session
/// from its first grant to its end, which [`LeaseId`] names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RenewalState {
    /// Number of renewals. It names the stretch of time since the last one.
    pub(super) renewal_seq: u64,
    /// Shard time of the beginning or the last renewal, by the clock of the table. A late stamp
    /// does not set that clock back.
    pub(super) renewed_ms: u64,
}

impl RenewalState {
    pub(super) fn new(shard_ms: u64) -> Self {
        RenewalState { renewal_seq: 0, renewed_ms: shard_ms }
    }

    pub(super) fn renew(&mut self, shard_ms: u64) {
        self.renewal_seq += 1;
        self.renewed_ms = shard_ms;
    }

    /// Rest of the lease at this shard time, in milliseconds.
    pub(super) fn rest_ms(&self, terms: &Terms, shard_ms: u64) -> u32 {
        let age_ms = u32::try_from(shard_ms.saturating_sub(self.renewed_ms)).unwrap_or(u32::MAX);
        terms.ttl_now_ms().saturating_sub(age_ms)
    }

    pub(super) fn event(&self, lease: LeaseId, terms: &Terms) -> LeaseEvent {
        LeaseEvent::Alive { lease, ttl_ms: terms.ttl_now_ms(), renewal_seq: self.renewal_seq }
    }

    pub(super) fn live(&self, lease: LeaseId, terms: &Terms) -> LiveLease {
        let &RenewalState { renewal_seq, renewed_ms } = self;
        LiveLease { lease, ttl_ms: terms.ttl_now_ms(), renewal_seq, renewed_ms }
    }
}

/// The grants of one life of a session that other callers ended, by a break or a release.
///
/// - `tokens` holds the last of them, at most [`BROKEN_MEMORY_MAX`], oldest first.
#[derive(Debug, Default)]
pub(super) struct EndedByOthers {
    pub(super) count: u64,
    pub(super) tokens: VecDeque<u64>,
}

impl EndedByOthers {
    pub(super) fn note(&mut self, token: u64) {
        if self.tokens.len() >= BROKEN_MEMORY_MAX {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
        self.count += 1;
    }

    /// The tokens after the first `seen` ones, as far as they are remembered, and whether the
    /// caller must doubt that they are all.
    ///
    /// The caller must doubt if some are forgotten, or if it claims to have seen more than there
    /// were.
    pub(super) fn since(&self, seen: u64) -> (Vec<Token>, bool) {
        let unseen = self.count.saturating_sub(seen);
        let told = self.tokens.len().min(usize::try_from(unseen).unwrap_or(usize::MAX));
        let tokens =
            self.tokens.range(self.tokens.len() - told..).map(|token| Token(*token)).collect();
        (tokens, unseen > told as u64 || seen > self.count)
    }
}

/// The lease that keeps a grant alive.
#[derive(Debug)]
pub(super) enum Lease {
    /// The grant's own lease. It is named by the grant's token and ends with the grant.
    Private { state: RenewalState, terms: Terms },
    /// The lease of a session.
    Session {
        session: u32,
        /// Neighbours among the session's grants.
        links: Links,
        /// Number of renewals of the session when this grant was made.
        renewals_before: u64,
    },
}

/// A grant in force. The number of its record is its token.
#[derive(Debug)]
pub(super) struct GrantRow {
    pub(super) token: NonZeroU64,
    request: [u64; 2],
    pub(super) acquired_wall_ms: u64,
    pub(super) lease: Lease,
    pub(super) mode: Mode,
    pub(super) lock: u32,
    /// Neighbours among the lock's grants.
    pub(super) links: Links,
    /// Time in the queue, in milliseconds of shard time. Saturates at 49 days.
    pub(super) waited_ms: u32,
    changed_at: u32,
}

impl GrantRow {
    pub(super) fn new(
        token: NonZeroU64,
        request: RequestId,
        lock: u32,
        mode: Mode,
        lease: Lease,
    ) -> Self {
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

    /// The place of its session, if it hangs on one.
    pub(super) fn session(&self) -> Option<u32> {
        match self.lease {
            Lease::Session { session, .. } => Some(session),
            Lease::Private { .. } => None,
        }
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

    /// Permits that the grant takes; 0 if its mode has none.
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

/// An acquire in a queue. The number of its record counts the waiters of the table.
#[derive(Debug)]
pub(super) struct WaiterRow {
    pub(super) number: u64,
    pub(super) request: RequestId,
    /// Shard time at which it queued.
    pub(super) since_ms: u64,
    /// Terms of its later lease: its private one, or the session's if its grant begins that.
    pub(super) terms: Terms,
    pub(super) mode: Mode,
    pub(super) lock: u32,
    /// Neighbours in the queue.
    pub(super) links: Links,
    /// Place of the session; [`NONE`] for a private lease.
    pub(super) session: u32,
    /// Neighbours among the session's waiters.
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

/// The presence of a session on this shard. The number of its record is its lease, once it has one.
///
/// - It has a lease, or at least one waiter.
/// - Without a lease it has no grants and no record: it is known only because its waiters refer to
///   it.
#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) id: Box<str>,
    /// Token of the grant that began the lease; `None` before that grant.
    pub(super) lease: Option<NonZeroU64>,
    pub(super) state: RenewalState,
    /// Terms of the lease. The principal is that of the session, with a lease or without.
    pub(super) terms: Terms,
    /// The grants of the session, by token.
    pub(super) grants: Ends,
    /// The waiters of the session, by number.
    pub(super) waiters: Ends,
    /// Grants of this life that other callers ended. Boxed, because these are rare.
    pub(super) ended_by_others: Option<Box<EndedByOthers>>,
    pub(super) changed_at: u32,
}

impl SessionRow {
    /// A session without a lease. Of `terms` only the principal counts until a grant begins it.
    pub(super) fn unknown(id: &str, terms: Terms) -> Self {
        SessionRow {
            id: id.into(),
            lease: None,
            state: RenewalState::default(),
            terms,
            grants: Ends::EMPTY,
            waiters: Ends::EMPTY,
            ended_by_others: None,
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
        assert!(size_of::<Terms>() <= 24, "{}", size_of::<Terms>());
        assert!(size_of::<GrantRow>() <= 104, "{}", size_of::<GrantRow>());
    }
}
