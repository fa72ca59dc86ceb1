//! Bounds how much of a gateway one client may take up. A client is its connection, because there
//! is no other identity for it yet.
//!
//! Waits are long and cheap, and all other operations are short. So waits are counted apart.
//! However many there are, they take no capacity from a renewal, a release, a cancel or a
//! heartbeat: not on the connection, not on a stream, and not towards a node.

use crate::limits::{
    CONNECTION_STREAMS_MAX, CONNECTION_UNARY_WAITS_MAX, CONNECTION_WAITS_MAX, WAITS_MAX, WAITS_MIN,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wire::v1::Error;

/// The counts of one connection.
#[derive(Debug, Default)]
pub(crate) struct Share {
    waits: AtomicUsize,
    unary_waits: AtomicUsize,
    streams: AtomicUsize,
}

/// The number of waits of all connections together.
#[derive(Debug, Default)]
pub(crate) struct Waits(AtomicUsize);

/// The place of one wait. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct WaitPlace {
    share: Arc<Share>,
    all: Arc<Waits>,
    unary: bool,
}

impl Waits {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl WaitPlace {
    /// Takes a place for one more wait of this connection.
    ///
    /// The fuller the gateway, the fewer places one connection gets, but always a few. So some
    /// greedy connections leave room for all others.
    ///
    /// # Errors
    /// BUSY if the connection has its full share.
    pub(crate) fn take(
        share: &Arc<Share>,
        all: &Arc<Waits>,
        unary: bool,
    ) -> Result<WaitPlace, Box<Error>> {
        let place = WaitPlace { share: share.clone(), all: all.clone(), unary };
        let (before, of_all) = (share.waits.fetch_add(1, Relaxed), all.0.fetch_add(1, Relaxed));
        let unary_before = if unary { share.unary_waits.fetch_add(1, Relaxed) } else { 0 };
        let free = WAITS_MAX.saturating_sub(of_all);
        let share_max = CONNECTION_WAITS_MAX.min((free / 4).max(WAITS_MIN.min(free)));
        let refusal = if before >= share_max {
            format!("this connection has {before} waits in flight")
        } else if unary_before >= CONNECTION_UNARY_WAITS_MAX {
            format!(
                "this connection has {unary_before} waits in flight as calls of their own: send them over a stream"
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
        self.share.waits.fetch_sub(1, Relaxed);
        self.all.0.fetch_sub(1, Relaxed);
        if self.unary {
            self.share.unary_waits.fetch_sub(1, Relaxed);
        }
    }
}

/// The place of one stream. A stream gets an equal part of what its connection may have in flight.
#[derive(Debug)]
pub(crate) struct StreamPlace(pub(crate) Arc<Share>);

impl StreamPlace {
    /// Takes a place for a stream. `None` if the connection has too many streams.
    pub(crate) fn take(share: Arc<Share>) -> Option<StreamPlace> {
        let place = StreamPlace(share);
        (place.0.streams.fetch_add(1, Relaxed) < CONNECTION_STREAMS_MAX).then_some(place)
    }

    /// The part of `all` that this stream may use.
    pub(crate) fn part(&self, all: usize) -> usize {
        all / self.0.streams.load(Relaxed).max(1)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(share: &Arc<Share>, all: &Arc<Waits>) -> Vec<WaitPlace> {
        std::iter::from_fn(|| WaitPlace::take(share, all, false).ok()).collect()
    }

    #[test]
    fn greedy_connections_leave_room_for_the_others() {
        let all = Arc::default();
        let greedy: Vec<Vec<WaitPlace>> = (0..24).map(|_| fill(&Arc::default(), &all)).collect();
        assert_eq!(greedy[0].len(), CONNECTION_WAITS_MAX);
        let modest = fill(&Arc::default(), &all);
        assert!(modest.len() >= WAITS_MIN, "{} after {}", modest.len(), all.count());
        assert!(all.count() <= WAITS_MAX);
        drop((greedy, modest));
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn a_refused_wait_takes_no_place() {
        let (share, all) = (Arc::default(), Arc::default());
        let unary: Vec<_> =
            std::iter::from_fn(|| WaitPlace::take(&share, &all, true).ok()).collect();
        assert_eq!(
            (unary.len(), all.count()),
            (CONNECTION_UNARY_WAITS_MAX, CONNECTION_UNARY_WAITS_MAX)
        );
        assert!(WaitPlace::take(&share, &all, false).is_ok(), "on a stream there is room");
    }

    #[test]
    fn streams_of_a_connection_share_what_it_may_have_in_flight() {
        let share: Arc<Share> = Arc::default();
        let first = StreamPlace::take(share.clone()).unwrap();
        assert_eq!(first.part(4_096), 4_096);
        let others: Vec<_> = std::iter::from_fn(|| StreamPlace::take(share.clone())).collect();
        assert_eq!(
            (others.len(), first.part(4_096)),
            (CONNECTION_STREAMS_MAX - 1, 4_096 / CONNECTION_STREAMS_MAX)
        );
        drop(others);
        assert_eq!(first.part(4_096), 4_096);
    }
}
