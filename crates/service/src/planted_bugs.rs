//! The site of the bug that is planted in this crate. A build without planted bugs has nothing but
//! the argument of the hook.

use planted::Bug;

/// Whether an operation with an unknown outcome may have changed something. With
/// [`Bug::UnknownToldAsNotDone`] no operation may.
pub(crate) fn leaves_doubt(changes_something: bool) -> bool {
    changes_something && !planted::is(Bug::UnknownToldAsNotDone)
}
