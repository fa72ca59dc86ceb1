//! What other processes tell the leader of META: reports of nodes, and changes that operators want.
//!
//! * A report is taken from the node that it is of, as far as certificates prove that.
//! * A change may be looked at before it is made. A job to which something is objected as things
//!   stand is not proposed.
//! * Other processes propose what operators want, and nodes what they are. All other commands are
//!   the controller's, which runs on META's leader.
//! * A node that does not lead META says which node does, as far as it knows.
//!
//! The callers' clusters are checked before. This module knows nothing of plans.

use crate::context::Context;
use crate::giving_way::giving_way;
use crate::limits::{PREVIEWS_AT_ONCE, PROPOSALS_AT_ONCE};
use crate::proposals::{self, NotApplied};
use crate::roles::Caller;
use routing::{META, NodeId, ShardId};
use std::sync::Arc;
use tonic::Status;
use topology::plan::{self, Report, Reports};
use topology::{Command, JobKind, Proposal, Refusal, Topology};
use wire::internal::v1::propose_response::Outcome;
use wire::internal::v1::{
    Accepted, NotMetaLeader, PreviewRequest, PreviewResponse, ProposeRequest, ProposeResponse,
    ReportRequest, ReportResponse, preview_response,
};

/// Takes the report of a node, if META is led here.
///
/// # Errors
/// A status, if the report is damaged, or is of another node than its caller or of one that is not
/// in the topology.
pub(crate) fn report(
    context: &Context,
    caller: &Caller,
    request: ReportRequest,
) -> Result<ReportResponse, Status> {
    check_running(context)?;
    let now = context.clock.now();
    let report = Report::decode(&request.report, now.wall_ms)
        .map_err(|error| Status::invalid_argument(format!("the report is damaged: {error}")))?;
    let behind = request.behind.iter().map(|one| (ShardId(one.shard), NodeId(one.node)));
    let report = Report { behind: behind.collect(), ..report };
    let node = report.told.node;
    if !caller.may_be(node) {
        return Err(refused(
            context,
            caller,
            format!("a node reports for itself, not for node {node}"),
        ));
    }
    let topology = context.board.topology.now();
    let is_former = |known: &topology::Node| report.told.start < known.start;
    if topology.node(node).is_some_and(is_former) {
        return Err(Status::failed_precondition(format!(
            "node {node} has started again since: stop this process, or start it anew"
        )));
    }
    if topology.is_founded() && topology.node(node).is_none() {
        return Err(Status::failed_precondition(format!(
            "node {node} is not in the topology of this cluster: let it join first"
        )));
    }
    let is_taken = context.controller.take(&context.board, now, report);
    Ok(ReportResponse { elsewhere: (!is_taken).then(|| elsewhere(context)) })
}

/// Proposes a change, if META is led here, and answers its outcome.
///
/// # Errors
/// A status, if the caller may not propose this, or it is not known whether the change was made.
pub(crate) async fn propose(
    context: &Context,
    caller: &Caller,
    request: ProposeRequest,
) -> Result<ProposeResponse, Status> {
    let proposal = admitted(context, caller, &request.proposal)?;
    if let Some(sight) = Sight::of(context)
        && let Some(refusal) = sight.objection(&proposal.command, request.accepted)?
    {
        let outcome = Some(Outcome::Refusal(refusal.encode()));
        return Ok(ProposeResponse { outcome });
    }
    let _permit = context.proposals.try_acquire().map_err(|_| {
        Status::resource_exhausted(format!(
            "{PROPOSALS_AT_ONCE} changes of the topology are under way here: try again in a moment"
        ))
    })?;
    // Births come from the time of a command, so all times are of the clocks of META's leaders.
    let wall_s = context.clock.now().wall_ms / 1_000;
    let joiner = match &proposal.command {
        Command::NodeIs { told } => Some(told.clone()),
        _ => None,
    };
    let outcome = match proposals::propose(context, &Proposal { wall_s, ..proposal }).await {
        Ok(version) => {
            if let Some(told) = joiner {
                context.controller.hear_joiner(&context.board, context.clock.now(), told);
            }
            context.controller.wake(); // an operator waits for what follows
            Outcome::Version(version.0)
        }
        Err(NotApplied::Refused(refusal)) => Outcome::Refusal(refusal.encode()),
        Err(NotApplied::NotLeader) => Outcome::Elsewhere(elsewhere(context)),
        Err(error @ NotApplied::Busy) => return Err(Status::resource_exhausted(error.to_string())),
        Err(error @ NotApplied::Unknown) => return Err(Status::unknown(error.to_string())),
    };
    Ok(ProposeResponse { outcome: Some(outcome) })
}

/// Tells what a change would lead to, if META is led here.
///
/// # Errors
/// A status, if the caller may not propose this, or too little is known yet.
pub(crate) async fn preview(
    context: &Context,
    caller: &Caller,
    request: PreviewRequest,
) -> Result<PreviewResponse, Status> {
    use preview_response::Outcome;
    let proposal = admitted(context, caller, &request.proposal)?;
    let Some(sight) = Sight::of(context) else {
        return Ok(PreviewResponse { outcome: Some(Outcome::Elsewhere(elsewhere(context))) });
    };
    if matches!(proposal.command, Command::Job { .. } | Command::Set { .. }) {
        sight.check_reports()?;
    }
    let objection = sight.objection(&proposal.command, request.accepted)?;
    let permit = context.previews.clone().try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(format!(
            "{PREVIEWS_AT_ONCE} previews are worked out here already: try again in a moment"
        ))
    })?;
    // It is a plan for each step of the change, and there may be thousands.
    let planned = giving_way(move || {
        let Sight { topology, reports, now_ms } = sight;
        let planned = plan::preview(&topology, &reports, now_ms, &proposal.command);
        drop(permit); // it is held until then, also if the caller has gone
        planned
    });
    let planned = planned.await.map_err(|error| Status::internal(error.to_string()))?;
    let outcome = match (planned, objection) {
        (Err(refusal), _) | (Ok(_), Some(refusal)) => Outcome::Refusal(refusal.encode()),
        (Ok(preview), None) => Outcome::Preview(preview.encode()),
    };
    Ok(PreviewResponse { outcome: Some(outcome) })
}

/// The proposal in these bytes, if this node may take it from the caller.
fn admitted(context: &Context, caller: &Caller, bytes: &[u8]) -> Result<Proposal, Status> {
    check_running(context)?;
    let proposal = Proposal::decode(bytes)
        .map_err(|error| Status::invalid_argument(format!("the proposal is damaged: {error}")))?;
    if let Err(why) = may_propose(&proposal.command, caller) {
        return Err(refused(context, caller, why));
    }
    Ok(proposal)
}

/// What the controller here would plan with.
struct Sight {
    topology: Arc<Topology>,
    reports: Reports,
    now_ms: u64,
}

impl Sight {
    /// `None` if META is not led here.
    fn of(context: &Context) -> Option<Sight> {
        let (reports, now_ms) = context.controller.sight(&context.board, context.clock.now())?;
        Some(Sight { topology: context.board.topology.now(), reports, now_ms })
    }

    /// The reason why a job should not begin as things stand. A job that has begun is not objected
    /// to, because its request may come again.
    ///
    /// # Errors
    /// If nodes that live may not have reported yet.
    fn objection(
        &self,
        command: &Command,
        accepted: Option<Accepted>,
    ) -> Result<Option<Refusal>, Status> {
        let Command::Job { request, kind } = command else { return Ok(None) };
        if self.topology.job_of(*request).is_some() {
            return Ok(None);
        }
        let Accepted { no_spare, other_zone } = accepted.unwrap_or_default();
        let accepted = plan::Accepted { no_spare, other_zone };
        if matches!(kind, JobKind::Replicas { .. }) && !no_spare {
            self.check_reports()?;
        }
        Ok(plan::objection(&self.topology, &self.reports, self.now_ms, kind, accepted))
    }

    /// # Errors
    /// If nodes that live may not have reported yet.
    fn check_reports(&self) -> Result<(), Status> {
        match self.reports.are_awaited(&self.topology, self.now_ms) {
            true => Err(Status::resource_exhausted(
                "this node leads the group of the topology since a moment ago, and waits for the \
                 first reports of all nodes: try again in some seconds",
            )),
            false => Ok(()),
        }
    }
}

/// Whether a process may propose this.
fn may_propose(command: &Command, caller: &Caller) -> Result<(), String> {
    match command {
        Command::Job { .. }
        | Command::Cancel { .. }
        | Command::Set { .. }
        | Command::ActivateLevel { .. } => Ok(()),
        Command::NodeIs { told } if caller.may_be(told.node) => Ok(()),
        Command::NodeIs { told } => {
            Err(format!("a node tells what it is itself, and not what node {} is", told.node))
        }
        Command::Bootstrap { .. }
        | Command::Refound { .. }
        | Command::SetNodeState { .. }
        | Command::Want { .. }
        | Command::Is { .. }
        | Command::Prefer { .. }
        | Command::JobProgress { .. } => {
            Err("only the controller proposes this: start a job in its place".to_owned())
        }
    }
}

fn refused(context: &Context, caller: &Caller, why: String) -> Status {
    context.audit.record(caller.refused(why.clone()));
    Status::permission_denied(why)
}

fn check_running(context: &Context) -> Result<(), Status> {
    if context.lifecycle.draining() {
        return Err(Status::unavailable("this node is shutting down: ask another one"));
    }
    match context.later_generation() {
        Some(later) => Err(Status::failed_precondition(format!(
            "the topology was built again as generation {later}, which this node does not know \
             yet: ask another one"
        ))),
        None => Ok(()),
    }
}

/// The node that leads META, as far as this node knows.
fn elsewhere(context: &Context) -> NotMetaLeader {
    let Some(status) = context.board.get(META) else { return NotMetaLeader::default() };
    let leader = status.leader.filter(|leader| *leader != context.id);
    let address = leader.and_then(|leader| context.addresses(leader).into_iter().next());
    NotMetaLeader {
        leader: leader.map_or(0, |leader| leader.0),
        address: address.unwrap_or_default(),
        term: status.term,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;
    use routing::{NodeId, ShardId};
    use shard::Role;
    use std::collections::{BTreeMap, BTreeSet};
    use tonic::Code;
    use topology::{Levels, NodeTold, RequestId, StoreId};

    fn told(node: u64) -> NodeTold {
        NodeTold {
            node: NodeId(node),
            address: "two:1".into(),
            zone: None,
            store: StoreId([2; 16]),
            start: Default::default(),
            levels: Levels { min: 1, max: 1 },
            binary: "1".into(),
        }
    }

    fn by(node: Option<u64>) -> Caller {
        let mut caller = Caller::at("two:1");
        caller.node = node.map(NodeId);
        caller.is_certified = node.is_some();
        caller
    }

    fn gateway() -> Caller {
        let mut caller = by(None);
        caller.is_certified = true;
        caller
    }

    fn request_of(node: u64) -> ReportRequest {
        let report = Report {
            heard_ms: 0,
            told: told(node),
            replicas: BTreeMap::new(),
            behind: Default::default(),
        };
        ReportRequest { report: report.encode(), behind: Vec::new() }
    }

    fn leads_meta(context: &Context, role: Role, leader: Option<u64>) {
        context.board.admit(META);
        context.board.publish(shard::Status {
            shard: META,
            node: context.id,
            term: 6,
            role,
            leader: leader.map(NodeId),
            ..Default::default()
        });
    }

    #[test]
    fn a_report_is_of_its_caller_and_taken_where_meta_is_led() {
        let (context, _inbox) = context(NodeId(1), 8);
        let elsewhere = |answer: Result<ReportResponse, Status>| answer.unwrap().elsewhere;
        let unknown = elsewhere(report(&context, &by(None), request_of(2)));
        assert_eq!(unknown, Some(NotMetaLeader::default()), "no replica of META is here");
        leads_meta(&context, Role::Follower, Some(2));
        let hint = elsewhere(report(&context, &by(Some(2)), request_of(2))).unwrap();
        assert_eq!((hint.leader, hint.term), (2, 6));
        assert_eq!(Some(&hint.address), context.addresses(NodeId(2)).first());
        leads_meta(&context, Role::Leader, Some(1));
        assert_eq!(elsewhere(report(&context, &by(Some(2)), request_of(2))), None);
        let other = report(&context, &by(Some(3)), request_of(2)).unwrap_err();
        assert_eq!(other.code(), Code::PermissionDenied);
        let damaged = ReportRequest { report: vec![1, 2, 3], behind: Vec::new() };
        let damaged = report(&context, &by(None), damaged).unwrap_err();
        assert_eq!(damaged.code(), Code::InvalidArgument);
    }

    /// A former process of a node once spoke for it beside the present one.
    #[test]
    fn a_report_of_a_former_start_is_refused() {
        let (context, _inbox) = context(NodeId(1), 8);
        leads_meta(&context, Role::Leader, Some(1));
        let mut topology = topology::Topology::default();
        let seed = topology::Seed::of(&routing::ClusterConfig::dev(2, 3, 20_000).unwrap());
        let mut later = told(2);
        later.start.starts = 5;
        for command in [Command::Bootstrap { seed }, Command::NodeIs { told: later }] {
            topology.apply(&Proposal::new(7, command)).unwrap().unwrap();
        }
        context.board.topology.take(shard::TopologyNews::All(Box::new(topology))).unwrap();
        let refused = report(&context, &by(None), request_of(2)).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("has started again"), "{}", refused.message());
    }

    #[test]
    fn other_processes_propose_what_operators_want_and_what_they_are() {
        let job = Command::Job { request: RequestId(1), kind: JobKind::Drain { node: NodeId(3) } };
        for caller in [by(None), by(Some(3)), gateway()] {
            assert!(may_propose(&job, &caller).is_ok(), "{caller:?}");
        }
        let node_is = Command::NodeIs { told: told(2) };
        assert!(may_propose(&node_is, &by(None)).is_ok());
        assert!(may_propose(&node_is, &by(Some(2))).is_ok());
        assert!(may_propose(&node_is, &by(Some(3))).is_err());
        let want = Command::Want { shard: ShardId(1), members: BTreeSet::from([NodeId(1)]) };
        let prefer = Command::Prefer { shard: ShardId(1), node: NodeId(1) };
        for command in [want, prefer] {
            assert!(may_propose(&command, &by(Some(1))).is_err(), "{command:?}");
        }
    }

    /// A gateway's certificate once sufficed to give any node another address.
    #[test]
    fn a_gateway_does_not_tell_what_a_node_is() {
        let refused = may_propose(&Command::NodeIs { told: told(2) }, &gateway());
        assert!(refused.unwrap_err().contains("a node tells what it is itself"));
    }

    #[tokio::test]
    async fn a_proposal_is_not_lost_in_silence() {
        let (context, _inbox) = context(NodeId(1), 8);
        let command =
            Command::Job { request: RequestId(1), kind: JobKind::Drain { node: NodeId(3) } };
        let proposal = Proposal::new(1, command).encode();
        let request = ProposeRequest { proposal, accepted: None };
        let answer = propose(&context, &by(None), request.clone()).await.unwrap();
        assert_eq!(answer.outcome, Some(Outcome::Elsewhere(NotMetaLeader::default())));
        let mut damaged = request.clone();
        damaged.proposal[7] ^= 1;
        let error = propose(&context, &by(None), damaged).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let _all = context.proposals.acquire_many(PROPOSALS_AT_ONCE as u32).await.unwrap();
        let full = propose(&context, &by(None), request).await.unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted);
        context.lifecycle.enter(crate::lifecycle::Phase::Draining);
        let ending = report(&context, &by(None), request_of(2)).unwrap_err();
        assert_eq!(ending.code(), Code::Unavailable);
    }
    /// Node 1 leads META of three nodes, of which nodes 2 and 3 are in zones of their own.
    fn in_zones() -> std::sync::Arc<Context> {
        let (context, _inbox) = context(NodeId(1), 8);
        leads_meta(&context, Role::Leader, Some(1));
        let mut topology = topology::Topology::default();
        let seed = topology::Seed::of(&routing::ClusterConfig::dev(2, 3, 20_000).unwrap());
        topology.apply(&Proposal::new(7, Command::Bootstrap { seed })).unwrap();
        for node in [2, 3] {
            let zone = Some(format!("z{node}"));
            let start = routing::AddressVersion { incarnation: 0, starts: 1 };
            let told = NodeTold { zone, start, store: StoreId([node as u8; 16]), ..told(node) };
            topology.apply(&Proposal::new(7, Command::NodeIs { told })).unwrap().unwrap();
        }
        context.board.topology.take(shard::TopologyNews::All(Box::new(topology))).unwrap();
        context
    }

    fn job(kind: JobKind) -> Vec<u8> {
        Proposal::new(1, Command::Job { request: RequestId(1), kind }).encode()
    }

    #[tokio::test]
    async fn a_job_to_which_reports_object_is_not_proposed() {
        let context = in_zones();
        let proposal = job(JobKind::ReplaceNode { old: NodeId(3), new: NodeId(2) });
        let request = ProposeRequest { proposal: proposal.clone(), accepted: None };
        let answer = propose(&context, &by(None), request).await.unwrap();
        let Some(Outcome::Refusal(refusal)) = answer.outcome else { panic!("{answer:?}") };
        let refusal = Refusal::decode(&refusal).unwrap();
        assert!(matches!(refusal, Refusal::OtherZone { .. }), "{refusal}");
        // Nobody knows yet which members are silent.
        let fewer = ProposeRequest {
            proposal: job(JobKind::Replicas { count: 1, shard: None }),
            accepted: None,
        };
        let early = propose(&context, &by(None), fewer).await.unwrap_err();
        assert_eq!(early.code(), Code::ResourceExhausted, "{early}");
        assert!(early.message().contains("first reports"), "{early}");
    }

    #[tokio::test]
    async fn a_preview_is_made_where_meta_is_led_once_all_have_reported() {
        let context = in_zones();
        let drain =
            PreviewRequest { proposal: job(JobKind::Drain { node: NodeId(3) }), accepted: None };
        let early = preview(&context, &by(None), drain.clone()).await.unwrap_err();
        assert_eq!(early.code(), Code::ResourceExhausted, "{early}");
        for node in 1..=3 {
            let mut request = request_of(node);
            let mut report = Report::decode(&request.report, 0).unwrap();
            report.told.start = routing::AddressVersion { incarnation: 0, starts: 2 };
            request.report = report.encode();
            super::report(&context, &by(Some(node)), request).unwrap();
        }
        let told = preview(&context, &by(None), drain.clone()).await.unwrap().outcome;
        let Some(preview_response::Outcome::Preview(told)) = told else { panic!("{told:?}") };
        let told = plan::Preview::decode(&told).unwrap();
        assert_eq!(told.version, context.board.topology.now().version());
        assert!(!told.is_done && told.why.is_some(), "no shard has a leader: {told:?}");
        // Regression: previews ran beside each other without a bound, also for callers that had gone.
        let all = context.previews.clone().acquire_many_owned(PREVIEWS_AT_ONCE as u32).await;
        let busy = preview(&context, &by(None), drain.clone()).await.unwrap_err();
        assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");
        drop(all);
        let unknown =
            PreviewRequest { proposal: job(JobKind::Drain { node: NodeId(9) }), accepted: None };
        let refused = preview(&context, &by(None), unknown).await.unwrap().outcome;
        assert!(matches!(refused, Some(preview_response::Outcome::Refusal(_))), "{refused:?}");
        leads_meta(&context, Role::Follower, Some(2));
        let elsewhere = preview(&context, &by(None), drain).await.unwrap().outcome;
        assert!(matches!(elsewhere, Some(preview_response::Outcome::Elsewhere(_))));
    }
}
