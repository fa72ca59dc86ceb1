//! Leader state: lease deadlines, attached waiters, and contact with the members. It is in memory
//! only, on the leader's own monotonic clock.
//!
//! A lease never ends early, for two reasons:
//!
//! * A new leader gives every lease the rest of its TTL (`shard_time.rs`).
//! * A lease that comes due here is only *proposed* to end, under the name of the life that was
//!   timed (`renewal_seq`). A renewal that is applied first wins.

use crate::api::{Reply, Ticket, Wait};
use crate::parts::group::Wanted;
use crate::parts::proposals::{Caller, Proposals};
use crate::parts::shard_time::{LeaderClock, Observation};
use crate::parts::spares::Spares;
use crate::parts::timers::Timers;
use crate::planted_bugs;
use crate::settings::RaftSettings;
use locks::{Command, DropReason, Grant, LeaseEvent, LeaseId, LockTable, RequestId, TimedPlace};
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
/// * `leases` has every lease of the table, and `waiters` every queued acquire, except those that
///   are still to be taken over: unchanged since this leadership began, and at `takes_over` or
///   after it. Until they are, they cannot come due.
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
    /// The place in the table whose rows are taken over next.
    takes_over: Option<TimedPlace>,
    take_over_rows: u32,
}

impl LeaderState {
    /// The state at the beginning, when all of `table` is still to be taken over.
    pub(crate) fn new(
        term: u64,
        (now_ms, tick): (u64, u64),
        settings: &RaftSettings,
        table: Option<&LockTable>,
    ) -> LeaderState {
        let mut leader = LeaderState {
            term,
            spares: Spares::new(settings.append_hold_ms),
            clock: LeaderClock::default(),
            since_ms: now_ms,
            since_tick: tick,
            grace_ms: settings.waiter_grace_ms,
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
            takes_over: table.map(|_| TimedPlace::default()),
            take_over_rows: settings.take_over_rows,
        };
        if let Some(counts) = table.map(LockTable::counts) {
            // At least as many as there are, because a session's grants share its lease.
            leader.leases.reserve((counts.grants + counts.sessions) as usize);
            leader.waiters.reserve(counts.waiters as usize);
        }
        leader
    }

    /// Whether rows are still to be taken over.
    pub(crate) fn is_taking_over(&self) -> bool {
        self.takes_over.is_some()
    }

    /// Takes over the next rows of a table that was observed last by `observation`. Every lease gets
    /// the rest of its TTL, and every waiter the grace period to attach itself again. What changed
    /// since this leadership began has its deadline from the change.
    pub(crate) fn take_over(&mut self, table: &LockTable, observation: &Observation, now_ms: u64) {
        let Some(from) = self.takes_over else { return };
        let (timed, next) = table.timed(from, self.take_over_rows);
        self.takes_over = next;
        for live in timed.leases {
            let deadline_ms = observation.deadline_ms(&live, now_ms);
            let deadline_ms = planted_bugs::taken_over_until_ms(deadline_ms, live.ttl_ms);
            self.leases.set_if_new(live.lease, deadline_ms, || live.renewal_seq);
        }
        for (name, request_id) in timed.waits {
            let waiter = || Waiter { name: name.to_owned(), ticket: None, timed_out: false };
            self.waiters.set_if_new(request_id, now_ms + self.grace_ms, waiter);
        }
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

    /// Queues the ends of leases and waits that have come due, once all rows are taken over. Those
    /// steps follow each other at once, so that the ends of a table that was without a leader for
    /// long would otherwise fill the queue.
    pub(crate) fn propose_due(&mut self, now_ms: u64, proposals: &mut Proposals) {
        if self.is_taking_over() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Now;
    use locks::{Effects, Mode, Stamp, Token};

    const TTL_MS: u32 = 10_000;

    fn acquire(number: u128, name: &str) -> Command<'_> {
        Command::Acquire {
            request_id: RequestId(number),
            name,
            owner: "ann",
            ttl_ms: TTL_MS,
            mode: Mode::Exclusive,
            wait: true,
            session: "",
            metadata: "",
            claim_ttl_ms: 0,
        }
    }

    /// Takes all leases that are due.
    fn due(leader: &mut LeaderState, now_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| leader.leases.pop_due(now_ms).map(|(lease, _)| lease.0)).collect()
    }

    /// Regression: a new leader gave all leases their deadlines in one step. With 250,000 of them
    /// the shard stood still for up to 87 ms.
    #[test]
    fn a_large_table_is_taken_over_in_pieces_while_it_changes() {
        let (mut table, mut effects) = (LockTable::new(), Effects::default());
        let granted = 20_000;
        for number in 1..=granted {
            let name = format!("lock-{number}");
            table.apply(Stamp::default(), &acquire(number.into(), &name), &mut effects);
        }
        table.apply(Stamp::default(), &acquire(30_000, "lock-1"), &mut effects);
        effects.leases.clear();
        let settings = RaftSettings::from(&routing::Settings::default());
        let mut leader = LeaderState::new(2, (0, 0), &settings, Some(&table));
        let observation = Observation::new(0, Now { mono_ms: 0, wall_ms: 0 });
        let mut pieces = 0;
        while leader.is_taking_over() {
            leader.take_over(&table, &observation, pieces);
            pieces += 1;
            if pieces == 1 {
                // One of the first piece, and two that are still to come: renewed, released, renewed.
                let at = Stamp { wall_ms: 5_000, shard_ms: 5_000 };
                let last = format!("lock-{granted}");
                for command in [
                    Command::Renew { name: "lock-3", token: Token(3) },
                    Command::Release { name: "lock-19999", token: Token(19_999), by: None },
                    Command::Renew { name: &last, token: Token(granted) },
                ] {
                    table.apply(at, &command, &mut effects);
                }
                assert_eq!(effects.leases.len(), 3);
                effects.leases.drain(..).for_each(|event| leader.on_lease(event, 5_000));
            }
        }
        // Three for the grants, one for the sessions, one for the waiters.
        assert_eq!(pieces, 5, "a piece is bounded");
        let ttl_ms = u64::from(TTL_MS);
        assert_eq!(due(&mut leader, ttl_ms), []);
        let renewed = [3, 19_999, granted];
        let others: Vec<u64> = (1..=granted).filter(|lease| !renewed.contains(lease)).collect();
        assert_eq!(due(&mut leader, ttl_ms + 10), others, "in order, for all were granted at once");
        assert_eq!(due(&mut leader, ttl_ms + 5_000), []);
        assert_eq!(due(&mut leader, ttl_ms + 5_001), [3, granted]);
        let waiter =
            leader.waiters.pop_due(u64::MAX).map(|(request, waiter)| (request, waiter.name));
        assert_eq!(waiter, Some((RequestId(30_000), "lock-1".to_owned())));
    }
}
