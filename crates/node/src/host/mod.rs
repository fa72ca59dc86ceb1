//! The way into the shard threads: it knows the thread of each shard, and bounds the messages to
//! the threads.
//!
//! * The messages of one caller to one shard arrive in the order in which they were sent.
//! * Every inbox is bounded where outsiders fill it. Operations are refused ([`Host::submit`]) and
//!   peers' bytes dropped ([`Host::deliver`]) before they are queued. Messages of the node itself
//!   (persisted, control) are bounded by the work that its replicas have in flight.
//! * A seat is never given to another shard. So a message that was on its way to a retired replica
//!   reaches no other one.

mod failed;
mod news;
mod stages;
mod stepper;
mod ticker;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use failed::{Failed, contained, tell_failed};
pub(crate) use news::{News, NewsPort, NewsReader, news};
pub(crate) use stages::EntryTimes;
pub(crate) use stepper::Stepper;
pub(crate) use worker::{Worker, WorkerParts};

use crate::limits::INBOX_PEER_BYTES_MAX;
use crate::mailbox::{Receiver, Sender, mailbox};
use routing::{META, Settings, ShardId};
use service::Request;
use shard::{Input, Reply, Ticket};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// The seat of a shard: its thread, and its place in the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) thread: usize,
    pub(crate) index: usize,
}

/// Names a stream of operations within this run of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamKey(pub(crate) u32);

/// The name of an operation towards its replica: its stream, and its index in that stream's table
/// of operations. An index is not reused before its operation was answered, and so neither is a
/// ticket.
pub(crate) fn ticket(stream: StreamKey, op_index: u32) -> Ticket {
    u64::from(stream.0) << 32 | u64::from(op_index)
}

/// The key of no stream. Answers to it go with the news of their replica.
pub(crate) const WATCH_STREAM: StreamKey = StreamKey(0);

/// The inverse of [`ticket`].
fn untangle(ticket: Ticket) -> (StreamKey, u32) {
    (StreamKey((ticket >> 32) as u32), ticket as u32)
}

/// One operation on its way to its replica.
#[derive(Debug)]
pub(crate) struct Submission {
    /// Place of the shard in its thread.
    pub(crate) index: usize,
    pub(crate) ticket: Ticket,
    /// After this moment of the node's clock no caller waits for the operation. It is refused
    /// unless it has been handed over by then.
    pub(crate) give_up_at_ms: u64,
    pub(crate) request: Request,
}

/// The reply to one operation of a stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) op_index: u32,
    /// `None`: the shard was retired here before the operation came.
    pub(crate) reply: Option<Reply>,
    /// The stages of the entry that it follows from, while traces are on.
    pub(crate) entry: Option<Arc<EntryTimes>>,
}

/// A replica on its way to its shard thread.
pub(crate) struct Newcomer {
    pub(crate) shard: ShardId,
    pub(crate) replica: Box<dyn Stepper>,
}

/// A replica that ends.
#[derive(Debug)]
pub(crate) struct Leaver {
    index: usize,
    birth: u32,
    /// Told when its data are destroyed.
    done: oneshot::Sender<()>,
}

impl std::fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Newcomer").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// The channel on which a stream takes its answers. It holds at most one answer for each operation
/// in flight.
pub(crate) type AnswerPort = UnboundedSender<Vec<Answer>>;

/// The messages to a shard thread.
#[derive(Debug)]
pub(crate) enum HostMessage {
    Submit(Vec<Submission>),
    StreamOpened(StreamKey, AnswerPort),
    /// A stream has closed. The message lists its waiting operations, because no caller waits for
    /// them any more.
    StreamClosed(StreamKey, Vec<(usize, Ticket)>),
    /// Encoded Raft messages, by place.
    Peers(Vec<(usize, Vec<u8>)>),
    /// By place: all writes up to this number are on disk.
    Persisted(Vec<(usize, u64)>),
    Input(usize, Input),
    /// An input to all shards.
    All(Input),
    /// From here on replicas tick, and hear their peers.
    TakePart,
    /// A replica for the next place.
    Admit(Newcomer),
    /// A replica ends. Its data are destroyed after its last write.
    Retire(Leaver),
    /// The table of the replica at this place is watched from now on, or no more.
    Watch(usize, Option<NewsPort>),
    /// Finish the messages queued before this one, and end.
    /// META's replica ends as if it had failed.
    EndMeta {
        index: usize,
        why: String,
        done: oneshot::Sender<()>,
    },
    Stop,
}

/// The bounded part of one inbox's load, and how far its thread is.
#[derive(Debug, Default)]
pub(crate) struct Load {
    operations: AtomicUsize,
    peer_bytes: AtomicUsize,
    /// Rounds that the thread has finished. It does one for each tick, even without messages.
    rounds: AtomicU64,
}

/// One shard thread, seen from outside.
#[derive(Debug)]
struct Inbox {
    sender: Sender<HostMessage>,
    load: Arc<Load>,
}

/// One shard thread's end of its inbox.
pub(crate) struct InboxEnd {
    pub(crate) receiver: Receiver<HostMessage>,
    pub(crate) load: Arc<Load>,
}

/// All shard threads, seen from outside.
#[derive(Debug)]
pub(crate) struct Host {
    inboxes: Vec<Inbox>,
    /// Operations that an inbox takes for each shard in it.
    operations_max: usize,
    seats: RwLock<Seats>,
    next_stream: AtomicU32,
}

#[derive(Debug)]
struct Seats {
    /// Replaced when it changes, so that a reader keeps what it has read.
    by_shard: Arc<BTreeMap<ShardId, Seat>>,
    /// By thread.
    threads: Vec<Places>,
    /// The state of the disk as last told, for replicas that come later.
    disk: Option<Input>,
    /// The replicas ask for no votes any more.
    stands_aside: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Places {
    /// Places that have a replica with locks. META is asked too little to count.
    taken: usize,
    /// Places that were ever given.
    given: usize,
}

impl Seats {
    /// Gives a shard a seat on the thread with the fewest shards.
    fn give(&mut self, shard: ShardId) -> Seat {
        let fewest = (0..self.threads.len()).min_by_key(|thread| self.threads[*thread].taken);
        let thread = fewest.expect("a node has a shard thread");
        let places = &mut self.threads[thread];
        let seat = Seat { thread, index: places.given };
        places.taken += usize::from(shard != META);
        places.given += 1;
        let former = Arc::make_mut(&mut self.by_shard).insert(shard, seat);
        assert!(former.is_none(), "shard {shard} is hosted here already");
        seat
    }
}

/// The number of shard threads. A node without replicas may get any number of them.
pub(crate) fn shard_threads(settings: &Settings, shards: usize) -> usize {
    let wanted = match settings.shard_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        threads => threads,
    };
    wanted.clamp(1, if shards == 0 { wanted.max(1) } else { shards })
}

impl Host {
    /// Spreads `shards` over `threads` threads. An inbox takes `operations_max` operations per
    /// shard in it.
    pub(crate) fn new(
        shards: &[ShardId],
        threads: usize,
        operations_max: usize,
    ) -> (Host, Vec<InboxEnd>) {
        assert!(threads > 0, "a node needs a shard thread");
        let threads_of = vec![Places::default(); threads];
        let by_shard = Arc::default();
        let mut seats = Seats { by_shard, threads: threads_of, disk: None, stands_aside: false };
        for shard in shards {
            seats.give(*shard);
        }
        let mut ends = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..threads {
            let (sender, receiver) = mailbox();
            let load = Arc::new(Load::default());
            inboxes.push(Inbox { sender, load: load.clone() });
            ends.push(InboxEnd { receiver, load });
        }
        let seats = RwLock::new(seats);
        (Host { inboxes, operations_max, seats, next_stream: AtomicU32::new(1) }, ends)
    }

    /// Adds a replica to a running shard thread. The incarnations of the peers are to be told to it
    /// after that, with [`Input::Incarnation`].
    ///
    /// # Panics
    /// If the shard is hosted here already.
    pub(crate) fn admit(&self, newcomer: Newcomer) -> Seat {
        // The lock is held until the message is sent. So no message can reach the seat before it.
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        let seat = seats.give(newcomer.shard);
        self.say(seat.thread, HostMessage::Admit(newcomer));
        if let Some(disk) = &seats.disk {
            self.say(seat.thread, HostMessage::Input(seat.index, disk.clone()));
        }
        if seats.stands_aside {
            self.say(seat.thread, HostMessage::Input(seat.index, Input::StandAside));
        }
        seat
    }

    /// Takes a replica from its shard thread, and has its data destroyed after its last write.
    /// Operations under way are answered as far as their outcome is known. Later ones, and messages
    /// of peers, do not reach the replica.
    ///
    /// The result is told when the tombstone is on disk, and is dropped if the node ends before. It
    /// is `None` if the shard is not hosted here.
    pub(crate) fn retire(&self, shard: ShardId, birth: u32) -> Option<oneshot::Receiver<()>> {
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        let seat = Arc::make_mut(&mut seats.by_shard).remove(&shard)?;
        seats.threads[seat.thread].taken -= usize::from(shard != META);
        let (done, destroyed) = oneshot::channel();
        let leaver = Leaver { index: seat.index, birth, done };
        self.say(seat.thread, HostMessage::Retire(leaver));
        Some(destroyed)
    }

    /// Ends META's replica here as if it had failed: it never speaks again in this run. The result is
    /// told once that is so. It is `None` if META is not hosted here.
    pub(crate) fn end_meta(&self, why: String) -> Option<oneshot::Receiver<()>> {
        let seat = self.seat(META)?;
        let (done, ended) = oneshot::channel();
        self.say(seat.thread, HostMessage::EndMeta { index: seat.index, why, done });
        Some(ended)
    }

    pub(crate) fn threads(&self) -> usize {
        self.inboxes.len()
    }

    /// The seat of a shard; `None` if the shard is not hosted here.
    pub(crate) fn seat(&self, shard: ShardId) -> Option<Seat> {
        self.seats().by_shard.get(&shard).copied()
    }

    /// The seats of all shards now. A frame of operations looks them up once.
    pub(crate) fn seating(&self) -> Arc<BTreeMap<ShardId, Seat>> {
        self.seats().by_shard.clone()
    }

    /// The number of shards of locks that are hosted here.
    pub(crate) fn shards(&self) -> usize {
        self.seats().by_shard.keys().filter(|shard| **shard != META).count()
    }

    /// The shards of a thread, by place.
    pub(crate) fn shards_of(&self, thread: usize) -> Vec<ShardId> {
        let seats = self.seats();
        let mut here: Vec<_> =
            seats.by_shard.iter().filter(|(_, seat)| seat.thread == thread).collect();
        here.sort_by_key(|(_, seat)| seat.index);
        here.into_iter().map(|(shard, _)| *shard).collect()
    }

    /// The number of operations that wait for the threads, over all threads.
    pub(crate) fn queued_operations(&self) -> usize {
        self.inboxes.iter().map(|inbox| inbox.load.operations.load(Ordering::Relaxed)).sum()
    }

    /// The rounds that each thread has finished. A number that stays the same for longer than a
    /// tick belongs to a thread that is stuck, or has ended.
    pub(crate) fn rounds(&self) -> Vec<u64> {
        self.inboxes.iter().map(|inbox| inbox.load.rounds.load(Ordering::Relaxed)).collect()
    }

    /// Hands over operations of one thread's shards.
    ///
    /// # Errors
    /// Returns the operations, none of them queued, because too many wait there.
    pub(crate) fn submit(
        &self,
        thread: usize,
        batch: Vec<Submission>,
    ) -> Result<(), Vec<Submission>> {
        let inbox = &self.inboxes[thread];
        let count = batch.len();
        let most = self.operations_max.saturating_mul(self.seats().threads[thread].taken.max(1));
        let before = inbox.load.operations.fetch_add(count, Ordering::Relaxed);
        if before + count > most {
            inbox.load.operations.fetch_sub(count, Ordering::Relaxed);
            return Err(batch);
        }
        self.say(thread, HostMessage::Submit(batch));
        Ok(())
    }

    /// A key for the next stream of operations.
    pub(crate) fn next_stream(&self) -> StreamKey {
        loop {
            // A key is reused after 2^32 streams. By then its former stream is long gone.
            let key = StreamKey(self.next_stream.fetch_add(1, Ordering::Relaxed));
            if key != WATCH_STREAM {
                return key;
            }
        }
    }

    pub(crate) fn open_stream(&self, key: StreamKey, port: &AnswerPort) {
        for thread in 0..self.inboxes.len() {
            self.say(thread, HostMessage::StreamOpened(key, port.clone()));
        }
    }

    /// Tells the shard threads that a stream has closed. `waiting` names its operations that may
    /// wait for long, because no caller waits for them any more.
    pub(crate) fn close_stream(&self, key: StreamKey, waiting: Vec<(Seat, Ticket)>) {
        let mut by_thread = vec![Vec::new(); self.inboxes.len()];
        for (seat, ticket) in waiting {
            by_thread[seat.thread].push((seat.index, ticket));
        }
        for (thread, tickets) in by_thread.into_iter().enumerate() {
            self.say(thread, HostMessage::StreamClosed(key, tickets));
        }
    }

    /// Hands over peers' messages. Returns how many were dropped, because their shard is not hosted
    /// here or too much waits already.
    pub(crate) fn deliver(&self, messages: impl IntoIterator<Item = (ShardId, Vec<u8>)>) -> usize {
        let mut by_thread: Vec<Vec<(usize, Vec<u8>)>> = vec![Vec::new(); self.inboxes.len()];
        let mut dropped = 0;
        let seats = self.seats();
        for (shard, message) in messages {
            let Some(seat) = seats.by_shard.get(&shard) else {
                dropped += 1;
                continue;
            };
            let load = &self.inboxes[seat.thread].load;
            let before = load.peer_bytes.fetch_add(message.len(), Ordering::Relaxed);
            if before > INBOX_PEER_BYTES_MAX {
                load.peer_bytes.fetch_sub(message.len(), Ordering::Relaxed);
                dropped += 1;
                continue;
            }
            by_thread[seat.thread].push((seat.index, message));
        }
        for (thread, messages) in by_thread.into_iter().enumerate() {
            if !messages.is_empty() {
                self.say(thread, HostMessage::Peers(messages));
            }
        }
        dropped
    }

    /// Tells `thread` the numbers up to which its writes are on disk. `persisted` holds them by
    /// place.
    pub(crate) fn persisted(&self, thread: usize, persisted: Vec<(usize, u64)>) {
        self.say(thread, HostMessage::Persisted(persisted));
    }

    /// Hands an input to a shard; the call does nothing if the shard is not hosted here.
    pub(crate) fn input(&self, shard: ShardId, input: Input) {
        if let Some(seat) = self.seat(shard) {
            self.input_at(seat, input);
        }
    }

    /// Hands an input to the replica on this seat; the call does nothing if it has ended.
    pub(crate) fn input_at(&self, seat: Seat, input: Input) {
        self.say(seat.thread, HostMessage::Input(seat.index, input));
    }

    /// Lets a shard tell the news of its table from now on, or no more. Returns whether the shard
    /// is hosted here. The port of a replica that ends is dropped.
    pub(crate) fn watch(&self, shard: ShardId, port: Option<NewsPort>) -> bool {
        let seat = self.seat(shard);
        if let Some(seat) = seat {
            self.say(seat.thread, HostMessage::Watch(seat.index, port));
        }
        seat.is_some()
    }

    /// Tells all replicas.
    pub(crate) fn input_all(&self, input: &Input) {
        for thread in 0..self.inboxes.len() {
            self.say(thread, HostMessage::All(input.clone()));
        }
    }

    /// Tells all replicas the state of the disk: see [`Input::Disk`].
    pub(crate) fn disk(&self, hangs: bool, stretch: u32) {
        let disk = Input::Disk { hangs, stretch };
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        seats.disk = Some(disk.clone());
        self.input_all(&disk);
    }

    /// Lets no replica ask for votes any more: see [`Input::StandAside`].
    pub(crate) fn stand_aside(&self) {
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        seats.stands_aside = true;
        self.input_all(&Input::StandAside);
    }

    /// Lets the replicas take part. Before this call no replica here ticks or hears a peer.
    pub(crate) fn take_part(&self) {
        for thread in 0..self.inboxes.len() {
            self.say(thread, HostMessage::TakePart);
        }
    }

    /// Ends all threads once they have done their queued work.
    pub(crate) fn stop(&self) {
        for thread in 0..self.inboxes.len() {
            self.say(thread, HostMessage::Stop);
        }
    }

    fn seats(&self) -> RwLockReadGuard<'_, Seats> {
        self.seats.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, thread: usize, message: HostMessage) {
        // A thread that has ended hears nothing. The node is stopping then, and each caller that
        // waits for an answer is told so.
        self.inboxes[thread].sender.send(message);
    }
}

impl Load {
    fn finished_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn took_operations(&self, count: usize) {
        self.operations.fetch_sub(count, Ordering::Relaxed);
    }

    fn took_peer_bytes(&self, bytes: usize) {
        self.peer_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
