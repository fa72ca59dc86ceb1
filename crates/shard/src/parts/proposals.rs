//! Operations on their way into the log: queued, then in flight in entries, then answered when
//! their entry is applied.

use crate::api::{Reply, Ticket, Wait};
use crate::machine::EntryBuilder;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// An entry of at least one part in this many of the largest size goes although others are in
/// flight.
const WELL_FILLED: usize = 4;
/// Bounds of the time that the next entry waits for callers that were just answered, in
/// milliseconds.
const PATIENCE_MS: RangeInclusive<u64> = 1..=16;
/// Where callers do not come back, one entry in this many tries whether they do now.
const TRIED_EVERY: u64 = 128;

/// The caller of an operation.
pub(crate) struct Caller {
    pub ticket: Ticket,
    pub wait: Option<Wait>,
}

/// An operation that is in no entry yet. It has no caller if it is the leader's own.
struct Queued {
    asked: Option<Caller>,
    command: Vec<u8>,
    give_up_at_ms: u64,
}

impl Queued {
    fn ticket(&self) -> Option<Ticket> {
        self.asked.as_ref().map(|caller| caller.ticket)
    }

    /// Whether its caller has given up by now.
    fn is_late(&self, now_ms: u64) -> bool {
        self.give_up_at_ms < now_ms
    }
}

/// An entry that was proposed and is not applied yet, with the callers of its operations in order.
/// An operation without a caller is the leader's own, or its caller has gone.
struct InFlight {
    index: u64,
    term: u64,
    at_ms: u64,
    asked: Vec<Option<Caller>>,
}

impl InFlight {
    /// The answers of an entry that may be applied or not.
    fn unknown(&self) -> impl Iterator<Item = (Ticket, Reply)> + '_ {
        self.asked.iter().flatten().map(|caller| (caller.ticket, Reply::Unknown))
    }
}

/// How long the next entry waits for more operations: until this moment, or until this many are
/// queued. See [`Proposals::can_propose`].
struct BatchDelay {
    until_ms: u64,
    operations: usize,
    /// The moment was returned by [`Proposals::wake_at_ms`].
    reported: bool,
}

/// How long entries wait for callers that were just answered. Callers in a closed loop come back,
/// and all work is cheaper if they find one entry. Others do not, and waiting would only make their
/// operations slower.
struct Patience {
    ms: u64,
    /// Entries since the patience was last lost.
    entries: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { ms: *PATIENCE_MS.end(), entries: 0 }
    }
}

impl Patience {
    /// The longest wait of the next entry.
    fn ms(&self) -> u64 {
        let tries = self.entries % TRIED_EVERY == TRIED_EVERY - 1;
        if tries { *PATIENCE_MS.end() } else { self.ms }
    }

    /// An entry has waited, and its callers came back in that time, or they did not.
    fn waited(&mut self, came_back: bool) {
        self.entries += 1;
        self.ms = match came_back {
            true => *PATIENCE_MS.end(),
            false => (self.ms * 3 / 4).max(*PATIENCE_MS.start()),
        };
        if came_back {
            self.entries = 0;
        }
    }
}

/// The operations of one leadership that are not applied yet.
///
/// * An operation is in the queue or in one entry in flight, never in both.
/// * Entries in flight rise by index. All are of this leadership: losing it empties both lists, but
///   a leader that hands leadership over keeps its queue until it knows its successor.
/// * Clients' operations and the leader's own (ends of leases and waits) are bounded apart, so that
///   a flood of the former does not keep the latter out. They share one queue, so that a renewal
///   that came before an expiry also takes effect before it.
/// * An operation that leaves without having been in an entry was not done. The outcome of one that
///   leaves with an unapplied entry is unknown.
pub(crate) struct Proposals {
    queue: VecDeque<Queued>,
    /// How many operations in the queue are the leader's own.
    own_queued: usize,
    /// The bytes of all commands in the queue.
    queued_bytes: usize,
    in_flight: VecDeque<InFlight>,
    batch_delay: Option<BatchDelay>,
    patience: Patience,
    queue_ops_max: usize,
    entry_bytes_max: usize,
    entries_in_flight_max: usize,
}

impl Proposals {
    /// Of at most this many queued operations of each kind, bytes per entry, and entries in flight.
    pub(crate) fn new(
        queue_ops_max: usize,
        entry_bytes_max: usize,
        entries_in_flight_max: usize,
    ) -> Self {
        assert!(entries_in_flight_max > 0 && entry_bytes_max > 0 && queue_ops_max > 0);
        let (queue, in_flight) = (VecDeque::new(), VecDeque::new());
        Proposals {
            queue,
            own_queued: 0,
            queued_bytes: 0,
            in_flight,
            batch_delay: None,
            patience: Patience::default(),
            queue_ops_max,
            entry_bytes_max,
            entries_in_flight_max,
        }
    }

    /// Queues a client's operation. Returns `false` if there is no room.
    pub(crate) fn push(&mut self, asked: Caller, command: Vec<u8>, give_up_at_ms: u64) -> bool {
        let room = self.queue.len() - self.own_queued < self.queue_ops_max;
        if room {
            self.queued_bytes += command.len();
            self.queue.push_back(Queued { asked: Some(asked), command, give_up_at_ms });
        }
        room
    }

    /// Queues an operation of the leader's own. There must be room:
    /// [`has_room_for_own`](Self::has_room_for_own).
    pub(crate) fn push_own(&mut self, command: Vec<u8>) {
        debug_assert!(self.has_room_for_own());
        self.own_queued += 1;
        self.queued_bytes += command.len();
        self.queue.push_back(Queued { asked: None, command, give_up_at_ms: u64::MAX });
    }

    pub(crate) fn has_room_for_own(&self) -> bool {
        self.own_queued < self.queue_ops_max
    }

    /// Whether an operation waits and another entry may go.
    ///
    /// The cost of an entry hardly depends on its size, so that small entries that go early make
    /// all of them later (the trade of Nagle's algorithm, RFC 896):
    ///
    /// * While other entries are in flight, only a well-filled one goes.
    /// * When an entry was answered, its callers are about to come back. If the next entry did not
    ///   wait for them, one half of all callers would always be in flight and the other half
    ///   queued, and entries would be half as full as they could be. So it waits until seven eighths
    ///   of both halves are there, but no longer than twice the time that the last entry took. If
    ///   that was in vain, because callers do not come back, the next entries wait less and less.
    pub(crate) fn can_propose(&self, now_ms: u64) -> bool {
        match self.in_flight.len() {
            0 => !self.queue.is_empty() && !self.delays_batch(now_ms),
            entries => {
                entries < self.entries_in_flight_max
                    && self.queued_bytes >= self.entry_bytes_max / WELL_FILLED
            }
        }
    }

    /// Whether the next entry waits for more operations.
    fn delays_batch(&self, now_ms: u64) -> bool {
        self.batch_delay
            .as_ref()
            .is_some_and(|delay| now_ms < delay.until_ms && self.queue.len() < delay.operations)
    }

    /// The moment when the next entry stops waiting for more operations. Each is returned once.
    pub(crate) fn wake_at_ms(&mut self, now_ms: u64) -> Option<u64> {
        if !self.in_flight.is_empty() || self.queue.is_empty() || !self.delays_batch(now_ms) {
            return None;
        }
        let delay = self.batch_delay.as_mut()?;
        (!std::mem::replace(&mut delay.reported, true)).then_some(delay.until_ms)
    }

    /// The oldest entry in flight after this index: its index, and when it was proposed.
    pub(crate) fn oldest_after(&self, index: u64) -> Option<(u64, u64)> {
        self.in_flight
            .iter()
            .find(|entry| entry.index > index)
            .map(|entry| (entry.index, entry.at_ms))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether no entry is proposed and not applied yet.
    pub(crate) fn nothing_in_flight(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Refuses the oldest operations as far as their callers have given up. Late ones behind an
    /// operation in time are refused by [`proposed`](Self::proposed).
    ///
    /// Their callers try again, most likely. A queue that works through abandoned operations never
    /// gets to those that are still waited for.
    pub(crate) fn refuse_late(&mut self, now_ms: u64, replies: &mut Vec<(Ticket, Reply)>) {
        while let Some(late) = self.queue.pop_front_if(|queued| queued.is_late(now_ms)) {
            self.queued_bytes -= late.command.len();
            replies.extend(late.ticket().map(|ticket| (ticket, Reply::Busy)));
        }
    }

    /// Fills the next entry. Returns its bytes, and how many operations at the queue's front it
    /// covers.
    ///
    /// Those that are late by `now_ms` are covered but left out. The first operation is not late,
    /// after [`refuse_late`](Self::refuse_late).
    pub(crate) fn next_entry(&self, mut entry: impl EntryBuilder, now_ms: u64) -> (Vec<u8>, usize) {
        let mut count = 0;
        for queued in &self.queue {
            if queued.is_late(now_ms) {
                count += 1;
                continue;
            }
            if !entry.is_empty()
                && entry.size_bytes() + queued.command.len() + 8 > self.entry_bytes_max
            {
                break;
            }
            entry.push(&queued.command);
            count += 1;
        }
        (entry.finish(), count)
    }

    /// The `count` operations at the queue's front are in flight in the entry at (index, term) now.
    /// Those that were late when it was made, at `at_ms`, are refused into `replies`.
    pub(crate) fn proposed(
        &mut self,
        index: u64,
        term: u64,
        count: usize,
        at_ms: u64,
        replies: &mut Vec<(Ticket, Reply)>,
    ) {
        debug_assert!(self.in_flight.back().is_none_or(|e| e.index < index));
        // One that goes beside others has waited for nobody.
        if self.in_flight.is_empty()
            && let Some(delay) = self.batch_delay.take()
        {
            self.patience.waited(self.queue.len() >= delay.operations);
        }
        let mut asked = Vec::with_capacity(count);
        for queued in self.queue.drain(..count) {
            self.queued_bytes -= queued.command.len();
            if queued.is_late(at_ms) {
                replies.extend(queued.ticket().map(|ticket| (ticket, Reply::Busy)));
            } else {
                asked.push(queued.asked);
            }
        }
        self.own_queued -= asked.iter().filter(|asked: &&Option<Caller>| asked.is_none()).count();
        self.in_flight.push_back(InFlight { index, term, at_ms, asked });
    }

    /// The callers of the operations in the entry at (index, term), which is being applied, if it
    /// was proposed here. Entries that were overtaken by it are answered into `replies`.
    pub(crate) fn take_applied(
        &mut self,
        index: u64,
        term: u64,
        now_ms: u64,
        replies: &mut Vec<(Ticket, Reply)>,
    ) -> Option<Vec<Option<Caller>>> {
        while let Some(front) = self.in_flight.front() {
            if front.index > index {
                return None;
            }
            let front = self.in_flight.pop_front().expect("just seen");
            if front.index == index && front.term == term {
                let answered = front.asked.iter().flatten().count();
                self.batch_delay = Some(BatchDelay {
                    until_ms: now_ms
                        + (2 * now_ms.saturating_sub(front.at_ms)).min(self.patience.ms()),
                    operations: (7 * (answered + self.queue.len())).div_ceil(8),
                    reported: false,
                });
                return Some(front.asked);
            }
            replies.extend(front.unknown());
        }
        None
    }

    /// Leadership is gone: answers `not_done` to all that is queued, and "unknown" to all in
    /// flight.
    pub(crate) fn fail_all(&mut self, not_done: &Reply, replies: &mut Vec<(Ticket, Reply)>) {
        self.fail_in_flight(replies);
        self.refuse_queued(not_done, replies);
    }

    /// Leadership was handed over: answers "unknown" to all in flight, and keeps the operations of
    /// clients in the queue. The leader's own are dropped, because its successor has deadlines of
    /// its own.
    pub(crate) fn keep_queued(&mut self, replies: &mut Vec<(Ticket, Reply)>) {
        self.fail_in_flight(replies);
        self.queue.retain(|queued| queued.asked.is_some());
        (self.own_queued, self.batch_delay) = (0, None);
        self.queued_bytes = self.queue.iter().map(|queued| queued.command.len()).sum();
    }

    fn fail_in_flight(&mut self, replies: &mut Vec<(Ticket, Reply)>) {
        for entry in self.in_flight.drain(..) {
            replies.extend(entry.unknown());
        }
    }

    /// Refuses all that is queued, because nothing of it was done. Entries in flight stay.
    pub(crate) fn refuse_queued(&mut self, reply: &Reply, replies: &mut Vec<(Ticket, Reply)>) {
        (self.own_queued, self.queued_bytes, self.batch_delay) = (0, 0, None);
        let asked = self.queue.drain(..).filter_map(|queued| queued.ticket());
        replies.extend(asked.map(|ticket| (ticket, reply.clone())));
    }

    /// The caller of this ticket has gone. In the queue its operation is dropped; in flight it goes
    /// on unanswered.
    pub(crate) fn detach(&mut self, ticket: Ticket) {
        if let Some(at) = self.queue.iter().position(|queued| queued.ticket() == Some(ticket)) {
            let queued = self.queue.remove(at).expect("just seen");
            self.queued_bytes -= queued.command.len();
            return;
        }
        for asked in self.in_flight.iter_mut().flat_map(|entry| entry.asked.iter_mut()) {
            if asked.as_ref().is_some_and(|caller| caller.ticket == ticket) {
                *asked = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locks::{BatchBuilder, Stamp};

    /// The time that an entry takes to be applied.
    const TAKES_MS: u64 = 10;

    /// A shard whose callers come back.
    struct Loop {
        proposals: Proposals,
        now_ms: u64,
        index: u64,
    }

    impl Loop {
        fn new() -> Loop {
            Loop { proposals: Proposals::new(10_000, 1 << 20, 4), now_ms: 0, index: 0 }
        }

        fn come(&mut self, count: usize) {
            for ticket in 0..count as u64 {
                let asked = Caller { ticket, wait: None };
                assert!(self.proposals.push(asked, vec![0; 8], u64::MAX));
            }
        }

        /// Proposes what is queued. Returns how many operations that are.
        fn propose(&mut self) -> usize {
            let entry = BatchBuilder::new(Stamp { wall_ms: 0, shard_ms: 0 });
            let (_, count) = self.proposals.next_entry(entry, self.now_ms);
            self.index += 1;
            self.proposals.proposed(self.index, 1, count, self.now_ms, &mut Vec::new());
            count
        }

        /// Applies the entry, while so many other operations come.
        fn apply(&mut self, meanwhile: usize) {
            self.come(meanwhile);
            self.now_ms += TAKES_MS;
            assert!(!self.proposals.can_propose(self.now_ms), "one is in flight");
            let applied = self.proposals.take_applied(self.index, 1, self.now_ms, &mut Vec::new());
            assert!(applied.is_some());
        }

        /// How long the next entry waits, while so many operations come in each millisecond.
        fn waits(&mut self, per_ms: usize) -> u64 {
            let began_ms = self.now_ms;
            while !self.proposals.can_propose(self.now_ms) {
                self.now_ms += 1;
                self.come(per_ms);
            }
            self.now_ms - began_ms
        }
    }

    #[test]
    fn an_entry_waits_for_callers_that_come_back() {
        let mut shard = Loop::new();
        shard.come(8);
        // The other 56 of 64 come while the first eight are in flight.
        assert_eq!(shard.propose(), 8);
        shard.apply(56);
        let mut last = 0;
        for _ in 0..8 {
            // Half of those that were answered, and not all of them one day.
            assert!(shard.waits(8) <= 7);
            last = shard.propose();
            shard.apply(64 - last.min(64));
        }
        assert!(last >= 56, "{last} of 64 are in an entry");
    }

    /// Regression: entries waited for half of the time of an entry, whoever came.
    #[test]
    fn callers_that_do_not_come_back_are_waited_for_less_and_less() {
        let mut shard = Loop::new();
        shard.come(20);
        let mut waits = |per_ms| {
            shard.propose();
            shard.apply(20);
            shard.waits(per_ms)
        };
        let waited: Vec<u64> = (0..TRIED_EVERY).map(|_| waits(0)).collect();
        assert_eq!(waited[..9], [16, 12, 9, 6, 4, 3, 2, 1, 1]);
        assert_eq!(waited.iter().filter(|ms| **ms == 1).count(), TRIED_EVERY as usize - 8);
        assert_eq!(waited.last(), Some(&16), "one entry tries");
        // They come back now, and the next entry that tries sees it.
        let waited: Vec<u64> = (0..TRIED_EVERY + 2).map(|_| waits(5)).collect();
        assert_eq!(waited[..5], [1; 5]);
        assert!(waited.last().is_some_and(|ms| *ms > 1), "{waited:?}");
    }

    #[test]
    fn an_entry_waits_no_longer_than_twice_the_time_of_the_last() {
        let mut shard = Loop::new();
        shard.come(20);
        shard.propose();
        shard.come(2);
        shard.now_ms += 3;
        assert!(shard.proposals.take_applied(1, 1, shard.now_ms, &mut Vec::new()).is_some());
        assert_eq!(shard.proposals.wake_at_ms(shard.now_ms), Some(shard.now_ms + 6));
        assert_eq!(shard.proposals.wake_at_ms(shard.now_ms), None, "it was said");
        assert_eq!(shard.waits(0), 6);
    }
}
