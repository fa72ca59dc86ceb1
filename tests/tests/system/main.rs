//! Tests of `palisade` as its users run it: processes, loopback and files.

mod cli;
mod cli_cluster_script;
mod cli_edges;
mod clients;
mod clock;
mod contention;
mod copies;
mod crash;
mod dev;
mod dev_secure;
mod disk;
mod gateways;
mod guessing;
mod lock_command;
mod lock_job;
mod lock_like_its_command;
mod moved;
mod protocol;
mod quorum;
mod reads;
mod refusals;
mod reseed;
mod rotation;
mod sessions;
mod spread;
mod tls;
