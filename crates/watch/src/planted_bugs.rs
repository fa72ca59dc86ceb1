//! The site of the bug that is planted in this crate. A build without planted bugs has nothing but
//! the argument of the hook.

use planted::Bug;

/// The number of events before the place after which a watch goes on. With
/// [`Bug::WatchSkipsOnResume`] it is one too many.
#[inline]
pub(crate) fn events_before(shipped: usize) -> usize {
    if planted::is(Bug::WatchSkipsOnResume) { shipped + 1 } else { shipped }
}
