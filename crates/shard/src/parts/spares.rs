//! Spare followers, and the appends that a leader delays for them.
//!
//! An entry costs every follower a message, a wake-up, a sync and an acknowledgement, and a quorum
//! needs only half of them. So a leader sends its entries at once to as many followers as a quorum
//! needs besides itself, the **active** ones. Appends for the others, the **spare** ones, are
//! delayed, and later entries are merged into them. So a spare follower gets fewer and larger
//! appends.
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
//! 1. The active followers are those with logs that reach furthest. Among equals they are the next
//!    nodes after the leader, on a ring of all node numbers. So leaders on different nodes choose
//!    different followers.
//! 2. All delayed appends are due `append_hold_ms` after the oldest was delayed.
//! 3. They are due earlier if an entry is late: not committed within half of
//!    `append_hold_ms` after it was proposed. Then an active follower must be slow or gone. The
//!    followers that were sent the late entry and did not acknowledge it are not chosen as active
//!    for ten seconds.
//!
//! (The Paxos literature calls a leader *thrifty* if it contacts only as many acceptors as it
//! needs. This leader contacts all of them, some later.)
//!
//! Safety does not change: messages only come later, as in a slow network, and raft-rs alone
//! decides which entries count as committed. This module has no timers: [`Spares::arm_wake_up`]
//! tells the caller when to ask again.

use crate::raft::peer_id::node_of;
use raft::eraftpb::{Message, MessageType};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// At most this many bytes of entries are delayed for one follower. An append that would exceed
/// this is sent at once.
const DELAYED_BYTES_MAX: usize = 256 << 10;
/// A follower that held up a commit is not chosen as active for this long, in milliseconds. Without
/// this, on a shard with few appends, it would have caught up before the next entry. Then it would
/// be chosen again, and hold up that entry too.
const SLOW_MS: u64 = 10_000;

/// A follower, as [`Spares::choose`] ranks it.
#[derive(Clone, Copy)]
pub(crate) struct Follower {
    pub raft_id: u64,
    /// Index of the last entry that the follower is known to have.
    pub matched: u64,
}

/// The append that is delayed for one follower.
struct DelayedAppend {
    append: Message,
    bytes: usize,
    since_ms: u64,
}

/// The spare followers of a leader in one term, and the appends that are delayed for them.
///
/// * Delayed appends are dropped when the leadership ends. So none is sent in a later term.
/// * A follower has at most one delayed append. That append has at least one entry, and at most
///   [`DELAYED_BYTES_MAX`] bytes of entries, which are consecutive in the log.
/// * Each follower's appends reach the network in the order in which raft-rs made them. Only
///   heartbeats may overtake them: the commit index of a heartbeat is never above the index that
///   its follower has acknowledged.
/// * With `delay_ms_max` 0 there are no spare followers: the caller sees to it.
pub(crate) struct Spares {
    /// How long an append may be delayed. The setting is called `append_hold_ms`.
    delay_ms_max: u64,
    spare: Vec<u64>,
    delayed: BTreeMap<u64, DelayedAppend>,
    /// The followers that held up a commit, and until when each is not chosen as active.
    slow_until_ms: BTreeMap<u64, u64>,
    /// The moment that [`Spares::arm_wake_up`] returned last.
    last_wake_ms: u64,
}

impl Spares {
    /// No follower is spare yet. Appends will be delayed for at most `delay_ms_max`.
    pub(crate) fn new(delay_ms_max: u64) -> Spares {
        let (spare, delayed, slow_until_ms) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Spares { delay_ms_max, spare, delayed, slow_until_ms, last_wake_ms: 0 }
    }

    /// Chooses `needed` of the followers as active. All others become spare.
    ///
    /// A Raft id contains the incarnation of its node. The ring uses the node number only, so a
    /// re-seeded node keeps its place.
    ///
    /// The choice is stable: spare followers get entries later, so they are usually behind the
    /// active ones, and rank below them again.
    pub(crate) fn choose(
        &mut self,
        own_raft_id: u64,
        followers: impl Iterator<Item = Follower>,
        needed: usize,
        now_ms: u64,
    ) {
        self.slow_until_ms.retain(|_, until_ms| now_ms < *until_ms);
        let own_node = node_of(own_raft_id);
        let mut ranked: Vec<_> = followers
            .map(|Follower { raft_id, matched }| {
                (
                    self.slow_until_ms.contains_key(&raft_id),
                    Reverse(matched),
                    node_of(raft_id) < own_node,
                    node_of(raft_id),
                    raft_id,
                )
            })
            .collect();
        ranked.sort_unstable();
        self.spare = ranked.into_iter().skip(needed).map(|(.., id)| id).collect();
    }

    /// Makes no follower spare, so new appends go at once. Appends delayed earlier are sent just
    /// before the follower's next message, or by [`Spares::take_delayed`].
    pub(crate) fn make_all_active(&mut self) {
        self.spare.clear();
    }

    /// Whether no follower is spare.
    pub(crate) fn has_no_spare(&self) -> bool {
        self.spare.is_empty()
    }

    /// Takes a message that raft-rs wants to send. It must not be a heartbeat. Returns the messages
    /// to send now, in this order: the append that was delayed for the same follower, then
    /// `message`. `None` stands for a message that stays delayed or was merged.
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
                // An append without entries is not delayed: nothing could be merged into it.
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

    /// Whether this entry is late at `now_ms`. It is given as (index, when it was proposed).
    pub(crate) fn is_late(&self, (_, at_ms): (u64, u64), now_ms: u64) -> bool {
        now_ms >= at_ms + self.late_after_ms()
    }

    /// An entry is late if it is not committed this long after it was proposed.
    ///
    /// It must be less than the longest delay. By then the delayed appends go anyway, and the spare
    /// followers commit the entry, so a slow active follower would never be noticed. Half of it is
    /// a choice, not a measurement.
    fn late_after_ms(&self) -> u64 {
        self.delay_ms_max.div_ceil(2)
    }

    /// Marks these followers as slow, because they did not acknowledge a late entry. Those with a
    /// delayed append are left out: they may not have been sent that entry yet. So call this before
    /// [`Spares::take_delayed`], which forgets the followers that have one.
    pub(crate) fn mark_slow(&mut self, behind: impl Iterator<Item = u64>, now_ms: u64) {
        let sent = behind.filter(|id| !self.delayed.contains_key(id));
        self.slow_until_ms.extend(sent.map(|id| (id, now_ms + SLOW_MS)));
    }

    /// Takes all delayed appends and sets their commit index to `committed`, as in a new append.
    pub(crate) fn take_delayed(&mut self, committed: u64) -> impl Iterator<Item = Message> + use<> {
        std::mem::take(&mut self.delayed).into_values().map(move |mut delayed| {
            delayed.append.commit = committed;
            delayed.append
        })
    }

    /// Returns `due_ms` unless the caller already has an earlier wake-up pending, and asks again then.
    /// Remembers the moment that it returned.
    pub(crate) fn arm_wake_up(&mut self, now_ms: u64, due_ms: u64) -> Option<u64> {
        let has_wake_up = now_ms < self.last_wake_ms && self.last_wake_ms <= due_ms;
        (!has_wake_up).then(|| {
            self.last_wake_ms = due_ms;
            due_ms
        })
    }
}

/// Whether the entries of `next` follow those of `append`.
///
/// An entry's place in the log is its index *and* its term. raft-rs can batch appends too, but
/// compares only the index, and not even that if the earlier append has no entries. So its batching
/// is not used.
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

    /// Followers by Raft id and index of the last entry.
    fn followers(of: impl IntoIterator<Item = (u64, u64)>) -> impl Iterator<Item = Follower> {
        of.into_iter().map(|(raft_id, matched)| Follower { raft_id, matched })
    }

    /// Of leader 1 with the active followers 2 and 3, and the spare ones 4 and 5.
    fn spares() -> Spares {
        let mut spares = Spares::new(10);
        spares.choose(1, followers((2..=5).map(|id| (id, 0))), 2, 0);
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
            spares.choose(own, followers(matched), 2, 0);
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
        spares.choose(1, followers([(4, 9), (5, 9)]), 2, 0);
        assert!(spares.spare.is_empty());
        spares.choose(1, followers([(5, 9)]), 2, 0);
        assert!(spares.spare.is_empty());
    }

    #[test]
    fn a_follower_that_held_up_a_commit_is_not_active_for_a_while() {
        let mut spares = spares();
        [4, 5].iter().for_each(|id| assert_eq!(passed(&mut spares, append(*id, 0, &[8])), []));
        spares.mark_slow([2, 4, 5].into_iter(), 0);
        let mut chosen = |now_ms| {
            spares.choose(1, followers((2..=5).map(|id| (id, 0))), 2, now_ms);
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
        spares.choose(1, followers([(2, 1), (3, 0), (4, 1), (5, 0)]), 2, 0);
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
        assert_eq!(spares.arm_wake_up(100, 110), Some(110));
        assert_eq!(spares.arm_wake_up(101, 110), None);
        assert_eq!(spares.arm_wake_up(102, 112), None, "it is asked again at 110");
        assert_eq!(spares.arm_wake_up(103, 105), Some(105));
        assert_eq!(spares.arm_wake_up(105, 112), Some(112));
    }
}
