//! The shared part of the benches: a closed loop with percentiles, for systems other than Palisade.
//!
//! `palisade bench` measures Palisade, with the same percentiles (`load::latency`).

pub mod closed_loop;
pub mod workload;

/// The generated client of etcd's protocol.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
