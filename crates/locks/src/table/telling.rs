//! The making of events, while a table is watched.
//!
//! Each function first asks whether the table is watched, so that any other table pays for nothing
//! else. This module changes no row.

use super::LockTable;
use super::rows::WaiterRow;
use crate::effects::{Effects, Event, WaitEnd};
use crate::types::*;

impl LockTable {
    /// A grant began. `waiter`: it came out of the queue.
    #[inline]
    pub(super) fn tell_granted(
        &self,
        at: Stamp,
        grant: u32,
        waiter: Option<Box<Waiter>>,
        effects: &mut Effects,
    ) {
        if effects.watched {
            let grant = Box::new(without_request(self.show(grant, at)));
            effects.events.push(Event::Granted { grant, waiter });
        }
    }

    /// The last waiter of a lock began to wait.
    #[inline]
    pub(super) fn tell_queued(&self, at: Stamp, lock: u32, effects: &mut Effects) {
        if effects.watched {
            let row = &self.locks[lock];
            let waiter = self.show_waiter(row.queue.last, row.queue_len, at);
            effects.events.push(Event::Queued(Box::new(waiter)));
        }
    }

    /// A grant ended, and its tenure is the last of the effects.
    #[inline]
    pub(super) fn tell_ended(&self, with_session: bool, effects: &mut Effects) {
        if effects.watched
            && let Some(ended) = effects.ended.last()
        {
            let mut tenure = ended.tenure().expect("it was just encoded");
            tenure.grant = without_request(tenure.grant);
            effects.events.push(Event::Ended { tenure: Box::new(tenure), with_session });
        }
    }

    /// A wait ended without a grant. Its session must still be there.
    #[inline]
    pub(super) fn tell_cancelled(
        &self,
        at: Stamp,
        row: &WaiterRow,
        why: WaitEnd,
        effects: &mut Effects,
    ) {
        if effects.watched {
            let waiter = Box::new(self.describe(row, 0, at));
            effects.events.push(Event::Cancelled { waiter, why });
        }
    }
}

fn without_request(grant: Grant) -> Grant {
    Grant { request_id: RequestId(0), ..grant }
}
