//! The model at work: threads with inboxes on machines, messages between them, syncs, and time.
//!
//! A thread that gets a core takes all that waits in its inbox, works on it for as long as that costs, and then sends what came
//! of it; so batches size themselves by the load, as they do in the service. What the threads do stands in `threads`.

use super::agenda::{Agenda, Ns};
use super::group::{Entry, Group, NodeIx, Op};
use super::host::{Host, ThreadId};
use super::load::Load;
use super::observe::Log;
use super::random::Random;
use crate::Costs;

/// A machine, by its place in the model.
pub(super) type HostIx = usize;
/// A shard, by its place in the model.
pub(super) type ShardIx = usize;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Makes the load, where that shares the machine.
    Client,
    Gateway,
    /// A node's sockets.
    Network(NodeIx),
    /// Runs some of a node's shards.
    Shards(NodeIx),
    /// A node's log writer: it waits for each sync.
    Writer(NodeIx),
    /// A node's flushes and compactions.
    Background(NodeIx),
}

impl Role {
    /// How much dearer processor time is to it than to others: flushes and merges run at nice 10, which is a ninth of the share.
    fn weight(self) -> Ns {
        if let Role::Background(_) = self { 9 } else { 1 }
    }

    /// Whether it lets others run when it is woken, before it takes what has come: as whoever waits at a mailbox of the node's.
    fn yields(self) -> bool {
        matches!(self, Role::Shards(_) | Role::Writer(_))
    }

    pub(super) fn node(self) -> Option<NodeIx> {
        match self {
            Role::Client | Role::Gateway => None,
            Role::Network(node) | Role::Shards(node) | Role::Writer(node) | Role::Background(node) => Some(node),
        }
    }
}

/// What goes from thread to thread.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A frame of a client's connection, after answers of so many entries.
    Asked { ops: Vec<(ShardIx, Op)>, entries: f64 },
    /// From the gateway to the leader.
    Ops { shard: ShardIx, ops: Vec<Op> },
    /// From the leader to the gateway.
    Answers { shard: ShardIx, ops: Vec<Op> },
    /// A frame to a client's connection: answers of so many entries, and the sum of the roots of what each of them had.
    Answered { ops: Vec<Op>, entries: f64, roots: f64 },
    /// An entry on its way to a follower, and with it what is committed.
    Append { shard: ShardIx, entry: Entry },
    /// An entry on its way to the disk.
    Write { shard: ShardIx, index: u64, weight: f64 },
    /// It is there.
    Persisted { shard: ShardIx, index: u64 },
    /// A follower has it on disk.
    Acknowledged { shard: ShardIx, index: u64, by: NodeIx },
    /// An entry has waited long enough for who was just answered.
    Held { shard: ShardIx },
    /// Processor time for other things.
    Work(Ns),
}

impl Message {
    /// Operations in it.
    fn weight(&self) -> f64 {
        match self {
            Message::Asked { ops, .. } => ops.len() as f64,
            Message::Ops { ops, .. } | Message::Answers { ops, .. } | Message::Answered { ops, .. } => ops.len() as f64,
            Message::Append { entry, .. } => entry.weight,
            Message::Write { weight, .. } => *weight,
            Message::Persisted { .. } | Message::Acknowledged { .. } | Message::Held { .. } | Message::Work(_) => 0.0,
        }
    }
}

/// A message, and where it is to go from a network thread.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) message: Message,
    pub(super) to: Target,
}

/// Where a network thread passes something on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Its own node.
    Inside,
    Node(NodeIx),
    Gateway,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A message arrives in an inbox.
    Arrives(ThreadId, Envelope),
    /// A thread has done its work; `life` tells threads of a dead node from those that work now.
    Worked { thread: ThreadId, took: Ns, sends: Vec<Send>, life: u32 },
    /// A writer's sync is done.
    Synced { thread: ThreadId, sends: Vec<Send>, life: u32 },
    /// Operations are due at the gateway.
    Due,
    /// Other work of the nodes is due.
    Chores,
    /// These nodes die at once.
    Die(Vec<NodeIx>),
    /// A replica has won and its first entry is committed.
    Elected(ShardIx, NodeIx),
    /// The gateway tries what it could not send.
    Retry(ShardIx),
}

/// Something that leaves a thread.
#[derive(Clone, Debug)]
pub(super) struct Send {
    pub(super) to: ThreadId,
    pub(super) delay: Ns,
    pub(super) envelope: Envelope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Waits for a core.
    Ready,
    Working,
    /// Waits for the disk.
    Syncing,
}

/// - A thread that is idle has an empty inbox.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) role: Role,
    pub(super) host: HostIx,
    pub(super) inbox: Vec<Envelope>,
    state: State,
    /// Processor time so far.
    pub(super) busy_ns: Ns,
    /// Worked since it last waited, for work or for a core.
    ran_ns: Ns,
    /// It slept, and has not worked since.
    woken: bool,
    /// Since it was woken it has let others go first.
    yielded: bool,
    /// A writer: what is told when the sync is done.
    after_sync: Vec<Send>,
}

impl Thread {
    pub(super) fn new(role: Role, host: HostIx) -> Thread {
        Thread {
            role,
            host,
            inbox: Vec::new(),
            state: State::Idle,
            busy_ns: 0,
            ran_ns: 0,
            woken: false,
            yielded: false,
            after_sync: Vec::new(),
        }
    }

    /// All that waits, or as much of it as is worked on at a time.
    fn take(&mut self) -> Vec<Envelope> {
        let mut weight = 0.0;
        // A client's connections are served in turn, and what one asks goes out before the next is looked at.
        let most = if self.role == Role::Client { 1.0 } else { WEIGHT_AT_ONCE };
        let more = self.inbox.iter().position(|envelope| {
            let full = weight >= most;
            weight += envelope.message.weight();
            full
        });
        let rest = more.map_or_else(Vec::new, |at| self.inbox.split_off(at));
        std::mem::replace(&mut self.inbox, rest)
    }
}

/// A node's threads.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) network: Vec<ThreadId>,
    pub(super) shards: Vec<ThreadId>,
    pub(super) writer: ThreadId,
    pub(super) background: ThreadId,
    pub(super) alive: bool,
    /// How often it died.
    pub(super) life: u32,
    /// Work in the background that is not done yet.
    pub(super) background_ns: f64,
}

/// What does not change while the model runs.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) costs: Costs,
    /// One way between machines.
    pub(super) link_ns: Ns,
    /// Operations that the gateway handles for each of ours, over its cores: other shards' come and go as ours do.
    pub(super) gateway_share: f64,
    /// Raft's tick, in which the next two count.
    pub(super) tick_ns: Ns,
    pub(super) election_ticks: f64,
    pub(super) heartbeat_ticks: f64,
    /// Operations of a shard that may be on their way; what is more is refused.
    pub(super) unanswered_max: usize,
    /// Checks per second that each node answers.
    pub(super) checks_per_s: f64,
}

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) agenda: Agenda<Event>,
    pub(super) random: Random,
    pub(super) hosts: Vec<Host>,
    pub(super) threads: Vec<Thread>,
    pub(super) nodes: Vec<Node>,
    pub(super) gateway: ThreadId,
    /// Closed loop only.
    pub(super) client: Option<ThreadId>,
    pub(super) groups: Vec<Group>,
    /// At the gateway, by shard: operations that nobody serves.
    pub(super) waiting: Vec<Vec<Op>>,
    /// At the gateway, by shard: operations on their way.
    pub(super) unanswered: Vec<usize>,
    pub(super) load: Load,
    pub(super) log: Log,
    /// Entries proposed so far, and the operations in them.
    pub(super) entries: u64,
    pub(super) entry_ops: f64,
    /// When each shard was served again after its leader died.
    pub(super) served_again: Vec<Option<Ns>>,
}

/// A thread that has more than this before it sends what came of it before it takes the rest.
const WEIGHT_AT_ONCE: f64 = 2_048.0;
/// A thread that finds more to do when it is done keeps its core, until it has worked for so long.
const RUN_ON_NS: Ns = 3_000_000;
/// Work outside of requests comes so often.
const CHORES_NS: Ns = 1_000_000;

impl World {
    /// How long a sync takes, on a machine like the nodes'.
    pub(super) fn sync_ns(&mut self) -> Ns {
        let host = self.threads[self.nodes[0].writer].host;
        self.hosts[host].sync_time().draw_ns(&mut self.random)
    }

    /// Plans what begins the run.
    pub(super) fn begin(&mut self) {
        if self.setting.checks_per_s > 0.0 {
            self.agenda.after(0, Event::Chores);
        }
        for send in self.first_of_clients() {
            self.send(send);
        }
        self.plan_due();
    }

    /// Runs up to `end`.
    pub(super) fn run(&mut self, end: Ns) {
        while let Some(event) = self.agenda.next(end) {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(thread, envelope) => self.arrives(thread, envelope),
            Event::Worked { thread, took, sends, life } => {
                let weight = self.threads[thread].role.weight();
                self.hosts[self.threads[thread].host].leaves_core(thread, took * weight);
                self.threads[thread].busy_ns += took;
                self.threads[thread].ran_ns += took;
                self.worked(thread, sends, life);
                self.start_work(self.threads[thread].host);
            }
            Event::Synced { thread, sends, life } => {
                self.hosts[self.threads[thread].host].ends_sync();
                if self.lives(thread, life) {
                    sends.into_iter().for_each(|send| self.send(send));
                    self.threads[thread].ran_ns = RUN_ON_NS;
                    self.rest(thread);
                }
                self.start_syncs(self.threads[thread].host);
                self.start_work(self.threads[thread].host);
            }
            Event::Due => {
                let gateway = self.gateway;
                if self.threads[gateway].state == State::Idle {
                    self.wake(gateway);
                }
            }
            Event::Chores => {
                self.chores();
                self.agenda.after(CHORES_NS, Event::Chores);
            }
            Event::Die(nodes) => self.die(&nodes),
            Event::Elected(shard, node) => self.elected(shard, node),
            Event::Retry(shard) => self.retry(shard),
        }
    }

    /// Whether a thread is still the one that began something.
    fn lives(&self, thread: ThreadId, life: u32) -> bool {
        self.life(thread) == life && self.threads[thread].role.node().is_none_or(|node| self.nodes[node].alive)
    }

    pub(super) fn life(&self, thread: ThreadId) -> u32 {
        self.threads[thread].role.node().map_or(0, |node| self.nodes[node].life)
    }

    pub(super) fn send(&mut self, send: Send) {
        match send.delay {
            0 => self.arrives(send.to, send.envelope),
            delay => self.agenda.after(delay, Event::Arrives(send.to, send.envelope)),
        }
    }

    fn arrives(&mut self, thread: ThreadId, envelope: Envelope) {
        if self.threads[thread].role.node().is_some_and(|node| !self.nodes[node].alive) {
            return self.salvage(envelope);
        }
        self.threads[thread].inbox.push(envelope);
        if self.threads[thread].state == State::Idle {
            self.wake(thread);
        }
    }

    fn wake(&mut self, thread: ThreadId) {
        self.threads[thread].woken = true;
        self.waits_for_core(thread);
    }

    fn waits_for_core(&mut self, thread: ThreadId) {
        self.threads[thread].state = State::Ready;
        let host = self.threads[thread].host;
        self.hosts[host].wants_core(thread);
        self.start_work(host);
    }

    /// Gives free cores to threads that wait for one.
    fn start_work(&mut self, host: HostIx) {
        while let Some(thread) = self.hosts[host].takes_core() {
            let woken = std::mem::take(&mut self.threads[thread].woken);
            if woken && !self.threads[thread].yielded && self.threads[thread].role.yields() {
                (self.threads[thread].woken, self.threads[thread].yielded) = (true, true);
                self.hosts[host].yields(thread);
                continue;
            }
            self.threads[thread].state = State::Working;
            self.threads[thread].yielded = false;
            let inbox = self.threads[thread].take();
            // Not for one that goes on with what came meanwhile; and other work is given with all that it costs.
            let only_work = inbox.iter().all(|envelope| matches!(envelope.message, Message::Work(_)));
            let wake_us = if woken && !only_work { self.wake_us(thread) } else { 0.0 };
            let (cost_us, sends) = self.work(thread, inbox);
            let took = ((wake_us + cost_us) * 1e3) as Ns;
            let life = self.life(thread);
            self.agenda.after(took, Event::Worked { thread, took, sends, life });
        }
    }

    fn worked(&mut self, thread: ThreadId, sends: Vec<Send>, life: u32) {
        if !self.lives(thread, life) {
            self.hosts[self.threads[thread].host].sleeps(thread);
            sends.into_iter().for_each(|send| self.salvage(send.envelope));
            return;
        }
        if let Role::Writer(_) = self.threads[thread].role {
            self.threads[thread].state = State::Syncing;
            self.threads[thread].after_sync = sends;
            let host = self.threads[thread].host;
            self.hosts[host].sleeps(thread);
            self.hosts[host].wants_sync(thread);
            return self.start_syncs(host);
        }
        // Before others are woken: who has more to do stays on its core.
        self.rest(thread);
        sends.into_iter().for_each(|send| self.send(send));
    }

    fn start_syncs(&mut self, host: HostIx) {
        while let Some((thread, took)) = self.hosts[host].begins_sync(&mut self.random) {
            let sends = std::mem::take(&mut self.threads[thread].after_sync);
            let life = self.life(thread);
            self.agenda.after(took, Event::Synced { thread, sends, life });
        }
    }

    /// Goes on if something came meanwhile: on the same core, until its time slice is used up.
    fn rest(&mut self, thread: ThreadId) {
        let due = thread == self.gateway && self.load.next_ns().is_some_and(|next| next <= self.agenda.now());
        let more = due || !self.threads[thread].inbox.is_empty();
        if more && self.threads[thread].ran_ns < RUN_ON_NS {
            self.threads[thread].state = State::Ready;
            let host = self.threads[thread].host;
            self.hosts[host].wants_core_first(thread);
            return self.start_work(host);
        }
        self.threads[thread].ran_ns = 0;
        if more {
            return self.waits_for_core(thread);
        }
        self.threads[thread].state = State::Idle;
        self.hosts[self.threads[thread].host].sleeps(thread);
        if thread == self.gateway {
            self.plan_due();
        }
    }

    /// An idle gateway wakes when the next operation arrives.
    fn plan_due(&mut self) {
        if let Some(next) = self.load.next_ns() {
            self.agenda.at(next.max(self.agenda.now()), Event::Due);
        }
    }

    /// All threads of a dead node end; what they had of clients' goes back to the gateway.
    pub(super) fn end_threads(&mut self, node: NodeIx) {
        self.nodes[node].alive = false;
        self.nodes[node].life += 1;
        for thread in 0..self.threads.len() {
            if self.threads[thread].role.node() == Some(node) {
                let inbox = std::mem::take(&mut self.threads[thread].inbox);
                inbox.into_iter().for_each(|envelope| self.salvage(envelope));
            }
        }
    }

    /// What a dead node does not answer is tried again, with the same request ids.
    fn salvage(&mut self, envelope: Envelope) {
        if let Message::Ops { shard, ops } | Message::Answers { shard, ops } = envelope.message {
            self.wait_for_leader(shard, ops);
        }
    }
}
