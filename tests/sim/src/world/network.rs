//! The network: which places reach each other, the delay between them, and the fate of each
//! message.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// A place with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Node(u64),
    Gateway(u32),
    Client(u32),
}

impl Place {
    pub(crate) fn number(self) -> u64 {
        match self {
            Place::Node(id) => id,
            Place::Gateway(id) => 0x1_0000 + u64::from(id),
            Place::Client(id) => 0x2_0000 + u64::from(id),
        }
    }
}

/// The disturbances on all links at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    /// Whether the weather affects links between nodes only.
    pub peers_only: bool,
    pub loss: f64,
    pub duplication: f64,
    /// The share of messages that are late by up to `late_us`. Other messages overtake them.
    pub lateness: f64,
    pub late_us: u64,
}

/// The fate of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Cut,
    Lost,
    Arrives { at_us: u64, again_at_us: Option<u64>, late: bool, overtakes: bool },
}

/// * `cut` holds ordered pairs: messages in this direction do not arrive, while the other direction
///   may be open.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub cut: BTreeSet<(Place, Place)>,
    pub weather: Weather,
    base_us: u64,
    last_arrival_us: BTreeMap<(Place, Place), u64>,
}

impl Network {
    pub(crate) fn new(base_us: u64) -> Network {
        Network { base_us, ..Network::default() }
    }

    pub(crate) fn cut_both(&mut self, one: Place, other: Place) {
        self.cut.extend([(one, other), (other, one)]);
    }

    pub(crate) fn passes(&self, from: Place, to: Place) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Decides the fate of a message. A `datagram` may be duplicated, because Raft tolerates this.
    /// Requests and answers are never duplicated, because streams deliver each message once.
    pub(crate) fn send(
        &mut self,
        rng: &mut Rng,
        now_us: u64,
        from: Place,
        to: Place,
        datagram: bool,
    ) -> Fate {
        if !self.passes(from, to) {
            return Fate::Cut;
        }
        let weather =
            if self.weather.peers_only && !datagram { Weather::default() } else { self.weather };
        let Weather { loss, duplication, lateness, late_us, .. } = weather;
        if loss > 0.0 && rng.chance(loss) {
            return Fate::Lost;
        }
        let mut after_us = self.base_us + rng.around(self.base_us);
        let late = lateness > 0.0 && rng.chance(lateness);
        if late {
            after_us += rng.range(1, late_us);
        }
        let at_us = now_us + after_us;
        let again = datagram && duplication > 0.0 && rng.chance(duplication);
        let again_at_us = again.then(|| at_us + rng.range(1, 20 * self.base_us.max(late_us)));
        let last_us = self.last_arrival_us.entry((from, to)).or_default();
        let overtakes = at_us < *last_us;
        *last_us = at_us.max(*last_us);
        Fate::Arrives { at_us, again_at_us, late, overtakes }
    }
}
