//! The service for the topology: what META's replica here knows of it, reports and changes.

use super::propose;
use super::strangers::Strangers;
use crate::context::Context;
use crate::lifecycle::Phase;
use crate::limits::TOPOLOGY_LOOK_EVERY;
use crate::roles::Caller;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use topology::Version;
use wire::internal::v1::topology_service_server::TopologyService;
use wire::internal::v1::watch_topology_response::Change;
use wire::internal::v1::{
    ProposeRequest, ProposeResponse, ReportRequest, ReportResponse, WatchTopologyRequest,
    WatchTopologyResponse,
};

/// The service for the topology.
pub(crate) struct Topologies {
    context: Arc<Context>,
    strangers: Strangers,
}

impl Topologies {
    pub(crate) fn new(context: Arc<Context>) -> Topologies {
        Topologies { strangers: Strangers::new(context.clone()), context }
    }
}

#[tonic::async_trait]
impl TopologyService for Topologies {
    type WatchStream = ReceiverStream<Result<WatchTopologyResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.context.lifecycle.draining() {
            return Err(Status::unavailable("this node is shutting down: watch another one"));
        }
        self.strangers.check(&request)?;
        let mut known = Version(request.into_inner().version);
        let (changes, stream) = mpsc::channel(1);
        let context = self.context.clone();
        let tell = async move {
            while !changes.is_closed() {
                let topology = context.board.topology.now();
                if topology.version() > known {
                    known = topology.version();
                    let change = Some(Change::All(topology.encode()));
                    let _ = changes.send(Ok(WatchTopologyResponse { change })).await;
                }
                tokio::time::sleep(TOPOLOGY_LOOK_EVERY).await;
            }
        };
        let context = self.context.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = context.lifecycle.reached(Phase::Draining) => {}
                () = tell => {}
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        self.context.identity.put(response.metadata_mut());
        Ok(response)
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        self.strangers.check(&request)?;
        let caller = Caller::of(request.extensions());
        propose::report(&self.context, &caller, request.into_inner()).map(Response::new)
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        self.strangers.check(&request)?;
        let caller = Caller::of(request.extensions());
        propose::propose(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }
}
