//! The sources of operations. An open loop has very many independent clients. In a closed loop,
//! each of a fixed number of clients waits for an answer before it sends again.

use crate::agenda::Ns;
use crate::group::{Op, ShardIx};
use crate::random::Random;

/// Bytes in the log, for each kind of operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OpBytes {
    pub(crate) acquire: f64,
    pub(crate) release: f64,
    pub(crate) renewal: f64,
}

/// Independent arrivals on one shard.
struct Stream {
    per_s: f64,
    weight: f64,
    renewal: bool,
    next: Ns,
}

/// A client of a closed loop: it takes a lock and releases it, again and again with other names.
struct Client {
    /// The shard of its lock.
    shard: ShardIx,
    holds: bool,
}

/// * An open loop has no clients, and a closed loop has no streams.
pub(crate) struct Load {
    bytes: OpBytes,
    streams: Vec<Stream>,
    clients: Vec<Client>,
    shards: usize,
    /// Acquires and releases that arrived, or were sent.
    pub(crate) offered: u64,
    random: Random,
}

impl Load {
    /// An open loop on one shard: acquires and releases, and renewals of this weight each.
    pub(crate) fn open(
        bytes: OpBytes,
        writes_per_s: f64,
        renewals_per_s: f64,
        weight: f64,
        seed: u64,
    ) -> Load {
        let mut random = Random::new(seed);
        let streams = [(writes_per_s, 1.0, false), (renewals_per_s, weight, true)];
        let streams = streams
            .into_iter()
            .filter(|(per_s, ..)| *per_s > 0.0)
            .map(|(per_s, weight, renewal)| Stream {
                per_s,
                weight,
                renewal,
                next: random.gap_ns(per_s),
            })
            .collect();
        Load { bytes, streams, clients: Vec::new(), shards: 1, offered: 0, random }
    }

    /// A closed loop over several shards.
    pub(crate) fn closed(bytes: OpBytes, clients: u32, shards: usize, seed: u64) -> Load {
        let clients = (0..clients).map(|_| Client { shard: 0, holds: false }).collect();
        Load { bytes, streams: Vec::new(), clients, shards, offered: 0, random: Random::new(seed) }
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The arrival time of the next operation from outside.
    pub(crate) fn next_ns(&self) -> Option<Ns> {
        self.streams.iter().map(|stream| stream.next).min()
    }

    /// The operations that arrived up to `now`, each sent `link` earlier.
    pub(crate) fn arrived(&mut self, now: Ns, link: Ns) -> Vec<Op> {
        let mut ops = Vec::new();
        for stream in &mut self.streams {
            while stream.next <= now {
                let bytes = match (stream.renewal, ops.len() % 2) {
                    (true, _) => self.bytes.renewal,
                    (false, 0) => self.bytes.acquire,
                    (false, _) => self.bytes.release,
                };
                let (sent, weight, renewal) =
                    (stream.next.saturating_sub(link), stream.weight, stream.renewal);
                ops.push(Op { sent, client: 0, bytes, weight, renewal });
                self.offered += u64::from(!renewal);
                stream.next += self.random.gap_ns(stream.per_s).max(1);
            }
        }
        ops
    }

    /// The next operation of a client, and its shard.
    pub(crate) fn ask(&mut self, client: u32, now: Ns) -> (ShardIx, Op) {
        let asks = &mut self.clients[client as usize];
        if !asks.holds {
            asks.shard = self.random.below(self.shards);
        }
        let bytes = if asks.holds { self.bytes.release } else { self.bytes.acquire };
        asks.holds = !asks.holds;
        self.offered += 1;
        (asks.shard, Op { sent: now, client, bytes, weight: 1.0, renewal: false })
    }
}
