//! One shard in the model: a queue, entries in flight, and acknowledgements.
//!
//! It follows the rules of `shard`. One entry is in flight at a time, unless the queue fills a good
//! part of the next entry. The next entry waits for clients that were just answered, because they
//! soon send again. A commit index travels with the next entry. The module knows nothing of
//! processors, disks and links.

use crate::agenda::Ns;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// A node, by its place in the model.
pub(crate) type NodeIx = usize;
/// A shard, by its place in the model.
pub(crate) type ShardIx = usize;

/// An entry may go although others are in flight if it has the largest size divided by this.
const WELL_FILLED: f64 = 4.0;
/// Bounds of the time that the next entry waits for clients that were just answered, in
/// milliseconds.
const PATIENCE_MS: RangeInclusive<u64> = 1..=16;
/// Where clients do not come back, one entry in this many tries whether they do now.
const TRIED_EVERY: u64 = 128;
/// Shards count time in whole milliseconds.
const NS_PER_MS: Ns = 1_000_000;

/// An operation that a client waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Op {
    /// When its client sent it.
    pub(crate) sent: Ns,
    /// Closed loop: the client that sent the operation.
    pub(crate) client: u32,
    /// Size of the operation in the log.
    pub(crate) bytes: f64,
    /// Cost relative to an operation of the calibration: 1 except for renewals.
    pub(crate) weight: f64,
    /// A renewal of a lease.
    pub(crate) renewal: bool,
}

/// The sum of the weights of operations.
pub(crate) fn weight(ops: &[Op]) -> f64 {
    ops.iter().map(|op| op.weight).sum()
}

/// Bounds of a shard, the same as in its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) entry_bytes_max: f64,
    pub(crate) entries_in_flight_max: usize,
    pub(crate) queue_ops_max: usize,
}

/// An entry on its way to the followers and the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    /// The weight of its operations.
    pub(crate) weight: f64,
    /// The weight of the operations that followers may apply once they have this entry: all
    /// operations that were committed since the entry before.
    pub(crate) committed: f64,
}

struct InFlight {
    index: u64,
    at_ms: u64,
    ops: Vec<Op>,
}

/// A wait of the next entry: it ends at this time, or when this many operations are queued.
struct Hold {
    until_ms: u64,
    operations: usize,
    told: bool,
}

/// * Entries in flight rise by index, each by one.
/// * An operation is in the queue or in one entry in flight, never in both.
/// * The commit of an operation travels to followers with exactly one entry.
pub(crate) struct Group {
    /// `None` while no replica serves.
    pub(crate) leader: Option<NodeIx>,
    pub(crate) replicas: Vec<NodeIx>,
    bounds: Bounds,
    queue: VecDeque<Op>,
    queued_bytes: f64,
    in_flight: VecDeque<InFlight>,
    hold: Option<Hold>,
    /// The longest hold, in milliseconds, and the entries since clients last came back in time.
    patience: (u64, u64),
    /// The weight of committed operations that no entry has announced to followers.
    untold: f64,
    last_index: u64,
    /// The highest index on the disk of each replica.
    acked: Vec<u64>,
}

impl Group {
    pub(crate) fn new(leader: NodeIx, replicas: Vec<NodeIx>, bounds: Bounds) -> Group {
        assert!(replicas.contains(&leader), "node {leader} leads what it does not hold");
        let acked = vec![0; replicas.len()];
        Group {
            leader: Some(leader),
            replicas,
            bounds,
            queue: VecDeque::new(),
            queued_bytes: 0.0,
            in_flight: VecDeque::new(),
            hold: None,
            patience: (*PATIENCE_MS.end(), 0),
            untold: 0.0,
            last_index: 0,
            acked,
        }
    }

    /// Queues operations. Returns how many found no room.
    pub(crate) fn push(&mut self, ops: Vec<Op>) -> usize {
        let room = self.bounds.queue_ops_max.saturating_sub(self.queue.len());
        let refused = ops.len().saturating_sub(room);
        for op in ops.into_iter().take(room) {
            self.queued_bytes += op.bytes;
            self.queue.push_back(op);
        }
        refused
    }

    /// Returns the next entry, if the rules let it go.
    pub(crate) fn propose(&mut self, now: Ns) -> Option<Entry> {
        let may = match self.in_flight.len() {
            0 => !self.queue.is_empty() && !self.holds(now),
            entries => {
                entries < self.bounds.entries_in_flight_max
                    && self.queued_bytes >= self.bounds.entry_bytes_max / WELL_FILLED
            }
        };
        if !may {
            return None;
        }
        if let Some(hold) = self.hold.take() {
            let (ms, entries) = self.patience;
            self.patience = match self.queue.len() >= hold.operations {
                true => (*PATIENCE_MS.end(), 0),
                false => ((ms * 3 / 4).max(*PATIENCE_MS.start()), entries + 1),
            };
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
        let entry = Entry {
            index: self.last_index,
            weight: weight(&ops),
            committed: std::mem::take(&mut self.untold),
        };
        self.in_flight.push_back(InFlight { index: self.last_index, at_ms: now / NS_PER_MS, ops });
        Some(entry)
    }

    fn holds(&self, now: Ns) -> bool {
        self.hold.as_ref().is_some_and(|hold| {
            now / NS_PER_MS < hold.until_ms && self.queue.len() < hold.operations
        })
    }

    /// The time of the next look at the queue, returned only once. Threads sleep for whole
    /// milliseconds.
    pub(crate) fn wake_at(&mut self, now: Ns) -> Option<Ns> {
        if !self.in_flight.is_empty() || self.queue.is_empty() || !self.holds(now) {
            return None;
        }
        let hold = self.hold.as_mut()?;
        let sleeps = (hold.until_ms - now / NS_PER_MS) * NS_PER_MS;
        (!std::mem::replace(&mut hold.told, true)).then_some(now + sleeps)
    }

    /// Records that a replica has every entry up to `index` on disk.
    pub(crate) fn acknowledged(&mut self, node: NodeIx, index: u64) {
        if let Some(at) = self.replicas.iter().position(|replica| *replica == node) {
            self.acked[at] = self.acked[at].max(index);
        }
    }

    /// The last entry that a quorum has on disk.
    fn committed(&self) -> u64 {
        let mut acked = self.acked.clone();
        acked.sort_unstable_by(|left, right| right.cmp(left));
        acked[planner::quorum(self.replicas.len() as u32) as usize - 1]
    }

    /// Applies the next committed entry, and returns its operations.
    pub(crate) fn apply(&mut self, now: Ns) -> Option<Vec<Op>> {
        if self.in_flight.front()?.index > self.committed() {
            return None;
        }
        let InFlight { at_ms, ops, .. } = self.in_flight.pop_front()?;
        let now_ms = now / NS_PER_MS;
        let patience_ms = match self.patience {
            (_, entries) if entries % TRIED_EVERY == TRIED_EVERY - 1 => *PATIENCE_MS.end(),
            (ms, _) => ms,
        };
        self.hold = Some(Hold {
            until_ms: now_ms + (2 * (now_ms - at_ms)).min(patience_ms),
            operations: (7 * (ops.len() + self.queue.len())).div_ceil(8),
            told: false,
        });
        self.untold += weight(&ops);
        Some(ops)
    }

    /// Removes a dead leader. Returns the waiting operations, so that their senders try again.
    pub(crate) fn orphaned(&mut self) -> Vec<Op> {
        (self.leader, self.hold, self.queued_bytes, self.untold) = (None, None, 0.0, 0.0);
        let in_flight = self.in_flight.drain(..).flat_map(|entry| entry.ops);
        let mut all: Vec<Op> = in_flight.collect();
        all.extend(self.queue.drain(..));
        all
    }

    /// Installs a new leader; its log has every committed entry.
    pub(crate) fn elected(&mut self, node: NodeIx) {
        assert!(
            self.in_flight.is_empty() && self.replicas.contains(&node),
            "node {node} cannot lead"
        );
        self.leader = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { entry_bytes_max: 400.0, entries_in_flight_max: 2, queue_ops_max: 10 };

    fn ops(count: usize) -> Vec<Op> {
        vec![Op { sent: 0, client: 0, bytes: 40.0, weight: 1.0, renewal: false }; count]
    }

    fn proposed(group: &mut Group, now: Ns) -> Option<(u64, f64)> {
        group.propose(now).map(|entry| (entry.index, entry.weight))
    }

    /// A group with one replica. Its entry of `count` operations was proposed at 0 and applied
    /// after `took_ms`.
    fn answered(count: usize, took_ms: u64) -> Group {
        let mut group = Group::new(0, vec![0], BOUNDS);
        group.push(ops(count));
        assert_eq!(proposed(&mut group, 0), Some((1, count as f64)));
        group.acknowledged(0, 1);
        assert_eq!(group.apply(took_ms * NS_PER_MS), Some(ops(count)));
        group
    }

    #[test]
    fn a_quorum_commits_and_not_one_less() {
        for (replicas, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let mut group = Group::new(0, (0..replicas).collect(), BOUNDS);
            group.push(ops(1));
            assert_eq!(proposed(&mut group, 0), Some((1, 1.0)));
            for node in 0..replicas {
                assert_eq!(
                    group.apply(0).is_some(),
                    node == quorum,
                    "{node} of {replicas} have it"
                );
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
        assert!(group.propose(0).is_some());
        group.push(ops(2));
        assert_eq!(group.propose(0), None, "80 of 400 bytes");
        group.push(ops(1));
        assert_eq!(proposed(&mut group, 0), Some((2, 3.0)), "120 of 400 bytes");
        group.push(ops(10));
        assert_eq!(group.propose(0), None, "two are in flight");
        group.acknowledged(0, 1);
        assert_eq!(group.apply(0).map(|ops| ops.len()), Some(1));
        assert!(group.apply(0).is_none());
        assert_eq!(proposed(&mut group, 0), Some((3, 10.0)), "as many as fit");
    }

    #[test]
    fn the_next_entry_waits_for_most_of_who_was_answered_and_who_is_queued() {
        let mut group = answered(8, 10);
        let now = 10 * NS_PER_MS;
        assert_eq!(group.wake_at(now), None, "nothing is queued");
        group.push(ops(6));
        assert_eq!(group.propose(now), None, "6 of 8");
        group.push(ops(1));
        assert_eq!(proposed(&mut group, now), Some((2, 7.0)), "7 of 8");
        // Operations that are queued at the moment of the answer count too.
        group.push(ops(2));
        group.acknowledged(0, 2);
        assert!(group.apply(2 * now).is_some());
        group.push(ops(5));
        assert_eq!(group.propose(2 * now), None, "7 of 7 and 2");
        group.push(ops(1));
        assert_eq!(proposed(&mut group, 2 * now), Some((3, 8.0)), "8 of 7 and 2");
    }

    #[test]
    fn it_waits_for_twice_of_what_the_last_took_and_no_longer_than_its_patience() {
        for (took_ms, waits_ms) in [(0, 0), (1, 2), (7, 14), (8, 16), (100, 16)] {
            let mut group = answered(8, took_ms);
            group.push(ops(1));
            let now = took_ms * NS_PER_MS;
            for waited_ms in 0..waits_ms {
                assert_eq!(
                    group.propose(now + waited_ms * NS_PER_MS),
                    None,
                    "{waited_ms} ms after {took_ms}"
                );
            }
            let wakes = (waits_ms > 0).then_some(now + waits_ms * NS_PER_MS);
            assert_eq!((group.wake_at(now), group.wake_at(now)), (wakes, None), "said once");
            assert_eq!(
                proposed(&mut group, now + waits_ms * NS_PER_MS),
                Some((2, 1.0)),
                "after {took_ms} ms"
            );
        }
    }

    #[test]
    fn a_commit_travels_with_the_next_entry_and_once() {
        let mut group = answered(3, 0);
        for committed in [3.0, 2.0] {
            group.push(ops(2));
            let entry = group.propose(0).expect("an entry");
            assert_eq!((entry.weight, entry.committed), (2.0, committed));
            group.acknowledged(0, entry.index);
            assert!(group.apply(0).is_some());
        }
    }

    #[test]
    fn what_finds_no_room_is_refused_and_what_waited_is_given_back() {
        let mut group = Group::new(1, vec![0, 1, 2], BOUNDS);
        assert_eq!(group.push(ops(12)), 2);
        assert!(group.propose(0).is_some());
        group.push(ops(3));
        assert_eq!((group.orphaned().len(), group.leader), (13, None));
        group.elected(2);
        group.push(ops(1));
        assert_eq!(proposed(&mut group, 0), Some((2, 1.0)), "indexes go on");
    }

    #[test]
    fn a_new_leader_waits_for_nobody() {
        let mut group = answered(8, 100);
        assert_eq!(group.orphaned(), Vec::new());
        group.elected(0);
        group.push(ops(1));
        assert_eq!(proposed(&mut group, 100 * NS_PER_MS), Some((2, 1.0)));
    }
}
