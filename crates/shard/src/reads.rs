//! Linearizable reads: one ReadIndex round in flight, everything that comes meanwhile rides the next.
//!
//! Every attempt has a context that was never used before (node, boot, sequence): an answer to an abandoned attempt can
//! never be taken for the current one (etcd issue 20418). A round can be dropped silently, by a leader that has
//! not yet committed in its term or by the network; it is then tried again under a new context.

use crate::api::{Query, Reply, Ticket};
use locks::planted::{self, Bug};
use std::collections::VecDeque;

pub(crate) struct Read {
    pub ticket: Ticket,
    pub query: Query,
}

struct Round {
    context: Vec<u8>,
    reads: Vec<Read>,
    age_ticks: usize,
    attempt_ticks: usize,
}

/// Confirmed, and waiting for the table to get there.
struct Confirmed {
    index: u64,
    reads: Vec<Read>,
    age_ticks: usize,
}

/// * `next` and the round hold at most `reads_max` each; nothing more is taken while so many are confirmed and wait.
/// * Every read is answered or given up within `give_up_ticks` of its round's start, and as many again once confirmed.
/// * A read is served only at an applied index at or above the one its round was given.
pub(crate) struct Reads {
    node: u64,
    boot: u64,
    sequence: u64,
    reads_max: usize,
    retry_ticks: usize,
    give_up_ticks: usize,
    next: Vec<Read>,
    round: Option<Round>,
    /// By rising index, so also by falling age.
    confirmed: VecDeque<Confirmed>,
}

impl Reads {
    pub(crate) fn new(node: u64, boot: u64, reads_max: usize, retry_ticks: usize, give_up_ticks: usize) -> Reads {
        Reads {
            node,
            boot,
            sequence: 0,
            reads_max,
            retry_ticks,
            give_up_ticks,
            next: Vec::new(),
            round: None,
            confirmed: VecDeque::new(),
        }
    }

    /// Queues a read; false if there is no room.
    pub(crate) fn push(&mut self, read: Read) -> bool {
        let waiting: usize = self.confirmed.iter().map(|confirmed| confirmed.reads.len()).sum();
        let room = self.next.len() < self.reads_max && waiting < self.reads_max;
        if room {
            self.next.push(read);
        }
        room
    }

    /// The context of a round to start now, if one is due.
    pub(crate) fn start_round(&mut self) -> Option<Vec<u8>> {
        if self.round.is_some() || self.next.is_empty() {
            return None;
        }
        let context = self.fresh_context();
        let reads = std::mem::take(&mut self.next);
        self.round = Some(Round { context: context.clone(), reads, age_ticks: 0, attempt_ticks: 0 });
        Some(context)
    }

    /// One tick: the context of a new attempt, if the current one has gone unanswered for long; gives up on rounds past hope.
    /// So it does on reads that are confirmed for an index that this replica does not get to: its disk or its log lags.
    pub(crate) fn tick(&mut self, replies: &mut Vec<(Ticket, Reply)>) -> Option<Vec<u8>> {
        self.confirmed.iter_mut().for_each(|confirmed| confirmed.age_ticks += 1);
        while let Some(old) = self.confirmed.pop_front_if(|oldest| oldest.age_ticks >= self.give_up_ticks) {
            replies.extend(old.reads.into_iter().map(|read| (read.ticket, Reply::NoLeader)));
        }
        let round = self.round.as_mut()?;
        round.age_ticks += 1;
        round.attempt_ticks += 1;
        if round.age_ticks >= self.give_up_ticks {
            self.fail_all(&Reply::NoLeader, replies);
            return None;
        }
        if round.attempt_ticks < self.retry_ticks {
            return None;
        }
        self.retry()
    }

    /// A new attempt of the current round at once: the leader changed.
    pub(crate) fn retry(&mut self) -> Option<Vec<u8>> {
        self.round.as_ref()?;
        let context = self.fresh_context();
        let round = self.round.as_mut().expect("just seen");
        round.context.clone_from(&context);
        round.attempt_ticks = 0;
        Some(context)
    }

    /// An answer. Only that of the current attempt counts.
    pub(crate) fn on_read_state(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            let floor = self.confirmed.back().map_or(0, |last| last.index);
            self.confirmed.push_back(Confirmed { index: index.max(floor), reads: round.reads, age_ticks: 0 });
        }
    }

    /// The next reads that may be answered at this applied index.
    pub(crate) fn take_servable(&mut self, applied_index: u64) -> Option<Vec<Read>> {
        Some(self.confirmed.pop_front_if(|first| first.index <= applied_index)?.reads)
    }

    /// Answers everything not yet confirmed.
    pub(crate) fn fail_all(&mut self, reply: &Reply, replies: &mut Vec<(Ticket, Reply)>) {
        let round = self.round.take().map(|round| round.reads).unwrap_or_default();
        replies.extend(round.into_iter().chain(self.next.drain(..)).map(|read| (read.ticket, reply.clone())));
    }

    fn fresh_context(&mut self) -> Vec<u8> {
        if !planted::is(Bug::ReadContextReused) || self.sequence == 0 {
            self.sequence += 1; // planted: every attempt has the same context
        }
        [self.node, self.boot, self.sequence].iter().flat_map(|part| part.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ticket: Ticket) -> Read {
        Read { ticket, query: Query::Check { name: "n".into() } }
    }

    #[test]
    fn an_abandoned_attempts_answer_is_ignored() {
        let mut reads = Reads::new(1, 1, 10, 2, 100);
        let mut replies = Vec::new();
        assert!(reads.push(read(1)));
        let first = reads.start_round().expect("a round");
        assert_eq!(reads.tick(&mut replies), None);
        let second = reads.tick(&mut replies).expect("a retry under a new context");
        assert_ne!(first, second);
        reads.on_read_state(&first, 5);
        assert!(reads.take_servable(u64::MAX).is_none());
        reads.on_read_state(&second, 7);
        assert!(reads.take_servable(6).is_none());
        assert_eq!(reads.take_servable(7).map(|r| r.len()), Some(1));
    }

    #[test]
    fn a_boot_never_repeats_the_contexts_of_the_one_before() {
        let context = |boot| {
            let mut reads = Reads::new(1, boot, 10, 2, 100);
            reads.push(read(1));
            reads.start_round()
        };
        assert_ne!(context(1), context(2));
    }

    #[test]
    fn later_reads_ride_the_next_round_and_hopeless_rounds_end() {
        let mut reads = Reads::new(1, 1, 2, 10, 3);
        let mut replies = Vec::new();
        assert!(reads.push(read(1)));
        reads.start_round().expect("a round");
        assert!(reads.push(read(2)) && reads.push(read(3)) && !reads.push(read(4)));
        assert!(reads.start_round().is_none(), "one round in flight");
        for _ in 0..3 {
            reads.tick(&mut replies);
        }
        assert_eq!(replies, [1, 2, 3].map(|ticket| (ticket, Reply::NoLeader)));
    }
}
