//! The signed tokens that were proven lately, over all connections of a gateway.

use access::Digest;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Tokens in one of the two sets.
const TOKENS_MAX: usize = 4_096;

/// The SHA-256 of tokens that were proven lately.
///
/// * A token is in this set because its signature was right. So only the issuer decides which
///   tokens are in it.
/// * When the newer set is full, it becomes the older one. The tokens of the former older one are
///   forgotten. So tokens in use stay, and no clock is needed.
/// * It says that a token is no guess, and not that it is valid: its proof is checked again each
///   time, and a token that fails is forgotten.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Sets>);

#[derive(Debug, Default)]
struct Sets {
    newer: BTreeSet<Digest>,
    older: BTreeSet<Digest>,
}

impl Lately {
    pub(super) fn has(&self, token: &Digest) -> bool {
        self.with(|sets| sets.newer.contains(token) || sets.older.contains(token))
    }

    pub(super) fn add(&self, token: Digest) {
        self.with(|sets| {
            if sets.newer.len() >= TOKENS_MAX && !sets.newer.contains(&token) {
                sets.older = std::mem::take(&mut sets.newer);
            }
            sets.newer.insert(token);
        });
    }

    pub(super) fn forget(&self, token: &Digest) {
        self.with(|sets| {
            sets.newer.remove(token);
            sets.older.remove(token);
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Sets) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: usize) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    #[test]
    fn tokens_without_bound_take_bounded_memory_and_those_in_use_stay() {
        let lately = Lately::default();
        for n in 0..5 * TOKENS_MAX {
            lately.add(token(n));
            if n % 1_000 == 0 {
                lately.add(token(0));
            }
        }
        assert!(lately.has(&token(0)) && lately.has(&token(5 * TOKENS_MAX - 1)));
        assert!(!lately.has(&token(1)));
        assert!(lately.with(|sets| sets.newer.len() + sets.older.len()) <= 2 * TOKENS_MAX);
        lately.forget(&token(0));
        assert!(!lately.has(&token(0)));
    }
}
