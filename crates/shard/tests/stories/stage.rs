//! Replicas, network, disks, clients and the one clock of a story, and the trace of what happens to
//! them.
//!
//! The replicas live in the [`Cluster`] that all tests of this crate share; this moves them step by
//! step and writes down what it sees. Nothing happens by itself: time passes when told to, and
//! messages travel when the stage settles.

use crate::cluster::{Cluster, SHARD, whole};
use crate::twin::{self, Twin};
use crate::words;
use locks::{Outcome, RequestId};
use palisade_shard::*;
use raft::eraftpb::{HardState, Message};
use raft_prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use storage::Engine;

const TICK_MS: u64 = 50;

/// A question on its way.
struct Asked {
    node: u64,
    client: String,
    what: String,
    /// Of an acquire.
    name: Option<String>,
}

pub struct Stage {
    pub cluster: Cluster,
    /// Stopped, as by SIGSTOP: what is sent to them waits.
    paused: BTreeSet<u64>,
    twins: BTreeMap<u64, Twin>,
    asked: BTreeMap<Ticket, Asked>,
    requests: BTreeMap<RequestId, String>,
    /// The last token that a client was given, by (client, name).
    tokens: BTreeMap<(String, String), u64>,
    /// Whether peers' messages and disks are traced.
    pub messages: bool,
    /// What happened, and how often in a row.
    lines: Vec<(String, u32)>,
    shown_ms: Option<u64>,
    started_ms: u64,
}

impl Stage {
    pub fn new(nodes: u64, log_keep_bytes: u64, append_hold_ms: u64) -> Stage {
        let mut cluster = Cluster::new(nodes);
        (cluster.log_keep_bytes, cluster.append_hold_ms) = (log_keep_bytes, append_hold_ms);
        let started_ms = cluster.now_ms;
        let mut stage = Stage {
            cluster,
            paused: BTreeSet::new(),
            twins: BTreeMap::new(),
            asked: BTreeMap::new(),
            requests: BTreeMap::new(),
            tokens: BTreeMap::new(),
            messages: false,
            lines: Vec::new(),
            shown_ms: None,
            started_ms,
        };
        // Started again, so that all have these settings.
        for id in stage.ids() {
            stage.cluster.crash(id);
            stage.start(id);
        }
        stage
    }

    pub fn ids(&self) -> Vec<u64> {
        self.cluster.peers.keys().copied().collect()
    }

    pub fn take_lines(&mut self) -> String {
        let line = |(line, times): (String, u32)| match times {
            1 => format!("{line}\n"),
            _ => format!("{line} ({times} times)\n"),
        };
        std::mem::take(&mut self.lines).into_iter().map(line).collect()
    }

    pub fn say(&mut self, line: String) {
        if self.shown_ms != Some(self.cluster.now_ms) {
            self.shown_ms = Some(self.cluster.now_ms);
            self.lines.push((
                format!("at {} s", words::seconds(self.cluster.now_ms - self.started_ms)),
                1,
            ));
        }
        let line = format!("  {line}");
        match self.lines.last_mut() {
            Some((last, times)) if *last == line => *times += 1,
            _ => self.lines.push((line, 1)),
        }
    }

    /// `what` and one thing, or several on lines of their own.
    fn say_each(&mut self, what: String, things: Vec<String>) {
        match &things[..] {
            [thing] => self.say(format!("{what}: {thing}")),
            _ => {
                self.say(format!("{what}:"));
                things.into_iter().for_each(|thing| self.say(format!("  {thing}")));
            }
        }
    }

    fn say_in_detail(&mut self, line: String) {
        if self.messages {
            self.say(line);
        }
    }

    // ---- what clients ask
    // -----------------------------------------------------------------------------------

    /// Notes that `client` asks `node`, and gives the ticket.
    pub fn ask(&mut self, client: &str, node: u64, what: String, name: Option<&str>) -> Ticket {
        let ticket = self.cluster.ticket();
        let asked = Asked { node, client: client.to_owned(), what, name: name.map(str::to_owned) };
        self.asked.insert(ticket, asked);
        if self.cluster.peers[&node].replica.is_none() {
            self.lose(ticket);
        }
        ticket
    }

    /// Who an acquire is of, for the trace.
    pub fn name_request(&mut self, request_id: RequestId, who: String) {
        self.requests.insert(request_id, who);
    }

    pub fn token(&self, client: &str, name: &str) -> Option<u64> {
        self.tokens.get(&(client.to_owned(), name.to_owned())).copied()
    }

    /// The stream of a client breaks: its questions are nobody's now.
    pub fn hang_up(&mut self, client: &str) {
        let gone: Vec<Ticket> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.client == client)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in gone {
            let asked = self.asked.remove(&ticket).expect("just seen");
            self.put(asked.node, Input::Detach { ticket });
        }
    }

    fn lose(&mut self, ticket: Ticket) {
        let asked = self.asked.remove(&ticket).expect("an open question");
        self.say(format!("{}: no answer from n{} to: {}", asked.client, asked.node, asked.what));
    }

    // ---- faults
    // ---------------------------------------------------------------------------------------------

    pub fn put(&mut self, node: u64, input: Input) {
        let peer = self.cluster.peers.get_mut(&node).expect("a node");
        if peer.replica.is_some() {
            peer.inbox.push(input);
        }
    }

    pub fn start(&mut self, id: u64) {
        let recovered = self.cluster.peers[&id].engine.recover(SHARD).expect("recovers");
        self.twins.insert(id, Twin::recovered(recovered));
        self.cluster.start(id);
    }

    pub fn crash(&mut self, id: u64) {
        self.paused.remove(&id);
        self.cluster.crash(id);
        let lost: Vec<Ticket> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.node == id)
            .map(|(ticket, _)| *ticket)
            .collect();
        lost.into_iter().for_each(|ticket| self.lose(ticket));
    }

    /// An empty replica on a further node.
    pub fn add(&mut self, id: u64, birth: u32) {
        self.twins.insert(id, Twin::default());
        self.cluster.add(id, birth);
    }

    /// The disk is lost, and a new one takes its place.
    pub fn reseed(&mut self, id: u64) {
        self.crash(id);
        self.twins.insert(id, Twin::default());
        self.cluster.reseed(id);
    }

    pub fn pause(&mut self, id: u64, paused: bool) {
        if paused {
            self.paused.insert(id);
        } else {
            self.paused.remove(&id);
        }
    }

    // ---- time and messages
    // ----------------------------------------------------------------------------------

    /// One tick of everybody's clock, of which nobody has made anything yet.
    pub fn tick(&mut self) {
        self.cluster.now_ms += TICK_MS;
        for id in self.running() {
            self.put(id, Input::Tick);
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        assert!(ms.is_multiple_of(TICK_MS), "time passes in ticks of {TICK_MS} ms");
        for _ in 0..ms / TICK_MS {
            self.tick();
            self.settle();
        }
    }

    /// Time that is no tick's, after which all who wanted to be woken are.
    pub fn pass_ms(&mut self, ms: u64) {
        self.cluster.now_ms += ms;
        for id in self.running() {
            self.put(id, Input::Wake);
        }
    }

    /// Lets everything travel, until nothing is under way.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let mut sent = Vec::new();
            let mut busy = false;
            for id in self.running() {
                busy |= !self.cluster.peers[&id].inbox.is_empty();
                sent.extend(self.step(id).into_iter().map(|message| (id, message)));
                busy |= self.use_disk(id);
            }
            busy |= !sent.is_empty();
            self.carry(sent);
            if !busy {
                return;
            }
        }
        panic!("the stage does not come to rest");
    }

    /// One node takes what has come to it; what it sends arrives, and nobody else moves.
    pub fn step_alone(&mut self, id: u64) {
        let sent = self.step(id).into_iter().map(|message| (id, message)).collect();
        self.use_disk(id);
        self.carry(sent);
    }

    fn running(&self) -> Vec<u64> {
        let runs = |id: &u64| self.cluster.peers[id].replica.is_some() && !self.paused.contains(id);
        self.ids().into_iter().filter(runs).collect()
    }

    fn step(&mut self, id: u64) -> Vec<PeerMessage> {
        let now = self.cluster.now();
        let peer = self.cluster.peers.get_mut(&id).expect("a node");
        let replica = peer.replica.as_mut().expect("runs");
        let outputs = replica.step(now, std::mem::take(&mut peer.inbox)).expect("no fatal error");
        let status = replica.status();
        let Outputs { messages, write, replies, leadership, .. } = outputs;
        if let Some(Leadership { leader, term, is_me }) = leadership {
            self.say(match leader {
                _ if is_me => format!("n{id}: leads term {term}"),
                Some(leader) => format!("n{id}: follows n{leader} in term {term}"),
                None => format!("n{id}: knows no leader in term {term}"),
            });
        }
        let lost = write.as_ref().and_then(|write| self.twin(id).write(&write.write));
        if let Some((first, last, term)) = lost {
            self.say(format!("n{id}: throws away {} of term {term}", words::span(first, last)));
        }
        if write.as_ref().is_some_and(|write| write.write.reset) {
            let applied_index = self.twins[&id].applied_index;
            self.say(format!("n{id}: takes the snapshot at {applied_index} for its log and table"));
        }
        self.say_applied(id, &status);
        for (ticket, reply) in replies {
            self.say_reply(id, ticket, &reply);
        }
        if let Some(write) = write {
            self.say_written(id, &status, &write);
            self.cluster.peers.get_mut(&id).expect("a node").unwritten.push(write);
        }
        messages
    }

    fn twin(&mut self, id: u64) -> &mut Twin {
        self.twins.get_mut(&id).expect("one for each node")
    }

    fn say_applied(&mut self, id: u64, status: &Status) {
        let who_asked = |request_id: RequestId| who_asked(&self.requests, request_id);
        let applied =
            self.twins.get_mut(&id).expect("a twin").apply_to(status.applied_index, &who_asked);
        if status.role == Role::Leader {
            applied
                .into_iter()
                .for_each(|(index, said)| self.say_each(format!("n{id}: applies {index}"), said));
        } else if let (Some((first, _)), Some((last, _))) = (applied.first(), applied.last()) {
            self.say_in_detail(format!("n{id}: applies {}", words::span(*first, *last)));
        }
    }

    fn say_reply(&mut self, id: u64, ticket: Ticket, reply: &Reply) {
        let Some(asked) = self.asked.remove(&ticket) else { return };
        if let (Reply::Done(Outcome::Granted(grant)), Some(name)) = (reply, asked.name) {
            self.tokens.insert((asked.client.clone(), name), grant.token.0);
        }
        self.say(format!("n{id} → {}: {}: {}", asked.client, asked.what, words::reply(reply)));
    }

    fn say_written(&mut self, id: u64, status: &Status, write: &Write) {
        if status.role == Role::Leader {
            let entries = write.write.entries.iter().map(|(_, bytes)| twin::entry(bytes));
            for entry in entries.filter(|entry| entry.term == status.term) {
                let asked =
                    twin::contents(&entry, &|request_id| who_asked(&self.requests, request_id));
                self.say_each(format!("n{id}: proposes {}", entry.index), asked);
            }
        }
        if write.write.applied.is_some() && !write.write.reset {
            let cut = write
                .write
                .truncate_to
                .map_or(String::new(), |index| format!(", cuts its log up to {index}"));
            let history = match write.write.history.len() {
                0 => String::new(),
                count => format!(", {count} to history"),
            };
            self.say(format!("n{id}: checkpoint at {}{history}{cut}", status.checkpoint_index));
        }
    }

    /// Writes what is to be written, if the disk works.
    fn use_disk(&mut self, id: u64) -> bool {
        let peer = self.cluster.peers.get_mut(&id).expect("a node");
        if !peer.disk_works {
            return false;
        }
        let writes = std::mem::take(&mut peer.unwritten);
        let busy = !writes.is_empty();
        for Write { number, write } in writes {
            let entries: Vec<_> =
                write.entries.iter().map(|(_, bytes)| twin::entry(bytes)).collect();
            let hard_state = write
                .hard_state
                .as_ref()
                .map(|bytes| HardState::decode(bytes.as_slice()).expect("its own"));
            let what: Vec<String> = words::entries(&entries)
                .into_iter()
                .chain(hard_state.as_ref().map(words::hard_state))
                .collect();
            if !what.is_empty() {
                self.say_in_detail(format!("n{id}: on disk: {}", what.join(", ")));
            }
            self.cluster.peers[&id].engine.write(&[write]).expect("writes");
            self.put(id, Input::Persisted { number });
        }
        busy
    }

    fn carry(&mut self, sent: Vec<(u64, PeerMessage)>) {
        for (from, sent) in sent {
            let (to, is_snapshot, bytes) = (sent.to, sent.snapshot.is_some(), whole(&sent));
            let arrives = !self.cluster.cut.contains(&(from, to.0))
                && self.cluster.peers.get(&to.0).is_some_and(|peer| peer.replica.is_some());
            let message =
                Message::decode(bytes.as_slice()).expect("a message of the replica's own");
            if let Some(said) = words::message(&message) {
                let lost = if arrives { "" } else { " (lost)" };
                let (speaker, hearer) = (words::member(message.from), words::member(message.to));
                self.say_in_detail(format!("{speaker} → {hearer}: {said}{lost}"));
            }
            if is_snapshot {
                self.put(from, Input::SnapshotSent { node: to, ok: arrives });
            }
            if arrives {
                self.put(to.0, Input::Peer(bytes));
            }
        }
    }

    /// Whether all nodes that run have the same table at the same index, and the trace told the
    /// truth about it.
    pub fn compare(&mut self) {
        self.settle();
        let now = self.cluster.now();
        let mut found: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
        for id in self.running() {
            let ticket = self.cluster.ticket();
            let replica =
                self.cluster.peers.get_mut(&id).expect("a node").replica.as_mut().expect("runs");
            let question = Input::Read { ticket, query: Query::Status, linearizable: false };
            let outputs = replica.step(now, [question]).expect("no fatal error");
            assert!(
                outputs.messages.is_empty() && outputs.write.is_none(),
                "the stage was settled"
            );
            let [(_, Reply::Read { answer: Answer::Status(status), .. })] = &outputs.replies[..]
            else {
                panic!("no status of n{id}: {:?}", outputs.replies);
            };
            let (twin, seen) = (&self.twins[&id], (status.applied_index, status.state_hash));
            assert_eq!(
                (twin.applied_index, twin.state_hash()),
                seen,
                "the trace of n{id} went astray"
            );
            found.entry(seen).or_default().push(format!("n{id}"));
        }
        let several = found.len() > 1;
        for ((applied_index, _), nodes) in found {
            let what = if several { "a table of their own" } else { "the same table" };
            self.say(format!("{}: {what} at {applied_index}", nodes.join(" ")));
        }
    }
}

fn who_asked(requests: &BTreeMap<RequestId, String>, request_id: RequestId) -> String {
    requests.get(&request_id).cloned().unwrap_or_else(|| format!("request {}", request_id.0))
}
