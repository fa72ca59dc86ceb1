//! The effects of a command beside its outcome: work for the leader, history, and the events that a
//! watch is told.
//!
//! Events are made as commands are applied, if the table is watched, and follow from the log alone.
//! So all replicas make the same events of an entry, in the same order.

use crate::types::{DropReason, EndKind, Ended, Grant, LeaseEvent, RequestId, Tenure, Waiter};

/// The side effects of one applied command.
///
/// The caller reuses one value for many commands and clears it in between.
///
/// - `unheard` and `watched` change only the reported effects, and never the table: replicas that
///   differ in them stay equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Set by the caller if no client listens here, as on a replica that does not lead. Grants are
    /// then not described, which saves their allocations: [`crate::Outcome::Unheard`] replaces
    /// [`crate::Outcome::Granted`] and [`crate::Outcome::Broken`], and `granted` stays empty.
    pub unheard: bool,
    /// Waiters that were granted a lock, in the order of their grants.
    pub granted: Vec<Grant>,
    /// Waiters that left their queue without a grant.
    pub dropped: Vec<(RequestId, DropReason)>,
    /// Leases that began, were renewed, or ended.
    pub leases: Vec<LeaseEvent>,
    /// Grants that ended, in the order of their ends.
    pub ended: Vec<Ended>,
    /// Set by the caller if this table is watched. Otherwise `events` stays empty, and costs
    /// nothing.
    pub watched: bool,
    /// The changes of locks, in their order: the same on all replicas, `unheard` or not.
    pub events: Vec<Event>,
}

/// One change of one lock.
///
/// - A retry that changes nothing makes no event, and neither does a renewal.
/// - No grant in an event has a request id, for the reason told at [`Waiter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A grant began.
    Granted {
        /// The grant.
        grant: Box<Grant>,
        /// The waiter that it was, if it came out of the queue.
        waiter: Option<Box<Waiter>>,
    },
    /// An acquire began to wait.
    Queued(Box<Waiter>),
    /// A grant ended.
    Ended {
        /// The grant and its end.
        tenure: Box<Tenure>,
        /// Whether it ended because its session did.
        with_session: bool,
    },
    /// A wait ended without a grant.
    Cancelled {
        /// The waiter. Its place is not told.
        waiter: Box<Waiter>,
        /// Why the wait ended.
        why: WaitEnd,
    },
}

/// Why a wait ended without a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitEnd {
    /// Its client gave the acquire up, or asked again without waiting.
    Cancelled,
    /// Its time was over, or its client went away.
    NotAwaited,
    /// Its session ended.
    SessionEnded,
}

/// The kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A grant began.
    Granted,
    /// An acquire began to wait.
    Queued,
    /// A grant ended: [`EndKind::Released`].
    Released,
    /// A grant ended: [`EndKind::Expired`].
    Expired,
    /// A grant ended: [`EndKind::Broken`].
    Broken,
    /// A wait ended without a grant.
    Cancelled,
}

impl Event {
    /// Its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Granted { .. } => EventKind::Granted,
            Event::Queued(_) => EventKind::Queued,
            Event::Ended { tenure, .. } => match tenure.end {
                EndKind::Released => EventKind::Released,
                EndKind::Expired => EventKind::Expired,
                EndKind::Broken => EventKind::Broken,
            },
            Event::Cancelled { .. } => EventKind::Cancelled,
        }
    }

    /// The hold that began or ended.
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Event::Granted { grant, .. } => Some(grant),
            Event::Ended { tenure, .. } => Some(&tenure.grant),
            Event::Queued(_) | Event::Cancelled { .. } => None,
        }
    }

    /// The wait that began or ended.
    pub fn waiter(&self) -> Option<&Waiter> {
        match self {
            Event::Granted { waiter, .. } => waiter.as_deref(),
            Event::Queued(waiter) | Event::Cancelled { waiter, .. } => Some(waiter),
            Event::Ended { .. } => None,
        }
    }

    /// The name of the lock.
    pub fn name(&self) -> &str {
        let of_waiter = || self.waiter().map(|waiter| &*waiter.name);
        self.grant().map(|grant| &*grant.name).or_else(of_waiter).unwrap_or_default()
    }

    /// The session of its grant or waiter. Empty for none.
    pub fn session(&self) -> &str {
        let of_waiter = || self.waiter().map(|waiter| &*waiter.session);
        self.grant().map(|grant| &*grant.session).or_else(of_waiter).unwrap_or_default()
    }

    /// The owners of its grant and of its waiter. They differ where a waiter named another owner
    /// than the session that its grant hangs on.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        let of_grant = self.grant().map(|grant| &*grant.owner);
        let of_waiter = self.waiter().map(|waiter| &*waiter.owner);
        let differs = of_waiter.filter(|owner| of_grant != Some(owner));
        of_grant.into_iter().chain(differs)
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let grant = self.grant().map_or(0, |grant| {
            let Grant { name, owner, principal, session, metadata, .. } = grant;
            size_of::<Grant>() + texts([name, owner, principal, session, metadata])
        });
        let waiter = self.waiter().map_or(0, |waiter| {
            let Waiter { name, owner, principal, session, metadata, .. } = waiter;
            size_of::<Waiter>() + texts([name, owner, principal, session, metadata])
        });
        let ended = match self {
            Event::Ended { tenure, .. } => {
                let Tenure { broken_by, break_reason, broken_by_principal, .. } = &**tenure;
                texts([broken_by, break_reason, broken_by_principal])
            }
            _ => 0,
        };
        size_of::<Event>() + grant + waiter + ended
    }
}

fn texts<const N: usize>(texts: [&String; N]) -> usize {
    texts.iter().map(|text| text.len()).sum()
}
