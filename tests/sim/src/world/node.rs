//! A node: its replicas, the operations that wait for them, and the way of their outputs.
//!
//! The node follows the real host. One step takes all inputs that have come. Writes are queued
//! before any message is sent. A snapshot leaves after all writes queued before it.

use super::clock::SECOND_US;
use super::disk::{CrashLoss, Job, Then};
use super::network::Place;
use super::reseed::{HELLO_TICKS, incarnation_of};
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::{Event, Message};
use super::state::members::MovedBy;
use super::state::node::{Part, Pending};
use crate::checker::{Invariant, LateGrant, Sample};
use crate::world::ask::request_of;
use locks::Stamp;
use routing::{META, NodeId, ShardId};
use service::{Admitted, Callers};
use shard::{
    Answer as Read, Input, Outputs, Query, Replica, ReplicaConfig, Reply, Speaker, Ticket, Watched,
    join_snapshot,
};
use std::collections::BTreeMap;
use storage::{Engine, ShardWrite, StorageError};
use wire::internal::v1::Operation;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;

/// The first ticket of the simulator's own questions.
pub(crate) const OWN_TICKETS: Ticket = 1 << 60;

impl World {
    pub(crate) fn start_node(&mut self, id: u64) {
        let now_us = self.now_us;
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.is_up()
            || node.failed
            || node.awaits_reseed
            || node.part != Part::In
            || node.absent_until_us > now_us
        {
            return;
        }
        node.boot += 1;
        if let Err(error) = node.disk.claim(id) {
            // The node is started again when the world is healed.
            return self.trace.line(now_us, || format!("node {id}    does not start: {error}"));
        }
        node.up = true;
        let shards: Vec<ShardId> = node.lives.keys().copied().collect();
        for shard in shards {
            self.open_replica(id, shard);
            if !self.nodes[&id].is_up() {
                return;
            }
        }
        let node = &self.nodes[&id];
        let (boot, first_us) = (node.boot, node.clock.true_us(node.settings.tick_ms * 1_000));
        let after_us = self.rng.range(1, first_us);
        self.trace.line(now_us, || format!("node {id}    starts"));
        self.agenda.push(now_us + after_us, Event::Tick { node: id, boot });
        if self.members.moved_by == MovedBy::Topology {
            self.agenda.push(now_us + after_us, Event::Follow { node: id, boot });
        }
        self.say_hello(id);
    }

    /// Opens the replica of a shard that this node hosts. If it cannot be opened, the node stops.
    pub(crate) fn open_replica(&mut self, id: u64, shard: ShardId) {
        let now_us = self.now_us;
        let preferred_leader = match self.map.replicas(shard) {
            Some(placed) => placed.preferred_leader,
            None => self.members.founders[0],
        };
        let founds_meta = self.founds_meta(shard);
        let node = self.nodes.get_mut(&id).expect("a node");
        let on_disk = node.disk.engine.lives().get(&shard).and_then(|lives| lives.hosted);
        assert_eq!(on_disk, Some(node.lives[&shard].birth), "node {id} of shard {shard}");
        let recovered = match node.disk.recover(shard) {
            Ok(recovered) => recovered,
            Err(error) => {
                // The node may have voted, and must not vote as if it had not. It comes back under
                // a new incarnation, or not at all.
                (node.awaits_reseed, node.up) = (true, false);
                node.replicas.clear();
                self.faults.add(FaultKind::DamageDetected);
                let after_us = self.rng.range(SECOND_US, 15 * SECOND_US);
                self.agenda.push(now_us + after_us, Event::Reseed { node: id });
                return self.trace.line(now_us, || format!("node {id}    stays down: {error}"));
            }
        };
        let mut voters = self.members.founders.clone();
        if shard == META && recovered.applied.is_none() {
            // As a node does: it waits for a snapshot.
            voters.retain(|node| node.0 != id);
        }
        let config = ReplicaConfig {
            shard,
            node: NodeId(id),
            incarnation: node.lives[&shard].birth,
            voters,
            preferred_leader,
            boot: node.boot,
            raft: node.settings.raft,
            election_seed: Some(node.settings.election_seed),
        };
        let (birth, entries) = (config.incarnation, recovered.entries.clone());
        match Replica::open(config, recovered, node.clock.read(now_us)) {
            Ok(mut replica) => {
                if founds_meta {
                    replica.found_meta();
                }
                let last = replica.status().last_index;
                let known = node
                    .incarnations
                    .iter()
                    .map(|(other, incarnation)| incarnation_of(*other, *incarnation));
                let watches = (shard != META).then_some(Input::Watch { on: true });
                node.inbox.insert(shard, known.chain(watches).collect());
                let replica = match shard {
                    META => replica.with_seed(self.meta.seed.clone()),
                    _ => replica,
                };
                node.replicas.insert(shard, replica);
                self.note_log(id, shard, (birth, last));
                self.judge_of(shard).opened(id, &entries);
            }
            Err(fatal) => {
                let what = format!("node {id} cannot start from what it wrote: {fatal}");
                node.replicas.clear();
                (node.failed, node.up) = (true, false);
                self.violated_in(shard, Invariant::NoCrash, what);
            }
        }
    }

    /// Ends the process without warning.
    pub(crate) fn crash_node(&mut self, id: u64, power_cut: bool) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if !node.is_up() {
            return;
        }
        node.boot += 1;
        node.paused_until_us = 0;
        node.up = false;
        node.replicas.clear();
        node.inbox.clear();
        node.step_due.clear();
        node.lateness.clear();
        node.following.stop();
        self.route_tables.forget(Place::Node(id));
        self.meta.forget(id);
        let loss = node.disk.crash(&mut self.rng);
        self.watches.forget(id);
        match loss {
            CrashLoss::Nothing => {}
            CrashLoss::Unsynced => self.faults.add(FaultKind::UnsyncedLost),
            CrashLoss::Torn => self.faults.add(FaultKind::TornTail),
        }
        let pending = std::mem::take(&mut node.pending);
        self.trace.line(self.now_us, || {
            format!("node {id}    dies (power cut: {power_cut}, disk: {loss:?})")
        });
        for (ticket, Pending { from, .. }) in pending {
            // The operating system resets the process's connections. After a power cut no such
            // reset is sent.
            if !power_cut {
                self.send(Place::Node(id), from, Message::Broken { ticket, sent: true });
            }
        }
    }

    pub(crate) fn tick(&mut self, id: u64, boot: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.boot != boot {
            return;
        }
        let next_us = self.now_us + node.clock.true_us(node.settings.tick_ms * 1_000);
        self.agenda.push(next_us, Event::Tick { node: id, boot });
        node.ticks += 1;
        if node.ticks.is_multiple_of(HELLO_TICKS) {
            self.say_hello(id);
        }
        let node = &self.nodes[&id];
        let shards: Vec<ShardId> = node.replicas.keys().copied().collect();
        for shard in shards {
            if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.boot == boot) {
                node.inbox.entry(shard).or_default().push(Input::Tick);
                self.step(id, shard);
            }
        }
    }

    /// Gives a replica an input. The replica takes it a little later, with all other inputs that
    /// have come by then.
    pub(crate) fn tell(&mut self, id: u64, shard: ShardId, input: Input) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if !node.replicas.contains_key(&shard) {
            return;
        }
        node.inbox.entry(shard).or_default().push(input);
        if node.step_due.insert(shard) {
            let at_us = self.now_us + self.rng.range(5, 120);
            self.agenda.push(at_us, Event::Step { node: id, boot: node.boot, shard });
        }
    }

    pub(crate) fn step(&mut self, id: u64, shard: ShardId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let now = node.clock.read(self.now_us);
        let inputs = node.inbox.get_mut(&shard).map(std::mem::take).unwrap_or_default();
        let Some(replica) = node.replicas.get_mut(&shard) else { return };
        let before = replica.status();
        match replica.step(now, inputs) {
            Ok(outputs) => {
                let has_applied = replica.status().applied_index > before.applied_index;
                if let Some(at_ms) = outputs.wake_at_ms {
                    // The extra microsecond keeps rounding from making the step early.
                    let at_us = self.now_us
                        + node.clock.true_us(at_ms.saturating_sub(now.mono_ms) * 1_000)
                        + 1;
                    self.agenda.push(at_us, Event::Step { node: id, boot: node.boot, shard });
                }
                if let Some(write) = &outputs.write {
                    self.judge_write(id, shard, &before, &write.write);
                    self.judge_members(id, shard);
                }
                self.dispatch(id, shard, outputs);
                if has_applied {
                    self.judge_quotas(id, shard);
                    self.judge_members(id, shard);
                    if shard == META {
                        self.judge_topology(id);
                    }
                    self.probe(id, shard);
                }
            }
            Err(fatal) => {
                let what = format!("node {id} stopped by itself: {fatal}");
                self.violated_in(shard, Invariant::NoCrash, what);
                self.crash_node(id, false);
                self.nodes.get_mut(&id).expect("a node").failed = true;
            }
        }
    }

    pub(crate) fn dispatch(&mut self, id: u64, shard: ShardId, mut outputs: Outputs) {
        if let Some(watched) = outputs.watched.take() {
            self.take_watched(id, shard, watched);
        }
        if let Some(news) = outputs.topology.take() {
            self.take_topology_news(id, news);
        }
        if let Some(founders) = outputs.founders.take() {
            self.take_founders(id, &founders);
        }
        if let Some(leadership) = outputs.leadership {
            self.trace.mix(leadership.term << 8 | u64::from(leadership.is_me));
            self.trace.line(self.now_us, || {
                let leader = leadership
                    .leader
                    .map_or("nobody".to_owned(), |leader| format!("node {leader}"));
                format!("node {id}    shard {shard}: {leader} leads in term {}", leadership.term)
            });
        }
        if let Some(write) = outputs.write {
            let node = &self.nodes[&id];
            let last = node.replicas.get(&shard).map_or(0, |it| it.status().last_index);
            let birth = node.lives.get(&shard).map_or(0, |life| life.birth);
            let then = Then::Persisted { shard, number: write.number, log: (birth, last) };
            self.queue_write(id, Job { write: Some(write.write), then });
        }
        for message in outputs.messages {
            let (to, is_snapshot) = (message.to.0, message.snapshot.is_some());
            let speaker = shard::speaker(&message.bytes).expect("a message of its own");
            self.judge_speaker(id, shard, &speaker);
            if is_snapshot {
                self.judge_snapshot(id, shard, message.to, &message.bytes);
            }
            let bytes = match message.snapshot {
                Some(snapshot) => {
                    join_snapshot(&message.bytes, &snapshot.data).expect("a snapshot message")
                }
                None => message.bytes,
            };
            self.trace.mix_bytes(&bytes);
            if is_snapshot {
                self.faults.add(FaultKind::SnapshotSent);
                let boot = self.nodes[&id].boot;
                let then =
                    Then::Event(Box::new(Event::Snapshot { from: id, boot, to, shard, bytes }));
                self.queue_write(id, Job { write: None, then });
                continue;
            }
            if !self.network.passes(Place::Node(id), Place::Node(to)) && self.rng.percent(10) {
                self.tell(id, shard, Input::Unreachable { node: message.to });
            }
            let message = Message::Raft { shard, bytes, speaker };
            self.send(Place::Node(id), Place::Node(to), message);
        }
        for (ticket, reply) in outputs.replies {
            self.answer(id, shard, ticket, reply);
        }
    }

    fn take_watched(&mut self, id: u64, shard: ShardId, watched: Watched) {
        let node = &self.nodes[&id];
        let Some(replica) = node.replicas.get(&shard) else { return };
        let Some(table) = replica.table() else { return };
        let at = Stamp { wall_ms: 0, shard_ms: table.shard_ms() };
        let of_shard = self.names.iter().filter(|name| name.shard == shard);
        let mut names: Vec<String> = of_shard.map(|name| name.name.clone()).collect();
        names.sort_unstable();
        let committed_index = replica.status().committed_index;
        self.watches.take(id, shard, watched, committed_index, (table, &names, at));
    }

    pub(crate) fn answer(&mut self, id: u64, shard: ShardId, ticket: Ticket, reply: Reply) {
        if ticket >= OWN_TICKETS {
            self.take_meta_answer(ticket, &reply);
            if let Reply::Read { answer: Read::Status(status), .. } = reply {
                let (applied_index, state_hash) = (status.applied_index, status.state_hash);
                self.trace.mix(state_hash);
                self.samples.push(Sample { shard: shard.0, node: id, applied_index, state_hash });
            }
            return;
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(pending) = node.pending.remove(&ticket) else { return };
        let Pending { from, kind, request, taken_us, .. } = pending;
        if let Reply::Read { answer: Read::Check { holders, .. }, applied_index, .. } = &reply {
            self.shown.note(id, shard, *applied_index, holders);
        }
        let result = service::result(shard, NodeId(id), kind, reply);
        if let (Some(request), OpResult::Grant(grant)) = (request, &result)
            && self.given_up.contains(&request)
        {
            let token = grant.fencing_token;
            self.history.late_grants.push(LateGrant { request, token, taken_us });
        }
        self.reply(id, from, ticket, result);
    }

    fn reply(&mut self, id: u64, to: Place, ticket: Ticket, result: OpResult) {
        self.send(Place::Node(id), to, Message::Reply { ticket, result: Box::new(result) });
    }

    // ---- the disk -------------------------------------------------------------------------------

    fn queue_write(&mut self, id: u64, job: Job) {
        self.nodes.get_mut(&id).expect("a node").disk.queue.push(job);
        self.start_write(id);
    }

    fn start_write(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let slow = node.disk.slow;
        if let Some(after_us) = node.disk.start(&mut self.rng) {
            if slow {
                self.faults.add(FaultKind::SlowSync);
            }
            self.agenda.push(self.now_us + after_us, Event::Disk { node: id, boot: node.boot });
        }
    }

    /// The node stops because its disk failed, and is started again.
    pub(crate) fn stop_for_disk(&mut self, id: u64, error: &StorageError) {
        self.trace.line(self.now_us, || format!("node {id}    stops: {error}"));
        self.crash_node(id, true);
        let after_us = self.rng.range(SECOND_US, 4 * SECOND_US);
        self.agenda.push(self.now_us + after_us, Event::Start { node: id });
    }

    pub(crate) fn disk_done(&mut self, id: u64, boot: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.boot != boot {
            return;
        }
        let full = node.disk.full;
        match node.disk.finish() {
            Err(error) => {
                self.faults.add(if full { FaultKind::DiskFull } else { FaultKind::SyncFailed });
                return self.stop_for_disk(id, &error);
            }
            Ok(jobs) => {
                let mut persisted: BTreeMap<ShardId, u64> = BTreeMap::new();
                for job in jobs {
                    match job.then {
                        Then::Persisted { shard, number, log } => {
                            self.note_log(id, shard, log);
                            let highest = persisted.entry(shard).or_default();
                            *highest = number.max(*highest);
                        }
                        Then::Event(event) => self.agenda.push(self.now_us, *event),
                    }
                }
                for (shard, number) in persisted {
                    self.tell(id, shard, Input::Persisted { number });
                }
            }
        }
        self.start_write(id);
    }

    /// So much of the log of a replica, by its birth, is on disk.
    fn note_log(&mut self, id: u64, shard: ShardId, (birth, last): (u32, u64)) {
        let highest = self.members.had_log.entry((shard, id, birth)).or_default();
        *highest = last.max(*highest);
    }

    // ---- arrivals -------------------------------------------------------------------------------

    pub(crate) fn hear_peer(&mut self, id: u64, shard: ShardId, bytes: Vec<u8>, from: &Speaker) {
        if shard == META && self.now_us < self.meta.silent_until_us {
            return self.faults.add(FaultKind::MessageCut);
        }
        self.note_heard(id, shard, from);
        self.tell(id, shard, Input::Peer(bytes));
    }

    pub(crate) fn take_request(
        &mut self,
        id: u64,
        from: Place,
        sent_ms: u64,
        operation: Operation,
    ) {
        let ticket = operation.id;
        let node = self.nodes.get_mut(&id).expect("a node");
        if !node.is_up() {
            return self.send(Place::Node(id), from, Message::Broken { ticket, sent: false });
        }
        let now_ms = node.clock.read(self.now_us).mono_ms;
        let late_ms = node.lateness.entry(from).or_default().late_ms(sent_ms, now_ms);
        let request = match &operation.op {
            Some(Op::Acquire(acquire)) => Some(request_of(&acquire.request_id)),
            _ => None,
        };
        // Each message is a frame of one operation, which names its caller.
        let mut callers = Callers::default();
        let admitted = callers.of(&operation).and_then(|caller| {
            service::admit(self.route_tables.of(Place::Node(id)).map(), operation, caller, late_ms)
        });
        match admitted {
            Err(refused) => self.reply(id, from, ticket, *refused),
            Ok(Admitted { shard, kind, request: asked, timeout_ms, .. }) => {
                let taken_us = self.now_us;
                node.pending.insert(ticket, Pending { from, shard, kind, request, taken_us });
                if !node.replicas.contains_key(&shard) {
                    return self.answer(id, shard, ticket, Reply::NoLeader);
                }
                let give_up_at_ms = now_ms + u64::from(timeout_ms);
                self.tell(id, shard, asked.into_input(ticket, give_up_at_ms));
            }
        }
    }

    fn take_detach(&mut self, id: u64, ticket: Ticket) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if let Some(Pending { shard, .. }) = node.pending.remove(&ticket) {
            self.tell(id, shard, Input::Detach { ticket });
        }
    }

    /// Drops the operations of a gateway after its connections to this node are gone.
    pub(crate) fn drop_streams(&mut self, id: u64, gateway: Place) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.lateness.remove(&gateway);
        let ours =
            |(ticket, pending): (&Ticket, &Pending)| (pending.from == gateway).then_some(*ticket);
        let gone: Vec<Ticket> = node.pending.iter().filter_map(ours).collect();
        for ticket in gone {
            self.take_detach(id, ticket);
        }
    }

    // ---- snapshots ------------------------------------------------------------------------------

    /// All earlier writes are in the engine, so the snapshot leaves with the ended grants that the
    /// receiver lacks.
    pub(crate) fn carry_snapshot(
        &mut self,
        from: u64,
        boot: u64,
        to: u64,
        shard: ShardId,
        bytes: Vec<u8>,
    ) {
        if self.nodes[&from].boot != boot {
            return;
        }
        let lost = self.network.weather.loss > 0.0 && self.rng.chance(self.network.weather.loss);
        let there = self.network.passes(Place::Node(from), Place::Node(to))
            && self.network.passes(Place::Node(to), Place::Node(from))
            && self.nodes[&to].paused_until_us <= self.now_us
            && !lost;
        let after_us = self.rng.range(5_000, 200_000);
        let Some(receiver) = self.nodes[&to].replicas.get(&shard).filter(|_| there) else {
            let event = Event::SnapshotSent { node: from, boot, to, shard, ok: false };
            return self.agenda.push(self.now_us + 10 * after_us, event);
        };
        let after_index = receiver.status().applied_index;
        let engine = &self.nodes[&from].disk.engine;
        let (mut history, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) =
                engine.history_since(shard, after_index, cursor, 50).expect("memory can be read");
            history.extend(page);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        let then = Event::SnapshotWritten { node: to, boot: self.nodes[&to].boot, shard, bytes };
        let write =
            (!history.is_empty()).then(|| ShardWrite { shard, history, ..ShardWrite::default() });
        self.queue_write(to, Job { write, then: Then::Event(Box::new(then)) });
        self.agenda.push(
            self.now_us + after_us,
            Event::SnapshotSent { node: from, boot, to, shard, ok: true },
        );
    }

    pub(crate) fn snapshot_sent(&mut self, id: u64, boot: u64, to: u64, shard: ShardId, ok: bool) {
        if self.nodes[&id].boot == boot {
            self.tell(id, shard, Input::SnapshotSent { node: NodeId(to), ok });
        }
    }

    pub(crate) fn snapshot_written(&mut self, id: u64, boot: u64, shard: ShardId, bytes: Vec<u8>) {
        if self.nodes[&id].boot == boot {
            self.trace
                .line(self.now_us, || format!("node {id}    shard {shard}: a snapshot arrived"));
            self.tell(id, shard, Input::Peer(bytes));
        }
    }

    // ---- samples of state -----------------------------------------------------------------------

    pub(crate) fn sample(&mut self) {
        self.agenda.push(self.now_us + 20 * SECOND_US, Event::Sample);
        self.ask_states();
    }

    pub(crate) fn ask_states(&mut self) {
        let up: Vec<u64> =
            self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
        for id in up {
            let shards: Vec<ShardId> = self.nodes[&id].replicas.keys().copied().collect();
            for shard in shards {
                let ticket = OWN_TICKETS + self.number();
                self.tell(
                    id,
                    shard,
                    Input::Read { ticket, query: Query::Status, linearizable: false },
                );
            }
        }
    }
}
