//! The state of the node's disk as a replica knows it: whether it hangs, how slow it is, and which
//! members leadership was offered to since it hangs.
//!
//! This knows nothing of the disk itself: the host watches it, and reports.

/// The health of the disk of this replica's node.
///
/// * `stretch` is at least 1.
/// * `ticks` and `offered` belong to one spell of hanging.
pub(crate) struct DiskHealth {
    hangs: bool,
    stretch: u32,
    /// Ticks since the disk hangs.
    ticks: usize,
    /// Members that leadership was offered to in this spell, by Raft's id.
    offered: Vec<u64>,
}

impl Default for DiskHealth {
    fn default() -> Self {
        DiskHealth { hangs: false, stretch: 1, ticks: 0, offered: Vec::new() }
    }
}

impl DiskHealth {
    /// The host's report. Returns whether the disk began to hang with it, or ceased to.
    pub(crate) fn report(&mut self, hangs: bool, stretch: u32) -> bool {
        self.stretch = stretch.max(1);
        let changed = self.hangs != hangs;
        if changed {
            *self = DiskHealth { hangs, stretch: self.stretch, ..DiskHealth::default() };
        }
        changed
    }

    pub(crate) fn hangs(&self) -> bool {
        self.hangs
    }

    /// Whether the timers of elections stand still in this tick: with a stretch of 3, in two ticks
    /// of three.
    pub(crate) fn skips(&self, tick: u64) -> bool {
        !tick.is_multiple_of(u64::from(self.stretch))
    }

    /// One tick has passed while the disk hangs.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
    }

    /// Ticks since the disk hangs.
    pub(crate) fn ticks(&self) -> usize {
        self.ticks
    }

    /// Members that leadership was offered to since the disk hangs.
    pub(crate) fn offered(&self) -> &[u64] {
        &self.offered
    }

    /// Leadership is offered to this member now.
    pub(crate) fn offer(&mut self, id: u64) {
        self.offered.push(id);
    }
}
