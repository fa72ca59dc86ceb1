//! The service of fake nodes for the topology: one topology for all, and one node that leads it.

use routing::ClusterConfig;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use topology::plan::{self, Reports};
use topology::{Command, Proposal, Seed, Topology};
use wire::internal::v1::propose_response::Outcome;
use wire::internal::v1::topology_service_server::{TopologyService, TopologyServiceServer};
use wire::internal::v1::topology_service_watch_response::Change;
use wire::internal::v1::*;

/// What all fake nodes have.
pub struct Topologies {
    pub topology: Mutex<Topology>,
    /// The node that leads. The others name it. `None`: no node takes changes.
    pub leader: Mutex<Option<u64>>,
    /// The nodes that were asked for changes, in order.
    pub asked: Mutex<Vec<u64>>,
    /// The risks that were taken with the last change that reached the leader.
    pub accepted: Mutex<Option<Accepted>>,
    /// The nodes that were asked for the topology, in order, each with its open stream.
    pub watched: Mutex<Vec<(u64, Watcher)>>,
    /// Whether changes are made and not answered.
    pub is_silent: AtomicBool,
    addresses: Mutex<BTreeMap<u64, String>>,
}

type Watcher = mpsc::Sender<Result<TopologyServiceWatchResponse, Status>>;

/// One node's part.
pub struct At {
    node: u64,
    all: Arc<Topologies>,
}

impl Topologies {
    pub fn of(config: &ClusterConfig) -> Topologies {
        let mut topology = Topology::default();
        let seed = Command::Bootstrap { seed: Seed::of(config) };
        topology.apply(&Proposal::new(7, seed)).unwrap();
        Topologies {
            topology: Mutex::new(topology),
            leader: Mutex::new(Some(1)),
            asked: Mutex::default(),
            accepted: Mutex::default(),
            watched: Mutex::default(),
            is_silent: AtomicBool::new(false),
            addresses: Mutex::default(),
        }
    }

    /// What a node says that does not lead.
    fn elsewhere(&self) -> NotMetaLeader {
        let leader = *self.leader.lock().unwrap();
        let address = |node: u64| self.addresses.lock().unwrap()[&node].clone();
        NotMetaLeader {
            leader: leader.unwrap_or_default(),
            address: leader.map(address).unwrap_or_default(),
            term: 3,
        }
    }

    /// The service of one node.
    pub fn at(self: &Arc<Self>, node: u64, address: String) -> TopologyServiceServer<At> {
        self.addresses.lock().unwrap().insert(node, address);
        TopologyServiceServer::new(At { node, all: self.clone() })
    }
}

#[tonic::async_trait]
impl TopologyService for At {
    type WatchStream = ReceiverStream<Result<TopologyServiceWatchResponse, Status>>;

    async fn watch(
        &self,
        _: Request<TopologyServiceWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (told, stream) = mpsc::channel(8);
        let change = Some(Change::All(self.all.topology.lock().unwrap().encode()));
        told.try_send(Ok(TopologyServiceWatchResponse { change })).unwrap();
        self.all.watched.lock().unwrap().push((self.node, told));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report(&self, _: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Err(Status::unimplemented("no gateway reports"))
    }

    async fn tell(&self, _: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        Err(Status::unimplemented("a fake node has no replicas to tell of"))
    }

    async fn refound(
        &self,
        _: Request<RefoundRequest>,
    ) -> Result<Response<RefoundResponse>, Status> {
        Err(Status::unimplemented("a fake node founds nothing"))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let identity = ClusterIdentity::of(request.metadata()).expect("a caller says its cluster");
        assert_eq!(identity.node, self.node, "the caller means this node");
        self.all.asked.lock().unwrap().push(self.node);
        let leader = *self.all.leader.lock().unwrap();
        let outcome = if leader == Some(self.node) {
            let ProposeRequest { proposal, accepted } = request.into_inner();
            *self.all.accepted.lock().unwrap() = accepted;
            let proposal = Proposal::decode(&proposal).unwrap();
            let mut topology = self.all.topology.lock().unwrap();
            match topology.apply(&proposal) {
                Ok(_) => Outcome::Version(topology.version().0),
                Err(refusal) => Outcome::Refusal(refusal.encode()),
            }
        } else {
            Outcome::Elsewhere(self.all.elsewhere())
        };
        if self.all.is_silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ProposeResponse { outcome: Some(outcome) }))
    }

    async fn preview(
        &self,
        request: Request<PreviewRequest>,
    ) -> Result<Response<PreviewResponse>, Status> {
        use preview_response::Outcome;
        let leads = *self.all.leader.lock().unwrap() == Some(self.node);
        let outcome = if leads {
            let proposal = Proposal::decode(&request.into_inner().proposal).unwrap();
            let topology = self.all.topology.lock().unwrap();
            let reports = Reports { since_ms: 0, nodes: BTreeMap::new() };
            match plan::preview(&topology, &reports, 60_000, &proposal.command) {
                Ok(preview) => Outcome::Preview(preview.encode()),
                Err(refusal) => Outcome::Refusal(refusal.encode()),
            }
        } else {
            Outcome::Elsewhere(self.all.elsewhere())
        };
        Ok(Response::new(PreviewResponse { outcome: Some(outcome) }))
    }
}
