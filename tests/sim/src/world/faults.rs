//! The faults of a run: their kinds, their times and their counts.
//!
//! Faults come in bouts of one to three at a time, with calm between them. The world is healed at
//! the end of each bout, and for good at the end of the run.

use super::clock::SECOND_US;
use super::network::{Place, Weather};
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::event::Event;
use routing::ShardId;
use shard::Input;

impl World {
    pub(crate) fn begin_chaos(&mut self) {
        let at_us = self.rng.range(5 * SECOND_US, 15 * SECOND_US);
        self.agenda.push(at_us, Event::Chaos { turn: 0 });
    }

    pub(crate) fn chaos_turn(&mut self, turn: u32) {
        if turn != self.chaos.turn {
            return;
        }
        self.chaos.turn += 1;
        let next_us = match self.chaos.calm_since_us.take() {
            Some(since_us) if self.now_us < self.chaos.ends_us => {
                self.history.bounds.calm.push((since_us, self.now_us));
                let bouts = *self.rng.pick(&[1, 1, 1, 2, 2, 3]);
                for _ in 0..bouts {
                    self.misfortune();
                }
                self.now_us + self.rng.range(SECOND_US, 18 * SECOND_US)
            }
            since_us => {
                if since_us.is_none() {
                    self.set_right();
                }
                self.chaos.calm_since_us = Some(since_us.unwrap_or(self.now_us));
                if self.now_us >= self.chaos.ends_us {
                    self.clocks_right();
                    return self.begin_ending();
                }
                // Calm is mostly short. Now and then it is long enough for late expiry to be
                // judged, or clients rest in it.
                let calm_us = match self.rng.below(100) {
                    0..12 => self.rng.range(45, 70) * SECOND_US,
                    _ => SECOND_US + self.rng.around(9 * SECOND_US),
                };
                let busy_us =
                    if self.rng.percent(75) { calm_us + 20 * SECOND_US } else { calm_us / 4 };
                self.chaos.busy_until_us = self.now_us + busy_us.min(35 * SECOND_US);
                self.now_us + calm_us
            }
        };
        let turn = self.chaos.turn;
        self.agenda.push(next_us, Event::Chaos { turn });
    }

    pub(crate) fn note(&mut self, kind: FaultKind, detail: String) {
        self.faults.add(kind);
        self.trace.mix(kind as u64);
        self.trace.line(self.now_us, || format!("FAULT     {kind} {detail}"));
    }

    fn misfortune(&mut self) {
        let node = 1 + self.rng.below(self.nodes.len() as u64);
        let groups = self.groups();
        let shard = *self.rng.pick(&groups);
        let leader =
            self.nodes.values().find(|node| node.leads(shard)).map_or(node, |node| node.id);
        match self.rng.below(100) {
            0..12 => self.bad_weather(),
            12..16 => self.halves(),
            16..24 => self.isolate(FaultKind::PartitionLeader, leader),
            24..28 => self.ring(),
            28..34 => self.one_way(leader),
            34..38 => self.cut_gateway(leader),
            38..41 => self.cut_client(),
            41..50 => self.kill(leader, FaultKind::NodeKilled),
            50..55 => self.kill(leader, FaultKind::PowerCut),
            55..59 => self.kill(node, FaultKind::PowerCut),
            59..62 => self.all_down_soon(),
            62..67 => self.pause_node(leader, FaultKind::LeaderPaused),
            67..69 => self.pause_node(node, FaultKind::NodePaused),
            69..72 => self.gateway_trouble(),
            72..78 => self.pause_client(),
            78..82 => self.slow_disk(leader),
            82..84 => self.fail_disk(leader),
            84..86 => self.fill_disk(node),
            86..89 => self.flip_bit(node),
            89..92 => self.drift(node),
            92..94 => self.jump_wall(node),
            94..96 => self.lose_disk(node, 12 * SECOND_US),
            96..98 => self.lose_witness_soon(leader),
            _ => self.move_leader(leader, shard, node),
        }
    }

    fn bad_weather(&mut self) {
        let weather = &mut self.network.weather;
        let rng = &mut self.rng;
        *weather = Weather {
            peers_only: rng.percent(60),
            loss: if rng.percent(60) { rng.unit() * 0.3 } else { 0.0 },
            duplication: if rng.percent(60) { rng.unit() * 0.2 } else { 0.0 },
            lateness: if rng.percent(70) { rng.unit() * 0.6 } else { 0.0 },
            late_us: *rng.pick(&[5_000, 50_000, 300_000, 1_000_000, 2_000_000]),
        };
        let detail = format!("{weather:?}");
        self.trace.line(self.now_us, || format!("FAULT     bad weather {detail}"));
    }

    fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn halves(&mut self) {
        let mut ids = self.ids();
        self.rng.shuffle(&mut ids);
        let minority = ids.len() / 2;
        let (few, many) = ids.split_at(minority);
        self.note(FaultKind::PartitionHalves, format!("{few:?} | {many:?}"));
        for few in few {
            for many in many {
                self.network.cut_both(Place::Node(*few), Place::Node(*many));
            }
        }
    }

    fn isolate(&mut self, kind: FaultKind, id: u64) {
        self.note(kind, format!("node {id}"));
        self.cut_off(id);
    }

    pub(crate) fn cut_off(&mut self, id: u64) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.network.cut_both(Place::Node(id), Place::Node(other));
        }
    }

    /// Each node reaches only two neighbours. With three nodes, one link is cut.
    fn ring(&mut self) {
        let ids = self.ids();
        self.note(FaultKind::PartitionRing, String::new());
        if ids.len() == 3 {
            let apart = self.rng.below(3) as usize;
            return self
                .network
                .cut_both(Place::Node(ids[apart]), Place::Node(ids[(apart + 1) % 3]));
        }
        for at in 0..ids.len() {
            for hop in 2..ids.len() - 1 {
                self.network
                    .cut_both(Place::Node(ids[at]), Place::Node(ids[(at + hop) % ids.len()]));
            }
        }
    }

    fn one_way(&mut self, id: u64) {
        let deaf = self.rng.percent(50);
        self.note(
            FaultKind::PartitionOneWay,
            format!("node {id} {}", if deaf { "hears nobody" } else { "is not heard" }),
        );
        for other in self.ids().into_iter().filter(|other| *other != id) {
            let (from, to) = if deaf { (other, id) } else { (id, other) };
            self.network.cut.insert((Place::Node(from), Place::Node(to)));
        }
    }

    fn cut_gateway(&mut self, leader: u64) {
        let gateway = 1 + self.rng.below(self.gateways.len() as u64) as u32;
        self.note(FaultKind::GatewayCut, format!("gateway {gateway} and node {leader}"));
        self.network.cut_both(Place::Gateway(gateway), Place::Node(leader));
    }

    fn cut_client(&mut self) {
        let gateway = 1 + self.rng.below(self.gateways.len() as u64) as u32;
        self.note(FaultKind::ClientCut, format!("all clients and gateway {gateway}, answers only"));
        let clients: Vec<u32> = self.clients.keys().copied().collect();
        for client in clients {
            self.network.cut.insert((Place::Gateway(gateway), Place::Client(client)));
        }
    }

    pub(crate) fn kill(&mut self, id: u64, kind: FaultKind) {
        if !self.nodes[&id].is_up() {
            return;
        }
        self.note(kind, format!("node {id}"));
        self.crash_node(id, kind == FaultKind::PowerCut);
        let after_us = self.rng.range(50_000, 12 * SECOND_US);
        self.agenda.push(self.now_us + after_us, Event::Start { node: id });
    }

    /// Stops all nodes, either now or a moment after all disks begin to lag. In the second case
    /// many writes are on their way that are not acknowledged, or must not be.
    fn all_down_soon(&mut self) {
        if self.rng.percent(60) {
            self.nodes.values_mut().for_each(|node| node.disk.slow = true);
            let after_us = self.rng.range(100_000, 4 * SECOND_US);
            return self.agenda.push(self.now_us + after_us, Event::AllDown);
        }
        self.all_down();
    }

    pub(crate) fn all_down(&mut self) {
        if self.ending.silent {
            return; // the end of the run has begun
        }
        self.note(FaultKind::AllDown, String::new());
        for id in self.ids() {
            self.crash_node(id, true);
            let after_us = self.rng.range(50_000, 3 * SECOND_US);
            self.agenda.push(self.now_us + after_us, Event::Start { node: id });
        }
    }

    fn pause_node(&mut self, id: u64, kind: FaultKind) {
        let for_us = self.rng.range(300_000, 12 * SECOND_US);
        if self.nodes[&id].is_up() {
            self.note(kind, format!("node {id} for {for_us} us"));
            self.nodes.get_mut(&id).expect("a node").paused_until_us = self.now_us + for_us;
        }
    }

    fn gateway_trouble(&mut self) {
        let id = 1 + self.rng.below(self.gateways.len() as u64) as u32;
        if self.rng.percent(50) {
            self.note(FaultKind::GatewayKilled, format!("gateway {id}"));
            return self.crash_gateway(id);
        }
        let for_us = self.rng.range(300_000, 8 * SECOND_US);
        self.note(FaultKind::GatewayPaused, format!("gateway {id} for {for_us} us"));
        self.gateways.get_mut(&id).expect("a gateway").paused_until_us = self.now_us + for_us;
    }

    fn pause_client(&mut self) {
        let id = 1 + self.rng.below(self.clients.len() as u64 - 1) as u32;
        let for_us = self.rng.range(SECOND_US, 14 * SECOND_US);
        self.note(FaultKind::ClientPaused, format!("client {id} for {for_us} us"));
        self.clients.get_mut(&id).expect("a client").paused_until_us = self.now_us + for_us;
    }

    fn slow_disk(&mut self, id: u64) {
        self.trace.line(self.now_us, || format!("FAULT     slow disk of node {id}"));
        self.nodes.get_mut(&id).expect("a node").disk.slow = true;
    }

    fn fail_disk(&mut self, id: u64) {
        if self.nodes[&id].is_up() {
            self.trace.line(self.now_us, || format!("FAULT     the next sync of node {id} fails"));
            self.nodes[&id].disk.engine.fail_next_write();
        }
    }

    fn fill_disk(&mut self, id: u64) {
        self.trace.line(self.now_us, || format!("FAULT     the disk of node {id} is full"));
        self.nodes.get_mut(&id).expect("a node").disk.full = true;
    }

    fn flip_bit(&mut self, id: u64) {
        if !self.may_lose(id) {
            return;
        }
        let shards = self.groups();
        self.crash_node(id, true);
        if self.nodes.get_mut(&id).expect("a node").disk.flip_bit(&mut self.rng, &shards) {
            self.chaos.losses_left -= 1;
            self.note(FaultKind::BitFlip, format!("node {id}"));
        }
        self.agenda.push(self.now_us + SECOND_US, Event::Start { node: id });
    }

    fn drift(&mut self, id: u64) {
        if self.chaos.drift {
            let rate = *self.rng.pick(&[0.5, 0.8, 1.25, 2.0]);
            self.note(FaultKind::ClockDrift, format!("node {id} at {rate}"));
            let now_us = self.now_us;
            self.nodes.get_mut(&id).expect("a node").clock.set_rate(now_us, rate);
        }
    }

    fn jump_wall(&mut self, id: u64) {
        let by_ms = self.rng.range(0, 7_200_000) as i64 - 3_600_000;
        self.note(FaultKind::WallJump, format!("node {id} by {by_ms} ms"));
        self.nodes.get_mut(&id).expect("a node").clock.jump_wall(by_ms);
    }

    fn move_leader(&mut self, leader: u64, shard: ShardId, to: u64) {
        if leader == to || !self.nodes[&leader].is_up() {
            return;
        }
        self.note(FaultKind::LeaderMoved, format!("shard {shard} from node {leader} to {to}"));
        if self.rng.percent(70) {
            self.tell(leader, shard, Input::Transfer { to: routing::NodeId(to) });
        } else {
            self.tell(to, shard, Input::Campaign);
        }
    }

    /// Heals everything: stopped processes start, and a damaged disk is replaced in its own time.
    fn set_right(&mut self) {
        self.trace.line(self.now_us, || "----      set right".to_owned());
        self.network.cut.clear();
        self.network.weather = Weather::default();
        for gateway in self.gateways.values_mut() {
            gateway.up = true;
            gateway.paused_until_us = gateway.paused_until_us.min(self.now_us);
        }
        for id in self.ids() {
            let node = self.nodes.get_mut(&id).expect("a node");
            node.disk.slow = false;
            node.disk.full = false;
            node.paused_until_us = node.paused_until_us.min(self.now_us);
            if !node.is_up() {
                self.agenda.push(self.now_us, Event::Start { node: id });
            }
        }
    }

    fn clocks_right(&mut self) {
        let now_us = self.now_us;
        self.nodes.values_mut().for_each(|node| node.clock.set_rate(now_us, 1.0));
    }
}
