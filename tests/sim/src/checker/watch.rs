//! Invariant 17, of one watch: it is told each change once and in order, or begins anew.
//!
//! Simulated watches and those of real clients are judged by the same [`Follower`]. It follows one
//! watch on one shard, over all its moves, and knows nothing of clients and servers.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// A place in the log of a shard: the index of an entry, and how many of its events come before.
pub type Place = (u64, u32);

/// The effect of a change on the state of its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A grant began. The waiter is the one that it came out of.
    Granted {
        /// The fencing token of the grant.
        token: u64,
        /// The number of the waiter.
        waiter: Option<u64>,
    },
    /// A wait began.
    Queued {
        /// The number of the waiter.
        waiter: u64,
    },
    /// A grant ended.
    Ended {
        /// The fencing token of the grant.
        token: u64,
    },
    /// A wait ended without a grant.
    Cancelled {
        /// The number of the waiter.
        waiter: u64,
    },
}

/// One change of one lock, as a watch tells it.
pub trait Change: PartialEq + Debug {
    /// The name of the lock.
    fn name(&self) -> &str;
    /// Its effect.
    fn effect(&self) -> Effect;
}

/// A part of a shard's state: the names of holds by token, and those of waits by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// The name of each grant that holds, by its token.
    pub held: BTreeMap<u64, String>,
    /// The name of each wait, by its number.
    pub queued: BTreeMap<u64, String>,
}

impl Picture {
    /// Takes a change in.
    pub fn change(&mut self, change: &impl Change) {
        match change.effect() {
            Effect::Granted { token, waiter } => {
                if let Some(waiter) = waiter {
                    self.queued.remove(&waiter);
                }
                self.held.insert(token, change.name().to_owned());
            }
            Effect::Queued { waiter } => {
                self.queued.insert(waiter, change.name().to_owned());
            }
            Effect::Ended { token } => {
                self.held.remove(&token);
            }
            Effect::Cancelled { waiter } => {
                self.queued.remove(&waiter);
            }
        }
    }
}

/// What a watch knows of one shard.
///
/// * `place` is `None` while the state is told.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    place: Option<Place>,
    picture: Picture,
}

impl Follower {
    /// Everything before this place counts as told, and nothing is held or queued then.
    pub fn at(place: Option<Place>) -> Follower {
        Follower { place, picture: Picture::default() }
    }

    /// Everything before this place was told. `None` while the state is told.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What is held and who waits, as of its place.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Takes a part of the state. The first part replaces all that was told before.
    pub fn state(&mut self, first: bool, part: Picture, place: Option<Place>) {
        if first {
            self.picture = Picture::default();
        }
        self.picture.held.extend(part.held);
        self.picture.queued.extend(part.queued);
        self.place = place;
    }

    /// Takes changes, each with its place. `due` are those that had to be told from the first to
    /// the second place.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn events<'a, C: Change + 'a>(
        &mut self,
        told: &[(Place, &'a C)],
        place: Option<Place>,
        due: impl FnOnce(Place, Place) -> Vec<(Place, &'a C)>,
    ) -> Result<(), String> {
        for (_, change) in told {
            self.picture.change(*change);
        }
        let before = std::mem::replace(&mut self.place, place);
        let (from, to) = match (before, place) {
            (Some(from), Some(to)) => (from, to),
            (Some(from), None) => {
                return Err(format!("its watcher lost its place {from:?} without a new state"));
            }
            (None, _) => return Ok(()),
        };
        if to < from {
            return Err(format!("its watcher went back from {from:?} to {to:?}"));
        }
        let due = due(from, to);
        if due == told {
            return Ok(());
        }
        Err(format!("from {from:?} to {to:?} its watcher was told {told:?} instead of {due:?}"))
    }
}
