//! The events to come, in order of time. Events at equal times stand in order of entry.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Item<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// * `number` rises with each entry, so no two items are equal.
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Item<E>>>,
    number: u64,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Agenda { heap: BinaryHeap::new(), number: 0 }
    }

    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        self.number += 1;
        self.heap.push(Reverse(Item { at_us, number: self.number, event }));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|Reverse(item)| (item.at_us, item.event))
    }
}
