//! Watches of clients, and the calls to nodes that serve them: all that is decided without I/O.
//!
//! A watch of one name concerns one shard, and any other watch concerns all shards. Each shard of a
//! watch is a *leg*: one watch of a node, by its own number. [`Hub`] chooses the node of each leg,
//! moves it when the node goes, and says which shards a node keeps recent events of. [`Position`]
//! is where a client's watch is, as a text.
//!
//! The module promises that a leg which moves goes on where the client was told last. So its client
//! gets no event twice, and misses none without a `resync`. It knows nothing of sockets, queues and
//! clocks.

mod hub;
mod leg;
mod node;
mod position;
mod retention;

#[cfg(test)]
mod tests;

pub use hub::{Hub, Part, Taken, WatchId};
pub use leg::legs;
pub use node::Call;
pub use position::{Binding, NoPosition, Position};
