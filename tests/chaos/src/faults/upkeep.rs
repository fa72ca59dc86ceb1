//! Faults by operators, in correct and in wrong upkeep: a rolling restart, and a node with another
//! cluster file.

use super::{Stage, Wound};
use crate::cluster::{NODES, SHARDS};
use crate::error::Error;
use crate::probe::all_back;
use local_cluster::{Launch, Member};
use routing::ClusterConfig;
use std::collections::BTreeSet;
use std::time::Duration;

/// The longest time until a restarted node takes part again. A longer time is a failure.
const BACK_WITHIN: Duration = Duration::from_secs(30);

impl Stage<'_> {
    /// Restarts one node after the other. Each restart waits until the node before is back.
    pub(super) async fn rolling_restart(&mut self) -> Wound {
        let mut wound = Wound::default();
        for id in 1..=NODES {
            wound.check(self.cluster.stop(Member::Node(id)).await);
            self.cluster.start_one(Member::Node(id));
            if !all_back(self.cluster, BACK_WITHIN).await {
                wound.failures.push(format!(
                    "node {id} was restarted, and was not back within {BACK_WITHIN:?}"
                ));
            }
        }
        wound.serves()
    }

    /// A node comes back with a cluster file that has another number of shards. The node's own data
    /// must refuse it.
    pub(super) async fn other_settings(&mut self) -> Result<Wound, Error> {
        let id = self.some_follower();
        let mut wound = Wound::lasting_s(self.rng, 3, 5).serves();
        wound.check(self.cluster.stop(Member::Node(id)).await);
        let config =
            ClusterConfig { shards: 2 * SHARDS, ..self.cluster.processes.config().clone() };
        let other = self.cluster.processes.dir().join("cluster.other.yaml");
        self.cluster.processes.write_config(&other, &config).map_err(Error::other)?;
        self.cluster.launch(Member::Node(id), &Launch { config: Some(other), ..Launch::default() });
        wound.must_end = BTreeSet::from([id]);
        Ok(wound)
    }
}
