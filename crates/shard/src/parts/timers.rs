//! Deadlines on a monotonic clock, by key.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rapidhash::fast::SeedableState;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;

/// Keys with a deadline and a value each.
///
/// Setting a later deadline costs one hash lookup, because the heap is corrected only when the old
/// deadline comes up. A lease that is renewed for hours has one entry in the heap.
///
/// * Every key in `live` has at least one entry in `heap` at or before its deadline.
/// * Keys come due in order of (deadline, key), independent of the hash order.
pub(crate) struct Timers<K, V> {
    live: HashMap<K, (u64, V), SeedableState<'static>>,
    heap: BinaryHeap<Reverse<(u64, K)>>,
}

impl<K: Copy + Ord + Hash, V> Timers<K, V> {
    pub(crate) fn new() -> Self {
        Timers { live: HashMap::with_hasher(SeedableState::fixed()), heap: BinaryHeap::new() }
    }

    /// Makes room for more keys, so that none of them costs a move of all.
    pub(crate) fn reserve(&mut self, keys: usize) {
        self.live.reserve(keys);
        self.heap.reserve(keys);
    }

    /// Sets the deadline of a key that has none.
    pub(crate) fn set_if_new(&mut self, key: K, deadline_ms: u64, value: impl FnOnce() -> V) {
        if let Entry::Vacant(vacant) = self.live.entry(key) {
            vacant.insert((deadline_ms, value()));
            self.push(deadline_ms, key);
        }
    }

    /// Sets or moves the deadline of a key.
    pub(crate) fn set(&mut self, key: K, deadline_ms: u64, value: V) {
        match self.live.insert(key, (deadline_ms, value)) {
            Some((before_ms, _)) if before_ms <= deadline_ms => {}
            _ => self.push(deadline_ms, key),
        }
    }

    /// Forgets a key. Its entry in the heap goes when it comes up.
    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.live.remove(&key).map(|(_, value)| value)
    }

    /// Takes the next key with a deadline at or before `now_ms`.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<(K, V)> {
        while let Some(&Reverse((at_ms, key))) = self.heap.peek() {
            if at_ms > now_ms {
                return None;
            }
            self.heap.pop();
            match self.live.get(&key) {
                None => {}
                Some((deadline_ms, _)) if *deadline_ms > now_ms => {
                    self.heap.push(Reverse((*deadline_ms, key)))
                }
                Some(_) => return self.live.remove(&key).map(|(_, value)| (key, value)),
            }
        }
        None
    }

    /// Takes all keys, sorted.
    pub(crate) fn drain_sorted(&mut self) -> Vec<(K, V)> {
        self.heap.clear();
        let mut all: Vec<(K, V)> =
            self.live.drain().map(|(key, (_, value))| (key, value)).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    fn push(&mut self, deadline_ms: u64, key: K) {
        if self.heap.len() > 2 * self.live.len() + 1024 {
            self.heap = self.live.iter().map(|(key, (at_ms, _))| Reverse((*at_ms, *key))).collect();
        }
        self.heap.push(Reverse((deadline_ms, key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_order_and_never_before_a_moved_deadline() {
        let mut timers = Timers::new();
        timers.set(1u64, 10, 'a');
        timers.set(2, 10, 'b');
        timers.set(3, 5, 'c');
        timers.set(3, 30, 'd');
        timers.set(1, 20, 'e');
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(10), Some((2, 'b')));
        assert_eq!(timers.pop_due(19), None);
        timers.set(3, 12, 'f');
        assert_eq!(timers.pop_due(19), Some((3, 'f')));
        assert_eq!(timers.remove(1), Some('e'));
        assert_eq!(timers.pop_due(1_000), None);
    }

    #[test]
    fn a_deadline_that_is_there_is_not_moved_by_one_for_new_keys() {
        let mut timers = Timers::new();
        timers.set(1u64, 20, 'a');
        timers.reserve(2);
        timers.set_if_new(1, 10, || 'b');
        timers.set_if_new(2, 10, || 'c');
        assert_eq!(timers.pop_due(19), Some((2, 'c')));
        assert_eq!((timers.pop_due(19), timers.pop_due(20)), (None, Some((1, 'a'))));
    }

    #[test]
    fn garbage_does_not_pile_up() {
        let mut timers = Timers::new();
        timers.set(u64::MAX, 1, ());
        for key in 0..100_000u64 {
            timers.set(key, 1_000_000, ());
            timers.remove(key);
        }
        assert!(timers.heap.len() < 2_000, "{} entries for one live key", timers.heap.len());
        assert_eq!(timers.pop_due(1), Some((u64::MAX, ())));
    }
}
