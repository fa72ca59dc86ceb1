//! What operators do, and do wrong: a rolling restart, a node with another cluster file.

use super::{Stage, Wound};
use crate::cluster::{Launch, NODES, SHARDS};
use crate::network::Host;
use crate::probe::all_back;
use std::collections::BTreeSet;
use std::time::Duration;

/// A node that is restarted takes part again within this time, or something is wrong.
const BACK_WITHIN: Duration = Duration::from_secs(30);

impl Stage<'_> {
    /// One node after the other, each when the one before is back.
    pub(super) async fn rolling_restart(&mut self) -> Wound {
        let mut wound = Wound::default();
        for id in 1..=NODES {
            wound.failures.extend(self.cluster.stop(Host::Node(id)).await.err());
            self.cluster.start_one(Host::Node(id));
            if !all_back(self.cluster, BACK_WITHIN).await {
                wound.failures.push(format!("node {id} was restarted, and was not back within {BACK_WITHIN:?}"));
            }
        }
        wound.serves()
    }

    /// A node comes back with a cluster file that has another number of shards: its own data refuses it.
    pub(super) async fn other_settings(&mut self) -> Result<Wound, String> {
        let id = self.some_follower();
        let mut wound = Wound::lasting_s(self.rng, 3, 5).serves();
        wound.failures.extend(self.cluster.stop(Host::Node(id)).await.err());
        let (sound, other) = (self.cluster.config(), self.cluster.config().with_extension("other.yaml"));
        let yaml = std::fs::read_to_string(&sound).map_err(|error| format!("{}: {error}", sound.display()))?;
        let yaml = yaml.replace(&format!("shards: {SHARDS}\n"), &format!("shards: {}\n", 2 * SHARDS));
        std::fs::write(&other, yaml).map_err(|error| format!("{}: {error}", other.display()))?;
        self.cluster.launch(Host::Node(id), &Launch { config: Some(other), ..Launch::default() });
        wound.must_end = BTreeSet::from([id]);
        Ok(wound)
    }
}
