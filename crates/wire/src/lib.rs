//! Generated gRPC types and their conversions: [`v1`] is the protocol between clients and gateways,
//! [`internal`] the one between gateways and nodes.
//!
//! The crate adds these parts to the generated code:
//!
//! - Typed errors and their conversion to a gRPC status ([`ErrorClass`], [`v1::Error`]).
//! - The checks of input ([`limits`], [`check_operation`]), so that gateways and nodes refuse the
//!   same input with the same words.
//! - The answers as JSON ([`json`]).
//! - The route table of a cluster as a message, checked when it is decoded.
//! - Parts that all servers need: cluster identity, lateness of frames, and their callers.
//!
//! Of our other crates it knows `routing` only, for the route table.

mod callers;
mod cause;
mod cursor;
mod details;
mod error;
mod frames;
mod identity;
pub mod json;
mod lateness;
pub mod limits;
mod operation;
mod outcome;
mod route_table;
mod routed;
mod validate;

pub use callers::number_callers;
pub use cause::{reason, root_cause};
pub use cursor::{decode_cursor, encode_cursor};
pub use details::ERROR_DOMAIN;
pub use error::ErrorClass;
pub use frames::append;
pub use lateness::Lateness;
pub use operation::{OperationKind, encoded_bytes};
pub use outcome::Outcome;
pub use validate::{
    check_name, check_operation, check_routed, check_session_options, check_watch_filter,
    fill_defaults, fill_routed_defaults,
};

/// The public protocol (package `palisade.v1`): generated messages, clients and servers.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
pub mod v1 {
    tonic::include_proto!("palisade.v1");
}

/// The public protocol as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/palisade.v1.binpb"));

/// The internal protocol of gateways and nodes (package `palisade.internal.v1`).
pub mod internal {
    /// Generated messages, clients and servers.
    #[allow(missing_docs, clippy::all, clippy::disallowed_types, clippy::disallowed_methods)]
    pub mod v1 {
        tonic::include_proto!("palisade.internal.v1");
    }

    /// The internal protocol as an encoded `google.protobuf.FileDescriptorSet`, for tests that walk
    /// all its methods.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/palisade.internal.v1.binpb"));
}
