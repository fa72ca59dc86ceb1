//! Which followers a leader sends its entries at once, and what it holds back for the others.
//!
//! An entry costs every follower a message, a wake-up, a sync and an acknowledgement, and a quorum needs no more than half of them.
//! So a leader leans on as many as a quorum needs beside itself, the active ones. What it has for the others, the spare ones, waits
//! a moment, and what follows in the log joins it: they get few appends, and large ones. (Paxos calls a leader thrifty that asks no
//! more acceptors than it needs. This one asks them all, some of them later.)
//!
//! What is safe does not change: messages only come later, as in a slow network, and what counts as committed is raft-rs's to say.
//! What must not change much is how long an entry takes where an active follower is slow or gone: one that is not committed after
//! half of the time that appends may be held at all goes to everybody, and who made it wait is passed over for a while.
//!
//! This knows nothing of timers: it says when it wants to be asked again.

use crate::raft::peer_id::node_of;
use raft::eraftpb::{Message, MessageType};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Entries held for one follower, in bytes. What is more goes at once: it is worth a message of its own.
const DELAYED_BYTES_MAX: usize = 256 << 10;
/// Who made an entry wait is not leaned on for so long, in milliseconds: where appends are rare it would be as level as the others each
/// time, and each entry would wait for it anew.
const SLOW_MS: u64 = 10_000;

/// What is held for one follower.
struct DelayedAppend {
    append: Message,
    bytes: usize,
    since_ms: u64,
}

/// * It belongs to one leadership, and what is held ends with it: no append ever leaves under a later term than it was made in.
/// * For a follower there is one append at most. It has an entry, and at most [`DELAYED_BYTES_MAX`] bytes of them; they stand in the log
///   one after the other, as does what joins them.
/// * Appends reach the network in the order in which raft-rs made them, for each follower. Heartbeats alone may overtake them: they
///   say nothing of entries that were not acknowledged.
/// * With `delay_ms_max` 0 there are no spare followers.
pub(crate) struct Spares {
    delay_ms_max: u64,
    spare: Vec<u64>,
    delayed: BTreeMap<u64, DelayedAppend>,
    /// Until when each is not leaned on.
    slow_until_ms: BTreeMap<u64, u64>,
    /// When it asked to be looked at again, the last time that it did.
    wake_told_ms: u64,
}

impl Spares {
    pub(crate) fn new(delay_ms_max: u64) -> Spares {
        let (spare, delayed, slow_until_ms) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Spares { delay_ms_max, spare, delayed, slow_until_ms, wake_told_ms: 0 }
    }

    /// Of the followers, with what each is known to have of the log, all but `needed` are spare: those that have most are active. Among
    /// equals they are the next ones on a ring of all nodes, so that leaders on different nodes lean on different ones. Who gets
    /// its entries later has less of the log for most of the time, so who is active stays so.
    pub(crate) fn choose(&mut self, own: u64, followers: impl Iterator<Item = (u64, u64)>, needed: usize, now_ms: u64) {
        self.slow_until_ms.retain(|_, until_ms| now_ms < *until_ms);
        let own = node_of(own);
        let mut ranked: Vec<_> = followers
            .map(|(id, matched)| {
                (self.slow_until_ms.contains_key(&id), Reverse(matched), node_of(id) < own, node_of(id), id)
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

    /// An append, or whatever else is not to overtake one, is to be sent: what goes now, in this order.
    pub(crate) fn route(&mut self, message: Message, now_ms: u64) -> [Option<Message>; 2] {
        let (to, bytes) = (message.to, message.entries.iter().map(|entry| entry.data.len()).sum::<usize>());
        let is_spare = self.spare.contains(&to) && message.msg_type() == MessageType::MsgAppend;
        let may_join =
            |held: &DelayedAppend| held.bytes + bytes <= DELAYED_BYTES_MAX && continues(&held.append, &message);
        match self.delayed.remove(&to) {
            Some(mut held) if may_join(&held) => {
                held.append.commit = message.commit;
                held.append.entries.extend(message.entries);
                held.bytes += bytes;
                if !is_spare {
                    return [Some(held.append), None];
                }
                self.delayed.insert(to, held);
                [None, None]
            }
            before => {
                let before = before.map(|held| held.append);
                if is_spare && bytes <= DELAYED_BYTES_MAX && !message.entries.is_empty() {
                    self.delayed.insert(to, DelayedAppend { append: message, bytes, since_ms: now_ms });
                    return [before, None];
                }
                [before, Some(message)]
            }
        }
    }

    /// When all that is held is to go. `uncommitted` is the oldest entry that waits for a quorum, and when it was proposed.
    pub(crate) fn due_ms(&self, uncommitted: Option<(u64, u64)>) -> Option<u64> {
        let oldest_ms = self.delayed.values().map(|held| held.since_ms).min()?;
        let late_ms = uncommitted.map_or(u64::MAX, |(_, at_ms)| at_ms + self.late_after_ms());
        Some(late_ms.min(oldest_ms + self.delay_ms_max))
    }

    pub(crate) fn is_late(&self, (_, at_ms): (u64, u64), now_ms: u64) -> bool {
        now_ms >= at_ms + self.late_after_ms()
    }

    fn late_after_ms(&self) -> u64 {
        self.delay_ms_max.div_ceil(2)
    }

    /// These made an entry wait, those aside that were not even sent it.
    pub(crate) fn mark_slow(&mut self, behind: impl Iterator<Item = u64>, now_ms: u64) {
        let sent = behind.filter(|id| !self.delayed.contains_key(id));
        self.slow_until_ms.extend(sent.map(|id| (id, now_ms + SLOW_MS)));
    }

    /// All that is held, for followers that are to know of this commit index. An append that is made now would tell them of it.
    pub(crate) fn take_delayed(&mut self, committed: u64) -> impl Iterator<Item = Message> + use<> {
        std::mem::take(&mut self.delayed).into_values().map(move |mut held| {
            held.append.commit = committed;
            held.append
        })
    }

    /// Said once, and not while an earlier moment is still to come that was said before: then it is asked again.
    pub(crate) fn wake_at_ms(&mut self, now_ms: u64, due_ms: u64) -> Option<u64> {
        let is_told = now_ms < self.wake_told_ms && self.wake_told_ms <= due_ms;
        (!is_told).then(|| {
            self.wake_told_ms = due_ms;
            due_ms
        })
    }
}

/// Whether this is the append that comes next. An entry's place is its index and its term: raft-rs's own batching looks at the index
/// alone, and not even at that where the append before has no entries.
fn continues(append: &Message, next: &Message) -> bool {
    let last = append.entries.last().map(|entry| (entry.index, entry.term));
    next.msg_type() == MessageType::MsgAppend && next.term == append.term && last == Some((next.index, next.log_term))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    const TERM: u64 = 7;

    /// An append of entries of so many bytes each, after this index. What stands before it in the log is of the same term.
    fn append(to: u64, after: u64, sizes: &[usize]) -> Message {
        let entry = |(at, bytes): (usize, &usize)| Entry {
            index: after + 1 + at as u64,
            term: TERM,
            data: vec![0; *bytes],
            ..Default::default()
        };
        let entries = sizes.iter().enumerate().map(entry).collect();
        message(MessageType::MsgAppend, Message { to, index: after, entries, commit: after, ..Default::default() })
    }

    fn message(kind: MessageType, mut message: Message) -> Message {
        (message.term, message.log_term) = (TERM, TERM);
        message.set_msg_type(kind);
        message
    }

    /// Where each append stands, and how many entries it has.
    fn shape<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<(u64, usize)> {
        messages.into_iter().map(|message| (message.index, message.entries.len())).collect()
    }

    /// Of node 1's, which leans on nodes 2 and 3, and has 4 and 5 to spare.
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
    fn nobody_is_spare_without_a_quorum_of_others() {
        let mut spares = Spares::new(10);
        spares.choose(1, [(4, 9), (5, 9)].into_iter(), 2, 0);
        assert!(spares.spare.is_empty());
        spares.choose(1, [(5, 9)].into_iter(), 2, 0);
        assert!(spares.spare.is_empty());
    }

    #[test]
    fn who_made_an_entry_wait_is_passed_over_for_a_while() {
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
            assert_eq!(append.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [1, 2, 3]);
            assert_eq!((append.term, append.log_term, append.commit), (TERM, TERM, 3));
        }
        assert!(spares.take_delayed(3).next().is_none());
    }

    #[test]
    fn who_becomes_active_gets_what_was_held_with_what_comes() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
        spares.choose(1, [(2, 1), (3, 0), (4, 1), (5, 0)].into_iter(), 2, 0);
        assert_eq!(passed(&mut spares, append(4, 1, &[8])), [(0, 2)]);
        assert_eq!(released(&mut spares), []);
    }

    #[test]
    fn only_what_comes_next_in_the_log_joins() {
        let other_log_term = Message { log_term: TERM - 1, ..append(4, 1, &[8]) };
        let other_term = Message { term: TERM + 1, ..append(4, 1, &[8]) };
        for other in [append(4, 0, &[8]), append(4, 2, &[8]), other_log_term, other_term] {
            let mut spares = spares();
            assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
            let index = other.index;
            assert_eq!(passed(&mut spares, other), [(0, 1)], "what was held goes first");
            assert_eq!(released(&mut spares), [(index, 1)]);
        }
    }

    /// raft-rs sends one to who answers a heartbeat and lags. On its own it is worth nothing, and nothing ever joins it.
    #[test]
    fn an_append_without_entries_joins_and_is_never_held_itself() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[])), [(0, 0)]);
        assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
        assert_eq!(passed(&mut spares, append(4, 1, &[])), []);
        assert_eq!(passed(&mut spares, append(4, 0, &[])), [(0, 1), (0, 0)], "an older one");
    }

    #[test]
    fn nothing_overtakes_what_is_held() {
        for kind in [MessageType::MsgSnapshot, MessageType::MsgTimeoutNow, MessageType::MsgReadIndexResp] {
            let mut spares = spares();
            assert_eq!(passed(&mut spares, append(4, 0, &[8])), []);
            let sent = spares.route(message(kind, Message { to: 4, ..Default::default() }), 100);
            let kinds: Vec<MessageType> = sent.iter().flatten().map(Message::msg_type).collect();
            assert_eq!(kinds, [MessageType::MsgAppend, kind]);
            assert_eq!(released(&mut spares), []);
        }
    }

    #[test]
    fn many_bytes_are_not_held() {
        let mut spares = spares();
        assert_eq!(passed(&mut spares, append(4, 0, &[DELAYED_BYTES_MAX])), []);
        assert_eq!(passed(&mut spares, append(4, 1, &[1])), [(0, 1)]);
        assert_eq!(passed(&mut spares, append(4, 2, &[DELAYED_BYTES_MAX - 1])), []);
        assert_eq!(passed(&mut spares, append(4, 3, &[DELAYED_BYTES_MAX + 1])), [(1, 2), (3, 1)]);
        assert_eq!(released(&mut spares), []);
    }

    #[test]
    fn it_is_due_when_the_oldest_was_held_for_long_or_an_entry_is_not_committed_for_half_as_long() {
        let mut spares = spares();
        assert_eq!(spares.due_ms(Some((1, 100))), None, "nothing is held");
        spares.route(append(5, 0, &[8]), 98);
        spares.route(append(4, 0, &[8]), 100);
        spares.route(append(4, 1, &[8]), 105);
        assert_eq!(spares.due_ms(None), Some(108));
        assert_eq!(spares.due_ms(Some((1, 100))), Some(105));
        assert_eq!(spares.due_ms(Some((2, 105))), Some(108));
        assert!(!spares.is_late((1, 100), 104) && spares.is_late((1, 100), 105));
    }

    #[test]
    fn a_moment_is_said_once_and_a_later_one_when_it_has_come() {
        let mut spares = spares();
        assert_eq!(spares.wake_at_ms(100, 110), Some(110));
        assert_eq!(spares.wake_at_ms(101, 110), None);
        assert_eq!(spares.wake_at_ms(102, 112), None, "it is asked again at 110");
        assert_eq!(spares.wake_at_ms(103, 105), Some(105));
        assert_eq!(spares.wake_at_ms(105, 112), Some(112));
    }
}
