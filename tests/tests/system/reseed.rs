//! A node with damaged, lost or replaced data says so and does not take part. `--reseed` brings it
//! back.

use client::{AcquireOptions, Consistency, ShardStatus};
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);
const SPEC: Spec =
    Spec { nodes: 3, shards: 2, replicas: 3, gateways: 1, settings: None, secured: None };

async fn take_locks(cluster: &Cluster, prefix: &str) -> BTreeMap<String, u64> {
    let client = cluster.client();
    let mut held = BTreeMap::new();
    for name in (0..30).map(|i| format!("{prefix}-{i}")) {
        let options = || AcquireOptions::new(&name).ttl(LONG);
        let grant = eventually("an acquire", async || client.acquire(options()).await.ok()).await;
        held.insert(name, grant.fencing_token);
    }
    held
}

async fn assert_still_held(cluster: &Cluster, held: &BTreeMap<String, u64>) {
    let client = cluster.client();
    for (name, token) in held {
        let check = async || client.check(name, Consistency::Linearizable).await.ok();
        let checked = eventually("a check", check).await;
        let tokens: Vec<u64> = checked.holders.iter().map(|grant| grant.fencing_token).collect();
        assert_eq!(tokens, vec![*token], "{name} was acknowledged with token {token}");
    }
}

/// Waits until the node has a vote in every shard, as the leader reports, and is level with the
/// other replicas.
async fn is_voter_again(cluster: &Cluster, node: u64) {
    let votes = |leader: &ShardStatus, replica: &ShardStatus| {
        leader
            .members
            .iter()
            .any(|m| (m.node, m.incarnation, m.learner) == (node, replica.incarnation, false))
            && leader.members.len() == SPEC.replicas as usize
    };
    eventually(&format!("node {node} votes in every shard"), async || {
        let status = cluster.try_status().await?;
        let voter_of = |shard: u32| {
            let of_shard = || status.shards.iter().filter(move |replica| replica.shard == shard);
            let leader = of_shard()
                .filter(|replica| replica.role == "leader")
                .max_by_key(|replica| replica.term)?;
            let replica = of_shard().find(|replica| replica.node == node)?;
            assert!(replica.incarnation > 0, "{replica:?}");
            votes(leader, replica).then_some(())
        };
        (0..SPEC.shards).all(|shard| voter_of(shard).is_some()).then_some(())
    })
    .await;
    cluster.replicas_agree().await;
    let status = cluster.run_json(&["cluster", "status"]).await;
    for replica in status["shards"]
        .as_array()
        .expect("shards")
        .iter()
        .flat_map(|s| s["replicas"].as_array().unwrap())
    {
        assert_eq!(replica["reseeding"], false, "{status:#}");
    }
}

/// The newest file of a stopped node with a name that `like` accepts and with any data in it.
fn file_of(data: &Path, like: impl Fn(&str) -> bool) -> PathBuf {
    let files = ["", "rocksdb", "journal"]
        .into_iter()
        .flat_map(|sub| fs::read_dir(data.join(sub)).expect("data directory"));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("file").path()).collect();
    files.retain(|path| path.is_file() && fs::metadata(path).expect("file").len() > 0);
    files.retain(|path| like(&path.file_name().expect("name").to_string_lossy()));
    // A spare file of the journal is all zeros.
    files.retain(|path| fs::read(path).expect("read").iter().any(|byte| *byte != 0));
    files.sort();
    files.pop().expect("there is such a file")
}

/// Flips a bit in the middle of the file's data.
fn flip_in_the_middle(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it holds something");
    bytes[end / 2] ^= 0x10;
    fs::write(path, bytes).expect("write");
}

async fn refused(cluster: &Cluster, node: u64, options: &[&str], words: &[&str]) {
    let (status, said) = cluster.node_that_ends(node, options).await;
    assert_eq!(status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in what it said:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_node_is_refused_and_comes_back_re_seeded() {
    let mut cluster = Cluster::start(SPEC).await;
    let mut held = take_locks(&cluster, "before").await;
    let node = cluster.leader(0).await;
    cluster.kill_node(node);
    held.append(&mut take_locks(&cluster, "without it").await);

    // Any damage is reported, together with the way out.
    let data = cluster.data_dir(node);
    let kinds: [fn(&str) -> bool; 4] = [
        |name| name.ends_with(".journal"),
        |name| name.starts_with("MANIFEST-"),
        |name| name == "CURRENT",
        |name| name == "SYNCED",
    ];
    for kind in kinds {
        let file = file_of(&data, kind);
        flip_in_the_middle(&file);
        refused(&cluster, node, &[], &["is damaged", "re-seed", "palisade node --help"]).await;
        refused(&cluster, node, &["--reseed"], &["is damaged", "away"]).await;
        flip_in_the_middle(&file);
    }

    // The node does not come back as a new node either.
    let old = data.with_extension("old");
    fs::rename(&data, &old).expect("move the data away");
    refused(&cluster, node, &[], &["comes with another data directory", "start it with --reseed"])
        .await;
    refused(&cluster, node, &["--reseed"], &["is not empty", "move it away"]).await;
    fs::remove_dir_all(&data).expect("what the mistake left");

    cluster.start_node_with(node, &["--reseed"]);
    cluster.ready().await;
    is_voter_again(&cluster, node).await;
    assert_still_held(&cluster, &held).await;

    // Now the node makes up for the loss of another node.
    let other = cluster.running_nodes().into_iter().find(|id| *id != node).expect("another node");
    cluster.kill_node(other);
    assert_still_held(&cluster, &held).await;
    held.append(&mut take_locks(&cluster, "with it alone").await);
    cluster.start_node(other);
    cluster.ready().await;
    cluster.replicas_agree().await;

    // The node's incarnation stays, and its former data has been replaced for good.
    cluster.kill_node(node);
    refused(&cluster, node, &["--reseed"], &["already re-seeded", "start without --reseed"]).await;
    let new = data.with_extension("new");
    fs::rename(&data, &new).expect("move the data away");
    fs::rename(&old, &data).expect("bring the old data back");
    refused(
        &cluster,
        node,
        &[],
        &["comes with another data directory", "has been replaced by a re-seed"],
    )
    .await;
    fs::remove_dir_all(&data).expect("the old data");
    fs::rename(&new, &data).expect("the right data");
    cluster.start_node(node);
    cluster.ready().await;
    is_voter_again(&cluster, node).await;
    assert_still_held(&cluster, &held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_everything_with_another_down_waits_for_it() {
    let mut cluster = Cluster::start(SPEC).await;
    for node in [1, 2, 3] {
        cluster.kill_node(node);
    }
    // Two nodes lose their data and are started in the usual way. They know nothing of each other,
    // and only the third node could tell.
    for node in [1, 2] {
        fs::remove_dir_all(cluster.data_dir(node)).expect("lose its data");
        cluster.start_node(node);
    }
    eventually("both wait for node 3", async || {
        let waits = |node| cluster.node_log(node).contains("still to come: node 3.");
        (waits(1) && waits(2)).then_some(())
    })
    .await;
    let status = cluster.status().await;
    let terms: Vec<u64> = status.shards.iter().map(|replica| replica.term).collect();
    assert_eq!(terms, [0; 4], "nobody stood for election");

    // The third node does tell.
    cluster.start_node(3);
    for node in [1, 2] {
        let log = cluster.node_ends(node).await;
        assert!(log.contains("comes with another data directory"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_starts_without_all_its_nodes_if_it_is_told_so() {
    let mut cluster = Cluster::prepare(SPEC).await;
    cluster.start_gateway(1);
    for node in [1, 2] {
        cluster.start_node_with(node, &["--new-cluster"]);
    }
    cluster.ready().await;
    let held = take_locks(&cluster, "held").await;
    cluster.start_node(3);
    cluster.ready().await;
    cluster.replicas_agree().await;
    assert_still_held(&cluster, &held).await;
}
