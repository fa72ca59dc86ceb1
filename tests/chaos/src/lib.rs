//! Safety on real processes: a cluster of `palisade` processes is hurt in every way that one machine allows, and what its
//! clients saw is judged by the checker of the simulator.
//!
//! * The **conductor** ([`run`]) owns the cluster and goes through rounds: load, a fault, healing, recovery, quiet, verdict.
//! * **Client processes** ([`load`]) use the SDK and write down every attempt ([`record`]).
//! * The **judge** ([`judge`]) joins the records of a round and asks the checker.
//!
//! `scripts/chaos` gives it a network, a mount and a process namespace of its own, so that whatever becomes of it, nothing is
//! left behind. `docs/chaos.md` says what is thrown at the cluster, and what a long run found.

pub mod clients;
pub mod clock;
pub mod cluster;
pub mod delay;
pub mod failover;
pub mod faults;
pub mod judge;
pub mod load;
pub mod names;
pub mod network;
pub mod probe;
pub mod record;
pub mod report;
pub mod run;
pub mod tools;
