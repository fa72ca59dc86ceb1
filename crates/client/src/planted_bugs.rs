//! The site of the bug that is planted in this crate. A build without planted bugs has nothing but
//! the first argument of each hook.

use planted::Bug;
use std::time::Duration;

/// How long a holder believes in a lease. With [`Bug::ValidityTooLong`] it believes for longer than
/// the TTL.
pub(crate) fn believed(shipped: Duration, ttl: Duration) -> Duration {
    if planted::is(Bug::ValidityTooLong) { ttl + ttl / 2 } else { shipped }
}
