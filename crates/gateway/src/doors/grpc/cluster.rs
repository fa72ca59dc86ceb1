//! The service for the topology and its changes.

use super::{timeout, timeout_ms};
use crate::doors::clusters::ClusterCall;
use crate::doors::single::Single;
use crate::visitor::Visitor;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wire::v1::cluster_service_server::ClusterService;
use wire::v1::*;

/// The gRPC service for operators.
pub(crate) struct Clusters(pub(crate) Single);

impl Clusters {
    /// A call that is counted, and answers before its client gives up.
    ///
    /// # Errors
    /// If the gateway ends, or the visitor is above its rate.
    fn call<'a>(
        &'a self,
        visitor: &'a Visitor,
        time: Option<Duration>,
    ) -> Result<ClusterCall<'a>, Box<Error>> {
        self.0.not_ending()?;
        self.0.router.within_rate_of(visitor, None, || 1)?;
        Ok(ClusterCall::within(&self.0, visitor, time))
    }
}

/// The time that a call may take, so that its answer comes before its client gives up.
fn time_of(metadata: &MetadataMap) -> Option<Duration> {
    timeout(metadata).map(|all| Duration::from_millis(timeout_ms(all, 0).into()))
}

macro_rules! served {
    ($self:expr, $request:expr, $method:ident) => {{
        let mut request = $request;
        let (time, visitor) = (time_of(request.metadata()), Visitor::take(&mut request));
        let served = async { $self.call(&visitor, time)?.$method(request.into_inner()).await };
        served.await.map_err(|error: Box<Error>| Status::from(*error))
    }};
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_topology(
        &self,
        mut request: Request<GetTopologyRequest>,
    ) -> Result<Response<GetTopologyResponse>, Status> {
        let (time, visitor) = (time_of(request.metadata()), Visitor::take(&mut request));
        let at_least = request.into_inner().at_least_version;
        let served = async { self.call(&visitor, time)?.topology(at_least).await };
        let topology = served.await.map_err(|error: Box<Error>| Status::from(*error))?;
        Ok(Response::new(GetTopologyResponse { topology: Some(topology) }))
    }

    async fn start_job(
        &self,
        request: Request<StartJobRequest>,
    ) -> Result<Response<StartJobResponse>, Status> {
        served!(self, request, start).map(Response::new)
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        served!(self, request, cancel).map(Response::new)
    }

    async fn change_setting(
        &self,
        request: Request<ChangeSettingRequest>,
    ) -> Result<Response<ChangeSettingResponse>, Status> {
        served!(self, request, change_setting).map(Response::new)
    }

    async fn plan_change(
        &self,
        request: Request<PlanChangeRequest>,
    ) -> Result<Response<PlanChangeResponse>, Status> {
        let plan = served!(self, request, plan_change)?;
        Ok(Response::new(PlanChangeResponse { plan: Some(plan) }))
    }

    async fn activate_level(
        &self,
        request: Request<ActivateLevelRequest>,
    ) -> Result<Response<ActivateLevelResponse>, Status> {
        served!(self, request, activate_level).map(Response::new)
    }

    async fn rebuild_topology(
        &self,
        request: Request<RebuildTopologyRequest>,
    ) -> Result<Response<RebuildTopologyResponse>, Status> {
        served!(self, request, rebuild_topology).map(Response::new)
    }
}
