//! The work of each thread on its inbox, and its cost.
//!
//! The calibration's costs are spread over the way of an entry. Half of an operation's cost to a
//! thread is due when the operation comes, and half when it is applied or answered. The cost of the
//! entry itself is due wherever the entry passes. A cost that does not grow with operations is due
//! when a node's thread is woken, so all messages in its inbox share that cost.

use crate::agenda::Ns;
use crate::group::{Entry, NodeIx, Op, ShardIx, weight};
use crate::host::ThreadId;
use crate::world::{Envelope, Event, Message, Role, Send, Target, World};
use std::collections::BTreeMap;

/// Operations are given up after this time.
const TIMEOUT_NS: Ns = 5_000_000_000;
/// The size of one portion of background work.
const BACKGROUND_NS: f64 = 1e6;

fn inside(message: Message) -> Envelope {
    Envelope { message, to: Target::Inside }
}

impl World {
    /// The cost of waking a thread, in microseconds. A writer pays for each sync. Other threads'
    /// costs come with their messages.
    pub(crate) fn wake_us(&self, thread: ThreadId) -> f64 {
        match self.threads[thread].role {
            Role::Network(_) => self.setting.costs.network_us_per_wake,
            Role::Shards(_) => self.setting.costs.shard_us_per_wake,
            Role::Client | Role::Gateway | Role::Writer(_) | Role::Background(_) => 0.0,
        }
    }

    /// Works on an inbox. Returns the cost in microseconds, and the messages that are sent after
    /// the work.
    pub(crate) fn work(&mut self, thread: ThreadId, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        match self.threads[thread].role {
            Role::Client => self.client_works(inbox),
            Role::Gateway => self.gateway_works(inbox),
            Role::Network(node) => self.network_works(node, inbox),
            Role::Shards(node) => self.shards_work(node, inbox),
            Role::Writer(node) => self.writer_works(node, inbox),
            Role::Background(_) => (inbox.iter().map(work_us).sum(), Vec::new()),
        }
    }

    /// The first operations of a closed loop, in one frame: all clients share one connection to the
    /// gateway, as in `palisade bench`.
    pub(crate) fn first_of_clients(&mut self) -> Vec<Send> {
        let frame: Vec<(ShardIx, Op)> =
            (0..self.load.clients() as u32).map(|client| self.load.ask(client, 0)).collect();
        let first = Message::Asked { ops: frame, entries: 1.0 };
        let asked = (self.load.clients() > 0).then(|| Send {
            to: self.gateway,
            delay: 0,
            envelope: inside(first),
        });
        asked.into_iter().collect()
    }

    fn client_works(&mut self, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        let costs = &self.setting.costs;
        let (mut cost, mut answered) = (0.0, Vec::new());
        for envelope in inbox {
            let Message::Answered { ops, entries, roots } = envelope.message else {
                unreachable!("clients get answers, not {:?}", envelope.message)
            };
            let per_entry =
                roots * costs.client_us_per_entry_root + entries * costs.client_us_per_entry;
            cost += ops.len() as f64 * costs.client_us_per_op + per_entry;
            answered.push((ops, entries));
        }
        // A client sends again when the work is done, and at that time the answer counts as seen.
        let done = self.agenda.now() + (cost * 1e3) as Ns;
        let mut sends = Vec::with_capacity(answered.len());
        for (ops, entries) in answered {
            let mut asked = Vec::with_capacity(ops.len());
            for op in ops {
                self.log.answered(done, op.sent);
                asked.push(self.load.ask(op.client, done));
            }
            let message = Message::Asked { ops: asked, entries };
            sends.push(Send { to: self.gateway, delay: 0, envelope: inside(message) });
        }
        (cost, sends)
    }

    fn gateway_works(&mut self, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        let (now, link) = (self.agenda.now(), self.setting.link_ns);
        let (mut coming, mut going): (BTreeMap<ShardIx, Vec<Op>>, Vec<Op>) = Default::default();
        // Counted in entries: half of an entry's cost is due on the way to the leader, half on the
        // way back.
        let (mut entries, mut answered, mut roots) = (0.0, 0.0, 0.0);
        for envelope in inbox {
            match envelope.message {
                Message::Asked { ops, entries: after } => {
                    entries += after / 2.0;
                    ops.into_iter()
                        .for_each(|(shard, op)| coming.entry(shard).or_default().push(op));
                }
                Message::Answers { shard, mut ops } => {
                    entries += 0.5;
                    answered += 1.0;
                    roots += weight(&ops).sqrt();
                    self.unanswered[shard] -= ops.len();
                    going.append(&mut ops);
                }
                other => unreachable!("gateways get operations and answers, not {other:?}"),
            }
        }
        let arrived = self.load.arrived(now, link);
        if !arrived.is_empty() {
            entries += 0.5;
            coming.entry(0).or_default().extend(arrived);
        }
        let passed = coming.values().map(|ops| weight(ops)).sum::<f64>() + weight(&going);
        let costs = &self.setting.costs;
        let per_entry =
            entries * costs.gateway_us_per_entry + roots * costs.gateway_us_per_entry_root;
        let cost = passed * costs.gateway_us_per_op / 2.0 + per_entry;
        let cost = cost * self.setting.gateway_share;
        let mut sends = Vec::new();
        for (shard, ops) in coming {
            sends.extend(self.pass_to_leader(shard, ops));
        }
        if let Some(client) = self.client {
            if !going.is_empty() {
                let message = Message::Answered { ops: going, entries: answered, roots };
                sends.push(Send { to: client, delay: 0, envelope: inside(message) });
            }
        } else {
            let done = now + (cost * 1e3) as Ns + link;
            for op in going {
                match op.renewal {
                    true => self.log.renewals += 1,
                    false => self.log.answered(done, op.sent),
                }
            }
        }
        (cost, sends)
    }

    /// Sends operations to the leader. Without a leader they wait at the gateway.
    pub(crate) fn pass_to_leader(&mut self, shard: ShardIx, mut ops: Vec<Op>) -> Option<Send> {
        match self.groups[shard].leader {
            Some(leader) if self.waiting[shard].is_empty() => {
                let room = self
                    .setting
                    .unanswered_max
                    .saturating_sub(self.unanswered[shard])
                    .min(ops.len());
                self.log.refused += (ops.len() - room) as u64;
                ops.truncate(room);
                self.unanswered[shard] += room;
                let delay = self.delay(self.threads[self.gateway].host, self.node_host(leader));
                let to = self.nodes[leader].network[0];
                Some(Send { to, delay, envelope: inside(Message::Ops { shard, ops }) })
            }
            _ => {
                self.waiting[shard].extend(ops);
                None
            }
        }
    }

    /// Takes back the operations of a dead leader.
    pub(crate) fn wait_for_leader(&mut self, shard: ShardIx, ops: Vec<Op>) {
        self.unanswered[shard] -= ops.len();
        self.waiting[shard].extend(ops);
        // A leader that already serves gets the operations at once.
        if self.groups[shard].leader.is_some() {
            self.retry(shard);
        }
    }

    /// Sends the operations that waited, except those that waited too long.
    pub(crate) fn retry(&mut self, shard: ShardIx) {
        let (now, waited) = (self.agenda.now(), std::mem::take(&mut self.waiting[shard]));
        let (in_time, late): (Vec<Op>, Vec<Op>) =
            waited.into_iter().partition(|op| now - op.sent <= TIMEOUT_NS);
        self.log.timed_out += late.len() as u64;
        if !in_time.is_empty()
            && let Some(send) = self.pass_to_leader(shard, in_time)
        {
            self.send(send);
        }
    }

    fn network_works(&mut self, node: NodeIx, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        let costs = &self.setting.costs;
        let (leader_op, follower_op) =
            (costs.leader_network_us_per_op, costs.follower_network_us_per_op);
        let root = costs.network_us_per_entry_root;
        let (mut cost, mut sends) = (0.0, Vec::new());
        for envelope in inbox {
            match &envelope.message {
                Message::Ops { ops, .. } => cost += weight(ops) * leader_op / 2.0,
                Message::Answers { ops, .. } => {
                    cost += weight(ops) * leader_op / 2.0 + weight(ops).sqrt() * root
                }
                Message::Append { entry, .. } if envelope.to == Target::Inside => {
                    cost += entry.weight * follower_op + entry.weight.sqrt() * root;
                }
                Message::Append { .. } | Message::Acknowledged { .. } => {}
                Message::Work(ns) => cost += *ns as f64 / 1e3,
                other => unreachable!("{other:?} is no message between nodes"),
            }
            let shard = match &envelope.message {
                Message::Ops { shard, .. }
                | Message::Answers { shard, .. }
                | Message::Append { shard, .. }
                | Message::Acknowledged { shard, .. } => *shard,
                _ => continue,
            };
            let host = self.node_host(node);
            let (to, delay) = match envelope.to {
                Target::Inside => (self.shard_thread(node, shard), 0),
                Target::Gateway => {
                    (self.gateway, self.delay(host, self.threads[self.gateway].host))
                }
                Target::Node(peer) => {
                    let network = &self.nodes[peer].network;
                    (network[node % network.len()], self.delay(host, self.node_host(peer)))
                }
            };
            sends.push(Send { to, delay, envelope: inside(envelope.message) });
        }
        (cost, sends)
    }

    fn shards_work(&mut self, node: NodeIx, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        let (mut cost, mut sends, mut touched) = (0.0, Vec::new(), Vec::new());
        let c = self.setting.costs.clone();
        for envelope in inbox {
            match envelope.message {
                Message::Ops { shard, ops } if self.groups[shard].leader == Some(node) => {
                    cost += weight(&ops) * c.leader_shard_us_per_op / 2.0;
                    let refused = self.groups[shard].push(ops);
                    self.unanswered[shard] -= refused;
                    self.log.refused += refused as u64;
                    touched.push(shard);
                }
                // This node is no longer the leader.
                Message::Ops { shard, ops } => self.wait_for_leader(shard, ops),
                Message::Append { shard, entry } => {
                    cost += (entry.weight + entry.committed) * c.follower_shard_us_per_op / 2.0;
                    cost += (entry.weight.sqrt() + entry.committed.sqrt())
                        * c.shard_us_per_entry_root
                        / 2.0;
                    self.in_background(node, entry.committed, &mut sends);
                    sends.push(self.to_writer(node, shard, &entry));
                }
                Message::Persisted { shard, index } if self.groups[shard].leader == Some(node) => {
                    self.groups[shard].acknowledged(node, index);
                    touched.push(shard);
                }
                Message::Persisted { shard, index } => {
                    if let Some(leader) = self.groups[shard].leader {
                        let message = Message::Acknowledged { shard, index, by: node };
                        sends.push(self.by_network(node, Target::Node(leader), message));
                    }
                }
                Message::Acknowledged { shard, index, by } => {
                    self.groups[shard].acknowledged(by, index);
                    touched.push(shard);
                }
                Message::Held { shard } => touched.push(shard),
                other => unreachable!("{other:?} is nothing for a shard"),
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for shard in touched {
            if self.groups[shard].leader == Some(node) {
                cost += self.leader_goes_on(node, shard, &mut sends);
            }
        }
        (cost, sends)
    }

    /// Applies committed entries, and proposes the next entry if the rules allow it.
    fn leader_goes_on(&mut self, node: NodeIx, shard: ShardIx, sends: &mut Vec<Send>) -> f64 {
        let (per_op, root) =
            (self.setting.costs.leader_shard_us_per_op, self.setting.costs.shard_us_per_entry_root);
        let (now, mut cost) = (self.agenda.now(), 0.0);
        while let Some(ops) = self.groups[shard].apply(now) {
            let weight = weight(&ops);
            cost += (weight * per_op + weight.sqrt() * root) / 2.0;
            self.in_background(node, weight, sends);
            sends.push(self.by_network(node, Target::Gateway, Message::Answers { shard, ops }));
        }
        while let Some(entry) = self.groups[shard].propose(now) {
            cost += entry.weight.sqrt() * root / 2.0;
            self.entries += 1;
            self.entry_ops += entry.weight;
            for peer in self.groups[shard]
                .replicas
                .iter()
                .filter(|peer| **peer != node && self.nodes[**peer].alive)
            {
                sends.push(self.by_network(
                    node,
                    Target::Node(*peer),
                    Message::Append { shard, entry },
                ));
            }
            sends.push(self.to_writer(node, shard, &entry));
        }
        if let Some(at) = self.groups[shard].wake_at(now) {
            let held = inside(Message::Held { shard });
            self.agenda.at(at, Event::Arrives(self.shard_thread(node, shard), held));
        }
        cost
    }

    fn to_writer(&self, node: NodeIx, shard: ShardIx, entry: &Entry) -> Send {
        let message = Message::Write { shard, index: entry.index, weight: entry.weight };
        Send { to: self.nodes[node].writer, delay: 0, envelope: inside(message) }
    }

    fn writer_works(&mut self, node: NodeIx, inbox: Vec<Envelope>) -> (f64, Vec<Send>) {
        let c = &self.setting.costs;
        let (mut cost, mut sends) = (c.writer_us_per_sync, Vec::with_capacity(inbox.len()));
        for envelope in inbox {
            let Message::Write { shard, index, weight } = envelope.message else {
                unreachable!("{:?} is nothing to write", envelope.message)
            };
            let led = self.groups[shard].leader == Some(node);
            cost +=
                weight * if led { c.leader_writer_us_per_op } else { c.follower_writer_us_per_op };
            cost += weight.sqrt() * c.writer_us_per_entry_root;
            let to = self.shard_thread(node, shard);
            sends.push(Send {
                to,
                delay: 0,
                envelope: inside(Message::Persisted { shard, index }),
            });
        }
        (cost, sends)
    }

    /// Adds the later flushes and compactions of an entry, in portions.
    fn in_background(&mut self, node: NodeIx, weight: f64, sends: &mut Vec<Send>) {
        let state = &mut self.nodes[node];
        state.background_ns += weight * self.setting.costs.background_us_per_op * 1e3;
        if state.background_ns >= BACKGROUND_NS {
            let message = Message::Work(state.background_ns as Ns);
            state.background_ns = 0.0;
            sends.push(Send { to: state.background, delay: 0, envelope: inside(message) });
        }
    }

    /// Adds the checks of one millisecond, on all nodes.
    pub(crate) fn chores(&mut self) {
        let work = self.setting.checks_per_s * self.setting.costs.check_us_per_op;
        for node in 0..self.nodes.len() {
            let threads =
                if self.nodes[node].alive { self.nodes[node].network.clone() } else { Vec::new() };
            for to in threads.iter().copied() {
                let message = Message::Work((work / threads.len() as f64) as Ns);
                self.send(Send { to, delay: 0, envelope: inside(message) });
            }
        }
    }

    fn by_network(&self, node: NodeIx, to: Target, message: Message) -> Send {
        let network = &self.nodes[node].network;
        let at = if let Target::Node(peer) = to { peer } else { 0 };
        Send { to: network[at % network.len()], delay: 0, envelope: Envelope { message, to } }
    }

    fn shard_thread(&self, node: NodeIx, shard: ShardIx) -> ThreadId {
        let threads = &self.nodes[node].shards;
        threads[shard % threads.len()]
    }

    fn node_host(&self, node: NodeIx) -> usize {
        self.threads[self.nodes[node].writer].host
    }

    fn delay(&self, from: usize, to: usize) -> Ns {
        if from == to { 0 } else { self.setting.link_ns }
    }
}

fn work_us(envelope: &Envelope) -> f64 {
    if let Message::Work(ns) = envelope.message { ns as f64 / 1e3 } else { 0.0 }
}
