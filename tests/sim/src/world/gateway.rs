//! A gateway: it takes a client's operation to the leader of its shard.
//!
//! It uses the real retry machine and leader cache, and keeps no lock state.

use super::ask::{Answer, Ask, NodeAnswer, Refusal, What};
use super::{Event, Message, Place, World};
use link::leaders::LeaderCache;
use link::retry::{Attempt, Decision, Failure, Policy};
use routing::NodeId;
use shard::Ticket;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::v1::ErrorCode;

/// The timeout of the first try at a node. It doubles with each unanswered try.
const ATTEMPT_TIMEOUT_MS: u64 = 1_500;

/// The timeout of a cancel that the gateway sends by itself.
const CANCEL_TIMEOUT_MS: u64 = 5_000;

/// * `calls` has an entry for each operation that a client awaits.
/// * `tickets` has an entry for each try under way of these operations.
pub(crate) struct Gateway {
    pub up: bool,
    pub paused_until_us: u64,
    leaders: LeaderCache,
    calls: BTreeMap<u64, Call>,
    tickets: BTreeMap<Ticket, u64>,
}

struct Call {
    client: Place,
    ask: Arc<Ask>,
    attempt: Attempt,
    /// Rises with every change that makes an earlier timer meaningless.
    turn: u32,
    /// The try under way, and the node that it was sent to.
    trying: Option<(Ticket, u64)>,
}

impl Gateway {
    pub(crate) fn new() -> Gateway {
        Gateway {
            up: true,
            paused_until_us: 0,
            leaders: LeaderCache::new(),
            calls: BTreeMap::new(),
            tickets: BTreeMap::new(),
        }
    }
}

impl World {
    /// The gateway loses all its state. Nodes and clients see their connections end.
    pub(crate) fn crash_gateway(&mut self, id: u32) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        gateway.up = false;
        gateway.paused_until_us = 0;
        gateway.leaders = LeaderCache::new();
        gateway.tickets.clear();
        let calls = std::mem::take(&mut gateway.calls);
        self.trace.line(self.now_us, || format!("gateway {id} dies"));
        for (call, Call { client, .. }) in calls {
            self.send(Place::Gateway(id), client, Message::ClientBroken { call, sent: true });
        }
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        for node in nodes {
            if self.network.passes(Place::Gateway(id), Place::Node(node)) {
                self.drop_streams(node, Place::Gateway(id));
            }
        }
    }

    pub(crate) fn gateway_request(
        &mut self,
        id: u32,
        client: Place,
        call: u64,
        ask: Arc<Ask>,
        timeout_ms: u64,
        wait_ms: u32,
    ) {
        let targets = self.targets(id, &ask);
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        if !gateway.up {
            return self.send(
                Place::Gateway(id),
                client,
                Message::ClientBroken { call, sent: false },
            );
        }
        let policy = Policy {
            kind: ask.kind(),
            timeout_ms,
            wait_ms,
            attempt_timeout_ms: ATTEMPT_TIMEOUT_MS,
            retry_busy: false,
            relays: false,
        };
        let now_ms = self.now_us / 1_000;
        let mut attempt = Attempt::new(policy, now_ms, targets[0]);
        let decision = attempt.resume(now_ms);
        gateway.calls.insert(call, Call { client, ask, attempt, turn: 0, trying: None });
        self.gateway_do(id, call, decision);
    }

    /// All nodes, starting with the leader or a guess of it.
    fn targets(&mut self, id: u32, ask: &Ask) -> Vec<u64> {
        let mut targets: Vec<u64> = self.nodes.keys().copied().collect();
        // Any replica answers a check, even a linearizable one. The real gateway asks followers for
        // stale checks only.
        let anybody = matches!(ask.what, What::Check { .. }) && self.rng.percent(60);
        let first = match self.gateways[&id].leaders.leader(ask.shard) {
            Some(leader) if !anybody => {
                targets.iter().position(|node| *node == leader.0).unwrap_or(0)
            }
            _ => self.rng.below(targets.len() as u64) as usize,
        };
        targets.rotate_left(first);
        targets
    }

    fn gateway_do(&mut self, id: u32, number: u64, decision: Decision) {
        let ticket = self.number();
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(call) = gateway.calls.get_mut(&number) else { return };
        call.turn += 1;
        if let Some((old, _)) = call.trying.take() {
            gateway.tickets.remove(&old);
        }
        let turn = call.turn;
        match decision {
            Decision::Send(next) => {
                call.trying = Some((ticket, next.target));
                gateway.tickets.insert(ticket, number);
                let wait_us = (next.timeout_ms + u64::from(next.wait_ms)) * 1_000;
                let (ask, left_ms, give_up_us) =
                    (call.ask.clone(), next.wait_ms, self.now_us + wait_us);
                self.agenda
                    .push(give_up_us, Event::GatewayTimer { gateway: id, call: number, turn });
                let message = Message::Request { ticket, ask, left_ms, give_up_us };
                self.send(Place::Gateway(id), Place::Node(next.target), message);
            }
            Decision::RetryAfter { ms } => {
                let at_us = self.now_us + ms * 1_000;
                self.agenda.push(at_us, Event::GatewayTimer { gateway: id, call: number, turn });
            }
            Decision::GiveUp(error) => self.gateway_finish(id, number, Err(error)),
        }
    }

    fn gateway_finish(&mut self, id: u32, number: u64, answer: Answer) {
        let Some(call) =
            self.gateways.get_mut(&id).and_then(|gateway| gateway.calls.remove(&number))
        else {
            return;
        };
        let tries = call.attempt.tries();
        self.send(
            Place::Gateway(id),
            call.client,
            Message::ClientReply { call: number, answer, tries },
        );
    }

    pub(crate) fn gateway_reply(
        &mut self,
        id: u32,
        from: Place,
        ticket: Ticket,
        answer: NodeAnswer,
    ) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        // The client has been answered already, so a grant that comes now ends with its TTL.
        let Some(number) = gateway.tickets.remove(&ticket) else { return };
        let Place::Node(node) = from else { unreachable!("only nodes reply to gateways") };
        let Some(call) = gateway.calls.get_mut(&number) else { return };
        call.trying = None;
        let shard = call.ask.shard;
        let error = match answer {
            Ok(done) => {
                if !matches!(call.ask.what, What::Check { .. }) {
                    gateway.leaders.confirm(shard, NodeId(node));
                }
                return self.gateway_finish(id, number, Ok(done));
            }
            Err(Refusal::NotLeader { hint, term }) => {
                if !gateway.leaders.learn(shard, hint, term) {
                    gateway.leaders.suspect(shard, NodeId(node));
                }
                let failure = Failure::NotLeader {
                    leader: hint.map_or(0, |node| node.0),
                    why: "another leads",
                };
                return self.gateway_failed(id, number, failure);
            }
            Err(Refusal::Error(error)) => error,
        };
        if error.code() == ErrorCode::NoLeader {
            gateway.leaders.suspect(shard, NodeId(node));
        }
        self.gateway_failed(id, number, Failure::Answer(&error));
    }

    pub(crate) fn gateway_broken(&mut self, id: u32, ticket: Ticket, sent: bool) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(number) = gateway.tickets.remove(&ticket) else { return };
        self.suspect_target(id, number);
        let failure = if sent {
            Failure::Lost("connection lost")
        } else {
            Failure::NotSent("connection refused")
        };
        self.gateway_failed(id, number, failure);
    }

    fn suspect_target(&mut self, id: u32, number: u64) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        if let Some(call) = gateway.calls.get_mut(&number)
            && let Some((_, node)) = call.trying
        {
            gateway.leaders.suspect(call.ask.shard, NodeId(node));
        }
    }

    fn gateway_failed(&mut self, id: u32, number: u64, failure: Failure<'_>) {
        let Some(ask) = self.gateways[&id].calls.get(&number).map(|call| call.ask.clone()) else {
            return;
        };
        let targets = self.targets(id, &ask);
        let (now_ms, jitter) = (self.now_us / 1_000, self.rng.unit());
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let call = gateway.calls.get_mut(&number).expect("just seen");
        let decision = call.attempt.next(now_ms, jitter, failure, &targets);
        self.gateway_do(id, number, decision);
    }

    pub(crate) fn gateway_timer(&mut self, id: u32, number: u64, turn: u32) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(call) = gateway.calls.get_mut(&number).filter(|call| call.turn == turn) else {
            return;
        };
        match call.trying {
            Some(_) => {
                self.suspect_target(id, number);
                self.gateway_failed(id, number, Failure::Lost("no answer in time"));
            }
            None => {
                let decision = call.attempt.resume(self.now_us / 1_000);
                self.gateway_do(id, number, decision);
            }
        }
    }

    /// Drops a call after its client's stream is gone. If the call is a waiting acquire, the
    /// gateway takes it out of its queue in the client's name.
    pub(crate) fn gateway_abandon(&mut self, id: u32, client: Place, number: u64) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(call) = gateway.calls.remove(&number) else { return };
        if let Some((ticket, _)) = call.trying {
            gateway.tickets.remove(&ticket);
        }
        if let What::Acquire { request, wait_ms: 1.., .. } = call.ask.what
            && gateway.up
        {
            let (name, shard) = (call.ask.name.clone(), call.ask.shard);
            let ask =
                Arc::new(Ask { name, shard, what: What::CancelWait { request, given_up: false } });
            let own = self.number();
            self.gateway_request(id, client, own, ask, CANCEL_TIMEOUT_MS, 0);
        }
    }
}
