//! What stands between the doors and the core: whose operation it is, and whether there is room for
//! it.
//!
//! A client is its connection, because no client proves an identity yet. Waits are long and cheap,
//! and all other operations are short. So waits are counted apart. However many there are, they
//! take no capacity from a renewal, a release, a cancel or a heartbeat: not on the connection, not
//! on a stream, and not towards a node.

use crate::core::{Caller, is_scan};
use crate::limits::{
    CONNECTION_STREAMS_MAX, CONNECTION_UNARY_WAITS_MAX, CONNECTION_WAITS_MAX, STREAM_OPS_MAX,
    STREAM_SCANS_MAX, STREAMS_MAX, UNARY_MAX, WAITS_MAX, WAITS_MIN,
};
use net::certificate::Certificate;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Status;
use wire::v1::{Error, Operation};

/// One connection of a client: the caller of its operations, and what it has under way.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    /// The certificate that the client has shown, if its listener asks for one.
    #[allow(dead_code)] // the identity of the client will be made of it
    pub(crate) certificate: Option<Arc<Certificate>>,
    waits: AtomicUsize,
    unary_waits: AtomicUsize,
    streams: AtomicUsize,
}

impl Connection {
    /// A connection of a client that has shown this certificate.
    pub(crate) fn with(certificate: Option<Arc<Certificate>>) -> Connection {
        Connection { certificate, ..Connection::default() }
    }
}

/// The bounds of a whole gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    waits: Arc<Waits>,
    streams: Arc<Semaphore>,
    unary: Semaphore,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            waits: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            unary: Semaphore::new(UNARY_MAX),
        }
    }
}

impl Admission {
    /// The number of waits of all connections together.
    pub(crate) fn waits(&self) -> usize {
        self.waits.0.load(Relaxed)
    }

    /// Takes a place for one more wait of this connection. `unary` says that it is a call of its
    /// own.
    ///
    /// # Errors
    /// BUSY if the connection has its full share.
    pub(crate) fn wait(
        &self,
        connection: &Arc<Connection>,
        unary: bool,
    ) -> Result<WaitPlace, Box<Error>> {
        WaitPlace::take(connection, &self.waits, unary)
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the gateway or the connection has too many.
    pub(crate) fn stream(&self, connection: Arc<Connection>) -> Result<StreamPlace, Box<Status>> {
        let full = |of: &str, max: usize| {
            Box::new(Status::resource_exhausted(format!(
                "this {of} has {max} streams already: send more over each"
            )))
        };
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| full("gateway", STREAMS_MAX))?;
        let place = StreamPlace { connection, _permit: permit };
        match place.connection.streams.fetch_add(1, Relaxed) < CONNECTION_STREAMS_MAX {
            true => Ok(place),
            false => Err(full("connection", CONNECTION_STREAMS_MAX)),
        }
    }

    /// Takes a place for a call that does not wait.
    ///
    /// # Errors
    /// BUSY if the gateway serves too many.
    pub(crate) fn call(&self) -> Result<SemaphorePermit<'_>, Box<Error>> {
        self.unary.try_acquire().map_err(|_| {
            let message = format!("this gateway serves {UNARY_MAX} calls already: back off");
            Box::new(Error::busy(message, 100))
        })
    }
}

/// The number of waits of all connections together.
#[derive(Debug, Default)]
struct Waits(AtomicUsize);

/// The place of one wait. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct WaitPlace {
    connection: Arc<Connection>,
    all: Arc<Waits>,
    unary: bool,
}

impl WaitPlace {
    /// The fuller the gateway, the fewer places one connection gets, but always a few. So some
    /// greedy connections leave room for all others.
    fn take(
        connection: &Arc<Connection>,
        all: &Arc<Waits>,
        unary: bool,
    ) -> Result<WaitPlace, Box<Error>> {
        let place = WaitPlace { connection: connection.clone(), all: all.clone(), unary };
        let before = connection.waits.fetch_add(1, Relaxed);
        let of_all = all.0.fetch_add(1, Relaxed);
        let unary_before = if unary { connection.unary_waits.fetch_add(1, Relaxed) } else { 0 };
        let free = WAITS_MAX.saturating_sub(of_all);
        let share_max = CONNECTION_WAITS_MAX.min((free / 4).max(WAITS_MIN.min(free)));
        let refusal = if before >= share_max {
            format!("this connection has {before} waits in flight")
        } else if unary_before >= CONNECTION_UNARY_WAITS_MAX {
            format!(
                "this connection has {unary_before} waits in flight as calls of their own: send them \
                 over a stream"
            )
        } else {
            return Ok(place);
        };
        // The delay is long, because a client with so many waits comes back with all of them.
        Err(Box::new(Error::busy(
            format!("{refusal}, and this one was not begun: await some first"),
            1_000,
        )))
    }
}

impl Drop for WaitPlace {
    fn drop(&mut self) {
        self.connection.waits.fetch_sub(1, Relaxed);
        self.all.0.fetch_sub(1, Relaxed);
        if self.unary {
            self.connection.unary_waits.fetch_sub(1, Relaxed);
        }
    }
}

/// The place of one stream. A stream gets an equal part of what its connection may have in flight.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    pub(crate) connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

/// What a stream has under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnderWay {
    /// Operations that do not wait.
    pub(crate) short: usize,
    /// Lists and histories among them.
    pub(crate) scans: usize,
}

impl StreamPlace {
    /// Whether the stream has room for this operation. Waits are not counted here but by
    /// connection: see [`Admission::wait`].
    ///
    /// # Errors
    /// BUSY if the stream has its full part.
    pub(crate) fn admit(
        &self,
        operation: &Operation,
        under_way: UnderWay,
    ) -> Result<(), Box<Error>> {
        let (what, in_flight, max) = match &operation.op {
            Some(op) if op.wait_ms() > 0 => return Ok(()),
            Some(op) if is_scan(op) => {
                ("lists and histories", under_way.scans, self.part(STREAM_SCANS_MAX))
            }
            _ => ("operations", under_way.short, self.part(STREAM_OPS_MAX)),
        };
        if in_flight < max {
            return Ok(());
        }
        let message = format!(
            "this stream has {max} {what} in flight, and this one was not begun: await some first"
        );
        Err(Box::new(Error::busy(message, 50)))
    }

    /// The part of `all` that this stream may use.
    fn part(&self, all: usize) -> usize {
        all / self.connection.streams.load(Relaxed).max(1)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(connection: &Arc<Connection>, gateway: &Admission) -> Vec<WaitPlace> {
        std::iter::from_fn(|| gateway.wait(connection, false).ok()).collect()
    }

    #[test]
    fn greedy_connections_leave_room_for_the_others() {
        let gateway = Admission::default();
        let greedy: Vec<Vec<WaitPlace>> =
            (0..24).map(|_| fill(&Arc::default(), &gateway)).collect();
        assert_eq!(greedy[0].len(), CONNECTION_WAITS_MAX);
        let modest = fill(&Arc::default(), &gateway);
        assert!(modest.len() >= WAITS_MIN, "{} after {}", modest.len(), gateway.waits());
        assert!(gateway.waits() <= WAITS_MAX);
        drop((greedy, modest));
        assert_eq!(gateway.waits(), 0);
    }

    #[test]
    fn a_refused_wait_takes_no_place() {
        let (connection, gateway) = (Arc::default(), Admission::default());
        let unary: Vec<_> = std::iter::from_fn(|| gateway.wait(&connection, true).ok()).collect();
        assert_eq!(unary.len(), CONNECTION_UNARY_WAITS_MAX);
        assert_eq!(gateway.waits(), CONNECTION_UNARY_WAITS_MAX);
        assert!(gateway.wait(&connection, false).is_ok(), "on a stream there is room");
    }

    #[test]
    fn streams_of_a_connection_share_what_it_may_have_in_flight() {
        let (connection, gateway) = (Arc::<Connection>::default(), Admission::default());
        let first = gateway.stream(connection.clone()).unwrap();
        assert_eq!(first.part(4_096), 4_096);
        let others: Vec<_> =
            std::iter::from_fn(|| gateway.stream(connection.clone()).ok()).collect();
        assert_eq!(others.len(), CONNECTION_STREAMS_MAX - 1);
        assert_eq!(first.part(4_096), 4_096 / CONNECTION_STREAMS_MAX);
        drop(others);
        assert_eq!(first.part(4_096), 4_096);
    }
}
