//! Invariant 12: replicas of a shard with an equal applied index have equal state.

use super::{Invariant, Violation};
use std::collections::BTreeMap;

/// The state that one replica reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The shard of the replica.
    pub shard: u32,
    /// The node of the replica.
    pub node: u64,
    /// The index of the last applied entry.
    pub applied_index: u64,
    /// The hash of the table at that index.
    pub state_hash: u64,
}

/// Judges samples taken at any times of one run.
pub fn check_convergence(samples: &[Sample]) -> Vec<Violation> {
    let mut first: BTreeMap<(u32, u64), &Sample> = BTreeMap::new();
    let mut found = Vec::new();
    for sample in samples {
        let known = *first.entry((sample.shard, sample.applied_index)).or_insert(sample);
        if known.state_hash != sample.state_hash {
            found.push(Violation {
                invariant: Invariant::Convergence,
                what: format!(
                    "shard {} at applied index {}: node {} has state {:016x}, node {} has {:016x}",
                    sample.shard,
                    sample.applied_index,
                    known.node,
                    known.state_hash,
                    sample.node,
                    sample.state_hash
                ),
                operations: Vec::new(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_indexes_are_compared() {
        let sample = |shard, node, applied_index, state_hash| Sample {
            shard,
            node,
            applied_index,
            state_hash,
        };
        assert!(
            check_convergence(&[sample(0, 1, 5, 7), sample(0, 2, 6, 8), sample(1, 3, 5, 9)])
                .is_empty()
        );
        assert_eq!(check_convergence(&[sample(0, 1, 5, 7), sample(0, 2, 5, 8)]).len(), 1);
    }
}
