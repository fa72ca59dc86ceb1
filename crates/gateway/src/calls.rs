//! Many calls of one client at the same time, driven without a task or a future for each.
//!
//! Outcomes come through one channel, each with the number of its call and part, and pauses stand in
//! one ordered map.

use crate::core::{Call, Caller, Outgoing, Step};
use crate::nodes::{Outcome, Port};
use crate::router::Router;
use link::mux::Answer;
use routing::SHARDS_MAX;
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::v1::Operation;

/// A call has at most this many parts, one for each shard.
const PARTS_MAX: usize = SHARDS_MAX as usize;

/// The calls of one client, each with a note of its driver.
///
/// * A call is in `running` or `answered`, and leaves with one answer.
/// * `outcomes` gets one outcome for each operation that was sent.
pub(crate) struct Calls<T> {
    router: Arc<Router>,
    running: Slab<(Call, T)>,
    port: mpsc::UnboundedSender<(usize, Outcome)>,
    /// Holds at most one outcome for each part of each running call.
    outcomes: mpsc::UnboundedReceiver<(usize, Outcome)>,
    /// The parts that pause, by the end of the pause and the order in which it began.
    pauses: BTreeMap<(Instant, u64), usize>,
    pauses_begun: u64,
    answered: VecDeque<(T, Answer)>,
    /// Empty between two events.
    steps: Vec<Step>,
}

impl<T> Calls<T> {
    pub(crate) fn new(router: Arc<Router>) -> Calls<T> {
        let (port, outcomes) = mpsc::unbounded_channel();
        Calls {
            router,
            running: Slab::new(),
            port,
            outcomes,
            pauses: BTreeMap::new(),
            pauses_begun: 0,
            answered: VecDeque::new(),
            steps: Vec::new(),
        }
    }

    /// The number of calls with an answer that was not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.running.len() + self.answered.len()
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, caller: Caller, operation: Operation, note: T) {
        let env = &mut self.router.env();
        let directory = &self.router.directory;
        let call = Call::begin(caller, operation, directory, env, &mut self.steps);
        let key = self.running.insert((call, note));
        self.take_steps(key);
    }

    /// The next answer, or `None` if nothing is under way. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<(T, Answer)> {
        loop {
            if let Some(answered) = self.next_now() {
                return Some(answered);
            }
            if self.running.is_empty() {
                return None;
            }
            let outcome = match self.pauses.first_key_value() {
                None => self.outcomes.recv().await,
                Some(((due, _), _)) => {
                    match tokio::time::timeout_at(*due, self.outcomes.recv()).await {
                        Ok(outcome) => outcome,
                        Err(_) => continue, // a pause is over
                    }
                }
            };
            let (number, outcome) = outcome?; // never closed: this side holds a sender
            self.on_outcome(number, outcome);
        }
    }

    /// The next answer, if one is ready.
    pub(crate) fn next_now(&mut self) -> Option<(T, Answer)> {
        // Outcomes can come faster than they are taken, so that one is always ready. So pauses come
        // first: behind outcomes they would never end.
        if !self.pauses.is_empty() {
            self.end_pauses(Instant::now());
        }
        while self.answered.is_empty()
            && let Ok((number, outcome)) = self.outcomes.try_recv()
        {
            self.on_outcome(number, outcome);
        }
        self.answered.pop_front()
    }

    /// Tells the calls that `stays` chooses that their client is gone, and drops all others.
    pub(crate) fn abandon(&mut self, stays: impl Fn(&T) -> bool) {
        self.answered.retain(|(note, _)| stays(note));
        self.running.retain(|_, (call, note)| {
            call.abandon();
            stays(note)
        });
    }

    /// Tells the calls that `ends` chooses to try nothing again. Each call still has its answer. The
    /// notes of answers that were not taken yet are shown to `ends` as well.
    pub(crate) fn give_up(&mut self, mut ends: impl FnMut(&mut T) -> bool) {
        for (_, (call, note)) in &mut self.running {
            if ends(note) {
                call.abandon();
            }
        }
        for (note, _) in &mut self.answered {
            ends(note);
        }
    }

    /// The notes of all calls that are not answered.
    pub(crate) fn into_notes(self) -> impl Iterator<Item = T> {
        self.running.into_iter().map(|(_, (_, note))| note)
    }

    fn end_pauses(&mut self, now: Instant) {
        while let Some(entry) = self.pauses.first_entry()
            && entry.key().0 <= now
        {
            let (key, part) = split(entry.remove());
            if let Some((call, _)) = self.running.get_mut(key) {
                let env = &mut self.router.env();
                call.on_pause_over(part, &self.router.directory, env, &mut self.steps);
                self.take_steps(key);
            }
        }
    }

    fn on_outcome(&mut self, number: usize, outcome: Outcome) {
        let (key, part) = split(number);
        if let Some((call, _)) = self.running.get_mut(key) {
            let env = &mut self.router.env();
            call.on_outcome(part, outcome, &self.router.directory, env, &mut self.steps);
            self.take_steps(key);
        }
    }

    fn take_steps(&mut self, key: usize) {
        for step in self.steps.drain(..) {
            match step {
                Step::Send(Outgoing { part, node, timeout_ms, operation, retry_of }) => {
                    if let Some(kind) = retry_of {
                        self.router.metrics.retried(kind);
                    }
                    let port = Port::new(&self.port, number(key, part));
                    self.router.nodes.submit(node, operation, timeout_ms, port);
                }
                Step::Pause { part, ms } => {
                    let due = Instant::now() + Duration::from_millis(ms);
                    self.pauses.insert((due, self.pauses_begun), number(key, part));
                    self.pauses_begun += 1;
                }
                Step::Refresh { node, map_version } => self.router.refresh(node, map_version),
                Step::Answer(answer) => {
                    let (_, note) = self.running.remove(key);
                    self.answered.push_back((note, answer));
                }
            }
        }
    }
}

/// One number for a call and a part of it.
fn number(key: usize, part: u32) -> usize {
    key * PARTS_MAX + part as usize
}

fn split(number: usize) -> (usize, u32) {
    (number / PARTS_MAX, (number % PARTS_MAX) as u32)
}
