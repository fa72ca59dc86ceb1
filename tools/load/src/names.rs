//! Names of locks: distinct, of one length, equal for equal numbers, and different in each run.
//!
//! The module knows nothing of slots, because the service decides which shard a name belongs to.

use std::fmt::Write;

/// Length of the fixed parts of a name: `b/`, the run in 8 hex digits, `/`, a letter, the number in
/// 10 digits.
pub const NAME_BYTES_MIN: usize = 22;

/// The names of one run.
///
/// * Names of different numbers differ, and so do hot and cold names, and names of different runs.
#[derive(Clone, Copy, Debug)]
pub struct NameSpace {
    /// The number that tells runs apart.
    pub run: u32,
    /// Number of cold names; the names are numbered from 0.
    pub count: u32,
    /// Number of hot names; the names are numbered from 0.
    pub hot: u32,
    /// Length of each name, at least [`NAME_BYTES_MIN`].
    pub bytes: usize,
}

impl NameSpace {
    /// A name that few clients use.
    pub fn cold(&self, number: u32) -> String {
        debug_assert!(number < self.count, "name {number} of {}", self.count);
        self.name('c', number)
    }

    /// A name that many clients use.
    pub fn hot(&self, number: u32) -> String {
        debug_assert!(number < self.hot, "hot name {number} of {}", self.hot);
        self.name('h', number)
    }

    fn name(&self, kind: char, number: u32) -> String {
        const PADDING: &str = "................................................................";
        let mut name = String::with_capacity(self.bytes);
        // Writing to a string cannot fail.
        let _ = write!(name, "b/{:08x}/{kind}{number:010}", self.run);
        while name.len() < self.bytes {
            name.push_str(&PADDING[..PADDING.len().min(self.bytes - name.len())]);
        }
        name
    }
}

/// Random numbers that spread load; they are not fit for secrets. The generator is Xorshift,
/// because its few instructions keep the load cheap to make.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Creates the generator. The same seed gives the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// A random number over the whole range.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.number() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// True in a `share` (0 to 1) of all cases.
    pub fn falls_in(&mut self, share: f64) -> bool {
        share > 0.0 && (self.number() >> 11) as f64 / (1u64 << 53) as f64 <= share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_of_one_length() {
        for bytes in [NAME_BYTES_MIN, 100, 512] {
            let spaces = [7, 8].map(|run| NameSpace { run, count: 1_000, hot: 1_000, bytes });
            let names: BTreeSet<String> = spaces
                .iter()
                .flat_map(|space| (0..1_000).flat_map(|n| [space.cold(n), space.hot(n)]))
                .collect();
            assert_eq!(names.len(), 4_000);
            assert!(names.iter().all(|name| name.len() == bytes));
            assert_eq!(NameSpace { count: u32::MAX, ..spaces[0] }.cold(u32::MAX - 1).len(), bytes);
        }
    }

    #[test]
    fn dice_are_fair_enough() {
        let mut dice = Dice::new(1);
        let hot = (0..100_000).filter(|_| dice.falls_in(0.1)).count();
        assert!((9_000..11_000).contains(&hot), "{hot}");
        assert!(!dice.falls_in(0.0));
        let mut seen = [0u32; 10];
        (0..10_000).for_each(|_| seen[dice.below(10) as usize] += 1);
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
        assert_ne!(Dice::new(1).number(), Dice::new(2).number());
    }
}
