//! The newest topology that this gateway has told, so that none that is older follows.

use std::sync::{Mutex, PoisonError};
use topology::{Topology, Version};

/// Generation and version of the newest topology that this gateway has told.
#[derive(Debug, Default)]
pub(crate) struct NewestTold(Mutex<(u64, Version)>);

impl NewestTold {
    /// Whether this one is not older. It is told then.
    pub(crate) fn takes(&self, topology: &Topology) -> bool {
        let told = (topology.cluster().generation, topology.version());
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = told >= *newest;
        *newest = told.max(*newest);
        takes
    }
}
