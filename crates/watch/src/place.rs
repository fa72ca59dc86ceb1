//! Places, bounds, and the names of watchers.

/// A place in the events of one shard: the same on all its replicas.
///
/// ```
/// use palisade_watch::Place;
///
/// let (of_entry, within) = (Place { index: 7, ordinals: 0 }, Place { index: 7, ordinals: 2 });
/// assert!(of_entry < within && within < Place { index: 8, ordinals: 0 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// All events of entries before this one were told.
    pub index: u64,
    /// And this many of its own, whether they match a filter or not.
    pub ordinals: u32,
}

impl Place {
    /// The place after all events of an entry, and of the entries before it.
    pub fn after_entry(index: u64) -> Place {
        Place { index: index + 1, ordinals: 0 }
    }
}

/// Names a watcher of one [`Recent`](crate::Recent). Its owner chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// The bounds of a ring. The oldest events make room for new ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most events.
    pub events: usize,
    /// Most bytes of events, about.
    pub bytes: usize,
}

/// The room of one delivery.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Most events.
    pub events: usize,
    /// Most bytes of events, about. A single event may exceed it.
    pub bytes: usize,
}
