//! The trace of a run: a hash over every event, and readable lines on standard output if they are
//! asked for.
//!
//! Lines are printed at once, so that a run that ends in a panic has them too.

/// * Equal runs have equal hashes. Lines do not enter the hash, printed or not.
pub(crate) struct Trace {
    hash: u64,
    prints: bool,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Trace {
        Trace { hash: 0x6a09_e667_f3bc_c908, prints }
    }

    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(u64::from(crc32c::crc32c(bytes)));
    }

    pub(crate) fn line(&mut self, now_us: u64, line: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>12.6} {}", now_us as f64 / 1e6, line());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
