//! One shard as the model sees it: a queue, entries in flight, and who has acknowledged what.
//!
//! It follows the first rule of `shard`: one entry is in flight at a time, unless the queue fills a good part of the next. That
//! the next entry also waits for who was just answered is left out. It knows nothing of processors, disks and links.

use super::agenda::Ns;
use std::collections::VecDeque;

/// A node, by its place in the model.
pub(super) type NodeIx = usize;

/// An entry of this part of the largest size goes though others are in flight.
const WELL_FILLED: f64 = 4.0;

/// An operation that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Op {
    /// When its client sent it.
    pub(super) sent: Ns,
    /// Closed loop: whose it is.
    pub(super) client: u32,
    /// In the log.
    pub(super) bytes: f64,
    /// What it costs, in operations of the calibration: 1 but for renewals.
    pub(super) weight: f64,
    /// A renewal of a lease.
    pub(super) renewal: bool,
}

/// The weights of operations together.
pub(super) fn weight(ops: &[Op]) -> f64 {
    ops.iter().map(|op| op.weight).sum()
}

/// Bounds of a shard: as in its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) entry_bytes_max: f64,
    pub(super) entries_in_flight_max: usize,
    pub(super) queue_ops_max: usize,
}

struct InFlight {
    index: u64,
    ops: Vec<Op>,
}

/// - Entries in flight rise by index, each by one.
/// - An operation is in the queue or in one entry in flight, never in both.
pub(super) struct Group {
    /// `None` while nobody serves.
    pub(super) leader: Option<NodeIx>,
    pub(super) replicas: Vec<NodeIx>,
    bounds: Bounds,
    queue: VecDeque<Op>,
    queued_bytes: f64,
    in_flight: VecDeque<InFlight>,
    last_index: u64,
    /// By replica: the highest index on its disk.
    acked: Vec<u64>,
}

impl Group {
    pub(super) fn new(leader: NodeIx, replicas: Vec<NodeIx>, bounds: Bounds) -> Group {
        assert!(replicas.contains(&leader), "node {leader} leads what it does not hold");
        let acked = vec![0; replicas.len()];
        let (queue, in_flight) = (VecDeque::new(), VecDeque::new());
        Group { leader: Some(leader), replicas, bounds, queue, queued_bytes: 0.0, in_flight, last_index: 0, acked }
    }

    /// Queues operations; how many found no room.
    pub(super) fn push(&mut self, ops: Vec<Op>) -> usize {
        let room = self.bounds.queue_ops_max.saturating_sub(self.queue.len());
        let refused = ops.len().saturating_sub(room);
        for op in ops.into_iter().take(room) {
            self.queued_bytes += op.bytes;
            self.queue.push_back(op);
        }
        refused
    }

    /// The next entry, if the rule lets one go: its index and the weight of its operations.
    pub(super) fn propose(&mut self) -> Option<(u64, f64)> {
        let may = match self.in_flight.len() {
            0 => !self.queue.is_empty(),
            entries => {
                entries < self.bounds.entries_in_flight_max
                    && self.queued_bytes >= self.bounds.entry_bytes_max / WELL_FILLED
            }
        };
        if !may {
            return None;
        }
        let (mut count, mut bytes) = (0, 0.0);
        while let Some(op) = self.queue.get(count) {
            if count > 0 && bytes + op.bytes > self.bounds.entry_bytes_max {
                break;
            }
            bytes += op.bytes;
            count += 1;
        }
        let ops: Vec<Op> = self.queue.drain(..count).collect();
        self.queued_bytes = if self.queue.is_empty() { 0.0 } else { self.queued_bytes - bytes };
        self.last_index += 1;
        let weight = weight(&ops);
        self.in_flight.push_back(InFlight { index: self.last_index, ops });
        Some((self.last_index, weight))
    }

    /// A replica has everything up to `index` on disk.
    pub(super) fn acknowledged(&mut self, node: NodeIx, index: u64) {
        if let Some(at) = self.replicas.iter().position(|replica| *replica == node) {
            self.acked[at] = self.acked[at].max(index);
        }
    }

    /// What a quorum has on disk.
    fn committed(&self) -> u64 {
        let mut acked = self.acked.clone();
        acked.sort_unstable_by(|left, right| right.cmp(left));
        acked[crate::quorum(self.replicas.len() as u32) as usize - 1]
    }

    /// The operations of the next entry that is committed and not applied.
    pub(super) fn apply(&mut self) -> Option<Vec<Op>> {
        if self.in_flight.front()?.index > self.committed() {
            return None;
        }
        self.in_flight.pop_front().map(|entry| entry.ops)
    }

    /// Nobody leads any more: whatever waited, for its senders to try again.
    pub(super) fn orphaned(&mut self) -> Vec<Op> {
        self.leader = None;
        self.queued_bytes = 0.0;
        let in_flight = self.in_flight.drain(..).flat_map(|entry| entry.ops);
        let mut all: Vec<Op> = in_flight.collect();
        all.extend(self.queue.drain(..));
        all
    }

    /// A replica leads; its log has all that was committed.
    pub(super) fn elected(&mut self, node: NodeIx) {
        assert!(self.in_flight.is_empty() && self.replicas.contains(&node), "node {node} cannot lead");
        self.leader = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { entry_bytes_max: 400.0, entries_in_flight_max: 2, queue_ops_max: 10 };

    fn ops(count: usize) -> Vec<Op> {
        vec![Op { sent: 0, client: 0, bytes: 40.0, weight: 1.0, renewal: false }; count]
    }

    #[test]
    fn a_quorum_commits_and_not_one_less() {
        for (replicas, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let mut group = Group::new(0, (0..replicas).collect(), BOUNDS);
            group.push(ops(1));
            assert_eq!(group.propose(), Some((1, 1.0)));
            for node in 0..replicas {
                assert_eq!(group.apply().is_some(), node == quorum, "{node} of {replicas} have it");
                if node == quorum {
                    break;
                }
                group.acknowledged(node, 1);
            }
        }
    }

    #[test]
    fn a_second_entry_goes_only_if_well_filled() {
        let mut group = Group::new(0, vec![0], BOUNDS);
        group.push(ops(1));
        assert!(group.propose().is_some());
        group.push(ops(2));
        assert_eq!(group.propose(), None, "80 of 400 bytes");
        group.push(ops(1));
        assert_eq!(group.propose(), Some((2, 3.0)), "120 of 400 bytes");
        group.push(ops(10));
        assert_eq!(group.propose(), None, "two are in flight");
        group.acknowledged(0, 1);
        assert_eq!(group.apply().map(|ops| ops.len()), Some(1));
        assert!(group.apply().is_none());
        assert_eq!(group.propose(), Some((3, 10.0)), "as many as fit");
    }

    #[test]
    fn what_finds_no_room_is_refused_and_what_waited_is_given_back() {
        let mut group = Group::new(1, vec![0, 1, 2], BOUNDS);
        assert_eq!(group.push(ops(12)), 2);
        assert!(group.propose().is_some());
        group.push(ops(3));
        assert_eq!((group.orphaned().len(), group.leader), (13, None));
        group.elected(2);
        group.push(ops(1));
        assert_eq!(group.propose(), Some((2, 1.0)), "indexes go on");
    }
}
