//! Queues: first come, first granted.
//!
//! Only the head of a queue is ever granted, and a new acquire is granted at once only if the queue
//! is empty. If a new acquire could overtake the queue, waiters would starve:
//!
//! 1. A lock is held in shared mode. An exclusive acquire queues.
//! 2. A shared acquire arrives. It is compatible with the holders, so it is granted at once.
//! 3. More shared acquires follow, each before the last holder is gone. The exclusive waiter is
//!    never granted.
//!
//! With this rule, the acquire of step 2 queues behind the exclusive one.
//!
//! Nothing in this module times out. When a wait is over, the leader proposes a
//! [`Command::CancelWait`](crate::Command::CancelWait) for it. Shard time is used only to report
//! how long a waiter waited, and to date tombstones.

use super::LockTable;
use super::acquire::Claim;
use super::ending::TOO_MANY_GIVEN_UP;
use super::finding::Use;
use super::index::Ref;
use super::principals::Counted;
use super::rows::WaiterRow;
use super::slab::NONE;
use crate::effects::{Effects, WaitEnd};
use crate::hash::{hash_principal, hash_request, hash_str};
use crate::planted_bugs;
use crate::types::*;

impl LockTable {
    /// Appends a waiter to its lock's queue and its session's waiters, and indexes its request. The
    /// waiter must be newer than all others.
    pub(super) fn enqueue(&mut self, row: WaiterRow) {
        let (request, lock, session) = (row.request, row.lock, row.session);
        self.principals.add(row.terms.principal(), Counted::Wait);
        let waiter = self.waiters.insert(row);
        self.locks[lock].queue.append(&mut self.waiters, waiter, WaiterRow::links_mut);
        self.locks[lock].queue_len += 1;
        if session != NONE {
            self.sessions[session].waiters.append(
                &mut self.waiters,
                waiter,
                WaiterRow::session_links_mut,
            );
        }
        self.requests.insert(hash_request(request), Ref::Waiting(waiter).pack());
    }

    /// Takes a waiter out of its queue. Afterwards its lock may have no grant and no waiter, and
    /// its session no lease and no waiter. The caller must check both and remove the unused ones.
    pub(super) fn unqueue(&mut self, waiter: u32) -> WaiterRow {
        let &WaiterRow { request, lock, .. } = &self.waiters[waiter];
        self.requests.remove(hash_request(request), Ref::Waiting(waiter).pack());
        self.locks[lock].queue.unlink(&mut self.waiters, waiter, WaiterRow::links_mut);
        self.locks[lock].queue_len -= 1;
        self.unlink_from_session(waiter);
        let row = self.waiters.remove(waiter);
        self.principals.remove(row.terms.principal(), Counted::Wait);
        row
    }

    /// Takes a waiter out of the list of its session, if it has one.
    pub(super) fn unlink_from_session(&mut self, waiter: u32) {
        let session = self.waiters[waiter].session;
        if session != NONE {
            let waiting = &mut self.sessions[session].waiters;
            waiting.unlink(&mut self.waiters, waiter, WaiterRow::session_links_mut);
        }
    }

    /// Takes a waiter out of its queue without a grant, while its session lives. The caller must
    /// then call [`serve_queue`](Self::serve_queue) for the lock.
    pub(super) fn drop_waiter(
        &mut self,
        at: Stamp,
        waiter: u32,
        why: WaitEnd,
        effects: &mut Effects,
    ) {
        let row = self.unqueue(waiter);
        effects.dropped.push((row.request, DropReason::Cancelled));
        self.tell_cancelled(at, &row, why, effects);
        if row.session != NONE {
            let session = &self.sessions[row.session];
            // A session without a lease is known only because its waiters refer to it.
            if session.lease.is_none() && session.waiters.is_empty() {
                self.forget_session(row.session);
            }
        }
    }

    /// Ends a wait of this identity. If the request was granted meanwhile, returns the grant
    /// without releasing it.
    ///
    /// `given_up`: the caller will not retry, so no late copy of the acquire may be granted.
    pub(super) fn cancel_wait(
        &mut self,
        at: Stamp,
        principal: &str,
        name: &str,
        request: RequestId,
        given_up: bool,
        effects: &mut Effects,
    ) -> Outcome {
        let given_up = planted_bugs::is_buried(given_up);
        let principal = planted_bugs::cancelling_principal(principal);
        let found = self.find_request(request, principal);
        if given_up
            && let Some(owner) = self.buried_for(found, principal, name)
            && !self.ended_grants.takes_mark(owner)
        {
            return TOO_MANY_GIVEN_UP;
        }
        // A request id that is in use for another name, or by another identity, counts as not
        // waiting.
        match found {
            Some(Use::Own(Ref::Waiting(waiter)))
                if &*self.locks[self.waiters[waiter].lock].name == name =>
            {
                let row = &self.waiters[waiter];
                let (lock, owner) = (row.lock, hash_principal(row.terms.principal()));
                let why = if given_up { WaitEnd::Cancelled } else { WaitEnd::NotAwaited };
                self.drop_waiter(at, waiter, why, effects);
                if given_up {
                    self.bury(request, owner, name, at.shard_ms);
                }
                self.serve_queue(at, lock, effects);
                Outcome::Cancelled
            }
            // The cancel came too late: the caller holds the lock already, and must be told so.
            Some(Use::Own(Ref::Live(grant)))
                if &*self.locks[self.grants[grant].lock].name == name =>
            {
                self.granted(grant, at, effects)
            }
            // The cancel may have overtaken its acquire: see [`bury`](Self::bury).
            None if given_up => {
                self.bury(request, hash_principal(principal), name, at.shard_ms);
                Outcome::NotWaiting
            }
            _ => Outcome::NotWaiting,
        }
    }

    /// Grants the lock to the head of its queue, again and again, until the head does not
    /// [fit](Self::fits). Removes the lock's row if no grant and no waiter is left.
    ///
    /// Must be called after each removal of a grant or a waiter. Does nothing if the lock's row is
    /// gone already.
    pub(super) fn serve_queue(&mut self, at: Stamp, lock: u32, effects: &mut Effects) {
        while let Some(row) = self.locks.get(lock) {
            let head = planted_bugs::served_next(row.queue.first, row.queue.last);
            let Some(waiter) = self.waiters.get(head) else {
                if row.grants.is_empty() {
                    if let Some(order) = &mut self.order {
                        order.remove(lock, &self.locks);
                    }
                    let row = self.locks.remove(lock);
                    self.names.remove(hash_str(&row.name), lock);
                }
                return;
            };
            // A shard that has issued its last token grants nothing more.
            if !self.fits(lock, waiter.mode) || self.last_token >= TOKEN_MAX {
                return;
            }
            let waiter = effects.watched.then(|| Box::new(self.show_waiter(head, 1, at)));
            let row = self.unqueue(head);
            let claim = Claim {
                request: row.request,
                mode: row.mode,
                terms: row.terms,
                session: row.session,
                waited_ms: at.shard_ms.saturating_sub(row.since_ms),
            };
            let grant = self.grant(at, lock, claim, effects);
            self.tell_granted(at, grant, waiter, effects);
            // On a replica that does not lead, no client listens: see [`Effects::unheard`].
            if !effects.unheard {
                effects.granted.push(self.show(grant, at));
            }
        }
    }
}
