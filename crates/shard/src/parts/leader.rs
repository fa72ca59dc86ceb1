//! Leader state: lease deadlines, attached waiters, and contact with the members. It is in memory
//! only, on the leader's own monotonic clock.
//!
//! A lease never ends early, for two reasons:
//!
//! * A new leader gives every lease the rest of its TTL (`shard_time.rs`).
//! * A lease that comes due here is only *proposed* to end, under the name of the life that was
//!   timed (`renewal_seq`). A renewal that is applied first wins.

use crate::api::{ReplicaConfig, Reply, Ticket, Wait};
use crate::parts::group::Wanted;
use crate::parts::proposals::{Caller, Proposals};
use crate::parts::shard_time::{LeaderClock, Observation};
use crate::parts::spares::Spares;
use crate::parts::timers::Timers;
use crate::planted_bugs;
use locks::{Command, DropReason, Grant, LeaseEvent, LeaseId, LockTable, RequestId};
use std::collections::BTreeMap;

/// A proposed expiry or cancellation is proposed again after this long, in milliseconds, unless it
/// has taken effect.
const REPROPOSE_MS: u64 = 1_000;
/// At most this many expiries, and as many cancellations, are proposed per step, so that a mass
/// expiry comes in bounded entries.
const DUE_PER_STEP_MAX: usize = 1_024;

/// An acquire in a lock's queue.
struct Waiter {
    name: String,
    /// `None` if its stream is gone, or was attached to another leader.
    ticket: Option<Ticket>,
    timed_out: bool,
}

/// The state that only a leader has. It begins and ends with one leadership.
///
/// * `by_ticket` has exactly the waiters with a ticket.
/// * `leases` has every lease of the table, and `waiters` every queued acquire.
pub(crate) struct LeaderState {
    pub term: u64,
    pub spares: Spares,
    pub clock: LeaderClock,
    since_ms: u64,
    since_tick: u64,
    grace_ms: u64,
    /// When each member last answered in this term, by Raft's id.
    contact_ms: BTreeMap<u64, u64>,
    /// The same in ticks of this replica.
    contact_tick: BTreeMap<u64, u64>,
    /// The wish of the host that is not in the log yet, and the entry with the last one.
    pub wish: Option<Wanted>,
    pub wish_index: u64,
    /// The entry that chooses META's founders, if this leader has proposed one.
    pub founding_index: u64,
    /// The highest level that the host gave, and the entry with the last one that was proposed.
    pub level: u32,
    pub level_index: u64,
    pub leases: Timers<LeaseId, u64>,
    waiters: Timers<RequestId, Waiter>,
    by_ticket: BTreeMap<Ticket, RequestId>,
}

impl LeaderState {
    /// Takes over a table that was observed last by `observation`, if the shard has one. Every lease
    /// gets the rest of its TTL, and every waiter the grace period to attach itself again.
    pub(crate) fn new(
        term: u64,
        (now_ms, tick): (u64, u64),
        observation: &Observation,
        config: &ReplicaConfig,
        table: Option<&LockTable>,
    ) -> LeaderState {
        let grace_ms = config.raft.waiter_grace_ms;
        let mut leader = LeaderState {
            term,
            spares: Spares::new(config.raft.append_hold_ms),
            clock: LeaderClock::default(),
            since_ms: now_ms,
            since_tick: tick,
            grace_ms,
            contact_ms: BTreeMap::new(),
            contact_tick: BTreeMap::new(),
            wish: None,
            wish_index: 0,
            founding_index: 0,
            level: 0,
            level_index: 0,
            leases: Timers::new(),
            waiters: Timers::new(),
            by_ticket: BTreeMap::new(),
        };
        let Some(table) = table else { return leader };
        // Nothing else happens on the thread meanwhile, and a shard may have a million leases.
        leader.leases.set_new(table.leases().map(|live| {
            let deadline_ms = observation.deadline_ms(&live, now_ms);
            let deadline_ms = planted_bugs::taken_over_until_ms(deadline_ms, live.ttl_ms);
            (live.lease, deadline_ms, live.renewal_seq)
        }));
        for (name, request_id) in table.waiters() {
            leader.attach(request_id, name, None, now_ms + grace_ms);
        }
        leader
    }

    /// Notes that a member has answered in this term.
    pub(crate) fn note_contact(&mut self, id: u64, now_ms: u64, tick: u64) {
        self.contact_ms.insert(id, now_ms);
        self.contact_tick.insert(id, tick);
    }

    /// Whether a member has answered in the last `patience` ticks before `now`. `None`: it has not
    /// answered in this term, which is younger than that.
    pub(crate) fn is_heard(&self, id: u64, now: u64, patience: u64) -> Option<bool> {
        let contact = self.contact_tick.get(&id).copied();
        let is_silent = now - self.since_tick > patience;
        match contact {
            Some(tick) => Some(now - tick <= patience),
            None => is_silent.then_some(false),
        }
    }

    /// When a member last answered. At first all count as having answered when this leadership
    /// began, because a majority voted for it.
    pub(crate) fn last_contact_ms(&self, id: u64) -> u64 {
        self.contact_ms.get(&id).copied().unwrap_or(self.since_ms)
    }

    /// Sets or removes the deadline of a lease.
    pub(crate) fn on_lease(&mut self, event: LeaseEvent, now_ms: u64) {
        match event {
            LeaseEvent::Alive { lease, ttl_ms, renewal_seq } => {
                // The clock is cut to whole milliseconds, and this one may be nearly over. Without
                // the 1 the lease could end up to 1 ms early.
                self.leases.set(lease, now_ms + u64::from(ttl_ms) + 1, renewal_seq);
            }
            LeaseEvent::Gone { lease } => {
                self.leases.remove(lease);
            }
        }
    }

    /// An acquire was queued, or queued again. A waiter of an earlier attempt is answered.
    pub(crate) fn on_queued(
        &mut self,
        request_id: RequestId,
        name: &str,
        asked: Option<&Caller>,
        now_ms: u64,
        replies: &mut Vec<(Ticket, Reply)>,
    ) {
        if let Some(ticket) = self.remove_waiter(request_id).and_then(|old| old.ticket) {
            replies.push((ticket, Reply::Superseded));
        }
        match asked {
            Some(Caller { ticket, wait: Some(Wait { wait_ms, .. }) }) => {
                self.attach(request_id, name, Some(*ticket), now_ms + u64::from(*wait_ms));
            }
            _ => self.attach(request_id, name, None, now_ms + self.grace_ms),
        }
    }

    /// A queued acquire was granted: answers its waiter.
    pub(crate) fn on_granted(&mut self, grant: &Grant, replies: &mut Vec<(Ticket, Reply)>) {
        let waiter = self.remove_waiter(grant.request_id);
        if let Some(ticket) = waiter.and_then(|waiter| waiter.ticket) {
            replies.push((ticket, Reply::Done(locks::Outcome::Granted(grant.clone()))));
        }
    }

    /// A queued acquire left its queue without a grant: answers its waiter.
    pub(crate) fn on_dropped(
        &mut self,
        id: RequestId,
        reason: DropReason,
        replies: &mut Vec<(Ticket, Reply)>,
    ) {
        if let Some(Waiter { ticket: Some(ticket), timed_out, .. }) = self.remove_waiter(id) {
            let reply = match reason {
                DropReason::Cancelled if timed_out => Reply::WaitTimeout,
                DropReason::Cancelled => Reply::WaitCancelled,
                DropReason::SessionEnded => Reply::Done(locks::Outcome::SessionLost),
            };
            replies.push((ticket, reply));
        }
    }

    /// The stream of a waiting acquire is gone. The acquire keeps its place for the grace period.
    /// Returns `false` if no acquire with this ticket is in a queue.
    pub(crate) fn detach(&mut self, ticket: Ticket, now_ms: u64) -> bool {
        let Some(request_id) = self.by_ticket.remove(&ticket) else { return false };
        if let Some(mut waiter) = self.waiters.remove(request_id) {
            waiter.ticket = None;
            self.waiters.set(request_id, now_ms + self.grace_ms, waiter);
        }
        true
    }

    /// Queues the ends of leases and waits that have come due.
    pub(crate) fn propose_due(&mut self, now_ms: u64, proposals: &mut Proposals) {
        for _ in 0..DUE_PER_STEP_MAX {
            if !proposals.has_room_for_own() {
                return;
            }
            let Some((lease, renewal_seq)) = self.leases.pop_due(now_ms) else { break };
            self.leases.set(lease, now_ms + REPROPOSE_MS, renewal_seq);
            push(proposals, &Command::ExpireLease { lease, renewal_seq });
        }
        for _ in 0..DUE_PER_STEP_MAX {
            if !proposals.has_room_for_own() {
                return;
            }
            let Some((request_id, mut waiter)) = self.waiters.pop_due(now_ms) else { break };
            waiter.timed_out = true;
            push(
                proposals,
                &Command::CancelWait { name: &waiter.name, request_id, given_up: false },
            );
            self.waiters.set(request_id, now_ms + REPROPOSE_MS, waiter);
        }
    }

    /// Leadership is gone: all attached waiters get `reply`. They keep their places in the queues,
    /// so a grant may come of them yet, and `reply` must not say that nothing was done.
    pub(crate) fn end(mut self, reply: &Reply, replies: &mut Vec<(Ticket, Reply)>) {
        let waiters = self.waiters.drain_sorted();
        let tickets = waiters.iter().filter_map(|(_, waiter)| waiter.ticket);
        replies.extend(tickets.map(|ticket| (ticket, reply.clone())));
    }

    fn attach(
        &mut self,
        request_id: RequestId,
        name: &str,
        ticket: Option<Ticket>,
        deadline_ms: u64,
    ) {
        if let Some(ticket) = ticket {
            self.by_ticket.insert(ticket, request_id);
        }
        self.waiters.set(
            request_id,
            deadline_ms,
            Waiter { name: name.to_owned(), ticket, timed_out: false },
        );
    }

    fn remove_waiter(&mut self, request_id: RequestId) -> Option<Waiter> {
        let waiter = self.waiters.remove(request_id)?;
        if let Some(ticket) = waiter.ticket {
            self.by_ticket.remove(&ticket);
        }
        Some(waiter)
    }
}

fn push(proposals: &mut Proposals, command: &Command<'_>) {
    let mut bytes = Vec::with_capacity(32);
    command.encode(&mut bytes);
    proposals.push_own(bytes);
}
