//! The state of a gateway: the calls that it has not answered, and their tries.

use crate::world::network::Place;
use gateway::core::{Call, Cleanup, Directory};
use routing::{RouteTable, ShardMap};
use shard::Ticket;
use std::collections::BTreeMap;

/// * `calls` has an entry for each operation that was not answered yet.
/// * `tries` has an entry for each try under way: the call and the part that it belongs to.
/// * `pausing` has the cleanups between two tries, each with its pause.
pub(crate) struct Gateway {
    pub up: bool,
    pub paused_until_us: u64,
    pub directory: Directory,
    pub calls: BTreeMap<u64, Running>,
    pub tries: BTreeMap<Ticket, (u64, u32)>,
    pub pausing: BTreeMap<u64, (Cleanup, u64)>,
}

pub(crate) struct Running {
    pub call: Call,
    pub owner: Owner,
    /// The number of tries so far, for the checker.
    pub tries: u32,
}

/// The place where the answer goes.
pub(crate) enum Owner {
    /// A client that awaits it. An acquire that waits has the cleanup that it needs if the client
    /// is lost.
    Client { place: Place, wait: Option<Cleanup> },
    /// A client that is gone. It may come back for a while.
    Gone { wait: Cleanup },
    /// The gateway itself, which cleans up. The pause comes before the next try.
    Cleanup { cleanup: Cleanup, pause_ms: u64 },
}

/// A moment that a gateway waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// The time of a try is up.
    Try { ticket: Ticket },
    /// The pause of a call's part is over.
    Pause { call: u64, part: u32 },
    /// The client of this call had the time to come back.
    ComeBack { call: u64 },
    /// The pause of a cleanup is over.
    Cleanup { number: u64 },
}

impl Gateway {
    pub(crate) fn new(map: ShardMap) -> Gateway {
        Gateway {
            up: true,
            paused_until_us: 0,
            directory: Directory::new(map),
            calls: BTreeMap::new(),
            tries: BTreeMap::new(),
            pausing: BTreeMap::new(),
        }
    }

    /// Takes a route table with a map of a later edition than the present one.
    pub(crate) fn take_routes(&self, routes: &RouteTable) {
        self.directory.take(routes);
    }

    /// Takes a call out, so that outcomes of its tries come to nothing.
    pub(crate) fn drop_call(&mut self, number: u64) -> Option<Running> {
        self.tries.retain(|_, (call, _)| *call != number);
        self.calls.remove(&number)
    }
}
