//! Where operations come from: from ever so many clients that know nothing of each other, or from so many that each wait for
//! an answer before they ask again.

use super::agenda::Ns;
use super::group::Op;
use super::random::Random;
use super::world::ShardIx;

/// What an operation puts in the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OpBytes {
    pub(super) acquire: f64,
    pub(super) release: f64,
    pub(super) renewal: f64,
}

/// Independent arrivals on one shard.
struct Stream {
    per_s: f64,
    weight: f64,
    renewal: bool,
    next: Ns,
}

/// The clients of a closed loop: each takes a lock and lets it go, again and again with other names.
struct Client {
    /// Where its lock is.
    shard: ShardIx,
    holds: bool,
}

/// - Open loop: no clients. Closed loop: no streams.
pub(super) struct Load {
    bytes: OpBytes,
    streams: Vec<Stream>,
    clients: Vec<Client>,
    shards: usize,
    /// Acquires and releases that arrived, or were sent.
    pub(super) offered: u64,
    random: Random,
}

impl Load {
    /// Open loop on one shard: acquires and releases, and renewals of so much weight each.
    pub(super) fn open(bytes: OpBytes, writes_per_s: f64, renewals_per_s: f64, weight: f64, seed: u64) -> Load {
        let mut random = Random::new(seed);
        let streams = [(writes_per_s, 1.0, false), (renewals_per_s, weight, true)];
        let streams = streams
            .into_iter()
            .filter(|(per_s, ..)| *per_s > 0.0)
            .map(|(per_s, weight, renewal)| Stream { per_s, weight, renewal, next: random.gap_ns(per_s) })
            .collect();
        Load { bytes, streams, clients: Vec::new(), shards: 1, offered: 0, random }
    }

    /// Closed loop over shards.
    pub(super) fn closed(bytes: OpBytes, clients: u32, shards: usize, seed: u64) -> Load {
        let clients = (0..clients).map(|_| Client { shard: 0, holds: false }).collect();
        Load { bytes, streams: Vec::new(), clients, shards, offered: 0, random: Random::new(seed) }
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// When the next operation arrives from outside.
    pub(super) fn next_ns(&self) -> Option<Ns> {
        self.streams.iter().map(|stream| stream.next).min()
    }

    /// What arrived up to `now`, each sent `link` before.
    pub(super) fn arrived(&mut self, now: Ns, link: Ns) -> Vec<Op> {
        let mut ops = Vec::new();
        for stream in &mut self.streams {
            while stream.next <= now {
                let bytes = match (stream.renewal, ops.len() % 2) {
                    (true, _) => self.bytes.renewal,
                    (false, 0) => self.bytes.acquire,
                    (false, _) => self.bytes.release,
                };
                let (sent, weight, renewal) = (stream.next.saturating_sub(link), stream.weight, stream.renewal);
                ops.push(Op { sent, client: 0, bytes, weight, renewal });
                self.offered += u64::from(!renewal);
                stream.next += self.random.gap_ns(stream.per_s).max(1);
            }
        }
        ops
    }

    /// What a client asks next, and of which shard.
    pub(super) fn ask(&mut self, client: u32, now: Ns) -> (ShardIx, Op) {
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
