//! Safety of Palisade, shown: a checker of recorded histories, and a simulator that records them under faults.

pub mod checker;
