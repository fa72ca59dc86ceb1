//! Calls about the topology, as gRPC and HTTP have them: permitted, served, recorded.
//!
//! A change is on record with its outcome. This module knows nothing of how the topology is found
//! and changed.

use super::single::Single;
use crate::cluster::{Call, Change, rebuild_from_nodes, told};
use crate::permissions::{Method, method};
use crate::record::Recorded;
use crate::visitor::Visitor;
use routing::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use topology::{RequestId, Version};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::plan_change_request::Change as Planned;
use wire::v1::*;

/// One call about the topology.
pub(crate) struct ClusterCall<'a> {
    single: &'a Single,
    visitor: &'a Visitor,
    call: Call<'a>,
}

impl<'a> ClusterCall<'a> {
    /// A call that was counted already. It may take so long, if its client says so.
    pub(crate) fn within(
        single: &'a Single,
        visitor: &'a Visitor,
        time: Option<Duration>,
    ) -> ClusterCall<'a> {
        ClusterCall { single, visitor, call: Call::within(&single.router, time) }
    }

    /// The topology, of this version or a later one.
    ///
    /// # Errors
    /// If the visitor may not see it, or no node tells it.
    pub(crate) async fn topology(mut self, at_least: u64) -> Result<ClusterTopology, Box<Error>> {
        self.permit("GetTopology", "get_topology")?;
        let _permit = self.single.router.admission.call()?;
        self.single.hold_scan(self.visitor)?;
        Ok(told::topology(&self.call.topology(Version(at_least)).await?))
    }

    /// Starts a job.
    ///
    /// # Errors
    /// If the visitor may not, the job is refused, or no leader takes it.
    pub(crate) async fn start(
        mut self,
        request: StartJobRequest,
    ) -> Result<StartJobResponse, Box<Error>> {
        self.permit("StartJob", "start_job")?;
        let _permit = self.single.router.admission.call()?;
        let id = <[u8; REQUEST_ID_BYTES]>::try_from(&*request.request_id).map_err(|_| {
            Error::invalid("the request id must be 16 random bytes: choose them once for each job")
        })?;
        let id = RequestId(u128::from_be_bytes(id));
        let change = told::start(id, &request.job.unwrap_or_default(), request.at_version)?;
        let _place = self.single.router.admission.scan()?; // the whole topology is read below
        let version = self.change("start_job", &change).await?;
        let topology = self.call.topology(version).await.map_err(|error| {
            Error::outcome_unknown(format!(
                "the job was started, and its number could not be read ({}): ask again with the \
                 same request id, or see `palisade cluster jobs`",
                error.message
            ))
        })?;
        match topology.job_of(id) {
            Some(job) => Ok(StartJobResponse { job: job.0, version: version.0 }),
            None => Err(Box::new(Error::outcome_unknown(
                "the job was started and is not among the last ones any more: see `palisade \
                 cluster jobs`",
            ))),
        }
    }

    /// Ends a job.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub(crate) async fn cancel(
        mut self,
        request: CancelJobRequest,
    ) -> Result<CancelJobResponse, Box<Error>> {
        self.permit("CancelJob", "cancel_job")?;
        let _permit = self.single.router.admission.call()?;
        let change = told::cancel(request.job, request.at_version);
        let version = self.change("cancel_job", &change).await?;
        Ok(CancelJobResponse { version: version.0 })
    }

    /// Changes a setting of the cluster.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub(crate) async fn change_setting(
        mut self,
        request: ChangeSettingRequest,
    ) -> Result<ChangeSettingResponse, Box<Error>> {
        self.permit("ChangeSetting", "change_setting")?;
        let _permit = self.single.router.admission.call()?;
        let change = told::set(request.setting, request.at_version)?;
        let version = self.change("change_setting", &change).await?;
        Ok(ChangeSettingResponse { version: version.0 })
    }

    /// Tells what a change would lead to.
    ///
    /// # Errors
    /// If the visitor may not see it, the change would be refused, or no leader plans it.
    pub(crate) async fn plan_change(
        mut self,
        request: PlanChangeRequest,
    ) -> Result<ChangePlan, Box<Error>> {
        self.permit("PlanChange", "plan_change")?;
        let _permit = self.single.router.admission.call()?;
        self.single.hold_scan(self.visitor)?;
        let change = match request.change {
            Some(Planned::Job(job)) => told::start(RequestId(rand::random()), &job, 0)?,
            Some(Planned::CancelJob(job)) => told::cancel(job, 0),
            Some(Planned::Setting(setting)) => told::set(Some(setting), 0)?,
            None => {
                return Err(Box::new(Error::invalid(
                    "the request has no change that this gateway knows: use a newer gateway",
                )));
            }
        };
        Ok(told::plan(&self.call.preview(&change).await?))
    }

    /// Activates a level of formats and commands.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub(crate) async fn activate_level(
        mut self,
        request: ActivateLevelRequest,
    ) -> Result<ActivateLevelResponse, Box<Error>> {
        self.permit("ActivateLevel", "activate_level")?;
        let _permit = self.single.router.admission.call()?;
        let version = self.change("activate_level", &told::activate(request.level)?).await?;
        Ok(ActivateLevelResponse { version: version.0 })
    }

    /// Builds the topology again from what nodes know. It goes on if its client hangs up: nodes that
    /// have given the former group up without a new one would be left with none.
    ///
    /// # Errors
    /// If the visitor may not, the topology is not lost, or what nodes tell makes none.
    pub(crate) async fn rebuild_topology(
        self,
        request: RebuildTopologyRequest,
    ) -> Result<RebuildTopologyResponse, Box<Error>> {
        self.permit("RebuildTopology", "rebuild_topology")?;
        let _permit = self.single.router.admission.call()?;
        let _place = self.single.router.admission.scan()?; // whole topologies are read
        let lost: BTreeSet<NodeId> = request.lost_nodes.iter().copied().map(NodeId).collect();
        let built = if request.dry_run {
            rebuild_from_nodes(&self.single.router, &lost, true).await?
        } else {
            let named: Vec<String> = lost.iter().map(ToString::to_string).collect();
            let name = format!("rebuild the topology without nodes [{}]", named.join(", "));
            let audit = &self.single.router.audit;
            let recorded = Recorded::of_change(audit, self.visitor, "rebuild_topology", name);
            let router = self.single.router.clone();
            to_its_end(async move {
                let built = rebuild_from_nodes(&router, &lost, false).await;
                recorded.changed(&built);
                built
            })
            .await?
        };
        Ok(RebuildTopologyResponse {
            generation: built.generation,
            topology: Some(told::topology(&built.rebuilt.topology)),
            losses: built.rebuilt.losses.iter().map(ToString::to_string).collect(),
            answering_nodes: built.answering.keys().map(|node| node.0).collect(),
        })
    }

    /// # Errors
    /// If the visitor may not call this method of `ClusterService`.
    fn permit(&self, name: &str, of: &'static str) -> Result<(), Box<Error>> {
        let path = format!("/palisade.v1.ClusterService/{name}");
        let Some(Method::Cluster(verb)) = method(&path) else {
            return Err(Box::new(Error::internal(format!("{path} has no row of permissions"))));
        };
        self.single.router.permit_cluster(self.visitor, verb, of)
    }

    /// Makes a change, and records it, also if its client hangs up meanwhile.
    async fn change(
        &mut self,
        operation: &'static str,
        change: &Change,
    ) -> Result<Version, Box<Error>> {
        let (audit, name) = (&self.single.router.audit, told::in_words(change));
        let recorded = Recorded::of_change(audit, self.visitor, operation, name);
        let done = self.call.propose(change).await;
        recorded.changed(&done);
        done
    }
}

/// Does work in a task of its own, which ends it even if the caller goes away.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Box<Error>>> + Send + 'static,
) -> Result<T, Box<Error>> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Box::new(Error::outcome_unknown("this gateway is shutting down"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// Regression: a client that gave up ended the rebuilding of a topology between its steps.
    #[tokio::test]
    async fn work_goes_on_if_its_caller_goes_away() {
        let (go_on, gone) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let work = to_its_end(async move {
            let _ = gone.await;
            done.send(()).map_err(|()| Box::new(Error::internal("nobody waits")))
        });
        let mut work = Box::pin(work);
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        go_on.send(()).expect("it goes on");
        ended.await.expect("it came to its end");
    }
}
