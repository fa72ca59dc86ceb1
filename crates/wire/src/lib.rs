//! Generated gRPC types (package `palisade.v1`) and their conversions.
//!
//! It knows nothing of any other crate.

/// The generated code: messages, clients and servers.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
pub mod v1 {
    tonic::include_proto!("palisade.v1");
}
