//! The site of the bug that is planted in this crate. A build without planted bugs has nothing but
//! the argument of the hook.

use planted::Bug;

/// Whether a try without an answer may have been done. With [`Bug::DoubtForgotten`] it counts as
/// not done.
pub(crate) fn leaves_doubt(changes_something: bool) -> bool {
    changes_something && !planted::is(Bug::DoubtForgotten)
}
