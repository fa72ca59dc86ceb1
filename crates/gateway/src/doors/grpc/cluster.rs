//! The service for the topology and its changes. A change is on record with its outcome.

use super::{timeout, timeout_ms};
use crate::cluster::{Call, told};
use crate::doors::single::Single;
use crate::permissions::{Method, method};
use crate::record::Recorded;
use crate::visitor::Visitor;
use routing::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use topology::{Command, JobId, RequestId, Version};
use wire::limits::REQUEST_ID_BYTES;
use wire::v1::cluster_service_server::ClusterService;
use wire::v1::*;

/// The gRPC service for operators.
pub(crate) struct Clusters(pub(crate) Single);

impl Clusters {
    /// # Errors
    /// If the gateway ends or is busy, or the visitor may not do this.
    fn admit(&self, visitor: &Visitor, path: &str, of: &'static str) -> Result<(), Box<Error>> {
        let Some(Method::Cluster(verb)) = method(path) else {
            return Err(Box::new(Error::internal(format!("{path} has no row of permissions"))));
        };
        self.0.not_ending()?;
        self.0.router.within_rate_of(visitor, None, || 1)?;
        self.0.router.permit_cluster(visitor, verb, of)
    }

    /// Makes a change, and records it, also if its client hangs up meanwhile.
    async fn change(
        &self,
        visitor: &Visitor,
        call: &mut Call<'_>,
        operation: &'static str,
        name: String,
        command: Command,
    ) -> Result<Version, Box<Error>> {
        let recorded = Recorded::of_change(&self.0.router.audit, visitor, operation, name);
        let done = call.propose(command).await;
        recorded.changed(&done);
        done
    }

    async fn topology(
        &self,
        visitor: &Visitor,
        mut call: Call<'_>,
        request: GetTopologyRequest,
    ) -> Result<GetTopologyResponse, Box<Error>> {
        self.admit(visitor, "/palisade.v1.ClusterService/GetTopology", "get_topology")?;
        let _permit = self.0.router.admission.call()?;
        self.0.hold_scan(visitor)?;
        let topology = call.topology(Version(request.at_least_version)).await?;
        Ok(GetTopologyResponse { topology: Some(told::topology(&topology)) })
    }

    async fn start(
        &self,
        visitor: &Visitor,
        mut call: Call<'_>,
        request: StartJobRequest,
    ) -> Result<StartJobResponse, Box<Error>> {
        self.admit(visitor, "/palisade.v1.ClusterService/StartJob", "start_job")?;
        let _permit = self.0.router.admission.call()?;
        let id = <[u8; REQUEST_ID_BYTES]>::try_from(&*request.request_id).map_err(|_| {
            Error::invalid("the request id must be 16 random bytes: choose them once for each job")
        })?;
        let id = RequestId(u128::from_be_bytes(id));
        let kind = told::job_kind(&request.job.unwrap_or_default())?;
        let _place = self.0.router.admission.scan()?; // the whole topology is read below
        let name = told::job_in_words(&kind);
        let command = Command::Job { request: id, kind };
        let version = self.change(visitor, &mut call, "start_job", name, command).await?;
        let topology = call.topology(version).await.map_err(|error| {
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

    async fn cancel(
        &self,
        visitor: &Visitor,
        mut call: Call<'_>,
        request: CancelJobRequest,
    ) -> Result<CancelJobResponse, Box<Error>> {
        self.admit(visitor, "/palisade.v1.ClusterService/CancelJob", "cancel_job")?;
        let _permit = self.0.router.admission.call()?;
        let (name, job) = (format!("job {}", request.job), JobId(request.job));
        let command = Command::Cancel { job };
        let version = self.change(visitor, &mut call, "cancel_job", name, command).await?;
        Ok(CancelJobResponse { version: version.0 })
    }

    async fn activate(
        &self,
        visitor: &Visitor,
        mut call: Call<'_>,
        request: ActivateLevelRequest,
    ) -> Result<ActivateLevelResponse, Box<Error>> {
        self.admit(visitor, "/palisade.v1.ClusterService/ActivateLevel", "activate_level")?;
        let _permit = self.0.router.admission.call()?;
        let ActivateLevelRequest { level } = request;
        if level == 0 {
            let why =
                "the request has no level: see `palisade cluster upgrade` for those there are";
            return Err(Box::new(Error::invalid(why)));
        }
        let (name, command) = (format!("level {level}"), Command::ActivateLevel { level });
        let version = self.change(visitor, &mut call, "activate_level", name, command).await?;
        Ok(ActivateLevelResponse { version: version.0 })
    }

    async fn rebuild(
        &self,
        visitor: &Visitor,
        mut call: Call<'_>,
        request: RebuildTopologyRequest,
    ) -> Result<RebuildTopologyResponse, Box<Error>> {
        self.admit(visitor, "/palisade.v1.ClusterService/RebuildTopology", "rebuild_topology")?;
        let _permit = self.0.router.admission.call()?;
        let _place = self.0.router.admission.scan()?; // whole topologies are read
        let lost: BTreeSet<NodeId> = request.lost_nodes.iter().copied().map(NodeId).collect();
        let built = if request.dry_run {
            call.rebuild(&lost, true).await?
        } else {
            let named: Vec<String> = lost.iter().map(ToString::to_string).collect();
            let name = format!("rebuild the topology without nodes [{}]", named.join(", "));
            let audit = &self.0.router.audit;
            let recorded = Recorded::of_change(audit, visitor, "rebuild_topology", name);
            let built = call.rebuild(&lost, false).await;
            recorded.changed(&built);
            built?
        };
        Ok(RebuildTopologyResponse {
            generation: built.generation,
            topology: Some(told::topology(&built.rebuilt.topology)),
            losses: built.rebuilt.losses.iter().map(ToString::to_string).collect(),
            answering_nodes: built.answering.keys().map(|node| node.0).collect(),
        })
    }

    /// A call that answers before its client gives up.
    fn call(&self, metadata: &MetadataMap) -> Call<'_> {
        let patience = timeout(metadata);
        let time = patience.map(|all| Duration::from_millis(timeout_ms(all, 0).into()));
        Call::within(&self.0.router, time)
    }
}

fn answered<T>(outcome: Result<T, Box<Error>>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| (*error).into())
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_topology(
        &self,
        mut request: Request<GetTopologyRequest>,
    ) -> Result<Response<GetTopologyResponse>, Status> {
        let (call, visitor) = (self.call(request.metadata()), Visitor::take(&mut request));
        answered(self.topology(&visitor, call, request.into_inner()).await)
    }

    async fn start_job(
        &self,
        mut request: Request<StartJobRequest>,
    ) -> Result<Response<StartJobResponse>, Status> {
        let (call, visitor) = (self.call(request.metadata()), Visitor::take(&mut request));
        answered(self.start(&visitor, call, request.into_inner()).await)
    }

    async fn cancel_job(
        &self,
        mut request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let (call, visitor) = (self.call(request.metadata()), Visitor::take(&mut request));
        answered(self.cancel(&visitor, call, request.into_inner()).await)
    }

    async fn activate_level(
        &self,
        mut request: Request<ActivateLevelRequest>,
    ) -> Result<Response<ActivateLevelResponse>, Status> {
        let (call, visitor) = (self.call(request.metadata()), Visitor::take(&mut request));
        answered(self.activate(&visitor, call, request.into_inner()).await)
    }

    async fn rebuild_topology(
        &self,
        mut request: Request<RebuildTopologyRequest>,
    ) -> Result<Response<RebuildTopologyResponse>, Status> {
        let (call, visitor) = (self.call(request.metadata()), Visitor::take(&mut request));
        answered(self.rebuild(&visitor, call, request.into_inner()).await)
    }
}
