//! What a listener counts: open connections, of all sources and of each, and those that it refused.

use crate::seldom::Seldom;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What stands for the other end when connections are counted by source: an IPv4 address, or the
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

/// The counts of a listener.
#[derive(Debug, Default)]
pub struct Accepted {
    open: AtomicUsize,
    spells: AtomicU64,
    refused: AtomicU64,
    /// By [`source_of`] their other end.
    sources: Mutex<HashMap<IpAddr, usize>>,
    refusals_said: Seldom,
}

impl Accepted {
    /// The number of open connections, those in a handshake included.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How often the listener stopped taking connections because descriptors were short.
    pub fn spells(&self) -> u64 {
        self.spells.load(Relaxed)
    }

    /// The number of connections that were closed before their first request: their handshake
    /// failed, they spoke another protocol, or their source had too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(super) fn begin_spell(&self) {
        self.spells.fetch_add(1, Relaxed);
    }

    /// Counts a refused connection, and logs it unless another one was logged a moment ago.
    pub(super) fn refuse(&self, remote: SocketAddr, why: &dyn std::fmt::Display) {
        self.refused.fetch_add(1, Relaxed);
        if let Some(count) = self.refusals_said.count() {
            tracing::warn!(%remote, %why, count, "connections were refused; this is the last one");
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

/// The place of one connection. Dropping it gives the place back.
pub(super) struct Place {
    accepted: Arc<Accepted>,
    remote: SocketAddr,
}

impl Place {
    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Counts this connection as refused.
    pub(super) fn refuse(&self, why: &dyn std::fmt::Display) {
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
