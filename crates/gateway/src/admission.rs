//! Between the doors and the core: the decision whether there is room for an operation.
//!
//! Room is shared out by connection, and by identity where the cluster has identities. Waits are
//! long and cheap, and all other operations are short. So waits are counted apart. However many
//! there are, they take no capacity from a renewal, a release, a cancel or a heartbeat: not on the
//! connection, not on a stream, and not towards a node.
//!
//! The fuller the gateway, the fewer waits and streams one connection or identity gets, but always
//! a few. So some greedy ones leave room for all others. Without identities only connections have
//! shares: all clients may then share one address, as behind a proxy, and nothing else tells them
//! apart.

use crate::connection::Connection;
use crate::core::is_scan;
use crate::limits::*;
use crate::visitor::Visitor;
use access::{Identity, Place};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Status;
use wire::v1::{Error, Operation};

/// The bounds of a whole gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    waits: Arc<Waits>,
    streams: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    watch_legs: Arc<Semaphore>,
    unary: Semaphore,
    scans: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            waits: Arc::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            watch_legs: Arc::new(Semaphore::new(WATCH_LEGS_MAX)),
            unary: Semaphore::new(UNARY_MAX),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
        }
    }
}

impl Admission {
    /// The number of waits of all connections together.
    pub(crate) fn waits(&self) -> usize {
        self.waits.0.load(Relaxed)
    }

    /// Takes a place for one more wait of this visitor. `unary` says that it is a call of its own.
    ///
    /// # Errors
    /// BUSY if the connection has its full share, or the identity its quota, or without one its
    /// share.
    pub(crate) fn wait(&self, visitor: &Visitor, unary: bool) -> Result<WaitPlace, Box<Error>> {
        let (mut place, share) = WaitPlace::take(&visitor.connection, &self.waits, unary)?;
        if let Some(identity) = visitor.caller.identity() {
            let bound = Bound::of(identity.quota().waits, share);
            let taken = identity.account.wait(bound.max());
            place._of_identity = Some(taken.ok_or_else(|| bound.refusal(identity, "waits"))?);
        }
        Ok(place)
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the gateway, the connection or the identity has too many, or its
    /// quota.
    pub(crate) fn stream(&self, visitor: &Visitor) -> Result<StreamPlace, Box<Status>> {
        let full = |of: &str, max: usize| {
            Box::new(Status::resource_exhausted(format!(
                "this {of} has {max} streams already: send more over each"
            )))
        };
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| full("gateway", STREAMS_MAX))?;
        let share = share(self.streams.available_permits() + 1, STREAMS_MIN);
        let connection = visitor.connection.clone();
        let mut place = StreamPlace { connection, _permit: permit, _of_identity: None };
        let before = place.connection.streams.fetch_add(1, Relaxed);
        if before >= CONNECTION_STREAMS_MAX {
            return Err(full("connection", CONNECTION_STREAMS_MAX));
        }
        if let Some(identity) = visitor.caller.identity() {
            let bound = Bound::of(identity.quota().streams, share);
            let taken = identity.account.stream(bound.max());
            let refused = || Box::new(Status::from(*bound.refusal(identity, "streams")));
            place._of_identity = Some(taken.ok_or_else(refused)?);
        }
        Ok(place)
    }

    /// The number of streams of all connections together.
    pub(crate) fn streams(&self) -> usize {
        STREAMS_MAX - self.streams.available_permits()
    }

    /// The number of watches of all connections together.
    pub(crate) fn watches(&self) -> usize {
        WATCHES_MAX - self.watches.available_permits()
    }

    /// The legs of all watches together.
    pub(crate) fn watch_legs(&self) -> usize {
        WATCH_LEGS_MAX - self.watch_legs.available_permits()
    }

    /// Takes a place for a watch that asks so many shards: one leg for each.
    ///
    /// # Errors
    /// BUSY if the gateway or the connection has too many watches or legs, or the identity its
    /// quota, or without one its share.
    pub(crate) fn watch(&self, visitor: &Visitor, legs: usize) -> Result<WatchSeat, Box<Error>> {
        let full = |of: &str, max: usize| {
            let message = format!(
                "this {of} has {max} watches already, and this one was not begun: end some first"
            );
            Box::new(Error::busy(message, 1_000))
        };
        let wide = |of: &str| {
            let message = format!(
                "this {of} has its full share of the watches of this gateway, by the shards that \
                 they ask, and this one, which asks {legs}, was not begun: end some first, or watch \
                 single names"
            );
            Box::new(Error::busy(message, 1_000))
        };
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| full("gateway", WATCHES_MAX))?;
        let share = share(self.watches.available_permits() + 1, WATCHES_MIN);
        let max = CONNECTION_WATCHES_MAX;
        let counted = Counted::of(&visitor.connection, |of| &of.watches, 1, max);
        let counted = counted.ok_or_else(|| full("connection", max))?;
        let legs_share = self::share(self.watch_legs.available_permits(), WATCH_LEGS_MIN);
        let size = u32::try_from(legs).unwrap_or(u32::MAX);
        let permits = self.watch_legs.clone().try_acquire_many_owned(size);
        let permits = permits.map_err(|_| wide("gateway"))?;
        let legs_counted = Counted::of(&visitor.connection, |of| &of.watch_legs, legs, legs_share);
        let legs_counted = legs_counted.ok_or_else(|| wide("connection"))?;
        let mut seat = WatchSeat {
            _permits: [permit, permits],
            _counted: [counted, legs_counted],
            _of_identity: None,
        };
        if let Some(identity) = visitor.caller.identity() {
            let refused = |bound: Bound| bound.refusal(identity, "watches");
            let bound = Bound::of(identity.quota().watches, share);
            let watch = identity.account.watch(bound.max()).ok_or_else(|| refused(bound))?;
            // A quota is in watches, and takes the place of both shares.
            let bound = match bound {
                Bound::Quota(_) => Bound::Quota(u32::MAX),
                Bound::Share(_) => Bound::of(None, legs_share),
            };
            let legs = identity.account.watch_legs(size, bound.max());
            let legs = legs.ok_or_else(|| refused(bound))?;
            seat._of_identity = Some([watch, legs]);
        }
        Ok(seat)
    }

    /// Takes a place for a list, a history or a cluster status, in a stream or not.
    ///
    /// # Errors
    /// BUSY if the gateway serves too many.
    pub(crate) fn scan(&self) -> Result<ScanPlace, Box<Error>> {
        let permit = self.scans.clone().try_acquire_owned();
        permit.map(|_permit| ScanPlace { _permit }).map_err(|_| {
            let message = format!(
                "this gateway serves {SCANS_MAX} lists, histories and statuses already, and this \
                 one was not begun: back off"
            );
            Box::new(Error::busy(message, 100))
        })
    }

    /// Takes a place for a list, a history or a cluster status that is a call. It is held until the
    /// client has taken the answer.
    ///
    /// # Errors
    /// BUSY if the gateway serves too many, or the client has too many that it has not taken.
    pub(crate) fn scan_call(&self, visitor: &Visitor) -> Result<ScanCall, Box<Error>> {
        let _place = self.scan()?;
        let max = CONNECTION_SCANS_MAX;
        let counted = Counted::of(&visitor.connection, |of| &of.scans, 1, max).ok_or_else(|| {
            let message = format!(
                "this connection has {max} lists, histories and statuses that are not answered, or \
                 whose answers were not read, and this one was not begun: read some first"
            );
            Box::new(Error::busy(message, 100))
        })?;
        Ok(ScanCall { _place, _counted: counted })
    }

    /// Takes a place for a body that has not come in full yet.
    ///
    /// # Errors
    /// BUSY if the gateway, or the connection, has too many.
    pub(crate) fn body(&self, visitor: &Visitor) -> Result<BodyPlace, Box<Error>> {
        let refused = |of: &str, max: usize| {
            let message = format!(
                "{max} requests of this {of} are not complete yet, and this one was not begun: back \
                 off, and send each body at once with its headers"
            );
            Box::new(Error::busy(message, 100))
        };
        let permit = self.bodies.clone().try_acquire_owned();
        let _permit = permit.map_err(|_| refused("gateway", BODIES_MAX))?;
        let max = CONNECTION_BODIES_MAX;
        let counted = Counted::of(&visitor.connection, |of| &of.bodies, 1, max);
        let _counted = counted.ok_or_else(|| refused("connection", max))?;
        Ok(BodyPlace { _permit, _counted })
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

/// The place of one watch, and the places of its legs. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct WatchSeat {
    _permits: [OwnedSemaphorePermit; 2],
    _counted: [Counted; 2],
    _of_identity: Option<[Place; 2]>,
}

/// The place of one list, history or cluster status. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct ScanPlace {
    _permit: OwnedSemaphorePermit,
}

/// The place of one such call, until its answer is taken. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct ScanCall {
    _place: ScanPlace,
    _counted: Counted,
}

/// The place of one body on its way. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct BodyPlace {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Some things more of a connection, by one of its counts. Dropping it takes them off.
#[derive(Debug)]
struct Counted {
    connection: Arc<Connection>,
    count: fn(&Connection) -> &AtomicUsize,
    size: usize,
}

impl Counted {
    /// `None` if the connection would have more than `max` with them.
    fn of(
        connection: &Arc<Connection>,
        count: fn(&Connection) -> &AtomicUsize,
        size: usize,
        max: usize,
    ) -> Option<Counted> {
        let counted = Counted { connection: connection.clone(), count, size };
        let before = count(connection).fetch_add(size, Relaxed);
        (before + size <= max).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.count)(&self.connection).fetch_sub(self.size, Relaxed);
    }
}

/// How many of `free` places one connection or identity may have: a quarter, but always `least`
/// while so many are left.
fn share(free: usize, least: usize) -> usize {
    (free / 4).max(least.min(free))
}

/// How many waits or streams an identity may have. The gateway's total bounds both, too.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Its quota, which takes the place of a share.
    Quota(u32),
    /// Its share of the free room.
    Share(u32),
}

impl Bound {
    fn of(quota: Option<NonZeroU32>, share: usize) -> Bound {
        match quota {
            Some(quota) => Bound::Quota(quota.get()),
            None => Bound::Share(u32::try_from(share).unwrap_or(u32::MAX)),
        }
    }

    fn max(self) -> u32 {
        match self {
            Bound::Quota(max) | Bound::Share(max) => max,
        }
    }

    /// The refusal of one more.
    fn refusal(self, identity: &Identity, what: &str) -> Box<Error> {
        let who = &identity.principal;
        let message = match self {
            Bound::Quota(_) => format!(
                "{who} has as many {what} at this gateway as its quota allows, and this one was \
                 not begun: end some first, or have the quota changed"
            ),
            Bound::Share(_) => format!(
                "{who} has its full share of the {what} of this gateway, and this one was not \
                 begun: end some first, or use another gateway"
            ),
        };
        // The delay is long, because a client with so many comes back with all of them.
        Box::new(Error::busy(message, 1_000))
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
    _of_identity: Option<Place>,
}

impl WaitPlace {
    /// Takes a place, and returns it with the share of the gateway's places that one connection or
    /// identity may have.
    fn take(
        connection: &Arc<Connection>,
        all: &Arc<Waits>,
        unary: bool,
    ) -> Result<(WaitPlace, usize), Box<Error>> {
        let place = WaitPlace {
            connection: connection.clone(),
            all: all.clone(),
            unary,
            _of_identity: None,
        };
        let before = connection.waits.fetch_add(1, Relaxed);
        let of_all = all.0.fetch_add(1, Relaxed);
        let unary_before = if unary { connection.unary_waits.fetch_add(1, Relaxed) } else { 0 };
        let share = share(WAITS_MAX.saturating_sub(of_all), WAITS_MIN);
        let refusal = if before >= CONNECTION_WAITS_MAX.min(share) {
            format!("this connection has {before} waits in flight")
        } else if unary_before >= CONNECTION_UNARY_WAITS_MAX {
            format!(
                "this connection has {unary_before} waits in flight as calls of their own: send them \
                 over a stream"
            )
        } else {
            return Ok((place, share));
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

/// The place of one stream. A stream gets an equal part of the operations that its connection may
/// have in flight.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
    _of_identity: Option<Place>,
}

/// The work that a stream has under way.
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
mod tests;
