//! The model at work: threads with inboxes on machines, messages between them, syncs, and time.
//!
//! A thread that gets a core takes all messages in its inbox, works for as long as they cost, and
//! then sends the results. Batches therefore adapt to the load, as they do in the service. The
//! module `threads` defines the work of the threads.

use crate::agenda::{Agenda, Ns};
use crate::group::{Entry, Group, NodeIx, Op, ShardIx};
use crate::host::{Host, ThreadId};
use crate::load::Load;
use crate::observe::Log;
use crate::random::Random;
use planner::Costs;

/// A machine, by its place in the model.
pub(crate) type HostIx = usize;

/// The job of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Makes the load, if the load generator shares the machine.
    Client,
    Gateway,
    /// Serves the sockets of a node.
    Network(NodeIx),
    /// Runs some of a node's shards.
    Shards(NodeIx),
    /// A node's log writer: it waits for each sync.
    Writer(NodeIx),
    /// A node's flushes and compactions.
    Background(NodeIx),
}

impl Role {
    /// The price of processor time for this thread relative to others. Flushes and merges run at
    /// nice 10, which gives them a ninth of the share.
    fn weight(self) -> Ns {
        if let Role::Background(_) = self { 9 } else { 1 }
    }

    /// Whether a woken thread lets others run before it takes its messages, as the threads at a
    /// node's mailboxes do.
    fn yields(self) -> bool {
        matches!(self, Role::Shards(_) | Role::Writer(_))
    }

    pub(crate) fn node(self) -> Option<NodeIx> {
        match self {
            Role::Client | Role::Gateway => None,
            Role::Network(node)
            | Role::Shards(node)
            | Role::Writer(node)
            | Role::Background(node) => Some(node),
        }
    }
}

/// A message from thread to thread.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A frame of a client's connection, after answers from this many entries.
    Asked { ops: Vec<(ShardIx, Op)>, entries: f64 },
    /// Operations from the gateway to the leader.
    Ops { shard: ShardIx, ops: Vec<Op> },
    /// Answers from the leader to the gateway.
    Answers { shard: ShardIx, ops: Vec<Op> },
    /// A frame to a client's connection: answers from this many entries, and the sum of the roots
    /// of their operations.
    Answered { ops: Vec<Op>, entries: f64, roots: f64 },
    /// An entry on its way to a follower, together with the commit index.
    Append { shard: ShardIx, entry: Entry },
    /// An entry on its way to the disk.
    Write { shard: ShardIx, index: u64, weight: f64 },
    /// An entry is on the disk of the node that wrote it.
    Persisted { shard: ShardIx, index: u64 },
    /// A follower has an entry on disk.
    Acknowledged { shard: ShardIx, index: u64, by: NodeIx },
    /// An entry has waited long enough for clients that were just answered.
    Held { shard: ShardIx },
    /// Processor time for work outside of operations.
    Work(Ns),
}

impl Message {
    /// The weight of the operations in this message.
    fn weight(&self) -> f64 {
        match self {
            Message::Asked { ops, .. } => ops.len() as f64,
            Message::Ops { ops, .. }
            | Message::Answers { ops, .. }
            | Message::Answered { ops, .. } => ops.len() as f64,
            Message::Append { entry, .. } => entry.weight,
            Message::Write { weight, .. } => *weight,
            Message::Persisted { .. }
            | Message::Acknowledged { .. }
            | Message::Held { .. }
            | Message::Work(_) => 0.0,
        }
    }
}

/// A message, and the target that a network thread passes it on to.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) message: Message,
    pub(crate) to: Target,
}

/// The target that a network thread passes a message on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A thread of the same node.
    Inside,
    Node(NodeIx),
    Gateway,
}

/// An event that the agenda delivers at its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrives in an inbox.
    Arrives(ThreadId, Envelope),
    /// A thread has done its work. `life` tells threads of a dead node from those of a live one.
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
    /// The gateway tries again to send its waiting operations.
    Retry(ShardIx),
}

/// A message that leaves a thread, with its delay.
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) to: ThreadId,
    pub(crate) delay: Ns,
    pub(crate) envelope: Envelope,
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

/// * An idle thread has an empty inbox.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) role: Role,
    pub(crate) host: HostIx,
    pub(crate) inbox: Vec<Envelope>,
    state: State,
    /// Processor time used so far.
    pub(crate) busy_ns: Ns,
    /// Processor time since the thread last waited, for work or for a core.
    ran_ns: Ns,
    /// Whether the thread slept, and has not worked since.
    woken: bool,
    /// Whether the thread has let others go first since it was woken.
    yielded: bool,
    /// For a writer: the messages to send when the sync is done.
    after_sync: Vec<Send>,
}

impl Thread {
    pub(crate) fn new(role: Role, host: HostIx) -> Thread {
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

    /// Takes the waiting messages, up to the most that the thread works on at a time.
    fn take(&mut self) -> Vec<Envelope> {
        let mut weight = 0.0;
        // A client's connections are served in turn. The operations of one connection go out before
        // the next connection is served.
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

/// The threads and the state of a node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) network: Vec<ThreadId>,
    pub(crate) shards: Vec<ThreadId>,
    pub(crate) writer: ThreadId,
    pub(crate) background: ThreadId,
    pub(crate) alive: bool,
    /// Number of deaths of the node.
    pub(crate) life: u32,
    /// Time of background work that is not done yet.
    pub(crate) background_ns: f64,
}

/// The settings of a model, which stay constant during a run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) costs: Costs,
    /// Delay of one way between machines.
    pub(crate) link_ns: Ns,
    /// Operations that the gateway handles for each simulated one, divided by its cores. Other
    /// shards' operations come and go at the same rate.
    pub(crate) gateway_share: f64,
    /// Raft's tick, which is the unit of the next two settings.
    pub(crate) tick_ns: Ns,
    pub(crate) election_ticks: f64,
    pub(crate) heartbeat_ticks: f64,
    /// Limit of a shard's operations on their way; further operations are refused.
    pub(crate) unanswered_max: usize,
    /// Checks per second that each node answers.
    pub(crate) checks_per_s: f64,
}

pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) gateway: ThreadId,
    /// The client thread, in a closed loop only.
    pub(crate) client: Option<ThreadId>,
    pub(crate) groups: Vec<Group>,
    /// At the gateway, by shard: operations that no replica serves yet.
    pub(crate) waiting: Vec<Vec<Op>>,
    /// At the gateway, by shard: operations on their way to a leader or back.
    pub(crate) unanswered: Vec<usize>,
    pub(crate) load: Load,
    pub(crate) log: Log,
    /// Entries proposed so far, and the operations in them.
    pub(crate) entries: u64,
    pub(crate) entry_ops: f64,
    /// The time at which each shard was served again after its leader died.
    pub(crate) served_again: Vec<Option<Ns>>,
}

/// A thread with more than this weight in its inbox sends its first results before it takes the
/// rest.
const WEIGHT_AT_ONCE: f64 = 2_048.0;
/// Limit of processor time for which a thread keeps its core while it finds further work.
const RUN_ON_NS: Ns = 3_000_000;
/// Interval of the work outside of requests.
const CHORES_NS: Ns = 1_000_000;

impl World {
    /// Draws the time of a sync, on a machine like the nodes'.
    pub(crate) fn sync_ns(&mut self) -> Ns {
        let host = self.threads[self.nodes[0].writer].host;
        self.hosts[host].sync_time().draw_ns(&mut self.random)
    }

    /// Plans the first events of the run.
    pub(crate) fn begin(&mut self) {
        if self.setting.checks_per_s > 0.0 {
            self.agenda.after(0, Event::Chores);
        }
        for send in self.first_of_clients() {
            self.send(send);
        }
        self.plan_due();
    }

    /// Runs the model up to `end`.
    pub(crate) fn run(&mut self, end: Ns) {
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

    /// Whether the thread that began an event still lives.
    fn lives(&self, thread: ThreadId, life: u32) -> bool {
        self.life(thread) == life
            && self.threads[thread].role.node().is_none_or(|node| self.nodes[node].alive)
    }

    pub(crate) fn life(&self, thread: ThreadId) -> u32 {
        self.threads[thread].role.node().map_or(0, |node| self.nodes[node].life)
    }

    pub(crate) fn send(&mut self, send: Send) {
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
            // A thread that continues with messages of the meantime pays no wake-up cost. Other
            // work already includes all its costs.
            let only_work =
                inbox.iter().all(|envelope| matches!(envelope.message, Message::Work(_)));
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
        // This comes before other threads are woken, because a thread with more work stays on its
        // core.
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

    /// Continues if messages came meanwhile, on the same core until the time slice is used up.
    fn rest(&mut self, thread: ThreadId) {
        let due = thread == self.gateway
            && self.load.next_ns().is_some_and(|next| next <= self.agenda.now());
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

    /// Plans the wake-up of an idle gateway for the arrival of the next operation.
    fn plan_due(&mut self) {
        if let Some(next) = self.load.next_ns() {
            self.agenda.at(next.max(self.agenda.now()), Event::Due);
        }
    }

    /// Ends all threads of a dead node. Their operations of clients go back to the gateway.
    pub(crate) fn end_threads(&mut self, node: NodeIx) {
        self.nodes[node].alive = false;
        self.nodes[node].life += 1;
        for thread in 0..self.threads.len() {
            if self.threads[thread].role.node() == Some(node) {
                let inbox = std::mem::take(&mut self.threads[thread].inbox);
                inbox.into_iter().for_each(|envelope| self.salvage(envelope));
            }
        }
    }

    /// Returns operations that a dead node will not answer, so that they are tried again with the
    /// same request ids.
    fn salvage(&mut self, envelope: Envelope) {
        if let Message::Ops { shard, ops } | Message::Answers { shard, ops } = envelope.message {
            self.wait_for_leader(shard, ops);
        }
    }
}
