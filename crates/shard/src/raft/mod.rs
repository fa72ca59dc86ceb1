//! What raft-rs needs around it: a log to read, a place to log to, names for its peers, and checks of what it would panic
//! on. Nothing here knows of locks or of the replica.

pub(crate) mod conf_state;
pub(crate) mod log_store;
pub(crate) mod logger;
pub(crate) mod peer_id;
pub(crate) mod peer_message;
