//! The recent events of a shard from outside: rules by name, and random histories against a plain
//! twin.

mod rules;
mod shard;
mod twin;
