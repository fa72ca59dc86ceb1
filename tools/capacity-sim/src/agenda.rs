//! The agenda: events in order of time. Events of the same time come in the order of planning.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds since the beginning of the simulation.
pub(crate) type Ns = u64;

struct Planned<E> {
    at: (Ns, u64),
    event: E,
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// * Time never goes back: no event is planned before `now`.
pub(crate) struct Agenda<E> {
    now: Ns,
    planned: u64,
    heap: BinaryHeap<Reverse<Planned<E>>>,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Agenda<E> {
        Agenda { now: 0, planned: 0, heap: BinaryHeap::new() }
    }

    pub(crate) fn now(&self) -> Ns {
        self.now
    }

    pub(crate) fn at(&mut self, at: Ns, event: E) {
        assert!(at >= self.now, "an event at {at} is planned at {}", self.now);
        self.planned += 1;
        self.heap.push(Reverse(Planned { at: (at, self.planned), event }));
    }

    pub(crate) fn after(&mut self, delay: Ns, event: E) {
        self.at(self.now + delay, event);
    }

    /// Returns the next event up to `end`, and moves the time to this event.
    pub(crate) fn next(&mut self, end: Ns) -> Option<E> {
        if self.heap.peek()?.0.at.0 > end {
            return None;
        }
        let Reverse(Planned { at: (now, _), event }) = self.heap.pop()?;
        self.now = now;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_planning() {
        let mut agenda = Agenda::new();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
            agenda.at(at, event);
        }
        let order: String = std::iter::from_fn(|| agenda.next(8)).collect();
        assert_eq!((order.as_str(), agenda.now()), ("abcd", 5));
    }
}
