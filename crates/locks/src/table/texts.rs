//! Principals, owners and metadata. Rows with equal texts share one allocation, because a client gives
//! each of its locks the same.
//!
//! This is a cache, not an index. A text that is used again soon is shared, any other gets an
//! allocation of its own, and nothing has to be done when a row goes. Sharing is not visible from
//! outside. This module knows nothing of rows.

use crate::hash::hash_str;
use std::sync::Arc;

/// Rows per place of the cache. An owner of fewer rows need not share, because it saves little.
const ROWS_PER_PLACE: usize = 16;
const PLACES_MIN: usize = 64;
const PLACES_MAX: usize = 1 << 16;

/// The most recent text at each place of the cache.
///
/// - Each text is at the place that its hash names, or nowhere.
#[derive(Debug)]
pub(super) struct Texts {
    places: Vec<Option<Arc<str>>>,
}

impl Texts {
    pub(super) const fn new() -> Self {
        Texts { places: Vec::new() }
    }

    /// Principal, owner and metadata joined in one text, for a table of `rows` rows.
    pub(super) fn joined(&mut self, texts: &[&str; 3], rows: usize) -> Arc<str> {
        let wanted = (rows / ROWS_PER_PLACE).next_power_of_two().clamp(PLACES_MIN, PLACES_MAX);
        // Start over if the cache is too small, or so large that the texts it keeps alive matter.
        if !(wanted..=4 * wanted).contains(&self.places.len()) {
            self.places = vec![None; wanted];
        }
        let [principal, owner, metadata] = *texts;
        let mut hash = hash_str(owner) ^ hash_str(metadata).rotate_left(1);
        if !principal.is_empty() {
            hash ^= hash_str(principal).rotate_left(2);
        }
        let at = hash as usize & (self.places.len() - 1);
        match &self.places[at] {
            Some(text) if is(text, texts) => text.clone(),
            _ => {
                let text: Arc<str> = texts.concat().into();
                self.places[at] = Some(text.clone());
                text
            }
        }
    }
}

/// Whether the texts, joined, are `text`.
///
/// Empty ones are not compared. An empty string can point to no memory, and where the C library
/// reads strings with a mask, the processor takes some 100 ns to suppress the fault.
fn is(text: &str, texts: &[&str; 3]) -> bool {
    let mut rest = Some(text);
    for part in texts.iter().filter(|part| !part.is_empty()) {
        rest = rest.and_then(|rest| rest.strip_prefix(*part));
    }
    rest.is_some_and(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_kept_once_and_others_apart() {
        let mut texts = Texts::new();
        let owners: Vec<String> = (0..8).map(|n| format!("pod-{n}")).collect();
        let first: Vec<_> =
            owners.iter().map(|owner| texts.joined(&["ann", owner, "zone=a"], 1_000_000)).collect();
        let again: Vec<_> =
            owners.iter().map(|owner| texts.joined(&["ann", owner, "zone=a"], 1_000_000)).collect();
        assert!(first.iter().zip(&again).all(|(first, again)| Arc::ptr_eq(first, again)));
        assert!(
            owners.iter().zip(&first).all(|(owner, text)| **text == format!("ann{owner}zone=a"))
        );
        assert_eq!(*texts.joined(&["ann", "pod-1", "zone=b"], 1_000_000), *"annpod-1zone=b");
        assert_eq!(*texts.joined(&["", "pod-1", "zone=a"], 1_000_000), *"pod-1zone=a");
    }

    #[test]
    fn the_cache_keeps_few_texts() {
        let mut texts = Texts::new();
        let held = |texts: &Texts| texts.places.iter().flatten().count();
        for n in 0..100_000 {
            texts.joined(&["", &n.to_string(), ""], n);
            assert!(held(&texts) <= PLACES_MIN.max(n / 4), "{} texts of {n} rows", held(&texts));
        }
        texts.joined(&["", "last", ""], 10);
        assert!(held(&texts) <= PLACES_MIN, "{} texts are kept for 10 rows", held(&texts));
    }
}
