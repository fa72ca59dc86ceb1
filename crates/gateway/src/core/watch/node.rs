//! The nodes as the watches of a gateway see them. This module knows nothing of shards.

use wire::internal::v1::WatchRequest;

/// A node, as far as watches need it.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) call: Call,
    /// It was told which shards it keeps recent events of.
    pub(super) is_told: bool,
    /// The message that is being put together.
    pub(super) request: WatchRequest,
}

/// The call to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Call {
    /// It was not tried yet, or is being tried for the first time.
    #[default]
    Unknown,
    /// The node answers.
    Up,
    /// It has ended, or could not be made.
    Down,
    /// It could not be made, because the node is of a version without watches.
    TooOld,
}
