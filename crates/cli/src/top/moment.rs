//! A moment, by two clocks of this machine. The parts of the screen get it as an argument, so that
//! tests choose it.

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Unix milliseconds: ages of moments that servers told are counted from it.
    pub unix_ms: u64,
    /// Milliseconds since the program began. This clock never jumps, so that rates count by it.
    pub ms: u64,
}

impl Moment {
    /// The time since a moment in Unix milliseconds. 0 if that lies ahead, because the clocks of
    /// two machines differ.
    pub fn since_unix(self, unix_ms: u64) -> u64 {
        self.unix_ms.saturating_sub(unix_ms)
    }

    /// The time since an earlier moment.
    pub fn since(self, earlier: Moment) -> u64 {
        self.ms.saturating_sub(earlier.ms)
    }
}
