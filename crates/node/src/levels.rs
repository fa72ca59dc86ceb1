//! The active level of formats and commands on this node: a build that does not know it ends, the
//! data directory gets the format of the level, and the groups that are led here reach it.
//!
//! * The format is on disk before a group led here is told of the level. So a build of the time
//!   before refuses the directory, and does not fail in the middle of its log.
//! * A group that another node leads may reach the level before this node has heard of it. Then a
//!   build of the time before fails at that entry, and misreads nothing.
//!
//! The module knows nothing of what a level brings.

use crate::context::Context;
use crate::error::NodeError;
use crate::limits::WISHES_EVERY;
use shard::Input;
use std::sync::Arc;
use topology::{KNOWN_LEVELS, Topology, level};

/// Checks that this build knows the active level.
///
/// # Errors
/// [`NodeError::Level`].
pub(crate) fn check(topology: &Topology) -> Result<(), NodeError> {
    Ok(KNOWN_LEVELS.check(topology.level())?)
}

/// Follows the active level until the future is dropped.
pub(crate) async fn keep_level(context: Arc<Context>) {
    let mut raised_to = 0;
    loop {
        let topology = context.cluster.now();
        let active = topology.level();
        if let Err(unknown) = check(&topology) {
            return context.lifecycle.fail(unknown.to_string());
        }
        if raised_to < active {
            if let Err(error) = raise_format(&context, active).await {
                return context.lifecycle.fail(error.to_string());
            }
            raised_to = active;
        }
        for shard in context.board.below_level(active) {
            context.host.input(shard, Input::Level(active));
        }
        let later = context.cluster.later_than(topology.version());
        let _ = tokio::time::timeout(WISHES_EVERY, later).await;
    }
}

/// Puts the format of a level on disk.
async fn raise_format(context: &Context, active: u32) -> Result<(), NodeError> {
    let format = level(active).expect("it was checked").format;
    let engine = context.engine.clone();
    let raised = tokio::task::spawn_blocking(move || engine.raise_format(format));
    let raised = raised.await.map_err(|error| NodeError::of_task("the format on disk", &error))?;
    raised.map(drop).map_err(NodeError::Storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::LEVELS;

    #[test]
    fn the_formats_of_the_levels_are_those_of_the_store() {
        let formats = storage::FORMATS;
        assert!(LEVELS.iter().all(|level| formats.contains(&level.format)));
        assert_eq!(LEVELS.first().map(|level| level.format), Some(*formats.start()));
        assert_eq!(LEVELS.last().map(|level| level.format), Some(*formats.end()));
    }

    #[test]
    fn a_build_starts_in_an_unfounded_cluster() {
        assert!(check(&Topology::default()).is_ok());
    }
}
