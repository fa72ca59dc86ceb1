//! What once broke, by name.

mod cluster;

use cluster::*;
use palisade_node::Node;
use routing::{NodeId, Settings, ShardId};
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Engine, HistoryRecord, Identity, MemoryEngine, Recovered, ShardWrite, StorageError};
use wire::v1::operation_result::Result as OpResult;

/// Takes its time over every write that has history in it.
struct SlowHistory(Arc<MemoryEngine>);

impl Engine for SlowHistory {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.0.claim(identity)
    }
    fn write(&self, writes: &[ShardWrite], durability: Durability) -> Result<(), StorageError> {
        if writes.iter().any(|write| !write.history.is_empty()) {
            std::thread::sleep(Duration::from_millis(300));
        }
        self.0.write(writes, durability)
    }
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.0.recover(shard)
    }
    fn history(&self, shard: ShardId, name: &str, limit: usize) -> Result<Vec<HistoryRecord>, StorageError> {
        self.0.history(shard, name, limit)
    }
    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        self.0.history_since(shard, after_index, cursor, limit)
    }
    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.0.drop_history_before(shard, day)
    }
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.node_record(name)
    }
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        self.0.put_node_records(records)
    }
}

/// A checkpoint takes ended grants out of the replica's memory; until the log writer had written it, they were in neither
/// half of a history answer.
#[tokio::test(flavor = "multi_thread")]
async fn history_shows_what_a_checkpoint_has_not_yet_brought_to_disk() {
    // Every step checkpoints.
    let settings = Settings { election_ticks: 40, checkpoint_log_bytes: 1, ..Settings::default() };
    let mut cluster = Cluster::start(3, 1, settings).await;
    for id in [1, 2, 3].map(NodeId) {
        cluster.stop(id).await;
        let engine = Arc::new(SlowHistory(cluster.engines[&id].clone()));
        cluster.nodes.insert(id, Node::start(cluster.options(id, engine)).await.unwrap());
    }
    let token = granted(cluster.ask_leader(acquire("orders", 1)).await).fencing_token;
    cluster.ask_leader(release("orders", token)).await;
    let OpResult::History(answer) = cluster.ask_leader(history("orders")).await else { panic!("no history") };
    let tokens: Vec<u64> = answer.tenures.iter().map(|tenure| tenure.fencing_token).collect();
    assert_eq!(tokens, [token]);
    cluster.stop_all().await;
}
