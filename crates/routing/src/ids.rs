//! Identifiers that all other crates share.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

macro_rules! shown_as_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

id!(
    /// A node, as numbered in the cluster file: 1 to 2^32 - 1.
    NodeId(u64)
);
id!(
    /// A shard, numbered from 0.
    ShardId(u32)
);
/// The shard whose state machine is the topology of the cluster. It owns no slot. The id above it
/// stands for no shard, because storage uses it.
pub const META: ShardId = ShardId(u32::MAX - 1);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == META { f.pad("meta") } else { self.0.fmt(f) }
    }
}

id!(
    /// A version of the shard map. It only ever rises.
    MapVersion(u64)
);
shown_as_number!(NodeId MapVersion);

/// One of the [`SLOTS`] fixed hash slots.
///
/// ```
/// use palisade_routing::Slot;
///
/// assert_eq!(Slot::of("{user1000}.following"), Slot::of("{user1000}.followers"));
/// assert_eq!(Slot::of("a").index(), 15_939);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) u16);

/// Number of slots. It never changes, because it decides the slot of every name.
pub const SLOTS: u16 = 16_384;

impl Slot {
    /// The slot of a name: CRC-32 (IEEE) of its key, modulo [`SLOTS`].
    ///
    /// The key is the text between the first `{` and the next `}`, unless that is empty. Otherwise
    /// it is the whole name. Redis Cluster has the same rule, so that related names can share a
    /// shard.
    pub fn of(name: &str) -> Slot {
        let key = match name.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => name,
        };
        Slot((crc32fast::hash(key.as_bytes()) % u32::from(SLOTS)) as u16)
    }

    /// The number of the slot, below [`SLOTS`].
    pub fn index(self) -> u16 {
        self.0
    }

    /// The slot with this number; `None` at [`SLOTS`] and above.
    pub fn new(index: u16) -> Option<Slot> {
        (index < SLOTS).then_some(Slot(index))
    }
}
