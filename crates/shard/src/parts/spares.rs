//! Spare followers, and the appends that a leader delays for them.
//!
//! An entry costs every follower a message, a wake-up, a sync and an acknowledgement, and a quorum
//! needs only half of them. So a leader sends its entries at once to as many followers as a quorum
//! needs beside itself, the **active** ones. Appends for the others, the **spare** ones, are
//! delayed, and entries that follow join them: a spare follower gets few appends, and large ones.
//!
//! ```text
//! time ──►        entry 7      entry 8      entry 9          due
//!
//! active 2        [7]►         [8]►         [9]►
//! active 3        [7]►         [8]►         [9]►
//! spare  4         ┊ 7 ........ ┊ 7 8 ...... ┊ 7 8 9 ........ [7 8 9]►
//! spare  5         ┊ 7 ........ ┊ 7 8 ...... ┊ 7 8 9 ........ [7 8 9]►
//! ```
//!
//! 1. Active are the followers that have most of the log. Among equals they are the next nodes on a
//!    ring, so that leaders on different nodes choose different followers.
//! 2. A delayed append is due after `append_hold_ms`.
//! 3. It is due earlier if an active follower is slow or gone: once an entry is not committed after
//!    half of that time. Then the entry goes to all followers, and a follower that was sent the
//!    entry and did not acknowledge it is not chosen as active for ten seconds.
//!
//! (Paxos calls a leader thrifty that asks no more acceptors than it needs. This one asks all of
//! them, some later.)
//!
//! Safety does not change: messages only come later, as in a slow network, and raft-rs alone
//! decides which entries count as committed. This knows nothing of timers: it returns when it wants
//! to be asked again.

use crate::raft::peer_id::node_of;
use raft::eraftpb::{Message, MessageType};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// At most this many bytes of entries are delayed for one follower. More are worth a message at
/// once.
const DELAYED_BYTES_MAX: usize = 256 << 10;
/// A follower that delayed an entry is not chosen as active for this long, in milliseconds. Where
/// appends are rare, it would be as far as the others each time, and each entry would wait for it
/// anew.
const SLOW_MS: u64 = 10_000;

/// The append that is delayed for one follower.
struct DelayedAppend {
    append: Message,
    bytes: usize,
    since_ms: u64,
}

/// The spare followers of one leadership, and the appends that are delayed for them.
///
/// * Delayed appends end with the leadership. None ever leaves under a later term than its own.
/// * A follower has at most one. It has an entry, and at most [`DELAYED_BYTES_MAX`] bytes of
///   entries, which are consecutive in the log.
/// * Each follower's appends reach the network in the order in which raft-rs made them. Only
///   heartbeats may overtake them, because they tell of no entry that was not acknowledged.
/// * With `delay_ms_max` 0 there are no spare followers.
pub(crate) struct Spares {
    delay_ms_max: u64,
    spare: Vec<u64>,
    delayed: BTreeMap<u64, DelayedAppend>,
    /// The followers that delayed an entry, and until when they are not chosen as active.
    slow_until_ms: BTreeMap<u64, u64>,
    /// The last moment that [`Spares::wake_at_ms`] returned.
    wake_told_ms: u64,
}

impl Spares {
    /// Of appends that are delayed by at most this long.
    pub(crate) fn new(delay_ms_max: u64) -> Spares {
        let (spare, delayed, slow_until_ms) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Spares { delay_ms_max, spare, delayed, slow_until_ms, wake_told_ms: 0 }
    }

    /// Chooses `needed` active ones among the followers, given as (id, last index known to be
    /// there). All others are spare.
    ///
    /// The choice is stable: a spare follower gets entries later, so it has less of the log for
    /// most of the time.
    pub(crate) fn choose(
        &mut self,
        own: u64,
        followers: impl Iterator<Item = (u64, u64)>,
        needed: usize,
        now_ms: u64,
    ) {
        self.slow_until_ms.retain(|_, until_ms| now_ms < *until_ms);
        let own = node_of(own);
        let mut ranked: Vec<_> = followers
            .map(|(id, matched)| {
                (
                    self.slow_until_ms.contains_key(&id),
                    Reverse(matched),
                    node_of(id) < own,
                    node_of(id),
                    id,
                )
            })
            .collect();
        ranked.sort_unstable();
        self.spare = ranked.into_iter().skip(needed).map(|(.., id)| id).collect();
    }

    /// Every follower gets its appends at once.
    pub(crate) fn choose_none(&mut self) {
        self.spare.clear();
    }

    /// Whether no follower is spare.
    pub(crate) fn is_empty(&self) -> bool {
        self.spare.is_empty()
    }

    /// Takes a message that raft-rs wants sent, heartbeats aside. Returns the messages that go now,
    /// in this order: the append that was delayed before, and this message, unless they are
    /// delayed.
    pub(crate) fn route(&mut self, message: Message, now_ms: u64) -> [Option<Message>; 2] {
        let (to, bytes) =
            (message.to, message.entries.iter().map(|entry| entry.data.len()).sum::<usize>());
        let is_spare = self.spare.contains(&to) && message.msg_type() == MessageType::MsgAppend;
        let may_join = |delayed: &DelayedAppend| {
            delayed.bytes + bytes <= DELAYED_BYTES_MAX && continues(&delayed.append, &message)
        };
        match self.delayed.remove(&to) {
            Some(mut delayed) if may_join(&delayed) => {
                delayed.append.commit = message.commit;
                delayed.append.entries.extend(message.entries);
                delayed.bytes += bytes;
                if !is_spare {
                    return [Some(delayed.append), None];
                }
                self.delayed.insert(to, delayed);
                [None, None]
            }
            before => {
                let before = before.map(|delayed| delayed.append);
                if is_spare && bytes <= DELAYED_BYTES_MAX && !message.entries.is_empty() {
                    self.delayed
                        .insert(to, DelayedAppend { append: message, bytes, since_ms: now_ms });
                    return [before, None];
                }
                [before, Some(message)]
            }
        }
    }

    /// The moment when all delayed appends must go. `uncommitted` is the oldest entry that waits
    /// for a quorum: its index, and when it was proposed.
    pub(crate) fn due_ms(&self, uncommitted: Option<(u64, u64)>) -> Option<u64> {
        let oldest_ms = self.delayed.values().map(|delayed| delayed.since_ms).min()?;
        let late_ms = uncommitted.map_or(u64::MAX, |(_, at_ms)| at_ms + self.late_after_ms());
        Some(late_ms.min(oldest_ms + self.delay_ms_max))
    }

    /// Whether this entry, proposed at this moment, should have been committed by now.
    pub(crate) fn is_late(&self, (_, at_ms): (u64, u64), now_ms: u64) -> bool {
        now_ms >= at_ms + self.late_after_ms()
    }

    /// An entry is late if it is not committed this long after it was proposed.
    fn late_after_ms(&self) -> u64 {
        self.delay_ms_max.div_ceil(2)
    }

    /// Notes that these followers delayed an entry, except those that were not even sent it.
    pub(crate) fn mark_slow(&mut self, behind: impl Iterator<Item = u64>, now_ms: u64) {
        let sent = behind.filter(|id| !self.delayed.contains_key(id));
        self.slow_until_ms.extend(sent.map(|id| (id, now_ms + SLOW_MS)));
    }

    /// Takes all delayed appends, and gives them the present commit index, as an append that is
    /// made now would have it.
    pub(crate) fn take_delayed(&mut self, committed: u64) -> impl Iterator<Item = Message> + use<> {
        std::mem::take(&mut self.delayed).into_values().map(move |mut delayed| {
            delayed.append.commit = committed;
            delayed.append
        })
    }

    /// `due_ms`, unless it was returned before, or an earlier moment was that is still to come: it
    /// is asked again then.
    pub(crate) fn wake_at_ms(&mut self, now_ms: u64, due_ms: u64) -> Option<u64> {
        let is_told = now_ms < self.wake_told_ms && self.wake_told_ms <= due_ms;
        (!is_told).then(|| {
            self.wake_told_ms = due_ms;
            due_ms
        })
    }
}

/// Whether the entries of `next` follow those of `append`.
///
/// An entry's place is its index *and* its term. raft-rs's own batching compares only the index,
/// and not even that if the append before has no entries.
fn continues(append: &Message, next: &Message) -> bool {
    let last = append.entries.last().map(|entry| (entry.index, entry.term));
    next.msg_type() == MessageType::MsgAppend
        && next.term == append.term
        && last == Some((next.index, next.log_term))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    const TERM: u64 = 7;

    /// An append of entries of these sizes in bytes, after this index. The entry before is of the
    /// same term.
    fn append(to: u64, after: u64, sizes: &[usize]) -> Message {
        let entry = |(at, bytes): (usize, &usize)| Entry {
            index: after + 1 + at as u64,
            term: TERM,
            data: vec![0; *bytes],
            ..Default::default()
        };
        let entries = sizes.iter().enumerate().map(entry).collect();
        message(
            MessageType::MsgAppend,
            Message { to, index: after, entries, commit: after, ..Default::default() },
        )
    }

    fn message(kind: MessageType, mut message: Message) -> Message {
        (message.term, message.log_term) = (TERM, TERM);
        message.set_msg_type(kind);
        message
    }

    /// The index before each append, and how many entries it has.
    fn shape<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<(u64, usize)> {
        messages.into_iter().map(|message| (message.index, message.entries.len())).collect()
    }

    /// Of leader 1 with the active followers 2 and 3, and the spare ones 4 and 5.
    fn spares() -> Spares {
        let mut spares = Spares::new(10);
        spares.choose(1, (2..=5).map(|id| (id, 0)), 2, 0);
        assert_eq!(spares.spare, [4, 5]);
        spares
    }

    fn passed(spares: &mut Spares, message: Message) -> Vec<(u64, usize)> {
        shape(spares.route(message, 100).iter().flatten())
    }

    fn released(spares: &mut Spares) -> Vec<(u64, usize)> {
        shape(&spares.take_delayed(0).collect::<Vec<_>>())
    }

    #[test]
    fn those_that_have_most_of_the_log_are_active_and_among_equals_the_next_on_the_ring() {
        let mut spares = Spares::new(10);
        let mut chosen = |own, matched: [(u64, u64); 4]| {
            spares.choose(own, matched.into_iter(), 2, 0);
            spares.spare.clone()
        };
        assert_eq!(chosen(1, [(2, 9), (3, 9), (4, 9), (5, 9)]), [4, 5]);
        assert_eq!(chosen(3, [(1, 9), (2, 9), (4, 9), (5, 9)]), [1, 2]);
        assert_eq!(chosen(4, [(1, 9), (2, 9), (3, 9), (5, 9)]), [2, 3]);
        assert_eq!(chosen(1, [(2, 9), (3, 7), (4, 8), (5, 7)]), [3, 5]);
        // A re-seeded node's place on the ring is its node's.
        assert_eq!(chosen(1, [(2 | 1 << 32, 9), (3, 9), (4, 9), (5, 9)]), [4, 5]);
    }

    #[test]
    fn no_follower_is_spare_without_a_quorum_of_others() {
        let mut spares = Spares::new(10);
        spares.choose(1, [(4, 9), (5, 9)].into_iter(), 2, 0);
        assert!(spares.spare.is_empty());
        spares.choose(1, [(5, 9)].into_iter(), 2, 0);
        assert!(spares.spare.is_empty());
    }

    #[test]
    fn a_follower_that_delayed_an_entry_is_not_active_for_a_while() {
        let mut spares = spares();
        [4, 5].iter().for_each(|id| assert_eq!(passed(&mut spares, append(*id, 0, &[8])), []));
        spares.mark_slow([2, 4, 5].into_iter(), 0);
        let mut chosen = |now_ms| {
            spares.choose(1, (2..=5).map(|id| (id, 0)), 2, now_ms);
            spares.spare.clone()
        };
        assert_eq!(chosen(0), [5, 2]);
        assert_eq!(chosen(SLOW_MS - 1), [5, 2]);
        assert_eq!(chosen(SLOW_MS), [4, 5]);
    }

    #[test]
    fn appends_for_spare_followers_become_one_and_others_go_at_once() {
        let mut spares = spares();
        for after in 0..3 {
            for to in [2, 3] {
                assert_eq!(passed(&mut spares, append(to, after, &[8])), [(after, 1)]);
            }
            for to in [4, 5] {
                assert_eq!(passed(&mut spares, append(to, after, &[8])), []);
            }
        }
        let released: Vec<Message> = spares.take_delayed(3).collect();
        assert_eq!(shape(&released), [(0, 3), (0, 3)]);
        for append in released {
            assert_eq!(
                append.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
                [1, 2, 3]
            );
            assert_eq!((append.term, append.log_term, append.commit), (TERM, TERM, 3));
        }
        assert!(spares.take_delayed(3).next().is_none());
    }

    #[test]
    fn a_follower_that_becomes_active_gets_its_delayed_append_with_the_next() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
        spares.choose(1, [(2, 1), (3, 0), (4, 1), (5, 0)].into_iter(), 2, 0);
        assert_eq!(passed(&mut spares, append(4, 1, &[8])), [(0, 2)]);
        assert_eq!(released(&mut spares), []);
    }

    #[test]
    fn only_the_next_entries_of_the_log_join() {
        let other_log_term = Message { log_term: TERM - 1, ..append(4, 1, &[8]) };
        let other_term = Message { term: TERM + 1, ..append(4, 1, &[8]) };
        for other in [append(4, 0, &[8]), append(4, 2, &[8]), other_log_term, other_term] {
            let mut spares = spares();
            assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
            let index = other.index;
            assert_eq!(passed(&mut spares, other), [(0, 1)], "the delayed append goes first");
            assert_eq!(released(&mut spares), [(index, 1)]);
        }
    }

    /// raft-rs sends one to a follower that answers a heartbeat and lags.
    #[test]
    fn an_append_without_entries_joins_and_is_never_delayed_itself() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[])), [(0, 0)]);
        assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
        assert_eq!(passed(&mut spares, append(4, 1, &[])), []);
        assert_eq!(passed(&mut spares, append(4, 0, &[])), [(0, 1), (0, 0)], "an older one");
    }

    #[test]
    fn no_other_message_overtakes_a_delayed_append() {
        for kind in
            [MessageType::MsgSnapshot, MessageType::MsgTimeoutNow, MessageType::MsgReadIndexResp]
        {
            let mut spares = spares();
            assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
            let sent = spares.route(message(kind, Message { to: 4, ..Default::default() }), 100);
            let kinds: Vec<MessageType> = sent.iter().flatten().map(Message::msg_type).collect();
            assert_eq!(kinds, [MessageType::MsgAppend, kind]);
            assert_eq!(released(&mut spares), []);
        }
    }

    #[test]
    fn many_bytes_are_not_delayed() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[DELAYED_BYTES_MAX])), []);
        assert_eq!(passed(&mut spares, append(4, 1, &[1])), [(0, 1)]);
        assert_eq!(passed(&mut spares, append(4, 2, &[DELAYED_BYTES_MAX - 1])), []);
        assert_eq!(passed(&mut spares, append(4, 3, &[DELAYED_BYTES_MAX + 1])), [(1, 2), (3, 1)]);
        assert_eq!(released(&mut spares), []);
    }

    #[test]
    fn it_is_due_when_the_oldest_is_old_or_an_entry_is_not_committed_for_half_as_long() {
        let mut spares = spares();
        assert_eq!(spares.due_ms(Some((1, 100))), None, "nothing is delayed");
        spares.route(append(5, 0, &[8]), 98);
        spares.route(append(4, 0, &[8]), 100);
        spares.route(append(4, 1, &[8]), 105);
        assert_eq!(spares.due_ms(None), Some(108));
        assert_eq!(spares.due_ms(Some((1, 100))), Some(105));
        assert_eq!(spares.due_ms(Some((2, 105))), Some(108));
        assert!(!spares.is_late((1, 100), 104) && spares.is_late((1, 100), 105));
    }

    #[test]
    fn a_moment_is_returned_once_and_a_later_one_when_it_has_come() {
        let mut spares = spares();
        assert_eq!(spares.wake_at_ms(100, 110), Some(110));
        assert_eq!(spares.wake_at_ms(101, 110), None);
        assert_eq!(spares.wake_at_ms(102, 112), None, "it is asked again at 110");
        assert_eq!(spares.wake_at_ms(103, 105), Some(105));
        assert_eq!(spares.wake_at_ms(105, 112), Some(112));
    }
}
