//! The counts of a listener: open connections, of all sources and of each, and refused connections.

use crate::seldom::Seldom;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The source that an address of the other end counts as: an IPv4 address, or the
/// upper half of an IPv6 address, because one machine has all addresses of a /64 network.
pub fn source_of(remote: SocketAddr) -> IpAddr {
    match remote.ip().to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

/// Is told of the source of a refused connection, and the reason.
type Tell = Box<dyn Fn(SocketAddr, &str) + Send + Sync>;

/// The counts of a listener.
#[derive(Default)]
pub struct Accepted {
    open: AtomicUsize,
    spells: AtomicU64,
    refused: AtomicU64,
    /// By [`source_of`] their other end.
    sources: Mutex<HashMap<IpAddr, usize>>,
    refusals_said: Seldom,
    on_certificate: Option<Tell>,
}

impl Accepted {
    /// Counts that tell of each certificate that was not accepted, in the handshake of a connection
    /// or later. The call must not block.
    pub fn telling(on_certificate: impl Fn(SocketAddr, &str) + Send + Sync + 'static) -> Accepted {
        Accepted { on_certificate: Some(Box::new(on_certificate)), ..Accepted::default() }
    }

    /// The number of open connections, those in a handshake included.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How often the listener stopped taking connections because descriptors were short.
    pub fn spells(&self) -> u64 {
        self.spells.load(Relaxed)
    }

    /// The number of connections that were refused: their handshake failed, they spoke another
    /// protocol, their source had too many, or their certificate was not accepted any more.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn begin_spell(&self) {
        self.spells.fetch_add(1, Relaxed);
    }

    /// Counts a refused connection, and logs it unless another one was logged a moment ago.
    pub(super) fn refuse(&self, remote: SocketAddr, why: &dyn fmt::Display) {
        self.refused.fetch_add(1, Relaxed);
        if let Some(count) = self.refusals_said.count() {
            tracing::warn!(%remote, %why, count, "connections were refused; this is the last one");
        }
    }

    /// Refuses a connection for its certificate.
    pub(super) fn refuse_certificate(&self, remote: SocketAddr, why: &dyn fmt::Display) {
        self.refuse(remote, why);
        if let Some(tell) = &self.on_certificate {
            tell(remote, &why.to_string());
        }
    }

    /// A place for a connection, or `None` if its source has `source_max` already.
    pub(super) fn place(self: &Arc<Self>, remote: SocketAddr, source_max: usize) -> Option<Place> {
        let mut sources = self.sources();
        let open = sources.entry(source_of(remote)).or_default();
        if *open >= source_max {
            drop(sources);
            self.refuse(remote, &format_args!("its source has {source_max} connections already"));
            return None;
        }
        *open += 1;
        drop(sources);
        self.open.fetch_add(1, Relaxed);
        Some(Place { accepted: self.clone(), remote })
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Accepted { open, spells, refused, .. } = self;
        f.debug_struct("Accepted")
            .field("open", open)
            .field("spells", spells)
            .field("refused", refused)
            .finish_non_exhaustive()
    }
}

/// The place of one connection. Dropping it gives the place back.
pub(super) struct Place {
    accepted: Arc<Accepted>,
    remote: SocketAddr,
}

impl Place {
    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The counts that it is part of.
    pub(super) fn accepted(&self) -> &Arc<Accepted> {
        &self.accepted
    }

    /// Counts this connection as refused.
    pub(super) fn refuse(&self, why: &dyn fmt::Display) {
        self.accepted.refuse(self.remote, why);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.accepted.open.fetch_sub(1, Relaxed);
        let source = source_of(self.remote);
        let mut sources = self.accepted.sources();
        if let Some(open) = sources.get_mut(&source) {
            *open -= 1;
            if *open == 0 {
                sources.remove(&source);
            }
        }
    }
}
