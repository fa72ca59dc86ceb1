//! Identifiers that every other crate shares.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A node, as numbered in the cluster file. From 1 to 2^32 - 1.
    NodeId(u64)
);
id!(
    /// A shard. From 0.
    ShardId(u32)
);
id!(
    /// A version of the shard map. Only ever rises.
    MapVersion(u64)
);

/// One of [`SLOTS`] fixed hash slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) u16);

/// How many slots there are. Fixed for ever: names are spread by it.
pub const SLOTS: u16 = 16_384;

impl Slot {
    /// CRC-32 (IEEE) of the name, or of what stands between its first `{` and the next `}` if that is not empty (as in
    /// Redis Cluster, so that related names can share a shard), modulo [`SLOTS`].
    pub fn of(name: &str) -> Slot {
        let key = match name.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => name,
        };
        Slot((crc32fast::hash(key.as_bytes()) % u32::from(SLOTS)) as u16)
    }

    /// 0..[`SLOTS`].
    pub fn index(self) -> u16 {
        self.0
    }

    /// `None` at [`SLOTS`] and above.
    pub fn new(index: u16) -> Option<Slot> {
        (index < SLOTS).then_some(Slot(index))
    }
}
