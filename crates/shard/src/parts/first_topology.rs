//! The topology with which META begins. It knows nothing of how META's replicas begin.

use topology::{Seed, Topology};

/// The topology that META's first leader proposes.
pub(crate) enum FirstTopology {
    /// As the cluster file describes it.
    Seed(Box<Seed>),
    /// As it was built from what nodes know, after the former group was lost.
    Rebuilt(Box<Topology>),
}
