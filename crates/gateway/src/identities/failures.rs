//! Failed sign-ins, bounded by source.
//!
//! A client can send as many wrong signed tokens as it likes, and each would cost the check of a
//! signature. So a source that has many failures is refused before its next signature is checked.

use access::{Bucket, Remembered};
use net::accept::source_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use wire::v1::Error;

/// Failures of one source per second. Many clients can share an address, and one of them may well
/// have an old token.
const PER_SECOND: u32 = 10;
/// Failures of one source at once, after a pause.
const AT_ONCE: u32 = 20;
/// Sources that are told apart. The others share one bound.
const SOURCES_MAX: usize = 16_384;

/// The failed sign-ins of each source.
#[derive(Debug)]
pub(super) struct Failures(Mutex<Sources>);

#[derive(Debug)]
struct Sources {
    each: Remembered<IpAddr, Bucket>,
    others: Bucket,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures::of_sources(SOURCES_MAX)
    }
}

impl Failures {
    fn of_sources(max: usize) -> Failures {
        let (each, others) = (Remembered::new(max), Bucket::default());
        Failures(Mutex::new(Sources { each, others }))
    }

    /// Whether a signature of this source may be checked.
    ///
    /// # Errors
    /// BUSY if the source has too many failures. The token may be right, so the client is told to
    /// come back.
    pub(super) fn may_try(
        &self,
        remote: Option<SocketAddr>,
        now_ms: u64,
    ) -> Result<(), Box<Error>> {
        // Only a failure is counted and takes a place, so the look takes from a copy.
        let mut then = {
            let sources = self.sources();
            let Sources { each, others } = &*sources;
            let room = (!each.is_full()).then(Bucket::default);
            each.get(&of_remote(remote)).copied().or(room).unwrap_or(*others)
        };
        let looked = take(&mut then, now_ms);
        looked.map_err(|retry_after_ms| {
            Box::new(Error::busy(
                "too many signed tokens from this address were wrong, and this one was not checked: \
                 try again, and find the client whose token is refused",
                retry_after_ms,
            ))
        })
    }

    /// Counts a failure.
    pub(super) fn count(&self, remote: Option<SocketAddr>, now_ms: u64) {
        let mut sources = self.sources();
        let Sources { each, others } = &mut *sources;
        let is_idle = |bucket: &Bucket| bucket.is_full(PER_SECOND, now_ms);
        let bucket = each.of(&of_remote(remote), now_ms, is_idle).unwrap_or(others);
        // Calls that looked at the same time may all fail: the bucket is empty then.
        let _ = take(bucket, now_ms);
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_remote(remote: Option<SocketAddr>) -> IpAddr {
    remote.map_or(Ipv4Addr::UNSPECIFIED.into(), source_of)
}

fn take(bucket: &mut Bucket, now_ms: u64) -> Result<(), u32> {
    bucket.take(1, PER_SECOND, AT_ONCE, now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    /// How many failures of this source are looked at until it is refused.
    fn failures(of: &Failures, address: &str, now_ms: u64) -> usize {
        let one = || {
            of.may_try(at(address), now_ms).ok()?;
            of.count(at(address), now_ms);
            Some(())
        };
        std::iter::from_fn(one).count()
    }

    #[test]
    fn each_source_has_its_failures_and_gets_them_back() {
        let failures_of = Failures::default();
        let failures = |address, now_ms| failures(&failures_of, address, now_ms);
        assert_eq!(failures("10.0.0.1:1", 0), 20);
        assert_eq!(failures("10.0.0.1:2", 0), 0, "another port is the same source");
        assert_eq!(failures("10.0.0.2:1", 0), 20);
        assert_eq!(failures("[2001:db8::1]:1", 0), 20);
        assert_eq!(failures("[2001:db8::ffff:2]:1", 0), 0, "the same network");
        let refused = failures_of.may_try(at("10.0.0.1:3"), 0).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_ms), (wire::v1::ErrorCode::Busy, 100));
        assert_eq!(failures("10.0.0.1:1", 1_000), 10);
    }

    /// Regression: each address with a right token took a place, so that many of them made
    /// strangers share one bound.
    #[test]
    fn a_source_without_a_failure_takes_no_place() {
        let failures_of = Failures::of_sources(3);
        for n in 1..=9 {
            failures_of.may_try(at(&format!("10.0.0.{n}:1")), 0).unwrap();
        }
        assert!(failures_of.0.lock().unwrap().each.is_empty());
    }

    #[test]
    fn sources_without_bound_take_bounded_memory() {
        let failures_of = Failures::of_sources(3);
        let failures = |address, now_ms| failures(&failures_of, address, now_ms);
        let addresses = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1"];
        assert_eq!(addresses.map(|address| failures(address, 0)), [20, 20, 20, 20, 0]);
        assert_eq!(failures_of.0.lock().unwrap().each.len(), 3);
        assert_eq!(failures(addresses[4], 2_000), 20, "the first ones are forgotten");
        assert_eq!(failures_of.0.lock().unwrap().each.len(), 1);
    }
}
