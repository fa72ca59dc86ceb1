//! Regression tests, each named after the fault that it covers.

use crate::cluster::*;
use palisade_node::{Node, NodeOptions};
use routing::{NodeId, Settings, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{
    Engine, HistoryRecord, Identity, Lives, MemoryEngine, Recovered, ShardWrite, StorageError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;

/// An engine that is slow to write history, and slow to read through history of which no record is
/// requested.
struct SlowHistory {
    inner: Arc<MemoryEngine>,
    write: Duration,
    pages: u8,
    page: Duration,
}

impl Engine for SlowHistory {
    fn claim(&self, identity: &Identity) -> Result<u64, StorageError> {
        self.inner.claim(identity)
    }
    fn raise_format(&self, format: u32) -> Result<u32, StorageError> {
        self.inner.raise_format(format)
    }
    fn write(&self, writes: &[ShardWrite]) -> Result<(), StorageError> {
        if writes.iter().any(|write| !write.history.is_empty()) {
            std::thread::sleep(self.write);
        }
        self.inner.write(writes)
    }
    fn host_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.inner.host_shard(shard, birth)
    }
    fn drop_shard(&self, shard: ShardId, birth: u32) -> Result<(), StorageError> {
        self.inner.drop_shard(shard, birth)
    }
    fn lives(&self) -> BTreeMap<ShardId, Lives> {
        self.inner.lives()
    }
    fn recover(&self, shard: ShardId) -> Result<Recovered, StorageError> {
        self.inner.recover(shard)
    }
    fn history(
        &self,
        shard: ShardId,
        name: &str,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StorageError> {
        self.inner.history(shard, name, limit)
    }
    fn history_since(
        &self,
        shard: ShardId,
        after_index: u64,
        cursor: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<(Vec<HistoryRecord>, Option<Vec<u8>>), StorageError> {
        // No key begins with this prefix.
        let page = match cursor.as_deref() {
            None => 0,
            Some([b'w', page]) => *page,
            Some(_) => return self.inner.history_since(shard, after_index, cursor, limit),
        };
        if page == self.pages {
            return self.inner.history_since(shard, after_index, None, limit);
        }
        std::thread::sleep(self.page);
        Ok((Vec::new(), Some(vec![b'w', page + 1])))
    }
    fn drop_history_before(&self, shard: ShardId, day: u32) -> Result<(), StorageError> {
        self.inner.drop_history_before(shard, day)
    }
    fn node_record(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.node_record(name)
    }
    fn put_node_records(&self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        self.inner.put_node_records(records)
    }
    fn last_record(&self) -> u64 {
        self.inner.last_record()
    }
    fn born(&self) -> Option<u128> {
        self.inner.born()
    }
}

/// A checkpoint takes ended grants out of the replica's memory. Until the log writer had written
/// them, they were in neither half of a history answer.
#[tokio::test(flavor = "multi_thread")]
async fn history_shows_what_a_checkpoint_has_not_yet_brought_to_disk() {
    // Every step makes a checkpoint.
    let settings = Settings { election_ticks: 40, checkpoint_log_bytes: 1, ..Settings::default() };
    let mut cluster = Cluster::start(3, 1, settings).await;
    for id in [1, 2, 3].map(NodeId) {
        cluster.stop(id).await;
        let inner = cluster.engines[&id].clone();
        let write = Duration::from_millis(300);
        let engine = Arc::new(SlowHistory { inner, write, pages: 0, page: Duration::ZERO });
        cluster.nodes.insert(id, Node::start(cluster.options(id, engine)).await.unwrap());
    }
    let token = granted(cluster.ask_leader(acquire("orders", 1)).await).fencing_token;
    cluster.ask_leader(release("orders", token)).await;
    let OpResult::History(answer) = cluster.ask_leader(history("orders")).await else {
        panic!("no history")
    };
    let tokens: Vec<u64> = answer.tenures.iter().map(|tenure| tenure.fencing_token).collect();
    assert_eq!(tokens, [token]);
    cluster.stop_all().await;
}

/// The leader sends nothing while it reads through history that the receiver has, and the receiver
/// gave up after half a minute. The snapshot that it was sent at last was of no use, because the
/// log after it was gone. A replica that had been away never came back.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_under_load_however_long_its_history_is_read() {
    let settings = Settings {
        checkpoint_log_bytes: 4 << 10,
        log_keep_bytes: 4 << 10,
        election_ticks: 40,
        ..Settings::default()
    };
    let mut cluster = Cluster::start(3, 1, settings).await;
    for id in [1, 2, 3].map(NodeId) {
        cluster.stop(id).await;
        let inner = cluster.engines[&id].clone();
        let page = Duration::from_secs(4);
        let engine = Arc::new(SlowHistory { inner, write: Duration::ZERO, pages: 9, page });
        cluster.nodes.insert(id, Node::start(cluster.options(id, engine)).await.unwrap());
    }
    granted(cluster.ask_leader(acquire("kept", 1)).await);
    let leader = cluster.leader_of("kept").await;
    let away = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.stop(away).await;
    let leader = cluster.leader_of("kept").await;
    let (route, mut caller) = (cluster.route("kept"), cluster.caller(leader).await);
    let mut request = 0_u64;
    let mut churn = async || {
        for _ in 0..20 {
            request += 1;
            let Op::Acquire(acquire) = acquire("{kept}/churn", 0) else { unreachable!() };
            let request_id = [&request.to_be_bytes()[..], &[1; 8]].concat();
            let op = Op::Acquire(wire::v1::AcquireRequest { request_id, ..acquire });
            let token = granted(caller.ask(route, op).await.unwrap()).fencing_token;
            caller.ask(route, release("{kept}/churn", token)).await.unwrap();
        }
    };
    let left_at = cluster.status(leader, route.shard).await.applied_index;
    while cluster.status(leader, route.shard).await.first_index < left_at + 100 {
        churn().await;
    }
    let inner = cluster.engines[&away].clone();
    let engine =
        Arc::new(SlowHistory { inner, write: Duration::ZERO, pages: 0, page: Duration::ZERO });
    cluster.nodes.insert(away, Node::start(cluster.options(away, engine)).await.unwrap());

    // The load continues until the replica is back.
    for round in 0.. {
        assert!(round < 4_000, "never: {:?}", cluster.status(away, route.shard).await);
        churn().await;
        let (there, here) =
            (cluster.status(away, route.shard).await, cluster.status(leader, route.shard).await);
        if there.snapshots_installed > 0 && there.applied_index + 200 > here.applied_index {
            assert!(here.applied_index > left_at + 1_000, "there was hardly a load");
            assert_eq!(there.snapshots_installed, 1, "the first one served");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop_all().await;
}

/// A node that was started again while a peer was down for good answered "not serving" until that
/// peer came back. Its health check asked which peers had not greeted it, and not whether it takes
/// part without them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_while_a_peer_is_down_says_that_it_serves() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    granted(cluster.ask_leader(acquire("orders", 1)).await);
    let [again, dead] = [NodeId(2), NodeId(3)];
    cluster.stop(dead).await;
    cluster.stop(again).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = cluster.options(again, cluster.engines[&again].clone());
    let node =
        Node::start(NodeOptions { metrics_listener: Some(listener), ..options }).await.unwrap();
    cluster.nodes.insert(again, node);
    let mut last = String::new();
    let serves = async {
        while !last.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let asked = b"GET /healthz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            stream.write_all(asked).await.unwrap();
            last.clear();
            stream.read_to_string(&mut last).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(HANGS, serves).await.is_ok(), "it still says: {last}");
    assert!(
        cluster.nodes[&again].statuses().iter().all(|status| status.leader.is_some()),
        "a shard has no leader"
    );
    cluster.stop_all().await;
}
