//! Tests of replicas in one process, without network and disk.

mod adversity;
mod cluster;
mod disk;
mod freshness;
mod handover;
mod levels;
mod membership;
mod meta;
mod quotas;
mod reads;
mod regressions;
mod replica;
mod retire;
mod snapshots;
mod spare;
mod status;
mod wanted;
mod watching;
