//! Tests safety on real processes.
//!
//! A cluster of `palisade` processes suffers every fault that one machine allows. The simulator's
//! checker judges the operations that its clients recorded.
//!
//! * The **conductor** ([`run`]) owns the cluster and goes through rounds: load, a fault, healing,
//!   recovery, quiet, verdict.
//! * **Client processes** ([`load`]) use the SDK and write down every attempt ([`record`]).
//! * The **judge** ([`judge`]) joins the records of a round and asks the checker.
//!
//! `scripts/chaos` gives the run a network, a mount and a process namespace of its own, so that it
//! leaves nothing behind, however it ends. `docs/chaos.md` lists the faults and the findings of a
//! long run.

pub mod clients;
pub mod clock;
pub mod cluster;
pub mod delay;
pub mod error;
pub mod failover;
pub mod faults;
pub mod judge;
pub mod kinds;
pub mod load;
pub mod names;
pub mod network;
pub mod plan;
pub mod probe;
pub mod record;
pub mod report;
pub mod run;
pub mod tools;
