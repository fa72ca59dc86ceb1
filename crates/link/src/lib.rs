//! Multiplexed streams to one server ([`mux`]), and the machine that retries ([`retry`]).
//!
//! The SDK reaches gateways with it, and a gateway reaches nodes. [`retry`] and [`leaders`] are
//! pure values: simulators run them as they are. [`drive`] runs the retry machine with real time.
//!
//! The crate promises that an operation that may have been done is never reported as not done. It
//! knows nothing of locks, of sessions and of the meaning of an answer.

pub mod drive;
pub mod leaders;
pub mod mux;
mod planted_bugs;
pub mod retry;
