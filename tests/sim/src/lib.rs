//! Shows that Palisade is safe: a checker of recorded histories, and a simulator that records them
//! under faults.

pub mod campaign;
pub mod checker;
pub mod planted;
pub mod report;
pub mod rng;
pub mod world;
