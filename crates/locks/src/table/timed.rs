//! What a leader times: the leases in force and the waits, in pieces.
//!
//! A new leader has no deadlines. A pass over a large table at once would hold up its shard, so it
//! reads some rows at a time, and the table changes in between.

use super::LockTable;
use super::rows::Lease;
use crate::planted_bugs;
use crate::types::{LeaseId, LiveLease, RequestId};

/// A place on the way through the rows that a leader times. The way begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimedPlace {
    of: Of,
    at: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Of {
    #[default]
    Grants,
    Sessions,
    Waiters,
}

/// One piece of what a leader times. In no order.
#[derive(Debug, Default)]
pub struct Timed<'a> {
    /// Leases in force.
    pub leases: Vec<LiveLease>,
    /// Names and requests of waits.
    pub waits: Vec<(&'a str, RequestId)>,
}

impl LockTable {
    /// The leases and waits in the next rows after a place, at most `rows` of them, and the place
    /// after these. `None` for the place: that was the end.
    ///
    /// A row keeps its place as long as it lives. So whoever goes on after a change of the table has
    /// in the end all leases and waits that were there at the beginning and still are. A newer one
    /// may be missing: the command that made it told of it ([`Effects`](crate::Effects)).
    pub fn timed(&self, from: TimedPlace, rows: u32) -> (Timed<'_>, Option<TimedPlace>) {
        let (places, next_of) = match from.of {
            Of::Grants => (self.grants.places(), Some(Of::Sessions)),
            Of::Sessions => (self.sessions.places(), Some(Of::Waiters)),
            Of::Waiters => (self.waiters.places(), None),
        };
        let end = from.at.saturating_add(rows).min(places);
        let mut timed = Timed::default();
        let read = from.at..end;
        match from.of {
            Of::Grants => {
                let rows = read.filter_map(|at| self.grants.get(at));
                timed.leases.extend(rows.filter_map(|grant| match &grant.lease {
                    Lease::Private { state, terms } => {
                        Some(state.live(LeaseId(grant.token.get()), terms))
                    }
                    Lease::Session { .. } => None,
                }));
            }
            Of::Sessions => {
                let rows = read.filter_map(|at| self.sessions.get(at));
                timed.leases.extend(
                    rows.filter_map(|row| Some(row.state.live(row.lease_id()?, &row.terms))),
                );
            }
            Of::Waiters => {
                let rows = read.filter_map(|at| self.waiters.get(at));
                timed.waits.extend(rows.map(|row| (&*self.locks[row.lock].name, row.request)));
            }
        }
        let next = match end < places {
            true => Some(TimedPlace { of: from.of, at: planted_bugs::next_row(end) }),
            false => next_of.map(|of| TimedPlace { of, at: 0 }),
        };
        (timed, next)
    }

    /// All leases in force, by id.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = LiveLease> {
        let mut leases = Vec::new();
        let mut place = Some(TimedPlace::default());
        while let Some(from) = place {
            let (timed, next) = self.timed(from, u32::MAX);
            leases.extend(timed.leases);
            place = next;
        }
        leases.sort_unstable_by_key(|live| live.lease);
        leases.into_iter()
    }

    /// All waiters as (name, request id), longest waiting first.
    pub fn waiters(&self) -> impl Iterator<Item = (&str, RequestId)> + '_ {
        self.waiters.by_number().into_iter().map(|at| {
            let waiter = &self.waiters[at];
            (&*self.locks[waiter.lock].name, waiter.request)
        })
    }
}
