//! Carries the controller's plans out, while META is led here.
//!
//! The commands of a plan are proposed in order, up to the first that is refused. Then the controller
//! plans anew. It also does so if another change comes between two commands, because an operator may
//! have cancelled their job, or paused all plans. A plan has no command that would change nothing, so a cluster at rest costs META no
//! entries.

use crate::context::Context;
use crate::limits::{CONTROL_EVERY, CONTROL_PAUSE};
use crate::proposals::{NotApplied, propose};
use std::sync::Arc;
use tokio::time::MissedTickBehavior;
use topology::Refusal;
use topology::plan::proposals;

/// Plans and proposes, while META is led here, until the future is dropped.
pub(crate) async fn control(context: Arc<Context>) {
    let mut every = tokio::time::interval(CONTROL_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = context.controller.has_news() => {}
        }
        round(&context).await;
        tokio::time::sleep(CONTROL_PAUSE).await;
    }
}

async fn round(context: &Context) {
    if context.later_generation().is_some() {
        return; // another group has taken over from the one that is led here
    }
    let (controller, topology) = (&context.controller, context.board.topology.now());
    let Some((wall_s, plan)) = controller.plan(&context.board, context.clock.now(), &topology)
    else {
        return;
    };
    for proposal in proposals(wall_s, topology.version(), plan.commands) {
        match propose(context, &proposal).await {
            Ok(version) => {
                tracing::info!(%version, change = ?proposal.command, "the topology has changed");
            }
            Err(NotApplied::Refused(Refusal::VersionMoved { now, .. })) => {
                tracing::debug!(version = %now, "another change came between: planning anew");
                controller.wake();
                break;
            }
            Err(NotApplied::Refused(refusal)) => {
                tracing::info!(change = ?proposal.command, "a planned change was refused: {refusal}");
                break;
            }
            Err(error) => {
                tracing::debug!(%error, "a planned change was not made");
                break;
            }
        }
    }
    controller.finished_round();
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::{ClusterConfig, NodeId};
    use topology::{Command, JobId, JobKind, NodeState, Proposal, RequestId, Seed, Topology};

    /// A job went on for the rest of the plan that was under way when it was cancelled.
    #[test]
    fn a_plan_ends_where_a_job_is_cancelled() {
        let mut topology = Topology::default();
        let seed = Seed::of(&ClusterConfig::dev(2, 3, 20_000).unwrap());
        let kind = JobKind::Drain { node: NodeId(1) };
        for command in [Command::Bootstrap { seed }, Command::Job { request: RequestId(1), kind }] {
            topology.apply(&Proposal::new(7, command)).unwrap();
        }
        let drains = |node| Command::SetNodeState { node, state: NodeState::Draining };
        let plan = [1, 2, 3].map(NodeId).map(drains).to_vec();
        let mut proposals = proposals(8, topology.version(), plan);
        for _ in 0..2 {
            topology.apply(&proposals.next().unwrap()).unwrap().unwrap();
        }
        topology.apply(&Proposal::new(8, Command::Cancel { job: JobId(1) })).unwrap();
        let refused = topology.apply(&proposals.next().unwrap());
        assert!(matches!(refused, Err(Refusal::VersionMoved { .. })), "{refused:?}");
    }
}
