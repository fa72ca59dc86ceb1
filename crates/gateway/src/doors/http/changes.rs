//! The requests about the topology over HTTP: their fields, and the changes that they become.
//!
//! * A field has the name that the same thing has in the topology, or on the command line.

use super::requests::duration_ms;
use schemars::JsonSchema;
use serde::Deserialize;
use wire::v1::plan_change_request::Change;
use wire::v1::setting_change::Setting;
use wire::v1::{Error, JobKind, JobSpec, SettingChange};

/// Starts a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartJob {
    /// What is to be done.
    kind: Kind,
    /// The id of the node that it is about: not of `REPLICAS` and `REBALANCE_…`.
    node: Option<u64>,
    /// Of `REPLACE_NODE`: the id of the node that comes.
    new_node: Option<u64>,
    /// Of `REPLICAS`: the number of members.
    replicas: Option<u32>,
    /// Of `REPLICAS`: only this shard. Default: all shards.
    shard: Option<u32>,
    /// Of `REPLICAS`: a shard may need every voter that is heard of on its way.
    #[serde(default)]
    accept_no_spare: bool,
    /// Of `REPLACE_NODE`: the new node may be in another zone.
    #[serde(default)]
    accept_other_zone: bool,
    /// The version of the topology that it was planned at: if the topology has changed since, the
    /// job is refused with `VERSION_MOVED`. Default: any.
    pub(super) at_version: Option<u64>,
}

/// The kind of a job.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Kind {
    /// Take leaderships away from `node`, so that it can be stopped.
    Drain,
    /// Let `node` serve again.
    Undrain,
    /// Put `new_node` in the place of `node`, and remove `node` for good.
    ReplaceNode,
    /// Move all replicas of `node` elsewhere, and remove it for good.
    RemoveNode,
    /// Change the number of members.
    Replicas,
    /// Move replicas from nodes with many to nodes with few.
    RebalanceMembers,
    /// Move leaderships from nodes with much load to nodes with little.
    RebalanceLeaders,
}

/// Changes one setting of the cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeSetting {
    /// After how long without a sign of a node its replicas are replaced: `"30m"`, or `"off"`.
    repair_after: Option<String>,
    /// Whether jobs and repairs rest.
    paused: Option<bool>,
    /// The version of the topology that it was planned at: if the topology has changed since, the
    /// change is refused with `VERSION_MOVED`. Default: any.
    pub(super) at_version: Option<u64>,
}

/// Shows what one change would lead to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanChange {
    /// A job to start, with the fields of `POST /v1/cluster/jobs`.
    job: Option<StartJob>,
    /// The number of a job to end.
    cancel_job: Option<u64>,
    /// A setting to change, with the fields of `POST /v1/cluster/settings`.
    setting: Option<ChangeSetting>,
}

/// Ends a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelJob {
    /// The version of the topology that it was planned at: if the topology has changed since, the
    /// job goes on, and the request is refused with `VERSION_MOVED`. Default: any.
    pub(super) at_version: Option<u64>,
}

impl StartJob {
    /// # Errors
    /// INVALID_ARGUMENT if a field is missing.
    pub(super) fn spec(&self) -> Result<JobSpec, Box<Error>> {
        let kind = match self.kind {
            Kind::Drain => JobKind::Drain,
            Kind::Undrain => JobKind::Undrain,
            Kind::ReplaceNode => JobKind::ReplaceNode,
            Kind::RemoveNode => JobKind::RemoveNode,
            Kind::Replicas => JobKind::Replicas,
            Kind::RebalanceMembers => JobKind::RebalanceMembers,
            Kind::RebalanceLeaders => JobKind::RebalanceLeaders,
        };
        let is_of_cluster = matches!(
            kind,
            JobKind::Replicas | JobKind::RebalanceMembers | JobKind::RebalanceLeaders
        );
        for (name, is_needed, is_given) in [
            ("node", !is_of_cluster, self.node.is_some()),
            ("new_node", kind == JobKind::ReplaceNode, self.new_node.is_some()),
            ("replicas", kind == JobKind::Replicas, self.replicas.is_some()),
        ] {
            match (is_needed, is_given) {
                (true, false) => return Err(invalid(format!("this job needs `{name}`: give it"))),
                (false, true) => {
                    return Err(invalid(format!("this job has no `{name}`: leave it out")));
                }
                _ => {}
            }
        }
        if self.shard.is_some() && kind != JobKind::Replicas {
            return Err(invalid("this job has no `shard`: leave it out"));
        }
        Ok(JobSpec {
            kind: kind.into(),
            node: self.node.unwrap_or_default(),
            new_node: self.new_node.unwrap_or_default(),
            replicas: self.replicas.unwrap_or_default(),
            shard: self.shard,
            accept_no_spare: self.accept_no_spare,
            accept_other_zone: self.accept_other_zone,
        })
    }
}

impl ChangeSetting {
    /// # Errors
    /// INVALID_ARGUMENT if it is not exactly one setting, or no duration.
    pub(super) fn change(&self) -> Result<SettingChange, Box<Error>> {
        let setting = match (self.repair_after.as_deref(), self.paused) {
            (Some("off"), None) => Setting::RepairAfterS(0),
            (Some(after), None) => {
                let after_ms = duration_ms(after).ok_or_else(|| {
                    invalid("`repair_after` is no duration: write it as \"30m\", or \"off\"")
                })?;
                // A part of a second is too short in any case.
                Setting::RepairAfterS((after_ms / 1_000).max(1))
            }
            (None, Some(paused)) => Setting::Paused(paused),
            _ => return Err(invalid("give one setting: `repair_after` or `paused`")),
        };
        Ok(SettingChange { setting: Some(setting) })
    }
}

impl PlanChange {
    /// # Errors
    /// INVALID_ARGUMENT if it is not exactly one change.
    pub(super) fn change(&self) -> Result<Change, Box<Error>> {
        match (&self.job, self.cancel_job, &self.setting) {
            (Some(job), None, None) => Ok(Change::Job(job.spec()?)),
            (None, Some(job), None) => Ok(Change::CancelJob(job)),
            (None, None, Some(setting)) => Ok(Change::Setting(setting.change()?)),
            _ => Err(invalid("give one change: `job`, `cancel_job` or `setting`")),
        }
    }
}

fn invalid(message: impl Into<String>) -> Box<Error> {
    Box::new(Error::invalid(message))
}
