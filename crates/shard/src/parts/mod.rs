//! The parts that a replica is composed of. Each keeps one kind of state with its rules, is tested
//! by itself, and knows nothing of the replica.

pub(crate) mod applied;
pub(crate) mod checkpointing;
pub(crate) mod disk_health;
pub(crate) mod first_topology;
pub(crate) mod founding;
pub(crate) mod group;
pub(crate) mod handover;
pub(crate) mod kept;
pub(crate) mod leader;
pub(crate) mod level;
pub(crate) mod membership;
pub(crate) mod oldest;
pub(crate) mod proposals;
pub(crate) mod read_cache;
pub(crate) mod reads;
pub(crate) mod shard_time;
pub(crate) mod spares;
pub(crate) mod step_write;
pub(crate) mod timers;
pub(crate) mod wakes;
pub(crate) mod watching;
