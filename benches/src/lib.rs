//! What the benches share: a closed loop with percentiles, for systems other than ours.
//!
//! Ours is measured by `palisade bench`, with the same percentiles (`load::latency`).

pub mod closed_loop;
pub mod workload;

/// The generated client of etcd's protocol.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
