//! The network: who reaches whom, how late, and what becomes of a message on its way.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Anything with an address.
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

/// What is wrong with all links at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    /// Between nodes only.
    pub peers_only: bool,
    pub loss: f64,
    pub duplication: f64,
    /// So many messages are late by up to `late_us`, and so overtaken.
    pub lateness: f64,
    pub late_us: u64,
}

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Cut,
    Lost,
    Arrives { at_us: u64, again_at_us: Option<u64>, late: bool, overtakes: bool },
}

/// * `cut` holds ordered pairs: what one side sends does not arrive; the other way may be open.
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

    /// `datagram`: may be duplicated, as what Raft tolerates; a request or its answer is not, as streams do not do that.
    pub(crate) fn send(&mut self, rng: &mut Rng, now_us: u64, from: Place, to: Place, datagram: bool) -> Fate {
        if !self.passes(from, to) {
            return Fate::Cut;
        }
        let weather = if self.weather.peers_only && !datagram { Weather::default() } else { self.weather };
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
