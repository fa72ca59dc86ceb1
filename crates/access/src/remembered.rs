//! A bounded memory of values that go back to their first state.

use std::collections::BTreeMap;

/// Shortest time between two looks for values that can be forgotten.
const LOOK_EVERY_MS: u64 = 1_000;

/// Values by key, each the default at first.
///
/// * At most `max` are remembered.
/// * When a new key comes, idle values are forgotten, at most once per second. So a burst of keys
///   gives its memory back, and many keys do not each cost a walk over all values.
#[derive(Debug)]
pub struct Remembered<K, V> {
    max: usize,
    looked_ms: u64,
    values: BTreeMap<K, V>,
}

impl<K: Ord + Clone, V: Default> Remembered<K, V> {
    /// Remembers at most `max` values.
    pub fn new(max: usize) -> Remembered<K, V> {
        Remembered { max, looked_ms: 0, values: BTreeMap::new() }
    }

    /// The value of a key, made if there is none. `None` if no further key finds room.
    ///
    /// * `now_ms` is milliseconds on any one monotonic clock.
    /// * `is_idle` says whether a new value would be the same, so that a value can be forgotten.
    ///
    /// ```
    /// use palisade_access::Remembered;
    /// let mut counts = Remembered::<&str, u32>::new(1);
    /// let is_idle = |count: &u32| *count == 0;
    /// *counts.of(&"alice", 0, is_idle).unwrap() += 1;
    /// assert_eq!(counts.of(&"bob", 5_000, is_idle), None);
    /// *counts.of(&"alice", 5_000, is_idle).unwrap() -= 1;
    /// assert_eq!(counts.of(&"bob", 10_000, is_idle), Some(&mut 0));
    /// ```
    pub fn of(&mut self, key: &K, now_ms: u64, is_idle: impl Fn(&V) -> bool) -> Option<&mut V> {
        if !self.values.contains_key(key) {
            if now_ms.saturating_sub(self.looked_ms) >= LOOK_EVERY_MS {
                self.looked_ms = now_ms;
                self.values.retain(|_, value| !is_idle(value));
            }
            if self.is_full() {
                return None;
            }
        }
        Some(self.values.entry(key.clone()).or_default())
    }

    /// The value of a key, if it is remembered.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    /// Whether no further key finds room.
    pub fn is_full(&self) -> bool {
        self.values.len() >= self.max
    }

    /// The number of values that are remembered.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
