//! The controller in a cluster of nodes: facts are recorded once, changes come by its service, and
//! another leader of META goes on.

use crate::cluster::*;
use crate::meta::{agreed, leader_of_meta, wishes};
use palisade_node::{NodeHandle, NotApplied};
use routing::{META, NodeId, Settings};
use std::time::Duration;
use tonic::{Code, Request, Status};
use topology::plan::Report;
use topology::{
    Command, JobId, JobKind, NodeState, NodeTold, Proposal, Refusal, RequestId, Shard, Topology,
    Version,
};
use wire::internal::v1::propose_response::Outcome;
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::{ProposeRequest, ReportRequest};

/// Whether the topology has been told what each of these nodes is at its present start.
fn is_told(topology: &Topology, nodes: &[u64]) -> bool {
    nodes.iter().all(|node| {
        let node = topology.node(NodeId(*node));
        node.is_some_and(|node| node.store.is_some() && node.levels.is_some())
    })
}

/// The topology of all nodes, once it holds.
async fn until(cluster: &Cluster, what: &str, holds: impl Fn(&Topology) -> bool) -> Topology {
    let held = async {
        loop {
            let topology = agreed(cluster, Version(1)).await;
            if holds(&topology) {
                return topology;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, held).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Waits until the controllers have planned so many times more.
async fn rounds(cluster: &Cluster, more: u64) {
    let all = || cluster.nodes.values().map(NodeHandle::control_rounds).sum::<u64>();
    let end = all() + more;
    let planned = async {
        while all() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, planned).await.expect("no controller plans");
}

fn drain(request: u128, node: u64) -> Command {
    Command::Job { request: RequestId(request), kind: JobKind::Drain { node: NodeId(node) } }
}

fn undrain(request: u128, node: u64) -> Command {
    Command::Job { request: RequestId(request), kind: JobKind::Undrain { node: NodeId(node) } }
}

/// What the leader of META answers to a proposal, whichever node that is.
pub async fn propose_to_leader(cluster: &Cluster, command: Command) -> Outcome {
    let answered = async {
        loop {
            for node in cluster.nodes.keys() {
                match propose(cluster, *node, command.clone()).await {
                    Ok(Outcome::Elsewhere(_)) => {}
                    Ok(outcome) => return outcome,
                    Err(status) => assert_eq!(status.code(), Code::Unknown, "{status}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, answered).await.expect("META takes no proposal")
}

/// What a node answers to a proposal.
async fn propose(cluster: &Cluster, at: NodeId, command: Command) -> Result<Outcome, Status> {
    let mut request = Request::new(ProposeRequest {
        proposal: Proposal::new(1, command).encode(),
        accepted: None,
    });
    cluster.identity(at.0).put(request.metadata_mut());
    let mut client = client(cluster, at).await;
    Ok(client.propose(request).await?.into_inner().outcome.expect("an outcome"))
}

async fn client(cluster: &Cluster, at: NodeId) -> TopologyServiceClient<tonic::transport::Channel> {
    let address = &cluster.config.node(at).unwrap().address;
    TopologyServiceClient::connect(format!("http://{address}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fact_is_recorded_once_and_a_cluster_at_rest_writes_nothing() {
    let mut cluster = Cluster::start(4, 2, Settings::default()).await;
    let start = agreed_of_members(&cluster).await;
    let recorded = until_told(&cluster, &[1, 2, 3, 4]).await;
    assert_eq!(wishes(&recorded), wishes(&start));
    for (id, node) in recorded.nodes() {
        assert_eq!(node.address, cluster.config.node(*id).unwrap().address);
        assert_eq!(node.binary, env!("CARGO_PKG_VERSION"));
    }
    comes_to_rest(&cluster).await;

    // The next leader of META begins without reports, and records nothing that is known.
    let leader = leader_of_meta(&cluster).await;
    let known = cluster.nodes[&leader].applied_topology();
    cluster.stop(leader).await;
    leader_of_meta(&cluster).await;
    cluster.restart(leader).await;
    // A node that has just started has applied nothing.
    let starts = |topology: &Topology| topology.node(leader).map_or(0, |node| node.start.starts);
    let again = until_members(&cluster, "the second start", |topology| {
        starts(topology) == starts(&known) + 1
    })
    .await;
    assert_eq!(wishes(&again), wishes(&known));
    cluster.stop_all().await;
}

/// META writes nothing for six rounds of reports. Before that a leader may yet tell the members of its
/// group for the first time.
async fn comes_to_rest(cluster: &Cluster) {
    let written = async || {
        let leader = leader_of_meta(cluster).await;
        let status = cluster.nodes[&leader].meta_status().unwrap();
        (status.term, status.last_index)
    };
    let mut before = written().await;
    for _ in 0..5 {
        rounds(cluster, 6).await;
        let after = written().await;
        if after == before {
            return;
        }
        before = after;
    }
    panic!("at rest META goes on to write: {before:?}");
}

/// The topology that the members of META have.
async fn agreed_of_members(cluster: &Cluster) -> Topology {
    until_members(cluster, "the founding", Topology::is_founded).await
}

pub async fn until_told(cluster: &Cluster, nodes: &[u64]) -> Topology {
    until_members(cluster, "a report of each node", |topology| is_told(topology, nodes)).await
}

/// As [`until`], in a cluster that has nodes without META.
async fn until_members(
    cluster: &Cluster,
    what: &str,
    holds: impl Fn(&Topology) -> bool,
) -> Topology {
    let held = async {
        loop {
            let founders = cluster.nodes.values().filter(|node| node.meta_status().is_some());
            let all: Vec<_> = founders.map(NodeHandle::applied_topology).collect();
            if !all.is_empty() && all.iter().all(|one| *one == all[0] && holds(one)) {
                return Topology::clone(&all[0]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANGS, held).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_proposed_to_the_leader_of_meta_and_worked_on_by_whoever_leads_next() {
    let mut cluster = Cluster::start(3, 2, Settings::default()).await;
    until(&cluster, "reports", |topology| is_told(topology, &[1, 2, 3])).await;
    let leader = leader_of_meta(&cluster).await;
    let follower = [1, 2, 3].map(NodeId).into_iter().find(|node| *node != leader).unwrap();
    let told = propose(&cluster, follower, drain(7, 2)).await.unwrap();
    let Outcome::Elsewhere(elsewhere) = told else { panic!("{told:?}") };
    assert_eq!(NodeId(elsewhere.leader), leader);
    assert_eq!(elsewhere.address, cluster.config.node(leader).unwrap().address);

    let told = propose_to_leader(&cluster, drain(7, 2)).await;
    assert!(matches!(told, Outcome::Version(_)), "{told:?}");
    let drained = until(&cluster, "node 2 is preferred nowhere", |topology| {
        let prefers = |shard: &Shard| shard.preference.is_some_and(|is| is.node != NodeId(2));
        topology.node(NodeId(2)).unwrap().state == NodeState::Draining
            && topology.shards().values().all(prefers)
    })
    .await;
    assert_eq!(drained.job_of(RequestId(7)), Some(JobId(1)));
    // The same request starts no second job.
    let told = propose_to_leader(&cluster, drain(7, 2)).await;
    assert!(matches!(told, Outcome::Version(_)), "{told:?}");
    assert_eq!(agreed(&cluster, drained.version()).await.cluster().last_job, 1);

    let leader = leader_of_meta(&cluster).await;
    cluster.crash(leader).await;
    leader_of_meta(&cluster).await;
    cluster.restart(leader).await;
    let told = propose_to_leader(&cluster, undrain(9, 9)).await;
    let Outcome::Refusal(refusal) = told else { panic!("{told:?}") };
    assert_eq!(Refusal::decode(&refusal), Ok(Refusal::UnknownNode(NodeId(9))));
    // The drain is done, or it ends here.
    propose_to_leader(&cluster, Command::Cancel { job: JobId(1) }).await;
    let told = propose_to_leader(&cluster, undrain(10, 2)).await;
    assert!(matches!(told, Outcome::Version(_)), "{told:?}");
    until(&cluster, "node 2 serves", |topology| {
        topology.node(NodeId(2)).unwrap().state == NodeState::Serving
            && topology.running().count() == 0
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_wrong_callers_change_nothing() {
    let cluster = Cluster::start(3, 1, Settings::default()).await;
    let known = until(&cluster, "reports", |topology| is_told(topology, &[1, 2, 3])).await;
    let leader = leader_of_meta(&cluster).await;
    let mut client = client(&cluster, leader).await;
    let proposal = Proposal::new(1, drain(7, 2)).encode();
    let anonymous = Request::new(ProposeRequest { proposal: proposal.clone(), accepted: None });
    let refused = client.propose(anonymous).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let mut misled = Request::new(ProposeRequest { proposal, accepted: None });
    cluster.identity(leader.0 % 3 + 1).put(misled.metadata_mut());
    assert_eq!(client.propose(misled).await.unwrap_err().code(), Code::FailedPrecondition);
    let of_controller = Command::Prefer { shard: META, node: NodeId(1) };
    let refused = propose(&cluster, leader, of_controller).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let node = known.node(NodeId(1)).unwrap();
    let told = NodeTold {
        node: NodeId(9),
        address: "127.0.0.1:9".into(),
        zone: None,
        store: node.store.unwrap(),
        start: node.start,
        levels: node.levels.unwrap(),
        binary: node.binary.clone(),
    };
    let report =
        Report { heard_ms: 0, told, replicas: Default::default(), behind: Default::default() }
            .encode();
    let mut request = Request::new(ReportRequest { report, behind: Vec::new() });
    cluster.identity(leader.0).put(request.metadata_mut());
    let refused = client.report(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    rounds(&cluster, 3).await;
    assert_eq!(wishes(&agreed(&cluster, known.version()).await), wishes(&known));
    let follower = NodeId(leader.0 % 3 + 1);
    let elsewhere = cluster.nodes[&follower].propose(drain(8, 2)).await;
    assert_eq!(elsewhere, Err(NotApplied::NotLeader));
    cluster.stop_all().await;
}
