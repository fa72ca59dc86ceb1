//! A topology that was built again as a document.

use super::Topology;
use crate::v1;
use serde::Serialize;

/// A topology that was built again, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How often the topology was founded, with this time.
    pub generation: u64,
    /// The nodes that it was built from.
    pub answering_nodes: Vec<u64>,
    /// What it lacks, in words.
    pub losses: Vec<String>,
    /// The topology.
    pub topology: Topology,
}

impl Rebuilt {
    /// The document of an answer.
    pub fn new(answer: &v1::RebuildTopologyResponse, dry_run: bool) -> Rebuilt {
        Rebuilt {
            dry_run,
            generation: answer.generation,
            answering_nodes: answer.answering_nodes.clone(),
            losses: answer.losses.clone(),
            topology: Topology::from(&answer.topology.clone().unwrap_or_default()),
        }
    }
}
