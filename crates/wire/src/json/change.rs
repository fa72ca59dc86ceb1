//! Changes of the topology as documents: their outcomes, and what they would lead to.

use super::topology::Job;
use crate::v1;
use serde::Serialize;

/// The jobs of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Jobs {
    /// Those that run, and the last ones that ended, by number.
    pub jobs: Vec<Job>,
}

/// The start of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobStarted {
    /// The number of the job.
    pub job: u64,
    /// The version of the topology with the job.
    pub version: u64,
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// The version of the topology with the change.
    pub version: u64,
}

/// What a change would lead to, if no node fails and no other change comes between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangePlan {
    /// The version of the topology that it was planned at.
    pub version: u64,
    /// The shards that get other members, in the order in which they begin.
    pub shards: Vec<ShardPlan>,
    /// The leaderships that move, in that order.
    pub leaders: Vec<LeaderPlan>,
    /// Whether it would come to its end, as things stand.
    pub is_done: bool,
    /// Why it would not; empty if it would.
    pub why: String,
}

/// The way of one shard to other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShardPlan {
    /// The number of the shard.
    pub shard: u32,
    /// The changes of single members, in order. Each leaves a quorum of voters that are heard of.
    pub steps: Vec<MemberStep>,
    /// How many voters it has before.
    pub voters: u32,
    /// How many of them are heard of.
    pub heard_voters: u32,
}

/// One change of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberStep {
    /// `add`: it comes without a vote. `promote`: it gets its vote. `remove`: it goes.
    pub step: String,
    /// The node of the member.
    pub node: u64,
}

/// A leadership that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaderPlan {
    /// The number of the shard.
    pub shard: u32,
    /// The node that leads it now.
    pub from_node: u64,
    /// The node that leads it then.
    pub to_node: u64,
}

impl From<&v1::ChangePlan> for ChangePlan {
    fn from(plan: &v1::ChangePlan) -> ChangePlan {
        let step = |step: &v1::MemberStep| MemberStep { step: step.step.clone(), node: step.node };
        let shard = |shard: &v1::ShardPlan| ShardPlan {
            shard: shard.shard,
            steps: shard.steps.iter().map(step).collect(),
            voters: shard.voters,
            heard_voters: shard.heard_voters,
        };
        let leader = |leader: &v1::LeaderPlan| LeaderPlan {
            shard: leader.shard,
            from_node: leader.from_node,
            to_node: leader.to_node,
        };
        ChangePlan {
            version: plan.version,
            shards: plan.shards.iter().map(shard).collect(),
            leaders: plan.leaders.iter().map(leader).collect(),
            is_done: plan.is_done,
            why: plan.why.clone(),
        }
    }
}
