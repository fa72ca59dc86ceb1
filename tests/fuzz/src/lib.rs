//! Everything that decodes bytes from outside, as plain functions to throw bytes at.
//!
//! A [`Target`] promises what its decoder does: whatever the bytes, it does not panic, it allocates no more than a stated multiple of
//! their length, and what it takes it gives back the same. `cargo test -p palisade-fuzz` throws the committed corpus and fixed
//! mutations of it; `scripts/fuzz` goes on from there under coverage guidance. It knows nothing of what the bytes mean to the service.

mod allocation;
pub mod corpus;
mod group;
pub mod mutate;
mod sections;
mod targets;

pub use targets::TARGETS;

/// One decoder, or several that see the same bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Of its folder in the corpus.
    pub name: &'static str,
    /// Takes the bytes or refuses them; `true` if it took them. Panics where a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// How many bytes may be allocated at a time for each byte of input…
    pub bytes_per_byte: usize,
    /// … and beside these, whatever the input.
    pub bytes_at_least: usize,
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs it on these bytes; `true` if it took them.
    ///
    /// # Panics
    /// If it does, or allocates more than it may.
    pub fn check(&self, input: &[u8]) -> bool {
        let (taken, peak_bytes) = allocation::peak_bytes_during(|| (self.run)(input));
        let allowed_bytes = self.bytes_at_least + self.bytes_per_byte * input.len();
        assert!(
            peak_bytes <= allowed_bytes,
            "{}: {peak_bytes} bytes were allocated at a time for {} bytes of input, where {allowed_bytes} may be",
            self.name,
            input.len()
        );
        taken
    }
}
