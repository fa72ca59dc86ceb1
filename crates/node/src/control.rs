//! Carries the controller's plans out, while META is led here.
//!
//! The commands of a plan are proposed in order, up to the first that is refused. Then the controller
//! plans anew. A plan has no command that would change nothing, so a cluster at rest costs META no
//! entries.

use crate::context::Context;
use crate::limits::{CONTROL_EVERY, CONTROL_PAUSE};
use crate::proposals::{NotApplied, propose};
use std::sync::Arc;
use tokio::time::MissedTickBehavior;
use topology::Proposal;

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
    let (controller, topology) = (&context.controller, context.board.topology.now());
    let Some((wall_s, plan)) = controller.plan(&context.board, context.clock.now(), &topology)
    else {
        return;
    };
    for command in plan.commands {
        let proposal = Proposal::new(wall_s, command);
        match propose(context, &proposal).await {
            Ok(version) => {
                tracing::info!(%version, change = ?proposal.command, "the topology has changed");
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
