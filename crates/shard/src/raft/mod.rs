//! The few things that raft-rs needs around it: a log to read, a logger, ids for its peers, and
//! checks of the messages and configurations that it would panic on.
//!
//! Nothing here knows of locks or of the replica. (`raft::…` is the library, `crate::raft::…` is
//! this.)

pub(crate) mod conf_state;
pub(crate) mod log_store;
pub(crate) mod logger;
pub(crate) mod peer_id;
pub(crate) mod peer_message;
