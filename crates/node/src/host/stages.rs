//! When the entries of a shard passed their stages, for the traces of operations.

use shard::Outputs;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

/// The stages of one entry on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryTimes {
    pub(crate) proposed: SystemTime,
    /// A quorum has the entry on disk, and its application begins.
    pub(crate) committed: SystemTime,
    pub(crate) applied: SystemTime,
}

/// The entries of one shard that were proposed here and are not applied yet. Kept while traces are
/// on.
#[derive(Debug, Default)]
pub(super) struct Stages {
    proposed: VecDeque<SystemTime>,
}

impl Stages {
    /// Notes what a step did between these moments. Returns the stages of the last entry that it
    /// applied, if that was proposed here.
    pub(super) fn stepped(
        &mut self,
        outputs: &Outputs,
        began: SystemTime,
        ended: SystemTime,
    ) -> Option<Arc<EntryTimes>> {
        let applied = outputs.entries_applied.min(self.proposed.len());
        let last = self.proposed.drain(..applied).next_back();
        if outputs.leadership.is_some() {
            self.proposed.clear(); // the entries in flight were answered as unknown
        }
        self.proposed.extend(std::iter::repeat_n(ended, outputs.entries_proposed));
        last.map(|proposed| Arc::new(EntryTimes { proposed, committed: began, applied: ended }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::NodeId;
    use shard::Leadership;
    use std::time::Duration;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn an_entry_is_committed_when_the_step_that_applies_it_begins() {
        let mut stages = Stages::default();
        let did = |entries_applied, entries_proposed| Outputs {
            entries_applied,
            entries_proposed,
            ..Outputs::default()
        };
        assert_eq!(stages.stepped(&did(0, 2), at(1), at(2)), None);
        let first = stages.stepped(&did(1, 1), at(5), at(6)).unwrap();
        assert_eq!(*first, EntryTimes { proposed: at(2), committed: at(5), applied: at(6) });
        let both = stages.stepped(&did(2, 0), at(8), at(9)).unwrap();
        assert_eq!(*both, EntryTimes { proposed: at(6), committed: at(8), applied: at(9) });

        // Entries that a lost leadership left in flight are never applied for their callers.
        stages.stepped(&did(0, 1), at(10), at(11));
        let leadership = Some(Leadership { leader: Some(NodeId(2)), term: 7, is_me: false });
        let lost = Outputs { leadership, ..did(0, 0) };
        assert_eq!(stages.stepped(&lost, at(12), at(13)), None);
        assert_eq!(stages.stepped(&did(1, 0), at(14), at(15)), None);
    }
}
