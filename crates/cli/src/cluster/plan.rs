//! `--dry-run`: what a change would lead to, as the cluster would plan it now.

use crate::args::Remote;
use crate::failure::Failure;
use crate::output::{emit, print_json, print_table};
use crate::shown::shown;
use crate::verbs;
use client::PlanChange;
use wire::json::{ChangePlan, LeaderPlan, MemberStep, ShardPlan};

/// How many leaderships are shown.
const LEADERS_SHOWN: usize = 20;

/// Shows what a change would lead to.
///
/// # Errors
/// If the change would be refused, or no leader plans it.
pub(super) async fn show(remote: &Remote, change: PlanChange, what: &str) -> Result<(), Failure> {
    let client = verbs::connect(&remote.gateways)?;
    let plan = ChangePlan::from(&client.plan_change(change).await?);
    if remote.json {
        print_json(&plan);
        return Ok(());
    }
    emit(&format!("{what}: {}", in_short(&plan)));
    if !plan.shards.is_empty() {
        let header = ["shard", "steps", "voters heard of"].map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(header).chain(plan.shards.iter().map(way)).collect();
        print_table(&rows);
        emit("each shard keeps a quorum at each step");
    }
    leaders(&plan.leaders).iter().for_each(|line| emit(line));
    if !plan.why.is_empty() {
        emit(&format!("it would wait: {}", shown(&plan.why)));
    } else if !plan.is_done {
        emit("it goes on from there: there are more steps than are looked ahead");
    }
    emit(&format!(
        "topology version {0}; with --at-version {0} the change is made only if nothing else has \
         changed",
        plan.version
    ));
    Ok(())
}

/// How much a plan moves.
fn in_short(plan: &ChangePlan) -> String {
    let count = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    match (plan.shards.len(), plan.leaders.len()) {
        (0, 0) => "moves no replica and no leadership".to_owned(),
        (shards, 0) => format!("changes the members of {}", count(shards, "shard", "shards")),
        (0, leaders) => format!("moves {}", count(leaders, "leadership", "leaderships")),
        (shards, leaders) => format!(
            "changes the members of {}, and moves {}",
            count(shards, "shard", "shards"),
            count(leaders, "leadership", "leaderships")
        ),
    }
}

/// The row of a shard.
fn way(shard: &ShardPlan) -> Vec<String> {
    let step = |step: &MemberStep| format!("{} {}", step.step, step.node);
    vec![
        name(shard.shard),
        shard.steps.iter().map(step).collect::<Vec<_>>().join(", "),
        format!("{} of {}", shard.heard_voters, shard.voters),
    ]
}

fn leaders(moves: &[LeaderPlan]) -> Vec<String> {
    let line = |next: &LeaderPlan| {
        let LeaderPlan { shard, from_node, to_node } = next;
        format!("node {to_node} leads shard {} in place of node {from_node}", name(*shard))
    };
    let mut lines: Vec<String> = moves.iter().take(LEADERS_SHOWN).map(line).collect();
    if moves.len() > LEADERS_SHOWN {
        lines.push(format!(
            "and {} leaderships more: --json shows all",
            moves.len() - LEADERS_SHOWN
        ));
    }
    lines
}

/// A shard as `palisade cluster topology` shows it.
fn name(shard: u32) -> String {
    match shard == routing::META.0 {
        true => "topology".to_owned(),
        false => shard.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shards: usize, leaders: usize) -> ChangePlan {
        let step = |step: &str, node| MemberStep { step: step.into(), node };
        let shard = ShardPlan {
            shard: 7,
            steps: vec![step("add", 9), step("promote", 9), step("remove", 3)],
            voters: 5,
            heard_voters: 4,
        };
        ChangePlan {
            version: 57,
            shards: vec![shard; shards],
            leaders: vec![LeaderPlan { shard: 7, from_node: 3, to_node: 2 }; leaders],
            is_done: true,
            why: String::new(),
        }
    }

    #[test]
    fn a_plan_has_a_row_for_each_shard() {
        let plan = plan(1, 1);
        assert_eq!(way(&plan.shards[0]), ["7", "add 9, promote 9, remove 3", "4 of 5"]);
        assert_eq!(leaders(&plan.leaders), ["node 2 leads shard 7 in place of node 3"]);
        assert_eq!(in_short(&plan), "changes the members of 1 shard, and moves 1 leadership");
    }

    #[test]
    fn many_leaderships_are_counted() {
        let plan = plan(0, 30);
        assert_eq!(in_short(&plan), "moves 30 leaderships");
        let lines = leaders(&plan.leaders);
        assert_eq!((lines.len(), &*lines[20]), (21, "and 10 leaderships more: --json shows all"));
    }
}
