//! The topology of the cluster and changes of it, for programs of operators.

use crate::{
    ChangePlan, Client, ClusterTopology, Error, JobSpec, PlanChange, RebuiltTopology, RequestId,
    SettingChange, StartedJob, unary,
};
use std::time::Duration;
use wire::OperationKind;
use wire::v1;

/// The kind that decides retries of a read.
const READ: OperationKind = OperationKind::ClusterStatus;
/// The kind that decides retries of a change: a try without an answer leaves doubt, and the change
/// may be repeated, as the close of a session.
const CHANGE: OperationKind = OperationKind::CloseSession;
/// The kind of a change that is not repeated while its outcome is in doubt.
const REBUILD: OperationKind = OperationKind::Break;
/// The least time for it. All nodes are asked in each of its steps, and some of them in vain.
const REBUILD_TIME: Duration = Duration::from_secs(60);

impl Client {
    /// The topology: nodes, members of shards and jobs, of this version or a later one.
    ///
    /// # Errors
    /// If no gateway answers, or no node tells the topology.
    pub async fn topology(&self, at_least_version: u64) -> Result<ClusterTopology, Error> {
        let told = self
            .rpc(READ, |channel, timeout| async move {
                let request = v1::GetTopologyRequest { at_least_version };
                let mut service = unary::cluster_service(channel);
                let answer = service.get_topology(unary::timed(request, timeout)).await;
                answer.map(|response| response.into_inner())
            })
            .await?;
        told.topology.ok_or_else(|| Error::confused("a topology"))
    }

    /// Starts a job, which the cluster works on by itself. A repeated request id starts it once.
    /// `at_version` is the version of the topology that it was planned at, if that must not have
    /// changed since.
    ///
    /// # Errors
    /// If the job is refused, VERSION_MOVED, or if no leader takes it. After OUTCOME_UNKNOWN it may run: start it again
    /// with the same request id.
    pub async fn start_job(
        &self,
        request_id: RequestId,
        job: JobSpec,
        at_version: Option<u64>,
    ) -> Result<StartedJob, Error> {
        let request = v1::StartJobRequest {
            request_id: request_id.to_vec(),
            job: Some(job),
            at_version: at_version.unwrap_or_default(),
        };
        self.rpc(CHANGE, |channel, timeout| {
            let request = unary::timed(request.clone(), timeout);
            async move {
                let answer = unary::cluster_service(channel).start_job(request).await;
                answer.map(|response| response.into_inner())
            }
        })
        .await
    }

    /// Ends a job. What it did stays done. Returns the version of the topology in which it has
    /// ended.
    ///
    /// # Errors
    /// If there is no such job, it has ended otherwise, or no leader takes the change. After
    /// OUTCOME_UNKNOWN it may have ended: cancel it again.
    pub async fn cancel_job(&self, job: u64, at_version: Option<u64>) -> Result<u64, Error> {
        let request = v1::CancelJobRequest { job, at_version: at_version.unwrap_or_default() };
        let cancelled = self
            .rpc(CHANGE, |channel, timeout| async move {
                let request = unary::timed(request, timeout);
                let answer = unary::cluster_service(channel).cancel_job(request).await;
                answer.map(|response| response.into_inner())
            })
            .await?;
        Ok(cancelled.version)
    }

    /// Activates a level of formats and commands. It never falls, so the program before cannot be used
    /// afterwards. Returns the version of the topology with it.
    ///
    /// # Errors
    /// If a node has not told that it knows the level, or no leader takes the change. After
    /// OUTCOME_UNKNOWN it may be active: activate it again.
    pub async fn activate_level(&self, level: u32) -> Result<u64, Error> {
        let activated = self
            .rpc(CHANGE, |channel, timeout| async move {
                let request = unary::timed(v1::ActivateLevelRequest { level }, timeout);
                let answer = unary::cluster_service(channel).activate_level(request).await;
                answer.map(|response| response.into_inner())
            })
            .await?;
        Ok(activated.version)
    }

    /// Builds the topology again from what nodes know, after its group was lost for ever, and founds
    /// that group anew. `lost_nodes` are those whose data are gone for good. A dry run shows what would
    /// be founded.
    ///
    /// # Errors
    /// If the group has a leader, or a node does not answer and is not named as lost. After
    /// OUTCOME_UNKNOWN it may have been founded: look at the topology.
    pub async fn rebuild_topology(
        &self,
        lost_nodes: &[u64],
        dry_run: bool,
    ) -> Result<RebuiltTopology, Error> {
        let request = v1::RebuildTopologyRequest { lost_nodes: lost_nodes.to_vec(), dry_run };
        let time = self.options().timeout.max(REBUILD_TIME);
        self.rpc_within(REBUILD, time, |channel, timeout| {
            let request = unary::timed(request.clone(), timeout);
            async move {
                let answer = unary::cluster_service(channel).rebuild_topology(request).await;
                answer.map(|response| response.into_inner())
            }
        })
        .await
    }

    /// Changes a setting of the cluster. Returns the version of the topology with it.
    ///
    /// # Errors
    /// If the value is refused, VERSION_MOVED, or if no leader takes the change. After
    /// OUTCOME_UNKNOWN it may have been changed: change it again.
    pub async fn change_setting(
        &self,
        setting: SettingChange,
        at_version: Option<u64>,
    ) -> Result<u64, Error> {
        let at_version = at_version.unwrap_or_default();
        let request = v1::ChangeSettingRequest { setting: Some(setting), at_version };
        let changed = self
            .rpc(CHANGE, |channel, timeout| async move {
                let request = unary::timed(request, timeout);
                let answer = unary::cluster_service(channel).change_setting(request).await;
                answer.map(|response| response.into_inner())
            })
            .await?;
        Ok(changed.version)
    }

    /// What a change would lead to. Nothing is changed.
    ///
    /// # Errors
    /// If the change would be refused, or no leader plans it.
    pub async fn plan_change(&self, change: PlanChange) -> Result<ChangePlan, Error> {
        let request = v1::PlanChangeRequest { change: Some(change) };
        let planned = self
            .rpc(READ, |channel, timeout| async move {
                let request = unary::timed(request, timeout);
                let answer = unary::cluster_service(channel).plan_change(request).await;
                answer.map(|response| response.into_inner())
            })
            .await?;
        planned.plan.ok_or_else(|| Error::confused("a plan"))
    }
}
