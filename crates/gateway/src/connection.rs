//! One connection of a client: its proven identity, and its work under way.

use access::{Digest, Identity};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use tonic::codegen::http::HeaderValue;
use wire::v1::Error;

/// The state of one connection, which all its calls and streams share.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The identity that its last header, or its certificate, has proven.
    pub(crate) proven: Mutex<Option<Proven>>,
    /// The last header, or the certificate, that has proven none.
    pub(crate) refused: Mutex<Option<Refused>>,
    /// Its waiting acquires.
    pub(crate) waits: AtomicUsize,
    /// Those that are calls of their own.
    pub(crate) unary_waits: AtomicUsize,
    /// Its open streams.
    pub(crate) streams: AtomicUsize,
    /// Its requests over HTTP with a body on the way.
    pub(crate) bodies: AtomicUsize,
    /// Its calls that list much, until their answers are taken.
    pub(crate) scans: AtomicUsize,
    /// Its watches.
    pub(crate) watches: AtomicUsize,
    /// The legs of its watches, one for each shard that a watch asks.
    pub(crate) watch_legs: AtomicUsize,
    /// The bytes that its watches have for it, and that it has not taken.
    pub(crate) watch_bytes: AtomicUsize,
}

/// An identity that was proven.
#[derive(Clone, Debug)]
pub(crate) struct Proven {
    /// The version of the files by which it was proven.
    pub(crate) version: u64,
    /// The header that proved it.
    pub(crate) header: Option<HeaderValue>,
    pub(crate) identity: Arc<Identity>,
}

/// A header, or a certificate, that has proven no identity.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// The version of the files by which it was refused.
    pub(crate) version: u64,
    /// When it was refused, on the clock of all calls.
    pub(crate) at_ms: u64,
    /// The digest of the header, because the header itself can be large. `None` if the certificate
    /// alone was refused.
    pub(crate) header: Option<Digest>,
    pub(crate) error: Box<Error>,
}
