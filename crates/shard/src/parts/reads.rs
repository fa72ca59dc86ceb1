//! Linearizable reads: one ReadIndex round in flight. Reads that come meanwhile wait for the next.
//!
//! ```text
//! push ──► next ──► round ──► confirmed ──► ready ──► answered
//!                     │           │           ▲
//!                  ReadIndex   applied index  └── push_ready: reads that need no round
//! ```
//!
//! A round can be dropped silently: by the network, or by a leader that has not yet committed in
//! its term. It is then tried again, and every attempt has a context that was never used before
//! (node, boot, sequence). How it goes wrong if a context is used twice (etcd issue 20418):
//!
//! 1. Attempt 1 asks the leader. Its answer, commit index 5, is delayed. Attempt 2 is answered at
//!    once, and the round ends.
//! 2. Entry 6 is committed, and a client is told so. It asks for a read, which starts a new round.
//! 3. The delayed answer comes. It has the context of the new round, so that is confirmed at index
//!    5.
//! 4. The read is answered without entry 6, although the client knows of it.
//!
//! Reads of one name and reads of the whole table have queues of their own, so that the many rows
//! of one kind never keep the other waiting.

use crate::api::{Query, Reply, Ticket};
use crate::planted_bugs;
use locks::Paused;
use std::collections::VecDeque;

/// At most this many reads of the whole table wait. People ask for those, a few at a time.
const WHOLE_TABLE_MAX: usize = 256;

/// A read that is not answered yet.
pub(crate) struct Read {
    pub ticket: Ticket,
    pub query: Query,
    pub linearizable: bool,
    /// Where a partial answer goes on.
    pub paused: Paused,
}

/// How much of the table a read may touch. Each scope has a queue of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The holders or the history of one name, or no name.
    OneName,
    /// A listing, a picture, the topology, or the state hash.
    WholeTable,
}

impl Scope {
    pub(crate) const ALL: [Scope; 2] = [Scope::OneName, Scope::WholeTable];

    fn of(query: &Query) -> Scope {
        match query {
            Query::Check { .. } | Query::History { .. } | Query::Position => Scope::OneName,
            Query::List { .. } | Query::Picture { .. } | Query::Topology { .. } | Query::Status => {
                Scope::WholeTable
            }
        }
    }
}

/// The round in flight, under the context of its current attempt.
struct Round {
    context: Vec<u8>,
    reads: Vec<Read>,
    age_ticks: usize,
    attempt_ticks: usize,
}

/// The reads of a round that was confirmed. They wait until the table is at its index.
struct Confirmed {
    index: u64,
    reads: Vec<Read>,
    age_ticks: usize,
}

/// All reads that are not answered yet.
///
/// * `next` and the round each have at most `most` reads of a scope. No more are taken while as
///   many are confirmed or ready, which `waiting` counts.
/// * A read stays in its round for at most `give_up_ticks`, as long again confirmed, and as long
///   again ready. Then it is given up.
/// * A read is answered only at an applied index at or above the one of its round.
pub(crate) struct Reads {
    node: u64,
    boot: u64,
    sequence: u64,
    /// The bound of each scope.
    most: [usize; 2],
    retry_ticks: usize,
    give_up_ticks: usize,
    next: Vec<Read>,
    /// How many reads of each scope are in `next`.
    queued: [usize; 2],
    round: Option<Round>,
    /// By rising index, and so by falling age.
    confirmed: VecDeque<Confirmed>,
    /// The reads of each scope that may be answered, with the tick at which they became ready.
    ready: [VecDeque<(u64, Read)>; 2],
    /// How many reads of each scope are confirmed or ready.
    waiting: [usize; 2],
    ticks: u64,
}

impl Reads {
    /// `node` and `boot` make the contexts of this run unique; `reads_max` bounds each scope.
    pub(crate) fn new(
        node: u64,
        boot: u64,
        reads_max: usize,
        retry_ticks: usize,
        give_up_ticks: usize,
    ) -> Reads {
        Reads {
            node,
            boot,
            sequence: 0,
            most: [reads_max, reads_max.min(WHOLE_TABLE_MAX)],
            retry_ticks,
            give_up_ticks,
            next: Vec::new(),
            queued: [0; 2],
            round: None,
            confirmed: VecDeque::new(),
            ready: [VecDeque::new(), VecDeque::new()],
            waiting: [0; 2],
            ticks: 0,
        }
    }

    /// Queues a linearizable read for the next round. Returns `false` if there is no room.
    pub(crate) fn push(&mut self, read: Read) -> bool {
        let scope = Scope::of(&read.query) as usize;
        let room = self.queued[scope] < self.most[scope] && self.waiting[scope] < self.most[scope];
        if room {
            self.queued[scope] += 1;
            self.next.push(read);
        }
        room
    }

    /// Queues a read that needs no round. Returns `false` if there is no room.
    pub(crate) fn push_ready(&mut self, read: Read) -> bool {
        let scope = Scope::of(&read.query) as usize;
        let room = self.waiting[scope] < self.most[scope];
        if room {
            self.waiting[scope] += 1;
            self.ready[scope].push_back((self.ticks, read));
        }
        room
    }

    /// Starts a round with all reads that wait for one, unless a round is in flight. Returns its
    /// context.
    pub(crate) fn start_round(&mut self) -> Option<Vec<u8>> {
        if self.round.is_some() || self.next.is_empty() {
            return None;
        }
        let context = self.fresh_context();
        let reads = std::mem::take(&mut self.next);
        self.queued = [0; 2];
        self.round =
            Some(Round { context: context.clone(), reads, age_ticks: 0, attempt_ticks: 0 });
        Some(context)
    }

    /// One tick. Returns the context of a new attempt if the current one was not answered in time.
    ///
    /// Gives up on old rounds, and on reads that were confirmed for an index that this replica does
    /// not reach because its disk or its log lags.
    pub(crate) fn tick(&mut self, replies: &mut Vec<(Ticket, Reply)>) -> Option<Vec<u8>> {
        self.ticks += 1;
        self.confirmed.iter_mut().for_each(|confirmed| confirmed.age_ticks += 1);
        while let Some(old) =
            self.confirmed.pop_front_if(|oldest| oldest.age_ticks >= self.give_up_ticks)
        {
            old.reads.iter().for_each(|read| self.waiting[Scope::of(&read.query) as usize] -= 1);
            replies.extend(old.reads.into_iter().map(|read| (read.ticket, Reply::NoLeader)));
        }
        // More is asked than can be answered. The callers of the oldest reads have gone by now, and
        // their reads would only keep others waiting.
        let too_old =
            |(since, _): &mut (u64, Read)| self.ticks - *since >= self.give_up_ticks as u64;
        for (ready, waiting) in self.ready.iter_mut().zip(&mut self.waiting) {
            while let Some((_, read)) = ready.pop_front_if(too_old) {
                *waiting -= 1;
                replies.push((read.ticket, Reply::Busy));
            }
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

    /// Starts a new attempt of the current round at once, because the leader has changed. Returns
    /// its context.
    pub(crate) fn retry(&mut self) -> Option<Vec<u8>> {
        self.round.as_ref()?;
        let context = self.fresh_context();
        let round = self.round.as_mut().expect("just seen");
        round.context.clone_from(&context);
        round.attempt_ticks = 0;
        Some(context)
    }

    /// Takes an answer: the commit index for the round of this context. Only the current attempt's
    /// counts.
    pub(crate) fn on_read_state(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            round.reads.iter().for_each(|read| self.waiting[Scope::of(&read.query) as usize] += 1);
            let floor = self.confirmed.back().map_or(0, |last| last.index);
            self.confirmed.push_back(Confirmed {
                index: index.max(floor),
                reads: round.reads,
                age_ticks: 0,
            });
        }
    }

    /// Makes the reads ready that were confirmed for this applied index, or an earlier one.
    pub(crate) fn confirm(&mut self, applied_index: u64) {
        while let Some(confirmed) =
            self.confirmed.pop_front_if(|first| first.index <= applied_index)
        {
            for read in confirmed.reads {
                self.ready[Scope::of(&read.query) as usize].push_back((self.ticks, read));
            }
        }
    }

    /// Takes the next ready read of a scope, and the tick at which it became ready.
    pub(crate) fn take_ready(&mut self, scope: Scope) -> Option<(u64, Read)> {
        let read = self.ready[scope as usize].pop_front()?;
        self.waiting[scope as usize] -= 1;
        Some(read)
    }

    /// The next ready read of a scope.
    pub(crate) fn next_ready(&self, scope: Scope) -> Option<&Read> {
        self.ready[scope as usize].front().map(|(_, read)| read)
    }

    /// Puts a read back as the next, because its answer is not complete.
    pub(crate) fn put_back(&mut self, since: u64, read: Read) {
        let scope = Scope::of(&read.query) as usize;
        self.waiting[scope] += 1;
        self.ready[scope].push_front((since, read));
    }

    pub(crate) fn any_ready(&self) -> bool {
        self.ready.iter().any(|queue| !queue.is_empty())
    }

    /// Answers all reads that are not yet confirmed.
    pub(crate) fn fail_all(&mut self, reply: &Reply, replies: &mut Vec<(Ticket, Reply)>) {
        self.queued = [0; 2];
        let round = self.round.take().map(|round| round.reads).unwrap_or_default();
        replies.extend(
            round.into_iter().chain(self.next.drain(..)).map(|read| (read.ticket, reply.clone())),
        );
    }

    fn fresh_context(&mut self) -> Vec<u8> {
        self.sequence = planted_bugs::attempt_number(self.sequence + 1);
        [self.node, self.boot, self.sequence].iter().flat_map(|part| part.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ticket: Ticket) -> Read {
        Read { ticket, query: Query::check("n"), linearizable: true, paused: Paused::default() }
    }

    fn served(reads: &mut Reads, applied_index: u64) -> Vec<Ticket> {
        reads.confirm(applied_index);
        std::iter::from_fn(|| reads.take_ready(Scope::OneName))
            .map(|(_, read)| read.ticket)
            .collect()
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
        assert_eq!(served(&mut reads, u64::MAX), [0; 0]);
        reads.on_read_state(&second, 7);
        assert_eq!(served(&mut reads, 6), [0; 0]);
        assert_eq!(served(&mut reads, 7), [1]);
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
    #[test]
    fn lines_are_bounded_each_by_itself_and_what_is_too_old_is_given_up() {
        let mut reads = Reads::new(1, 1, 2, 10, 3);
        let mut replies = Vec::new();
        let status = |ticket| Read { query: Query::Status, ..read(ticket) };
        assert!(
            reads.push_ready(status(1))
                && reads.push_ready(status(2))
                && !reads.push_ready(status(3))
        );
        assert!(!reads.push(status(4)), "as many wait as may");
        assert!(reads.push_ready(read(5)), "the other scope has room");
        reads.tick(&mut replies);
        let (since, first) = reads.take_ready(Scope::WholeTable).expect("the first");
        assert!(reads.push_ready(status(6)));
        reads.put_back(since, first);
        for _ in 0..2 {
            reads.tick(&mut replies);
        }
        assert_eq!(replies, [5, 1, 2].map(|ticket| (ticket, Reply::Busy)));
        assert!(reads.any_ready(), "what came later");
        reads.tick(&mut replies);
        assert!(!reads.any_ready() && replies.len() == 4);
        assert!(
            reads.push_ready(status(7))
                && reads.push_ready(status(8))
                && !reads.push_ready(status(9))
        );
    }
}
