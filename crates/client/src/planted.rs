//! Bugs planted on purpose, to show that the checker can fail.
//!
//! Only builds with the feature `planted-bugs` have them. A test chooses at most one per thread.
//! Without the feature [`is`] is `false` at compile time.

/// The bugs that a test can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each is explained where it is planted
pub enum Bug {
    DoubtForgotten,
    ValidityTooLong,
}

impl Bug {
    /// Every bug, in the order of declaration.
    pub const ALL: [Bug; 2] = [Bug::DoubtForgotten, Bug::ValidityTooLong];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Gives this thread the bug `bug`, or none. It has at most one at a time.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether this thread was given the bug `bug`.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    /// Always `false`: this build has no planted bugs.
    #[inline(always)]
    pub const fn is(_: super::Bug) -> bool {
        false
    }
}

pub use switch::*;
