//! The names that clients use: a few that all of them want, and many that clients hardly ever
//! share.
//!
//! Names turn over. Each round has its own names, and new ones come every [`EPOCH_US`] within a
//! round. The history of a name therefore stays small enough for the search for a linearization.

use palisade_sim::checker::Mode;
use palisade_sim::rng::Rng;

/// The time for which the same names are used, in microseconds.
pub const EPOCH_US: u64 = 8_000_000;
const HOT: u64 = 10;
const COLD: u64 = 300;
const PERMITS: u32 = 3;

/// The beginning of all names of a round.
pub fn all(round: u32) -> String {
    format!("r{round}.")
}

/// The name that a client process watches by itself, by its number from 1. Clients take it
/// exclusively.
pub fn watched(round: u32, process: usize) -> String {
    format!("r{round}.{}/hot-{}", (process - 1) % 2, (process - 1) % 3)
}

/// A name, and the way it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name of the resource.
    pub name: String,
    /// Whether many clients want this name at once.
    pub hot: bool,
    kind: u64,
}

impl Name {
    /// Picks a name that is in use `since_us` after its round began.
    pub fn pick(rng: &mut Rng, round: u32, since_us: u64) -> Name {
        let epoch = since_us / EPOCH_US;
        if rng.percent(55) {
            let number = rng.below(HOT);
            return Name {
                name: format!("r{round}.{epoch}/hot-{number}"),
                hot: true,
                kind: number % 5,
            };
        }
        Name { name: format!("r{round}.{epoch}/cold-{}", rng.below(COLD)), hot: false, kind: 0 }
    }

    /// The mode for the next acquire of this name.
    pub fn mode(&self, rng: &mut Rng) -> Mode {
        match self.kind {
            3 if rng.percent(65) => Mode::Shared,
            4 => Mode::Permits { count: rng.range(1, 2) as u32, limit: PERMITS },
            _ => Mode::Exclusive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_turn_over_by_round_and_epoch_and_keep_their_kind() {
        let mut rng = Rng::new(7);
        for _ in 0..200 {
            let name = Name::pick(&mut rng, 3, 2 * EPOCH_US + 1);
            assert!(name.name.starts_with("r3.2/"), "{name:?}");
            let semaphore = matches!(name.mode(&mut rng), Mode::Permits { .. });
            assert_eq!(
                semaphore,
                matches!(name.mode(&mut rng), Mode::Permits { .. }),
                "{name:?}: semaphores stay ones"
            );
        }
    }
}
