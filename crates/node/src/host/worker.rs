//! A shard thread: it empties its inbox, steps each touched shard once, and sends the outputs on.
//!
//! It promises that the clock is read after the inbox, so that no lease starts before its request.
//! A write is handed to the log writer before anything that follows from it is sent. After a fatal
//! error, nothing of that round is sent or answered.

use super::failed::{Contained, Failed, in_doubt, tell_failed};
use super::news::{News, NewsPort};
use super::stages::{EntryTimes, Stages};
use super::stepper::Stepper;
use super::ticker::Ticker;
use super::{
    Answer, AnswerPort, HostMessage, InboxEnd, Leaver, Newcomer, Seat, StreamKey, Submission,
    WATCH_STREAM, untangle,
};
use crate::board::Board;
use crate::clock::Clock;
use crate::lifecycle::{Lifecycle, PanicGuard};
use crate::limits::{SLOW_STEP, STATUS_EVERY_MS};
use crate::mailbox::Received;
use crate::metrics::{EndedHolds, Metrics};
use crate::transport::{Lanes, Outboxes, SnapshotJob, SnapshotQueue};
use crate::writer::{Done, LogWriter, Work, WriteJob};
use routing::{META, NodeId, ShardId};
use service::Request;
use shard::{Fatal, Input, Now, Outputs, PeerMessage, Reply, Ticket};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// One replica and the inputs that wait for it.
struct Place {
    shard: ShardId,
    replica: Box<dyn Stepper>,
    inputs: Vec<Input>,
    /// The replica ends after this round, and hears nothing more.
    retires: bool,
    /// Set while its table is watched.
    port: Option<NewsPort>,
    stages: Stages,
}

impl Place {
    fn new(newcomer: Newcomer) -> Place {
        let Newcomer { shard, replica } = newcomer;
        let replica = match shard == META {
            true => Box::new(Contained::new(replica)),
            false => replica,
        };
        Place {
            shard,
            replica,
            inputs: Vec::new(),
            retires: false,
            port: None,
            stages: Stages::default(),
        }
    }

    /// Ends the replica of META, and lets something sit here that refuses everything. `asked` has the
    /// replies to the operations that it was handed when it failed.
    fn fail(&mut self, asked: Vec<(Ticket, Reply)>, board: &Board) -> Outputs {
        let failed = Box::new(Failed::after(self.replica.status()));
        let mut replies = std::mem::replace(&mut self.replica, failed).retire();
        for (ticket, reply) in asked {
            if replies.iter().all(|(answered, _)| *answered != ticket) {
                replies.push((ticket, reply));
            }
        }
        board.publish(self.replica.status());
        Outputs { replies, ..Outputs::default() }
    }
}

/// A stream, and the answers of this round for it.
struct StreamPort {
    port: AnswerPort,
    answers: Vec<Answer>,
}

/// The parts of a shard thread.
pub(crate) struct WorkerParts {
    pub(crate) thread: usize,
    pub(crate) inbox: InboxEnd,
    /// By place.
    pub(crate) replicas: Vec<Newcomer>,
    pub(crate) clock: Clock,
    pub(crate) tick_ms: u64,
    pub(crate) writer: LogWriter,
    pub(crate) outboxes: Arc<Outboxes>,
    pub(crate) snapshots: SnapshotQueue,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
}

/// One shard thread and its replicas.
pub(crate) struct Worker {
    thread: usize,
    inbox: InboxEnd,
    /// A place stays empty after its replica was retired.
    places: Vec<Option<Place>>,
    /// Places with inputs, each once.
    touched: Vec<usize>,
    /// The replicas that end after this round.
    retiring: Vec<Leaver>,
    streams: HashMap<StreamKey, StreamPort>,
    /// Streams with answers of this round.
    answered: Vec<StreamKey>,
    /// The news of this round.
    news: Vec<(NewsPort, News)>,
    outgoing: BTreeMap<NodeId, Lanes>,
    clock: Clock,
    ticker: Ticker,
    /// The wake-ups that replicas asked for: time and place.
    wakes: BTreeSet<(u64, usize)>,
    publish_at_ms: u64,
    writer: LogWriter,
    outboxes: Arc<Outboxes>,
    snapshots: SnapshotQueue,
    lifecycle: Arc<Lifecycle>,
    metrics: Arc<Metrics>,
    /// Ends of grants since the last statuses.
    ended: EndedHolds,
    board: Arc<Board>,
    /// Until this is true, no replica ticks or hears a peer.
    takes_part: bool,
}

impl Worker {
    pub(crate) fn new(parts: WorkerParts) -> Self {
        parts.replicas.iter().for_each(|one| parts.board.publish(one.replica.status()));
        Worker {
            thread: parts.thread,
            inbox: parts.inbox,
            places: parts.replicas.into_iter().map(|one| Some(Place::new(one))).collect(),
            touched: Vec::new(),
            retiring: Vec::new(),
            streams: HashMap::new(),
            answered: Vec::new(),
            news: Vec::new(),
            outgoing: BTreeMap::new(),
            ticker: Ticker::new(parts.clock.mono_ms(), parts.tick_ms),
            wakes: BTreeSet::new(),
            publish_at_ms: 0,
            clock: parts.clock,
            writer: parts.writer,
            outboxes: parts.outboxes,
            snapshots: parts.snapshots,
            lifecycle: parts.lifecycle,
            ended: parts.metrics.acquires.of_thread(),
            metrics: parts.metrics,
            board: parts.board,
            takes_part: false,
        }
    }

    /// Runs until the thread is told to stop, or the node has failed.
    pub(crate) fn run(mut self, name: &str) {
        let lifecycle = self.lifecycle.clone();
        let _guard = PanicGuard { lifecycle: &lifecycle, thread: name };
        let mut batch = Vec::new();
        loop {
            let go_on = self.receive(&mut batch);
            if self.lifecycle.failed() {
                return;
            }
            // The clock is read after the inbox: each request was sent before this moment, so a
            // lease that starts now starts late, not early.
            let now = self.clock.now();
            for message in batch.drain(..) {
                self.take(now, message);
            }
            for _ in 0..self.ticker.due(now.mono_ms) {
                for index in 0..self.places.len() {
                    self.tell(index, Input::Tick);
                }
            }
            while let Some(&(at_ms, index)) = self.wakes.first()
                && at_ms <= now.mono_ms
            {
                self.wakes.pop_first();
                self.tell(index, Input::Wake);
            }
            if let Err(fatal) = self.step(now) {
                self.lifecycle.fail(format!(
                    "{fatal}; nothing was answered since. Check the disk and this log; if the node's data is damaged, re-seed it \
                     (see `palisade node --help`)"
                ));
                return;
            }
            self.retire();
            self.flush();
            self.inbox.load.finished_round();
            if now.mono_ms >= self.publish_at_ms {
                self.publish_at_ms = now.mono_ms + STATUS_EVERY_MS;
                self.ended.flush();
                for place in self.places.iter().flatten() {
                    self.board.publish(place.replica.status());
                }
            }
            if !go_on {
                return;
            }
        }
    }

    /// Waits for a message or the next tick, then empties the inbox. Returns `false` if this batch
    /// is the last.
    fn receive(&self, batch: &mut Vec<HostMessage>) -> bool {
        // The inputs that this thread left for itself go first.
        let wait_ms = if self.touched.is_empty() { self.wait_ms(self.clock.mono_ms()) } else { 0 };
        match self.inbox.receiver.take_all(batch, Some(Duration::from_millis(wait_ms))) {
            Received::Some => {}
            Received::Nothing => return true,
            Received::Closed => return false,
        }
        // Messages after the end are ignored.
        if let Some(end) = batch.iter().position(|message| matches!(message, HostMessage::Stop)) {
            batch.truncate(end + 1);
        }
        !matches!(batch.last(), Some(HostMessage::Stop))
    }

    /// Milliseconds until the next tick, or until a replica wants to be woken.
    fn wait_ms(&self, now_ms: u64) -> u64 {
        let tick_ms = self.ticker.wait_ms(now_ms);
        self.wakes.first().map_or(tick_ms, |(at_ms, _)| tick_ms.min(at_ms.saturating_sub(now_ms)))
    }

    fn take(&mut self, now: Now, message: HostMessage) {
        match message {
            HostMessage::Submit(operations) => {
                self.inbox.load.took_operations(operations.len());
                for operation in operations {
                    self.submit(now, operation);
                }
            }
            HostMessage::StreamOpened(key, port) => {
                self.streams.insert(key, StreamPort { port, answers: Vec::new() });
            }
            HostMessage::StreamClosed(key, waiting) => {
                self.streams.remove(&key);
                for (index, ticket) in waiting {
                    self.tell(index, Input::Detach { ticket });
                }
            }
            HostMessage::Peers(messages) => {
                self.inbox
                    .load
                    .took_peer_bytes(messages.iter().map(|(_, bytes)| bytes.len()).sum());
                for (index, bytes) in messages {
                    self.tell(index, Input::Peer(bytes));
                }
            }
            HostMessage::Persisted(persisted) => {
                for (index, number) in persisted {
                    self.tell(index, Input::Persisted { number });
                }
            }
            HostMessage::Input(index, input) => self.tell(index, input),
            HostMessage::All(input) => {
                for index in 0..self.places.len() {
                    self.tell(index, input.clone());
                }
            }
            HostMessage::TakePart => self.takes_part = true,
            HostMessage::Watch(index, port) => self.watch(index, port),
            HostMessage::Admit(newcomer) => {
                self.board.admit(newcomer.shard);
                self.board.publish(newcomer.replica.status());
                self.places.push(Some(Place::new(newcomer)));
            }
            HostMessage::Retire(leaver) => {
                if let Some(place) = &mut self.places[leaver.index] {
                    place.retires = true;
                    self.retiring.push(leaver);
                }
            }
            HostMessage::EndMeta { index, why, done } => {
                if let Some(place) = &mut self.places[index] {
                    self.board.meta_failed(why);
                    let outputs = place.fail(Vec::new(), &self.board);
                    self.dispatch(index, META, outputs, None);
                }
                let _ = done.send(()); // a caller that has gone needs no answer
            }
            HostMessage::Stop => {}
        }
    }

    fn submit(&mut self, now: Now, operation: Submission) {
        let Submission { index, ticket, give_up_at_ms, request } = operation;
        if now.mono_ms > give_up_at_ms {
            // The operation waited here for as long as its sender does. Doing it now would only
            // delay the operations behind it.
            self.answer(ticket, Some(Reply::Busy));
            return;
        }
        if self.place(index).is_none() {
            self.answer(ticket, None);
            return;
        }
        if !self.takes_part && !matches!(request, Request::Read { linearizable: false, .. }) {
            self.answer(ticket, Some(Reply::NoLeader));
            return;
        }
        self.tell(index, request.into_input(ticket, give_up_at_ms));
    }

    fn tell(&mut self, index: usize, input: Input) {
        if !self.takes_part && matches!(input, Input::Tick | Input::Peer(_) | Input::Snapshot(_)) {
            return; // the replica may have forgotten its votes: see `peer_identities`
        }
        // Messages for a retired replica were on their way when it ended.
        let Some(place) = self.places[index].as_mut().filter(|place| !place.retires) else {
            return;
        };
        if place.inputs.is_empty() {
            self.touched.push(index);
        }
        place.inputs.push(input);
    }

    fn watch(&mut self, index: usize, port: Option<NewsPort>) {
        let Some(place) = self.places[index].as_mut().filter(|place| !place.retires) else {
            return; // its port is dropped, which tells the reader
        };
        if let Some(port) = &port {
            let has_leader = Some(place.replica.status().leader.is_some());
            self.news.push((port.clone(), News { has_leader, ..News::default() }));
        }
        let on = port.is_some();
        place.port = port;
        self.tell(index, Input::Watch { on });
    }

    fn seat(&self, index: usize) -> Seat {
        Seat { thread: self.thread, index }
    }

    /// The place of a replica that has not been retired.
    fn place(&self, index: usize) -> Option<&Place> {
        self.places[index].as_ref().filter(|place| !place.retires)
    }

    fn step(&mut self, now: Now) -> Result<(), Fatal> {
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            let Some(place) = &mut self.places[index] else { continue };
            let mut inputs = std::mem::take(&mut place.inputs);
            let began = Instant::now();
            let traced = traces::is_on().then(SystemTime::now);
            let asked = if place.shard == META { in_doubt(&inputs) } else { Vec::new() };
            let outputs = match place.replica.step(now, &mut inputs) {
                Ok(outputs) => outputs,
                Err(fatal) if place.shard == META => {
                    tell_failed(&self.board, fatal.to_string());
                    place.fail(asked, &self.board)
                }
                Err(fatal) => return Err(fatal),
            };
            let outputs = self.told_topology(index, outputs);
            let Some(place) = &mut self.places[index] else { continue };
            let entry = traced.and_then(|at| place.stages.stepped(&outputs, at, SystemTime::now()));
            let took = began.elapsed();
            self.metrics.step_seconds.observe(took.as_secs_f64());
            if took >= SLOW_STEP {
                let took_ms = took.as_millis() as u64;
                tracing::warn!(shard = %place.shard, took_ms, "a step took long; longer than an election and leaders change");
            }
            inputs.clear();
            place.inputs = inputs;
            let shard = place.shard;
            self.dispatch(index, shard, outputs, entry);
        }
        if self.touched.is_empty() {
            self.touched = touched; // the vector keeps its capacity
        }
        Ok(())
    }

    /// Ends the replicas that retire, after the step with their last inputs. Their last writes are
    /// queued by then, so the order to destroy their data comes after them.
    fn retire(&mut self) {
        for Leaver { index, birth, done } in std::mem::take(&mut self.retiring) {
            let Some(place) = self.places[index].take() else { continue };
            let shard = place.shard;
            self.board.retire(shard);
            for (ticket, reply) in place.replica.retire() {
                self.answer(ticket, Some(reply));
            }
            let work = Work::Destroy { shard, birth };
            self.writer.queue(WriteJob { work, done: Done::Caller(done) });
            tracing::info!(%shard, birth, "a replica was retired");
        }
    }

    /// Passes on what META's replica tells of the topology. Changes that make no topology are a
    /// failure of the replica.
    fn told_topology(&mut self, index: usize, mut outputs: Outputs) -> Outputs {
        let Some(news) = outputs.topology.take() else { return outputs };
        match (self.board.topology.take(news), &mut self.places[index]) {
            (Err(unfit), Some(place)) => {
                tell_failed(&self.board, unfit.to_string());
                let mut failed = place.fail(Vec::new(), &self.board);
                failed.replies.extend(outputs.replies);
                failed
            }
            _ => outputs,
        }
    }

    fn dispatch(
        &mut self,
        index: usize,
        shard: ShardId,
        outputs: Outputs,
        entry: Option<Arc<EntryTimes>>,
    ) {
        let port = self.places[index].as_ref().and_then(|place| place.port.clone());
        // The write goes before the messages, because a snapshot's sender waits for all writes
        // queued before it.
        if let Some(write) = outputs.write {
            let done = Done::Replica { thread: self.thread, index, number: write.number };
            self.writer.queue(WriteJob { work: Work::Write(write.write), done });
        }
        if outputs.wants_snapshot
            && !self.snapshots.push(SnapshotJob::Build { shard, seat: self.seat(index) })
        {
            self.tell(index, Input::SnapshotBuilt(None));
        }
        for message in outputs.messages {
            self.send(index, shard, message);
        }
        let mut of_watch = Vec::new();
        for (place, (ticket, reply)) in outputs.replies.into_iter().enumerate() {
            if port.is_some()
                && let (WATCH_STREAM, reading) = untangle(ticket)
            {
                of_watch.push((reading, reply));
                continue;
            }
            let entry = entry.as_ref().filter(|_| outputs.replies_applied.contains(&place));
            let entry = entry.filter(|_| matches!(reply, Reply::Done(_))).cloned();
            self.answer_after(ticket, Some(reply), entry);
        }
        if let Some(port) = port {
            let has_leader = outputs.leadership.map(|leadership| leadership.leader.is_some());
            let news = News { watched: outputs.watched, answers: of_watch, has_leader };
            if !news.is_empty() {
                self.news.push((port, news));
            }
        }
        if let Some(at_ms) = outputs.wake_at_ms {
            self.wakes.insert((at_ms, index));
        }
        if let Some(founders) = outputs.founders {
            self.board.take_founders(founders);
        }
        if !outputs.ended.is_empty() {
            self.ended.ended(&outputs.ended);
        }
        if let Some(leadership) = outputs.leadership {
            let term = leadership.term;
            match leadership.leader {
                Some(leader) => {
                    tracing::info!(%shard, term, %leader, is_me = leadership.is_me, "leader known")
                }
                None => tracing::debug!(%shard, term, "no leader known"),
            }
            let place = self.places[index].as_ref().expect("it was just stepped");
            self.board.publish(place.replica.status());
        }
    }

    fn send(&mut self, index: usize, shard: ShardId, message: PeerMessage) {
        let PeerMessage { to, bytes, snapshot, is_urgent } = message;
        if let Some(snapshot) = snapshot {
            let seat = self.seat(index);
            if !self.snapshots.push(SnapshotJob::Send { shard, seat, to, header: bytes, snapshot })
            {
                self.tell(index, Input::SnapshotSent { node: to, ok: false });
            }
            return;
        }
        let message = wire::internal::v1::PeerMessage { shard: shard.0, raft: bytes.into() };
        let lanes = self.outgoing.entry(to).or_default();
        if is_urgent { &mut lanes.urgent } else { &mut lanes.usual }.push(message);
    }

    fn answer(&mut self, ticket: Ticket, reply: Option<Reply>) {
        self.answer_after(ticket, reply, None);
    }

    /// Answers an operation, and says which entry the answer follows from.
    fn answer_after(
        &mut self,
        ticket: Ticket,
        reply: Option<Reply>,
        entry: Option<Arc<EntryTimes>>,
    ) {
        let (key, op_index) = untangle(ticket);
        // A stream that has ended gets no answers any more.
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.answers.is_empty() {
            self.answered.push(key);
        }
        stream.answers.push(Answer { op_index, reply, entry });
    }

    /// Sends this round's answers and messages, in one piece for each receiver.
    fn flush(&mut self) {
        for (port, news) in self.news.drain(..) {
            port.send(news);
        }
        for key in self.answered.drain(..) {
            if let Some(stream) = self.streams.get_mut(&key) {
                // The stream's task may have ended; it reports that itself.
                let _ = stream.port.send(std::mem::take(&mut stream.answers));
            }
        }
        let mut lost = Vec::new();
        for (peer, lanes) in &mut self.outgoing {
            if !lanes.is_empty() {
                let refused = self.outboxes.push(*peer, std::mem::take(lanes));
                lost.extend(refused.into_iter().map(|shard| (*peer, shard)));
            }
        }
        for (node, shard) in lost {
            let is_its = |place: &Option<Place>| place.as_ref().is_some_and(|p| p.shard == shard);
            if let Some(index) = self.places.iter().position(is_its) {
                self.tell(index, Input::Unreachable { node });
            }
        }
    }
}
