//! A gateway: it takes a client's operation to the leader of its shard.
//!
//! The gateway is a driver of the real core, which decides everything: the core's sends become
//! messages, and its pauses timers. The waits of lost clients are cleaned up as in the real gateway.

use super::network::Place;
use super::state::World;
use super::state::event::{Event, Message};
use super::state::gateway::{Gateway, Owner, Running, Timer};
use crate::rng::Rng;
use gateway::core::{Call, Cleanup, Env, Next, Outgoing, Step};
use link::mux::{Failure, Outcome, node_outcome};
use shard::Ticket;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as NodeResult;
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as OpResult;
use wire::v1::{Consistency, Operation};

/// The time for a lost client to come back with its waits, as in the real gateway.
const COME_BACK_MS: u64 = 300;
/// The time for one try to leave a queue, as in the real gateway.
const LEAVE_TIMEOUT_MS: u64 = 1_000;
/// The first and longest pause between such tries, as in the real gateway.
const LEAVE_PAUSE_MS: (u64, u64) = (50, 5_000);

/// The clock of the world and its dice, for the core.
struct At<'a> {
    now_ms: u64,
    rng: &'a mut Rng,
}

impl Env for At<'_> {
    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn jitter(&mut self) -> f64 {
        self.rng.unit()
    }

    fn request_id(&mut self) -> [u8; REQUEST_ID_BYTES] {
        unreachable!("every client chooses its request ids")
    }
}

impl World {
    /// The gateway loses all its state. Nodes and clients see their connections end.
    pub(crate) fn crash_gateway(&mut self, id: u32) {
        let fresh = Gateway { up: false, ..Gateway::new(self.map.clone()) };
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Gateway { calls, .. } = std::mem::replace(gateway, fresh);
        self.route_tables.forget(Place::Gateway(id));
        self.trace.line(self.now_us, || format!("gateway {id} dies"));
        for (call, running) in calls {
            if let Owner::Client { place, .. } = running.owner {
                self.send(Place::Gateway(id), place, Message::ClientBroken { call, sent: true });
            }
        }
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        for node in nodes {
            if self.network.passes(Place::Gateway(id), Place::Node(node)) {
                self.drop_streams(node, Place::Gateway(id));
            }
        }
    }

    pub(crate) fn gateway_request(&mut self, id: u32, from: u32, operation: Operation) {
        let (client, caller) = (Place::Client(from), self.identities.caller(from));
        let (number, now_ms) = (operation.id, self.now_us / 1_000);
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        if !gateway.up {
            let refusal = Message::ClientBroken { call: number, sent: false };
            return self.send(Place::Gateway(id), client, refusal);
        }
        let wait = match &operation.op {
            Some(Op::Acquire(acquire)) if acquire.wait_ms > 0 => {
                Some(Cleanup::of(caller.clone(), acquire, operation.timeout_ms, false, now_ms))
            }
            _ => None,
        };
        let (mut steps, env) = (Vec::new(), &mut At { now_ms, rng: &mut self.rng });
        let call = Call::begin(caller, operation, &gateway.directory, env, &mut steps);
        let owner = Owner::Client { place: client, wait };
        gateway.calls.insert(number, Running { call, owner, tries: 1 });
        self.take_steps(id, number, steps);
    }

    fn take_steps(&mut self, id: u32, number: u64, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(send) => self.send_try(id, number, send),
                Step::Pause { part, ms } => {
                    let timer = Timer::Pause { call: number, part };
                    self.set_timer(id, ms, timer);
                }
                Step::Refresh { .. } => unreachable!("no name changes its shard"),
                Step::Answer(answer) => self.gateway_answer(id, number, answer),
            }
        }
    }

    fn send_try(&mut self, id: u32, number: u64, send: Outgoing) {
        let Outgoing { part, node, timeout_ms, mut operation, retry_of } = send;
        let ticket = self.number();
        // Any replica can serve a linearizable check. The core asks the leader, so some checks are
        // turned to other replicas here.
        let anywhere = matches!(&operation.op, Some(RoutedOp::Check(check))
            if check.consistency() == Consistency::Linearizable);
        let node = if anywhere && self.rng.percent(60) {
            1 + self.rng.below(self.nodes.len() as u64)
        } else {
            node
        };
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let running = gateway.calls.get_mut(&number).expect("a call that sends is running");
        running.tries += u32::from(retry_of.is_some());
        gateway.tries.insert(ticket, (number, part));
        (operation.id, operation.timeout_ms) = (ticket, timeout_ms as u32);
        let wait_ms = operation.op.as_ref().map_or(0, RoutedOp::wait_ms);
        self.set_timer(id, timeout_ms + u64::from(wait_ms), Timer::Try { ticket });
        // Nodes tell from the time how late the frame is, by clocks of about one rate. In a run
        // with clocks that drift far from each other it is not told.
        let sent_ms = if self.chaos.drifts() { 0 } else { 1 + self.now_us / 1_000 };
        let message = Message::Request { sent_ms, operation: Box::new(operation) };
        self.send(Place::Gateway(id), Place::Node(node), message);
    }

    fn set_timer(&mut self, id: u32, after_ms: u64, timer: Timer) {
        let at_us = self.now_us + after_ms * 1_000;
        self.agenda.push(at_us, Event::GatewayTimer { gateway: id, timer });
    }

    fn gateway_answer(&mut self, id: u32, number: u64, answer: OpResult) {
        let now_ms = self.now_us / 1_000;
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(Running { owner, tries, .. }) = gateway.drop_call(number) else { return };
        match owner {
            Owner::Client { place, .. } => {
                let result = Box::new(answer);
                let reply = Message::ClientReply { call: number, result, tries };
                self.send(Place::Gateway(id), place, reply);
            }
            Owner::Gone { wait } => {
                if let Some(cleanup) = wait.after(&answer) {
                    self.clean_up(id, cleanup, LEAVE_PAUSE_MS.0);
                }
            }
            Owner::Cleanup { mut cleanup, pause_ms } => match cleanup.on_answer(&answer, now_ms) {
                Next::Done => {}
                Next::AtOnce => self.clean_up(id, cleanup, pause_ms),
                Next::Later => {
                    let number = self.number();
                    let gateway = self.gateways.get_mut(&id).expect("a gateway");
                    let longer_ms = (2 * pause_ms).min(LEAVE_PAUSE_MS.1);
                    gateway.pausing.insert(number, (cleanup, longer_ms));
                    self.set_timer(id, pause_ms, Timer::Cleanup { number });
                }
            },
        }
    }

    pub(crate) fn gateway_reply(&mut self, id: u32, ticket: Ticket, result: NodeResult) {
        self.gateway_heard(id, ticket, node_outcome(Some(result)));
    }

    pub(crate) fn gateway_broken(&mut self, id: u32, ticket: Ticket, sent: bool) {
        let failure = match sent {
            true => Failure::Lost("connection lost".into()),
            false => Failure::NotSent("connection refused".into()),
        };
        self.gateway_heard(id, ticket, Err(failure));
    }

    fn gateway_heard(&mut self, id: u32, ticket: Ticket, outcome: Outcome<NodeResult>) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        // The outcome may be late. A grant that comes after its time ends with its TTL.
        let Some((number, part)) = gateway.tries.remove(&ticket) else { return };
        let Some(running) = gateway.calls.get_mut(&number) else { return };
        let mut steps = Vec::new();
        let env = &mut At { now_ms: self.now_us / 1_000, rng: &mut self.rng };
        running.call.on_outcome(part, outcome, &gateway.directory, env, &mut steps);
        self.take_steps(id, number, steps);
    }

    pub(crate) fn gateway_timer(&mut self, id: u32, timer: Timer) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        match timer {
            Timer::Try { ticket } => {
                let lost = Failure::Lost("no answer in time".into());
                self.gateway_heard(id, ticket, Err(lost));
            }
            Timer::Pause { call: number, part } => {
                let Some(running) = gateway.calls.get_mut(&number) else { return };
                let mut steps = Vec::new();
                let env = &mut At { now_ms: self.now_us / 1_000, rng: &mut self.rng };
                running.call.on_pause_over(part, &gateway.directory, env, &mut steps);
                self.take_steps(id, number, steps);
            }
            Timer::ComeBack { call } => {
                if let Some(Running { owner: Owner::Gone { wait }, .. }) = gateway.drop_call(call) {
                    self.clean_up(id, wait, LEAVE_PAUSE_MS.0);
                }
            }
            Timer::Cleanup { number } => {
                if let Some((cleanup, pause_ms)) = gateway.pausing.remove(&number) {
                    self.clean_up(id, cleanup, pause_ms);
                }
            }
        }
    }

    /// Notes that a client's stream is gone. A waiting acquire stays for a moment, because the
    /// client may come back for it. Then the gateway takes it out of its queue.
    pub(crate) fn gateway_abandon(&mut self, id: u32, number: u64) {
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let Some(running) = gateway.calls.get_mut(&number) else { return };
        match &mut running.owner {
            Owner::Client { wait: Some(wait), .. } => {
                running.owner = Owner::Gone { wait: wait.clone() };
                running.call.abandon();
                self.set_timer(id, COME_BACK_MS, Timer::ComeBack { call: number });
            }
            _ => drop(gateway.drop_call(number)),
        }
    }

    fn clean_up(&mut self, id: u32, cleanup: Cleanup, pause_ms: u64) {
        let number = self.number();
        let gateway = self.gateways.get_mut(&id).expect("a gateway");
        let mut steps = Vec::new();
        let env = &mut At { now_ms: self.now_us / 1_000, rng: &mut self.rng };
        let (caller, op) = (cleanup.caller().clone(), cleanup.operation());
        let directory = &gateway.directory;
        let call = Call::begin_own(caller, op, LEAVE_TIMEOUT_MS, directory, env, &mut steps);
        let owner = Owner::Cleanup { cleanup, pause_ms };
        gateway.calls.insert(number, Running { call, owner, tries: 1 });
        self.take_steps(id, number, steps);
    }
}
