//! The messages between places, and the events of the agenda.

use super::client::Act;
use super::gateway::Timer;
use crate::world::network::Place;
use routing::ShardId;
use shard::{Speaker, Ticket};
use std::sync::Arc;
use topology::plan::Report;
use topology::{Topology, Version};
use wire::{internal::v1 as internal, v1};

/// A message between two places.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// The speaker is for the judges: it stands in the bytes, too.
    Raft {
        shard: ShardId,
        bytes: Vec<u8>,
        speaker: Speaker,
    },
    /// The identity that a node states with each connection.
    Hello {
        node: u64,
        incarnation: u32,
    },
    /// A node asks for the topology, if there is one after this version.
    TopologyAsked {
        node: u64,
        version: Version,
    },
    Topology(Arc<Topology>),
    /// What a node reports to the leader of META.
    Report(Arc<Report>),
    /// A frame with one operation, which its id names.
    Request {
        sent_ms: u64,
        operation: Box<internal::Operation>,
    },
    Reply {
        ticket: Ticket,
        result: Box<internal::operation_result::Result>,
    },
    /// The connection broke, or could not be opened.
    Broken {
        ticket: Ticket,
        sent: bool,
    },
    /// An operation of a client, which its id names.
    ClientRequest {
        operation: Box<v1::Operation>,
    },
    /// `tries` counts the tries of the gateway. No real gateway tells it: it is for the checker.
    ClientReply {
        call: u64,
        result: Box<v1::operation_result::Result>,
        tries: u32,
    },
    ClientBroken {
        call: u64,
        sent: bool,
    },
    ClientGone {
        call: u64,
    },
}

/// An event on the agenda.
pub(crate) enum Event {
    Tick { node: u64, boot: u64 },
    Step { node: u64, boot: u64, shard: ShardId },
    Disk { node: u64, boot: u64 },
    Start { node: u64 },
    Reseed { node: u64 },
    WitnessLost { leader: u64, witness: u64 },
    Deliver { from: Place, to: Place, message: Message },
    Snapshot { from: u64, boot: u64, to: u64, shard: ShardId, bytes: Vec<u8> },
    SnapshotSent { node: u64, boot: u64, to: u64, shard: ShardId, ok: bool },
    SnapshotWritten { node: u64, boot: u64, shard: ShardId, bytes: Vec<u8> },
    GatewayTimer { gateway: u32, timer: Timer },
    ClientTimer { client: u32, call: u64, turn: u32 },
    Act { client: u32, act: Act },
    AllDown,
    Chaos { turn: u32 },
    Sample,
    RouteTables,
    Members,
    Meta,
    Follow { node: u64, boot: u64 },
    Jobs,
    Ending { stage: u32 },
}
