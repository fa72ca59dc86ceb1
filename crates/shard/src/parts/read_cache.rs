//! Results that are kept between reads, because the next read may need them too.

/// The state hash at an index, and when the table was last listed.
#[derive(Default)]
pub(crate) struct ReadCache {
    /// (applied index, state hash): many may ask for the hash of an unchanged table at once.
    hash: Option<(u64, u64)>,
    listed_at_ms: u64,
}

impl ReadCache {
    /// The state hash at this applied index, if it is known.
    pub(crate) fn hash_at(&self, applied_index: u64) -> Option<u64> {
        self.hash.filter(|(index, _)| *index == applied_index).map(|(_, hash)| hash)
    }

    pub(crate) fn keep_hash(&mut self, applied_index: u64, hash: u64) {
        self.hash = Some((applied_index, hash));
    }

    /// The table is being listed.
    pub(crate) fn note_listing(&mut self, now_ms: u64) {
        self.listed_at_ms = now_ms;
    }

    /// Milliseconds since the table was last listed.
    pub(crate) fn since_listing_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.listed_at_ms)
    }
}
