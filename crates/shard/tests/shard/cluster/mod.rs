//! A few replicas of one shard in one thread, with hand-moved messages, disks and clocks.

#![allow(dead_code)]

use locks::{Caller, Command, Mode, Outcome, RequestId};
use palisade_shard::*;
use routing::{ClusterConfig, META, NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::{Engine, MemoryEngine};
use topology::{Proposal, Seed};

pub const SHARD: ShardId = ShardId(0);

pub struct Peer {
    shard: ShardId,
    pub engine: Arc<MemoryEngine>,
    pub replica: Option<Replica>,
    pub inbox: Vec<Input>,
    /// Writes handed out and not yet on disk.
    pub unwritten: Vec<Write>,
    /// While false, writes pile up.
    pub disk_works: bool,
    pub boots: u64,
    /// Of its disk.
    pub incarnation: u32,
    pub replies: Vec<(Ticket, Reply)>,
    /// What happened in its table, if it was told to say so.
    pub watched: Vec<Watched>,
    /// What it told of the topology.
    pub topology: Vec<TopologyNews>,
    /// What it told of META's founders.
    pub founders: Vec<Founders>,
}

pub struct Cluster {
    pub shard: ShardId,
    /// Of the topology's shard, for replicas that start from now on.
    pub seed: Option<Seed>,
    pub peers: BTreeMap<u64, Peer>,
    /// The group was bootstrapped on nodes 1 to this one.
    pub founders: u64,
    pub now_ms: u64,
    /// Pairs (from, to) between which nothing passes.
    pub cut: Vec<(u64, u64)>,
    pub log_keep_bytes: u64,
    /// Of replicas that start from now on.
    pub append_hold_ms: u64,
    /// The seed of election timeouts of replicas that start from now on.
    pub election_seed: Option<u64>,
    /// Replicas that start from now on found META. They are of shard 0.
    pub founds_meta: bool,
    /// Replicas that start from now on have their snapshots built by their host.
    pub host_builds: bool,
    /// Those that were asked for, while they are not built: by whom.
    pub holds_builds: bool,
    pub held_builds: Vec<u64>,
    /// Snapshots stay on their way.
    pub holds_snapshots: bool,
    /// By sender.
    pub held_snapshots: Vec<(u64, PeerMessage)>,
    /// All that was sent, by sender, if somebody wants to know.
    pub sent: Option<Vec<(u64, PeerMessage)>>,
    /// Rows that reads touched, by step.
    pub rows_read: Vec<(u64, usize)>,
    next_ticket: Ticket,
    next_request: u128,
}

impl Cluster {
    pub fn new(size: u64) -> Cluster {
        Cluster::of(SHARD, None, size)
    }

    /// Of the topology's shard.
    pub fn meta(size: u64) -> Cluster {
        Cluster::of(META, Some(seed(size)), size)
    }

    pub fn of(shard: ShardId, seed: Option<Seed>, size: u64) -> Cluster {
        let mut cluster = Cluster {
            shard,
            seed,
            peers: BTreeMap::new(),
            founders: size,
            now_ms: 1_000,
            cut: Vec::new(),
            log_keep_bytes: 1 << 20,
            append_hold_ms: 0,
            election_seed: Some(7),
            founds_meta: false,
            host_builds: false,
            holds_builds: false,
            held_builds: Vec::new(),
            holds_snapshots: false,
            held_snapshots: Vec::new(),
            sent: None,
            rows_read: Vec::new(),
            next_ticket: 1,
            next_request: 1,
        };
        for id in 1..=size {
            cluster.peers.insert(id, Peer::new(shard, 0));
        }
        for id in 1..=size {
            cluster.start(id);
        }
        cluster
    }

    /// With leaders that hold appends for spare followers.
    pub fn thrifty(size: u64, append_hold_ms: u64) -> Cluster {
        let mut cluster = Cluster::new(size);
        cluster.append_hold_ms = append_hold_ms;
        for id in 1..=size {
            cluster.crash(id);
            cluster.start(id);
        }
        cluster
    }

    pub fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms }
    }

    pub fn start(&mut self, id: u64) {
        let now = self.now();
        let voters: Vec<NodeId> = (1..=self.founders).map(NodeId).collect();
        let log_keep_bytes = self.log_keep_bytes;
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.boots += 1;
        let config = ReplicaConfig {
            shard: self.shard,
            node: NodeId(id),
            incarnation: peer.incarnation,
            voters,
            preferred_leader: NodeId(1),
            boot: peer.boots,
            raft: RaftSettings {
                heartbeat_ticks: 2,
                election_ticks: 8,
                entry_bytes_max: 4 << 10,
                entries_in_flight_max: 4,
                append_hold_ms: self.append_hold_ms,
                queue_ops_max: 1_000,
                checkpoint_log_bytes: 16 << 10,
                log_keep_bytes,
                waiter_grace_ms: 1_000,
                take_over_rows: 64,
            },
            election_seed: self.election_seed,
        };
        let recovered = peer.engine.recover(self.shard).expect("recovers");
        let mut replica = Replica::open(config, recovered, now).expect("opens");
        if let Some(seed) = &self.seed {
            replica = replica.with_seed(seed.clone());
        }
        if self.founds_meta {
            replica.found_meta();
        }
        peer.replica =
            Some(if self.host_builds { replica.with_host_built_snapshots() } else { replica });
        // As its host does from what it has recorded.
        let known: Vec<Input> =
            self.peers.iter().map(|(id, peer)| incarnation(*id, peer.incarnation)).collect();
        self.peers.get_mut(&id).expect("a peer").inbox.extend(known);
    }

    /// An empty replica starts on a further node. It is no member of the group.
    pub fn add(&mut self, id: u64, birth: u32) {
        self.peers.insert(id, Peer::new(self.shard, birth));
        self.start(id);
    }

    /// The disk is lost. Nobody is told, and nothing runs there.
    pub fn wipe(&mut self, id: u64) {
        self.crash(id);
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.engine = Arc::default();
        peer.incarnation += 1;
    }

    /// A replica starts on the empty disk, and everybody hears of it.
    pub fn reseed(&mut self, id: u64) {
        self.wipe(id);
        self.start(id);
        self.tell_all(id);
    }

    /// Every replica that runs hears of this node's incarnation.
    pub fn tell_all(&mut self, id: u64) {
        let told = incarnation(id, self.peers[&id].incarnation);
        self.peers
            .values_mut()
            .filter(|peer| peer.replica.is_some())
            .for_each(|peer| peer.inbox.push(told.clone()));
    }

    /// SIGKILL and power cut: what was not synced is gone.
    pub fn crash(&mut self, id: u64) {
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.replica = None;
        peer.inbox.clear();
        peer.unwritten.clear();
        peer.replies.clear();
        peer.watched.clear();
        peer.topology.clear();
        peer.founders.clear();
        peer.engine.crash();
    }

    fn passes(&self, from: u64, to: u64) -> bool {
        !self.cut.contains(&(from, to)) && self.peers[&to].replica.is_some()
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.peers.keys().filter(|other| **other != id) {
            self.cut.extend([(id, *other), (*other, id)]);
        }
    }

    /// One round: every replica takes its inbox, messages travel, disks that work write.
    pub fn round(&mut self) -> bool {
        let now = self.now();
        let mut sent = Vec::new();
        let mut busy = false;
        for (id, peer) in &mut self.peers {
            let Some(replica) = &mut peer.replica else { continue };
            let inputs = std::mem::take(&mut peer.inbox);
            busy |= !inputs.is_empty();
            let outputs = replica.step(now, inputs).expect("no fatal error");
            sent.extend(outputs.messages.into_iter().map(|m| (*id, m)));
            peer.unwritten.extend(outputs.write);
            let wants_snapshot = outputs.wants_snapshot;
            peer.watched.extend(outputs.watched);
            peer.topology.extend(outputs.topology);
            peer.founders.extend(outputs.founders);
            peer.replies.extend(outputs.replies);
            busy |= outputs.wake_at_ms.is_some_and(|at_ms| at_ms <= now.mono_ms);
            self.rows_read.push((*id, outputs.rows_read));
            if peer.disk_works {
                for write in std::mem::take(&mut peer.unwritten) {
                    peer.engine.write(&[write.write]).expect("writes");
                    peer.inbox.push(Input::Persisted { number: write.number });
                    busy = true;
                }
            }
            if wants_snapshot && self.holds_builds {
                self.held_builds.push(*id);
            } else if wants_snapshot {
                peer.build_snapshot();
                busy = true;
            }
        }
        if let Some(all) = &mut self.sent {
            all.extend(sent.iter().cloned());
        }
        for (from, message) in sent {
            busy = true;
            let passes = self.passes(from, message.to.0);
            if message.snapshot.is_some() && self.holds_snapshots {
                self.held_snapshots.push((from, message));
                continue;
            }
            if let Some(snapshot) = &message.snapshot {
                let loaded =
                    load_snapshot(self.shard, &message.bytes, &snapshot.data).expect("a snapshot");
                self.peers
                    .get_mut(&from)
                    .expect("a peer")
                    .inbox
                    .push(Input::SnapshotSent { node: message.to, ok: passes });
                if passes {
                    let receiver = self.peers.get_mut(&message.to.0).expect("a peer");
                    receiver.inbox.push(Input::Snapshot(Arc::new(loaded)));
                }
                continue;
            }
            if passes {
                self.peers
                    .get_mut(&message.to.0)
                    .expect("a peer")
                    .inbox
                    .push(Input::Peer(message.bytes));
            }
        }
        busy
    }

    /// Snapshots that were asked for are built now.
    pub fn release_builds(&mut self) {
        self.holds_builds = false;
        for id in std::mem::take(&mut self.held_builds) {
            self.peers.get_mut(&id).expect("a peer").build_snapshot();
        }
    }

    /// Those that were on their way arrive.
    pub fn release_snapshots(&mut self) {
        self.holds_snapshots = false;
        for (from, message) in std::mem::take(&mut self.held_snapshots) {
            let bytes = whole(&message);
            self.peers.get_mut(&message.to.0).expect("a peer").inbox.push(Input::Peer(bytes));
            let sender = self.peers.get_mut(&from).expect("a peer");
            sender.inbox.push(Input::SnapshotSent { node: message.to, ok: true });
        }
    }

    pub fn settle(&mut self) {
        for _ in 0..200 {
            if !self.round() {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Ticks of 50 ms, everything settled after each.
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.now_ms += 50;
            for peer in self.peers.values_mut().filter(|p| p.replica.is_some()) {
                peer.inbox.push(Input::Tick);
            }
            self.settle();
        }
    }

    /// Time without a tick, everything settled after each millisecond.
    pub fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            for peer in self.peers.values_mut().filter(|p| p.replica.is_some()) {
                peer.inbox.push(Input::Wake);
            }
            self.settle();
        }
    }

    /// So many rounds, with a tick of 50 ms every few of them: what is under way stays under way.
    pub fn rounds(&mut self, rounds: u64) {
        for round in 0..rounds {
            if round % 4 == 0 {
                self.now_ms += 50;
                self.peers
                    .values_mut()
                    .filter(|p| p.replica.is_some())
                    .for_each(|peer| peer.inbox.push(Input::Tick));
            }
            self.round();
        }
    }

    pub fn status(&self, id: u64) -> Status {
        self.peers[&id].replica.as_ref().expect("runs").status()
    }

    /// The one leader of the highest term.
    pub fn leader(&self) -> Option<u64> {
        let running = self.peers.iter().filter(|(_, p)| p.replica.is_some()).map(|(id, _)| *id);
        running
            .map(|id| (self.status(id), id))
            .filter(|(s, _)| s.role == Role::Leader)
            .max_by_key(|(s, _)| s.term)
            .map(|(_, id)| id)
    }

    pub fn elect(&mut self) -> u64 {
        for _ in 0..100 {
            self.run_ms(50);
            if let Some(id) = self.leader() {
                self.run_ms(200);
                if self.leader() == Some(id) {
                    return id;
                }
            }
        }
        panic!("no leader within five seconds");
    }

    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub fn request_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Queues a command at a replica without letting time or messages pass.
    pub fn submit(&mut self, id: u64, command: &Command<'_>, wait: Option<Wait>) -> Ticket {
        self.submit_until(id, command, wait, u64::MAX)
    }

    /// Likewise, for one who waits until then.
    pub fn submit_until(
        &mut self,
        id: u64,
        command: &Command<'_>,
        wait: Option<Wait>,
        give_up_at_ms: u64,
    ) -> Ticket {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        self.submit_bytes(id, bytes, wait, give_up_at_ms)
    }

    /// Likewise, for an identity.
    pub fn submit_as(&mut self, id: u64, caller: Caller<'_>, command: &Command<'_>) -> Ticket {
        let mut bytes = Vec::new();
        command.encode_as(caller, &mut bytes);
        self.submit_bytes(id, bytes, None, u64::MAX)
    }

    /// Likewise, for the topology.
    pub fn submit_proposal(&mut self, id: u64, proposal: &Proposal) -> Ticket {
        self.submit_bytes(id, proposal.encode(), None, u64::MAX)
    }

    fn submit_bytes(
        &mut self,
        id: u64,
        command: Vec<u8>,
        wait: Option<Wait>,
        give_up_at_ms: u64,
    ) -> Ticket {
        let ticket = self.ticket();
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.inbox.push(Input::Propose { ticket, command, wait, give_up_at_ms });
        ticket
    }

    pub fn reply(&mut self, id: u64, ticket: Ticket) -> Option<Reply> {
        let replies = &mut self.peers.get_mut(&id).expect("a peer").replies;
        let at = replies.iter().position(|(t, _)| *t == ticket)?;
        Some(replies.remove(at).1)
    }

    pub fn acquire(&mut self, id: u64, name: &str, ttl_ms: u32) -> Reply {
        let request_id = self.request_id();
        let ticket = self.submit(id, &acquire(request_id, name, ttl_ms, false), None);
        self.settle();
        self.reply(id, ticket).expect("an answer")
    }

    pub fn read(&mut self, id: u64, name: &str, linearizable: bool) -> Ticket {
        self.ask(id, Query::check(name), linearizable)
    }

    pub fn ask(&mut self, id: u64, query: Query, linearizable: bool) -> Ticket {
        let ticket = self.ticket();
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.inbox.push(Input::Read { ticket, query, linearizable });
        ticket
    }

    pub fn hash(&mut self, id: u64) -> (u64, u64) {
        let ticket = self.ticket();
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.inbox.push(Input::Read { ticket, query: Query::Status, linearizable: false });
        self.settle();
        match self.reply(id, ticket) {
            Some(Reply::Read { answer: Answer::Status(status), .. }) => {
                (status.applied_index, status.state_hash)
            }
            other => panic!("no status: {other:?}"),
        }
    }
}

impl Peer {
    fn new(shard: ShardId, incarnation: u32) -> Peer {
        Peer {
            shard,
            engine: Arc::new(MemoryEngine::new()),
            replica: None,
            inbox: Vec::new(),
            unwritten: Vec::new(),
            disk_works: true,
            boots: 0,
            incarnation,
            replies: Vec::new(),
            watched: Vec::new(),
            topology: Vec::new(),
            founders: Vec::new(),
        }
    }

    /// As its host does, of what is on its disk.
    pub fn build_snapshot(&mut self) {
        let built = build_snapshot(self.shard, &*self.engine).expect("sound");
        self.inbox.push(Input::SnapshotBuilt(built));
    }
}

/// The message with the data of its snapshot, if it has one.
pub fn whole(message: &PeerMessage) -> Vec<u8> {
    match &message.snapshot {
        Some(snapshot) => {
            join_snapshot(&message.bytes, &snapshot.data).expect("a snapshot message")
        }
        None => message.bytes.clone(),
    }
}

/// The seed of a cluster with this many nodes.
pub fn seed(nodes: u64) -> Seed {
    Seed::of(&ClusterConfig::dev(2, nodes as u32, 7400).expect("a cluster"))
}

pub fn incarnation(node: u64, incarnation: u32) -> Input {
    Input::Incarnation { node: NodeId(node), incarnation }
}

pub fn acquire(request_id: RequestId, name: &str, ttl_ms: u32, wait: bool) -> Command<'_> {
    Command::Acquire {
        request_id,
        name,
        owner: "tester",
        ttl_ms,
        mode: Mode::Exclusive,
        wait,
        session: "",
        metadata: "",
        claim_ttl_ms: 0,
    }
}

pub fn token(reply: &Reply) -> u64 {
    match reply {
        Reply::Done(Outcome::Granted(grant)) => grant.token.0,
        other => panic!("not granted: {other:?}"),
    }
}
