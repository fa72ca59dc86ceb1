//! All decoders of bytes from outside, as plain functions for a fuzzer.
//!
//! A [`Target`] states promises that hold for any bytes. The decoder does not panic. It allocates
//! no more than a stated multiple of the input's length. Accepted bytes come back the same when
//! they are encoded again.
//!
//! `cargo test -p palisade-fuzz` runs the committed corpus and fixed mutations of it.
//! `scripts/fuzz` goes on from there under coverage guidance. The crate does not know the meaning
//! of the bytes for the service.

mod allocation;
pub mod corpus;
mod group;
pub mod mutate;
mod sections;
mod targets;

pub use targets::TARGETS;

/// One decoder, or several decoders of the same bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name of its folder in the corpus.
    pub name: &'static str,
    /// Decodes the bytes, and returns whether they were accepted. Panics if a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// The bytes that may be allocated at a time for each byte of input.
    pub bytes_per_byte: usize,
    /// The bytes that may be allocated beside these, for any input.
    pub bytes_at_least: usize,
}

impl Target {
    /// Finds the target of this name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs the target on these bytes, and returns whether they were accepted.
    ///
    /// # Panics
    /// If the target panics, or allocates more than it may.
    pub fn check(&self, input: &[u8]) -> bool {
        let (taken, peak_bytes) = allocation::peak_bytes_during(|| (self.run)(input));
        let allowed_bytes = self.bytes_at_least + self.bytes_per_byte * input.len();
        assert!(
            peak_bytes <= allowed_bytes,
            "{}: {peak_bytes} bytes were allocated at a time for {} bytes of input, where \
             {allowed_bytes} may be",
            self.name,
            input.len()
        );
        taken
    }
}
