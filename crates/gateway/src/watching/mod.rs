//! The watches of clients: their queues, and the calls to nodes that fill them.
//!
//! ```text
//! door ──► client ──► Watching ──► work ◄──► core::watch::Hub
//!             ▲                     │ ▲
//!             └────── queue ◄───────┘ └──► call, one for each node
//! ```
//!
//! One task (`work`) drives the core with the actions of clients and nodes. The task waits for no
//! client: a queue that is full stops its own watch, and no other.

mod call;
mod client;
mod handle;
mod queue;
mod work;

pub(crate) use client::Watched;
pub(crate) use handle::Watching;
pub(crate) use work::work;
