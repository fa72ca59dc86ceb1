//! The topology and its changes through a gateway: who may, to whom they go, and what is on record.

use crate::fake::Fakes;
use crate::identified::{Door, Files, Who, answer_all, code_of, signed};
use crate::recorded::{line, started};
use client::{JobKind, JobSpec, PlanChange, Setting};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Status;
use wire::v1::cluster_service_client::ClusterServiceClient;
use wire::v1::*;

const POLICY: &str = r#"
roles:
  watcher: { observe: true }
  operator: { observe: true, operate: true }
bindings:
  - { identities: [reader], roles: [watcher] }
  - { identities: [operator], roles: [operator] }
"#;

const LONG: Duration = Duration::from_secs(30);

fn drain(node: u64) -> JobSpec {
    JobSpec { kind: JobKind::Drain.into(), node, ..JobSpec::default() }
}

fn start(request: u8, node: u64) -> StartJobRequest {
    let (request_id, job) = (vec![request; 16], Some(drain(node)));
    StartJobRequest { request_id, job, at_version: 0 }
}

fn pause() -> ChangeSettingRequest {
    let setting = Some(SettingChange { setting: Some(Setting::Paused(true)) });
    ChangeSettingRequest { setting, at_version: 0 }
}

fn planning(node: u64) -> PlanChangeRequest {
    PlanChangeRequest { change: Some(PlanChange::Job(drain(node))) }
}

fn code(answer: Result<(), Status>) -> Option<ErrorCode> {
    answer.err().map(|status| code_of(&status))
}

#[tokio::test]
async fn only_operators_change_the_cluster_and_each_change_is_on_record() {
    let files = Files::of(POLICY);
    let fakes = files.start_audited(started(&files), answer_all).await;
    let door = Door::of(&fakes).await;
    let client = || ClusterServiceClient::new(door.channel());
    let (unknown, denied) = (Some(ErrorCode::Unauthenticated), Some(ErrorCode::PermissionDenied));
    for (who, sees, changes) in [
        (Who::Nameless, unknown, unknown),
        (Who::Guesser, unknown, unknown),
        (Who::Named("holder"), denied, denied),
        (Who::Named("reader"), None, denied),
    ] {
        let topology = client().get_topology(signed(GetTopologyRequest::default(), who)).await;
        assert_eq!(code(topology.map(drop)), sees, "{who:?}");
        let started = client().start_job(signed(start(1, 2), who)).await;
        assert_eq!(code(started.map(drop)), changes, "{who:?}");
        let cancelled =
            client().cancel_job(signed(CancelJobRequest { job: 1, at_version: 0 }, who)).await;
        assert_eq!(code(cancelled.map(drop)), changes, "{who:?}");
        let level = ActivateLevelRequest { level: 2 };
        let activated = client().activate_level(signed(level, who)).await;
        assert_eq!(code(activated.map(drop)), changes, "{who:?}");
        let set = client().change_setting(signed(pause(), who)).await;
        assert_eq!(code(set.map(drop)), changes, "{who:?}");
        let planned = client().plan_change(signed(planning(2), who)).await;
        assert_eq!(code(planned.map(drop)), sees, "{who:?}");
    }
    assert!(fakes.topologies.asked.lock().unwrap().is_empty(), "a change reached a node");
    let refused = line(&files, "start_job").await;
    assert_eq!((&refused["event"], &refused["principal"]), (&"denied".into(), &"reader".into()));

    let operator = Who::Named("operator");
    let job = client().start_job(signed(start(1, 2), operator)).await.unwrap().into_inner();
    assert_eq!((job.job, job.version), (1, 2));
    let recorded = line(&files, "drain node 2").await;
    let words = |field: &str| recorded[field].as_str().unwrap_or_default();
    assert_eq!(
        (words("event"), words("principal"), words("operation"), words("why")),
        ("cluster_change", "operator", "start_job", "")
    );
    let no_node = client().start_job(signed(start(2, 9), operator)).await;
    assert_eq!(code(no_node.map(drop)), Some(ErrorCode::InvalidArgument));
    let recorded = line(&files, "drain node 9").await;
    assert_eq!(recorded["why"], "failed: there is no node 9: see `palisade cluster nodes`");
    client()
        .cancel_job(signed(CancelJobRequest { job: 1, at_version: 0 }, operator))
        .await
        .unwrap();
    assert_eq!(line(&files, "cancel_job").await["name"], "job 1");
    let level = |level| signed(ActivateLevelRequest { level }, operator);
    let refused = client().activate_level(level(2)).await;
    assert_eq!(code(refused.map(drop)), Some(ErrorCode::InvalidArgument));
    let recorded = line(&files, "level 2").await;
    assert_eq!(recorded["operation"], "activate_level");
    let why = recorded["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("failed: nodes 1, 2 and 3 have not told of level 2"), "{why}");
    assert_eq!(
        code(client().activate_level(level(0)).await.map(drop)),
        Some(ErrorCode::InvalidArgument)
    );
    let topology = client().get_topology(signed(GetTopologyRequest::default(), operator)).await;
    let topology = topology.unwrap().into_inner().topology.unwrap();
    assert_eq!((topology.version, &*topology.jobs[0].state), (3, "cancelled"));
    client().change_setting(signed(pause(), operator)).await.unwrap();
    assert_eq!(line(&files, "change_setting").await["name"], "pause jobs and repairs");
}

#[tokio::test]
async fn a_plan_comes_from_the_leader_and_changes_nothing() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    *fakes.topologies.leader.lock().unwrap() = Some(3);
    let client = fakes.client(LONG);
    let plan = client.plan_change(PlanChange::Job(drain(2))).await.unwrap();
    assert_eq!((plan.version, plan.is_done), (1, false));
    assert!(plan.why.contains("no leader that reports"), "{}", plan.why);
    let refused = client.plan_change(PlanChange::Job(drain(9))).await.unwrap_err();
    assert!(refused.is_invalid() && refused.message.contains("no node 9"), "{refused}");
    let unknown = client.plan_change(PlanChange::CancelJob(7)).await.unwrap_err();
    assert!(unknown.message.contains("there is no job 7"), "{unknown}");
    assert_eq!(client.topology(0).await.unwrap().version, 1);
    assert!(fakes.topologies.asked.lock().unwrap().is_empty(), "a change was proposed");
    *fakes.topologies.leader.lock().unwrap() = None;
    let client = fakes.client(Duration::from_secs(1));
    let nobody = client.plan_change(PlanChange::Job(drain(2))).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NoLeader, "{nobody}");
}

#[tokio::test]
async fn a_change_that_was_planned_at_another_version_is_refused() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    let client = fakes.client(LONG);
    let paused = |paused| SettingChange { setting: Some(Setting::Paused(paused)) };
    assert_eq!(client.change_setting(paused(true), Some(1)).await.unwrap(), 2);
    let moved = client.start_job([7; 16], drain(2), Some(1)).await.unwrap_err();
    assert_eq!(moved.code, ErrorCode::VersionMoved, "{moved}");
    assert!(moved.message.contains("(1 → 2): plan again"), "{}", moved.message);
    let moved = client.change_setting(paused(false), Some(1)).await.unwrap_err();
    assert_eq!(moved.code, ErrorCode::VersionMoved, "{moved}");
    let started = client.start_job([7; 16], drain(2), Some(2)).await.unwrap();
    // A repeated request is answered as the first one, although the topology has changed since.
    let again = client.start_job([7; 16], drain(2), Some(2)).await.unwrap();
    assert_eq!((again.job, again.version), (started.job, started.version));
    let moved = client.cancel_job(1, Some(2)).await.unwrap_err();
    assert_eq!(moved.code, ErrorCode::VersionMoved, "{moved}");
    client.cancel_job(1, Some(3)).await.unwrap();
}

#[tokio::test]
async fn the_risks_that_an_operator_takes_reach_the_leader() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    let client = fakes.client(LONG);
    let spec = JobSpec { accept_other_zone: true, ..drain(2) };
    client.start_job([7; 16], spec, None).await.unwrap();
    let accepted = fakes.topologies.accepted.lock().unwrap().unwrap();
    assert_eq!((accepted.no_spare, accepted.other_zone), (false, true));
}

#[tokio::test]
async fn a_change_goes_to_the_leader_by_the_word_of_another_node_and_once() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    *fakes.topologies.leader.lock().unwrap() = Some(3);
    let client = fakes.client(LONG);
    let started = client.start_job([7; 16], drain(2), None).await.unwrap();
    assert_eq!(fakes.topologies.asked.lock().unwrap().last(), Some(&3));
    assert!(fakes.topologies.asked.lock().unwrap().len() <= 2, "the first node names the leader");
    let again = client.start_job([7; 16], drain(2), None).await.unwrap();
    assert_eq!((again.job, again.version), (started.job, started.version));
    let busy = client.start_job([8; 16], drain(2), None).await.unwrap_err();
    assert!(busy.is_invalid() && busy.message.contains("job 1 is at work"), "{busy}");
    let topology = client.topology(started.version).await.unwrap();
    let told = (topology.nodes.len(), topology.shards.len(), topology.jobs.len());
    assert_eq!(told, (3, 2, 1));
    assert_eq!(topology.jobs[0].spec.unwrap(), drain(2));
}

#[tokio::test]
async fn without_a_leader_the_topology_is_shown_and_cannot_change() {
    let fakes = Fakes::start(2, 3, &[2], answer_all).await;
    *fakes.topologies.leader.lock().unwrap() = None;
    let mut service =
        ClusterServiceClient::connect(format!("http://{}", fakes.gateway.address())).await.unwrap();
    let refused = service.start_job(start(1, 2)).await.unwrap_err();
    let error = Error::from_status(&refused).unwrap();
    assert_eq!(error.code(), ErrorCode::NoLeader);
    assert!(error.message.contains("locks are served"), "{}", error.message);
    let topology = service.get_topology(GetTopologyRequest::default()).await.unwrap().into_inner();
    assert_eq!(topology.topology.unwrap().version, 1);
    let later = GetTopologyRequest { at_least_version: 9 };
    let later = service.get_topology(later).await.unwrap_err();
    let error = Error::from_status(&later).unwrap();
    assert!(error.message.contains("knows version 1 only"), "{}", error.message);
    let watched: Vec<u64> =
        fakes.topologies.watched.lock().unwrap().iter().map(|(node, _)| *node).collect();
    assert!(
        watched.len() <= 3,
        "each told the whole once in the call before, and in this: {watched:?}"
    );
    let nothing = StartJobRequest { request_id: vec![1; 16], job: None, at_version: 0 };
    let nothing = service.start_job(nothing).await.unwrap_err();
    assert_eq!(Error::from_status(&nothing).unwrap().code(), ErrorCode::InvalidArgument);
}

/// Regression: after a job was seen to be done, the topology was told without what it did, by a node
/// that had just started.
#[tokio::test]
async fn no_older_topology_is_told_than_before() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    let client = fakes.client(LONG);
    let older = fakes.topologies.topology.lock().unwrap().clone();
    let started = client.start_job([7; 16], drain(2), None).await.unwrap();
    assert_eq!(client.topology(started.version).await.unwrap().version, started.version);
    let newer = std::mem::replace(&mut *fakes.topologies.topology.lock().unwrap(), older.clone());
    let asked = fakes.topologies.watched.lock().unwrap().len();
    let catches_up = async {
        while fakes.topologies.watched.lock().unwrap().len() == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        *fakes.topologies.topology.lock().unwrap() = newer;
        // Those that were asked before follow by their streams, which the fakes do not.
        fakes.topologies.watched.lock().unwrap().clear();
    };
    let (told, ()) = tokio::join!(client.topology(0), catches_up);
    assert_eq!(told.unwrap().version, started.version);
    // A topology that all nodes have lost is better told as it is than not at all.
    *fakes.topologies.topology.lock().unwrap() = older.clone();
    assert_eq!(client.topology(0).await.unwrap().version, older.version().0);
}

/// The line was written after the answer, and so never for a client that hung up.
#[tokio::test]
async fn a_change_whose_client_hangs_up_is_on_record() {
    let files = Files::of(POLICY);
    let fakes = files.start_audited(started(&files), answer_all).await;
    fakes.topologies.is_silent.store(true, Ordering::Relaxed);
    let door = Door::of(&fakes).await;
    let call = {
        let mut client = ClusterServiceClient::new(door.channel());
        tokio::spawn(
            async move { client.start_job(signed(start(1, 2), Who::Named("operator"))).await },
        )
    };
    let proposed = async {
        while fakes.topologies.asked.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, proposed).await.expect("the change reaches a node");
    call.abort();
    let recorded = line(&files, "drain node 2").await;
    assert_eq!(recorded["why"], "outcome unknown: its client was gone");
}

/// A lost change counted as a read, so its error said that nothing was done.
#[tokio::test]
async fn a_change_that_is_not_answered_is_in_doubt() {
    let fakes = Fakes::start(2, 3, &[], answer_all).await;
    fakes.topologies.is_silent.store(true, Ordering::Relaxed);
    let client = fakes.client(Duration::from_secs(1));
    let started = client.start_job([7; 16], drain(2), None).await.unwrap_err();
    assert_eq!(started.code, ErrorCode::OutcomeUnknown, "{started}");
    assert_eq!(fakes.topologies.topology.lock().unwrap().jobs().len(), 1, "it was started");
    let cancelled = client.cancel_job(1, None).await.unwrap_err();
    assert_eq!(cancelled.code, ErrorCode::OutcomeUnknown, "{cancelled}");
    fakes.topologies.is_silent.store(false, Ordering::Relaxed);
    let again = client.start_job([7; 16], drain(2), None).await.unwrap();
    assert_eq!(again.job, 1);
}
