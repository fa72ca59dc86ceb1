//! The transport between nodes: Raft messages in frames, one stream per peer, and snapshots apart
//! from them.
//!
//! Messages may be lost, and are dropped rather than queued without bound, because Raft sends
//! again. The transport refuses a peer of another cluster, of other cluster-frozen settings, or of
//! another protocol. It also refuses a peer with another or an older data directory than is known
//! of it. It refuses both ways, with a reason. The transport knows nothing of the contents of
//! messages.

mod answers;
mod connect;
mod hello;
mod incoming;
mod links;
mod outbox;
mod outgoing;
mod pace;
mod reseed;
mod snapshot_in;
mod snapshot_out;

#[cfg(test)]
mod frames_tests;
#[cfg(test)]
mod generation_tests;
#[cfg(test)]
mod links_tests;
#[cfg(test)]
mod tests;

pub(crate) use connect::{NotConnected, connect};
pub(crate) use hello::Greeter;
pub(crate) use incoming::Peers;
pub(crate) use links::{keep_links, take_view};
pub(crate) use outbox::{Lanes, Outboxes};
pub(crate) use reseed::choose_incarnation;
pub(crate) use snapshot_out::{SnapshotJob, SnapshotQueue, send_snapshots};
