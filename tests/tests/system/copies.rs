//! An older copy of a data directory lacks entries that its node acknowledged. The copy is refused,
//! with a message that says how to go on.

use client::{AcquireOptions, Consistency};
use palisade_tests::{Cluster, Spec, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

const LONG: Duration = Duration::from_secs(600);
const SPEC: Spec =
    Spec { nodes: 3, shards: 1, replicas: 3, gateways: 1, settings: None, secured: None };

async fn take(cluster: &Cluster, name: &str) -> u64 {
    let client = cluster.client();
    let acquire = async || client.acquire(AcquireOptions::new(name).ttl(LONG)).await.ok();
    eventually("an acquire", acquire).await.fencing_token
}

async fn take_some(cluster: &Cluster, prefix: &str) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for name in (0..10).map(|i| format!("{prefix}-{i}")) {
        let token = take(cluster, &name).await;
        held.insert(name, token);
    }
    held
}

async fn assert_still_held(cluster: &Cluster, held: &BTreeMap<String, u64>) {
    let client = cluster.client();
    for (name, token) in held {
        let check = async || client.check(name, Consistency::Linearizable).await.ok();
        let tokens: Vec<u64> =
            eventually("a check", check).await.holders.iter().map(|g| g.fencing_token).collect();
        assert_eq!(tokens, [*token], "{name} was acknowledged with token {token}");
    }
}

/// Copies a directory as a backup tool does. Files that a running node removes meanwhile are left
/// out.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("read") {
        let (from, to) =
            (entry.as_ref().expect("entry").path(), to.join(entry.expect("entry").file_name()));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else if let Err(error) = fs::copy(&from, &to) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", from.display());
        }
    }
}

/// Copies a node's directory beside the original.
fn back_up(cluster: &Cluster, node: u64) -> PathBuf {
    let copy = cluster.data_dir(node).with_extension("copy");
    copy_dir(&cluster.data_dir(node), &copy);
    copy
}

/// Puts a copy in the place of a stopped node's directory. The directory is kept aside.
fn put_back(cluster: &Cluster, node: u64, copy: &Path) -> PathBuf {
    let (data, newest) = (cluster.data_dir(node), cluster.data_dir(node).with_extension("newest"));
    fs::rename(&data, &newest).expect("keep the newest aside");
    copy_dir(copy, &data);
    newest
}

async fn refused(cluster: &Cluster, node: u64, options: &[&str], words: &[&str]) -> String {
    let (status, said) = cluster.node_that_ends(node, options).await;
    assert_eq!(status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in what it said:\n{said}");
    }
    said
}

async fn follower(cluster: &Cluster) -> u64 {
    let leader = cluster.leader(0).await;
    (1..=SPEC.nodes).find(|node| *node != leader).expect("a follower")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_directory_is_refused_by_peers_that_are_running() {
    let mut cluster = Cluster::start(SPEC).await;
    let mut held = take_some(&cluster, "before").await;
    let node = follower(&cluster).await;
    cluster.kill_node(node);
    let stopped = back_up(&cluster, node);
    cluster.start_node(node);
    cluster.ready().await;
    held.append(&mut take_some(&cluster, "after").await);
    cluster.replicas_agree().await;

    // A copy is also made while the node runs, as by a file system snapshot or a careless backup.
    let running = cluster.data_dir(node).with_extension("running");
    copy_dir(&cluster.data_dir(node), &running);
    held.append(&mut take_some(&cluster, "later").await);
    cluster.replicas_agree().await;
    cluster.kill_node(node);

    let newest = put_back(&cluster, node, &stopped);
    let said = refused(
        &cluster,
        node,
        &[],
        &["refused by node", "comes with", "--reseed", "palisade node --help"],
    )
    .await;
    assert!(
        said.contains("an older copy") || said.contains("a copy of its data directory"),
        "{said}"
    );
    fs::remove_dir_all(cluster.data_dir(node)).expect("the copy");
    copy_dir(&running, &cluster.data_dir(node));
    let said = refused(&cluster, node, &[], &["--reseed"]).await;
    assert!(said.contains("an older copy") || said.contains("is damaged"), "{said}");
    // The operator's `--accept-copy` does not override the peers' knowledge.
    refused(&cluster, node, &["--accept-copy"], &["--reseed"]).await;

    // A directory that lacks no entry is accepted, although it is a copy.
    fs::remove_dir_all(cluster.data_dir(node)).expect("the copy");
    copy_dir(&newest, &cluster.data_dir(node));
    cluster.start_node(node);
    cluster.ready().await;
    let other = cluster.leader(0).await;
    if other != node {
        cluster.kill_node(other);
    }
    assert_still_held(&cluster, &held).await;
}

/// The peers keep their knowledge on their disks, so they still have it after all of them are
/// killed.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_directory_is_refused_by_peers_that_were_killed() {
    let mut cluster = Cluster::start(SPEC).await;
    let node = follower(&cluster).await;
    cluster.kill_node(node);
    let copy = back_up(&cluster, node);
    cluster.start_node(node);
    cluster.ready().await;
    let held = take_some(&cluster, "held").await;
    for node in 1..=SPEC.nodes {
        cluster.kill_node(node);
    }
    put_back(&cluster, node, &copy);
    for node in 1..=SPEC.nodes {
        cluster.start_node(node);
    }
    let said = cluster.node_ends(node).await;
    assert!(
        said.contains("refused by node") && said.contains("copy of its data directory"),
        "{said}"
    );
    assert_still_held(&cluster, &held).await;
}

/// The node that acknowledged a grant is put back without it, and the other node that has it is
/// down. The third node knows of neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_does_not_decide_with_peers_that_cannot_tell() {
    let mut cluster = Cluster::start(SPEC).await;
    take_some(&cluster, "before").await;
    let leader = cluster.leader(0).await;
    let others: Vec<u64> = (1..=SPEC.nodes).filter(|node| *node != leader).collect();
    let (copied, absent) = (others[0], others[1]);
    cluster.kill_node(absent);
    take(&cluster, "made for a later copy").await;
    cluster.kill_node(copied);
    let copy = back_up(&cluster, copied);
    cluster.start_node(copied);
    cluster.ready().await;
    let token = take(&cluster, "acknowledged").await;
    for node in [leader, copied] {
        cluster.kill_node(node);
    }

    let newest = put_back(&cluster, copied, &copy);
    cluster.start_node(absent);
    cluster.start_node(copied);
    eventually("it says that it is a copy", async || {
        cluster.node_log(copied).contains("this data directory is a copy").then_some(())
    })
    .await;
    let status = cluster.run_json_of(&["cluster", "status"]).await;
    assert!(status["shards"][0]["leader"].is_null(), "{status:#}");
    let text = String::from_utf8(cluster.run(&["cluster", "status"]).await.stdout).expect("UTF-8");
    assert!(text.contains(&format!("node {copied} does not: it takes no part")), "{text}");
    assert!(text.contains(&format!("node {leader} does not: it does not answer")), "{text}");

    // The node that knows of the grant ends the copy.
    cluster.start_node(leader);
    let said = cluster.node_ends(copied).await;
    assert!(said.contains(&format!("refused by node {leader}")), "{said}");
    assert_still_held(&cluster, &BTreeMap::from([("acknowledged".to_owned(), token)])).await;
    fs::remove_dir_all(cluster.data_dir(copied)).expect("the copy");
    fs::rename(&newest, cluster.data_dir(copied)).expect("the newest");
    cluster.start_node(copied);
    cluster.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_all_directories_are_used_only_if_somebody_says_so() {
    let mut cluster = Cluster::start(SPEC).await;
    take_some(&cluster, "before").await;
    let nodes = 1..=SPEC.nodes;
    nodes.clone().for_each(|node| cluster.kill_node(node));
    let copies: Vec<PathBuf> = nodes.clone().map(|node| back_up(&cluster, node)).collect();
    cluster.start_all();
    cluster.ready().await;
    let token = take(&cluster, "acknowledged").await;
    nodes.clone().for_each(|node| cluster.kill_node(node));

    nodes.clone().zip(&copies).for_each(|(node, copy)| drop(put_back(&cluster, node, copy)));
    cluster.start_all();
    eventually("all say that they are copies", async || {
        let says = |node| cluster.node_log(node).contains("tokens are issued again");
        nodes.clone().all(says).then_some(())
    })
    .await;
    let status = cluster.status().await;
    assert!(
        status.shards.iter().all(|replica| replica.stands_by && replica.role != "leader"),
        "{status:?}"
    );

    // With `--accept-copy` the nodes accept the copies, and for good.
    nodes.clone().for_each(|node| cluster.kill_node(node));
    nodes.clone().for_each(|node| cluster.start_node_with(node, &["--accept-copy"]));
    cluster.ready().await;
    assert_eq!(take(&cluster, "acknowledged").await, token, "as was said, a token is issued again");
    nodes.clone().for_each(|node| cluster.kill_node(node));
    cluster.start_all();
    cluster.ready().await;
}

/// Stops a cluster and puts copies back: of node 2, later of node 3, and last of node 1. Returns
/// the locks held by then.
async fn copies_of_three_moments_are_put_back(cluster: &mut Cluster) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    let mut copies = BTreeMap::new();
    for node in [2, 3, 1] {
        held.append(&mut take_some(cluster, &format!("before the copy of {node}")).await);
        cluster.replicas_agree().await;
        cluster.kill_node(node);
        copies.insert(node, back_up(cluster, node));
        // The node's peers write down that it was started again. Their copies are of later moments.
        cluster.start_node(node);
        cluster.ready().await;
    }
    (1..=SPEC.nodes).for_each(|node| cluster.kill_node(node));
    copies.iter().for_each(|(node, copy)| drop(put_back(cluster, *node, copy)));
    held
}

/// Such copies once refused each other, even with --accept-copy.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_all_directories_of_different_moments_can_be_gone_on_with() {
    let mut cluster = Cluster::start(SPEC).await;
    let held = copies_of_three_moments_are_put_back(&mut cluster).await;
    // Of these two nodes the first one leads, because it has all entries of the second one.
    [1, 2].into_iter().for_each(|node| cluster.start_node_with(node, &["--accept-copy"]));
    take(&cluster, "after").await;
    cluster.start_node_with(3, &["--accept-copy"]);
    cluster.ready().await;
    cluster.replicas_agree().await;
    assert_still_held(&cluster, &held).await;

    // One start with the option is enough.
    (1..=SPEC.nodes).for_each(|node| cluster.kill_node(node));
    cluster.start_all();
    cluster.ready().await;
    assert_still_held(&cluster, &held).await;
}

/// The leader lacks entries that the newest copy has committed. The newest copy would be counted
/// for entries that it does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_newer_than_what_the_others_go_on_with_is_re_seeded() {
    let mut cluster = Cluster::start(SPEC).await;
    copies_of_three_moments_are_put_back(&mut cluster).await;
    [2, 3].into_iter().for_each(|node| cluster.start_node_with(node, &["--accept-copy"]));
    let token = take(&cluster, "after").await;
    refused(&cluster, 1, &["--accept-copy"], &["lacks log entry", "re-seed this node"]).await;
    fs::rename(cluster.data_dir(1), cluster.data_dir(1).with_extension("put-back"))
        .expect("move it away");
    cluster.start_node_with(1, &["--reseed"]);
    cluster.ready().await;
    cluster.replicas_agree().await;
    assert_still_held(&cluster, &BTreeMap::from([("after".to_owned(), token)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_file_refuses_what_no_peer_can_tell() {
    let mut cluster = Cluster::prepare(Spec { nodes: 1, replicas: 1, ..SPEC }).await;
    cluster.start_gateway(1);
    let guard = cluster.data_dir(1).with_extension("guard");
    let options = ["--guard-file", guard.to_str().expect("UTF-8")];
    cluster.start_node_with(1, &options);
    cluster.ready().await;
    take(&cluster, "before").await;
    cluster.kill_node(1);
    let copy = back_up(&cluster, 1);
    cluster.start_node_with(1, &options);
    cluster.ready().await;
    take(&cluster, "after").await;
    cluster.kill_node(1);
    let newest = put_back(&cluster, 1, &copy);
    refused(&cluster, 1, &options, &["the guard file", "node 1 comes with", "--accept-copy"]).await;
    cluster.start_node_with(1, &[&options[..], &["--accept-copy"]].concat());
    cluster.ready().await;
    cluster.kill_node(1);
    // From here on, the copy is the newest directory.
    cluster.start_node_with(1, &options);
    cluster.ready().await;
    cluster.kill_node(1);
    fs::remove_dir_all(cluster.data_dir(1)).expect("the copy");
    fs::rename(&newest, cluster.data_dir(1)).expect("the former newest");
    refused(&cluster, 1, &options, &["the guard file", "node 1 comes with"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_seed_is_refused_while_the_node_runs() {
    let mut cluster = Cluster::start(SPEC).await;
    let held = take_some(&cluster, "held").await;
    let node = follower(&cluster).await;
    let elsewhere = cluster.data_dir(node).with_extension("elsewhere");
    let (status, said) = cluster.node_that_ends_elsewhere(node, &elsewhere, &["--reseed"]).await;
    assert_eq!(status.code(), Some(1), "{said}");
    let words = ["is running with its former data directory", "stop that process first", "--force"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    // The node goes on, and keeps its votes.
    cluster.ready().await;
    let votes = async || {
        let status = cluster.try_status().await?;
        let members = &status.shards.iter().find(|replica| replica.role == "leader")?.members;
        Some(members.iter().all(|member| member.incarnation == 0 && !member.learner))
    };
    assert!(eventually("the leader's members", votes).await);
    cluster.kill_node(node);

    // Once the node is stopped, the same empty directory is accepted.
    fs::rename(cluster.data_dir(node), cluster.data_dir(node).with_extension("lost"))
        .expect("lose its data");
    fs::rename(&elsewhere, cluster.data_dir(node)).expect("the new directory");
    let began_s = UNIX_EPOCH.elapsed().expect("the clock is right").as_secs();
    cluster.start_node_with(node, &["--reseed"]);
    cluster.ready().await;
    eventually("it votes as the next incarnation, the second of wall time", async || {
        let status = cluster.try_status().await?;
        let members = &status.shards.iter().find(|replica| replica.role == "leader")?.members;
        let all = members.len() == 3 && members.iter().all(|member| !member.learner);
        let is_next = |incarnation: u32| u64::from(incarnation) >= began_s;
        (all && members.iter().any(|it| it.node == node && is_next(it.incarnation))).then_some(())
    })
    .await;
    assert_still_held(&cluster, &held).await;
}
