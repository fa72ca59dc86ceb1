//! The capacity model: from a workload to shard counts.
