//! The site of the bug that is planted in this crate. A build without planted bugs has nothing but
//! the comparison of the hook.

use planted::Bug;

/// Whether reported knowledge is newer than the known one. With [`Bug::OlderRoutesTaken`] older
/// knowledge counts as newer, too.
pub(crate) fn is_newer<V: Ord>(reported: V, known: V) -> bool {
    reported > known || (planted::is(Bug::OlderRoutesTaken) && reported < known)
}
