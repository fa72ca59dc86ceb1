//! The service for the topology: what this node knows of it, to whoever watches, and the way
//! to META's leader (`propose.rs`).
//!
//! * A watcher is a version: what comes after it is read from the node's copy, and nothing is kept
//!   for one watcher. So a watcher that lags costs no memory, and delays no other.
//! * A watcher that takes no change for [`TOPOLOGY_WATCHER_SLOW`] is ended.
//! * What a node tells is on its own disk, apart from what need not be (`following.rs`).

use super::propose;
use super::strangers::Strangers;
use crate::context::Context;
use crate::lifecycle::Phase;
use crate::limits::{TOPOLOGY_CHANGES_UNDER_WAY, TOPOLOGY_WATCHER_SLOW, TOPOLOGY_WATCHES_MAX};
use crate::refounding;
use crate::roles::Caller;
use shard::TopologyNews;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use topology::{Delta, Version};
use wire::internal::v1::topology_service_server::TopologyService;
use wire::internal::v1::topology_service_watch_response::Change;
use wire::internal::v1::{
    PreviewRequest, PreviewResponse, ProposeRequest, ProposeResponse, RefoundRequest,
    RefoundResponse, ReportRequest, ReportResponse, TellRequest, TellResponse,
    TopologyServiceWatchRequest, TopologyServiceWatchResponse,
};

/// The service for the topology.
pub(crate) struct Topologies {
    context: Arc<Context>,
    strangers: Strangers,
    watches: Arc<Semaphore>,
}

impl Topologies {
    pub(crate) fn new(context: Arc<Context>) -> Topologies {
        let strangers = Strangers::new(context.clone());
        Topologies { context, strangers, watches: Arc::new(Semaphore::new(TOPOLOGY_WATCHES_MAX)) }
    }
}

#[tonic::async_trait]
impl TopologyService for Topologies {
    type WatchStream = ReceiverStream<Result<TopologyServiceWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<TopologyServiceWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.context.lifecycle.draining() {
            return Err(Status::unavailable("this node is shutting down: watch another one"));
        }
        self.strangers.check(&request)?;
        let permit = self.watches.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this node has {TOPOLOGY_WATCHES_MAX} watches of the topology already: watch another one"
            ))
        })?;
        let known = Version(request.into_inner().version);
        let (changes, stream) = mpsc::channel(TOPOLOGY_CHANGES_UNDER_WAY);
        let context = self.context.clone();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = context.lifecycle.reached(Phase::Draining) => {}
                () = changes.closed() => {}
                () = tell(&context, known, &changes, TOPOLOGY_WATCHER_SLOW) => {}
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

    async fn tell(&self, request: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        self.strangers.check(&request)?;
        let caller = Caller::of(request.extensions());
        refounding::tell(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn refound(
        &self,
        request: Request<RefoundRequest>,
    ) -> Result<Response<RefoundResponse>, Status> {
        self.strangers.check(&request)?;
        let caller = Caller::of(request.extensions());
        refounding::refound(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn preview(
        &self,
        request: Request<PreviewRequest>,
    ) -> Result<Response<PreviewResponse>, Status> {
        self.strangers.check(&request)?;
        let caller = Caller::of(request.extensions());
        propose::preview(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }
}

/// Tells all changes after `known`, until the watcher has gone or takes none for the time `slow`.
async fn tell(
    context: &Context,
    mut known: Version,
    changes: &mpsc::Sender<Result<TopologyServiceWatchResponse, Status>>,
    slow: Duration,
) {
    loop {
        context.cluster.later_than(known).await;
        let Some(news) = context.cluster.since(known) else { continue };
        for (version, change) in changes_of(news) {
            let told = changes.send(Ok(TopologyServiceWatchResponse { change: Some(change) }));
            match tokio::time::timeout(slow, told).await {
                Ok(Ok(())) => known = version,
                Ok(Err(_)) => return,
                Err(_) => {
                    let ms = slow.as_millis() as u64;
                    tracing::debug!(ms, "a watcher of the topology takes no change, and is ended");
                    return;
                }
            }
        }
    }
}

/// The changes, each with the version after it.
fn changes_of(news: TopologyNews) -> Vec<(Version, Change)> {
    match news {
        TopologyNews::All(all) => vec![(all.version(), Change::All(all.encode()))],
        TopologyNews::Deltas(deltas) => {
            let change = |delta: &Delta| (delta.version, Change::Delta(delta.encode()));
            deltas.iter().map(change).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, founded, preferring};
    use crate::topology_copy::TopologyCopy;
    use routing::NodeId;
    use tokio_stream::StreamExt;
    use tonic::Code;
    use topology::Topology;
    use wire::internal::v1::ClusterIdentity;

    /// No step takes this long unless it hangs.
    const HANGS: Duration = Duration::from_secs(60);

    fn request(context: &Context, version: u64) -> Request<TopologyServiceWatchRequest> {
        let mut request = Request::new(TopologyServiceWatchRequest { version });
        context.identity.put(request.metadata_mut());
        request
    }

    type Stream = ReceiverStream<Result<TopologyServiceWatchResponse, Status>>;

    async fn next(stream: &mut Stream) -> TopologyNews {
        let told = tokio::time::timeout(HANGS, stream.next()).await.expect("nothing is told");
        match told.expect("the watch has ended").unwrap().change.unwrap() {
            Change::All(bytes) => TopologyNews::All(Box::new(Topology::decode(&bytes).unwrap())),
            Change::Delta(bytes) => TopologyNews::Deltas(vec![Delta::decode(&bytes).unwrap()]),
        }
    }

    #[tokio::test]
    async fn a_watcher_is_told_what_it_lacks_and_each_later_change() {
        let (context, _inbox) = context(NodeId(1), 10);
        let service = Topologies::new(context.clone());
        let watch =
            async |version| service.watch(request(&context, version)).await.unwrap().into_inner();
        let (mut first, copy) = (watch(0).await, TopologyCopy::default());
        let mut topology = founded();
        context.cluster.take(TopologyNews::All(Box::new(topology.clone()))).unwrap();
        copy.take(next(&mut first).await).unwrap();
        for _ in 0..20 {
            let delta = preferring(&mut topology);
            context.cluster.take(TopologyNews::Deltas(vec![delta])).unwrap();
        }
        while copy.now().version() < topology.version() {
            let news = next(&mut first).await;
            assert!(matches!(news, TopologyNews::Deltas(_)), "the changes are kept");
            copy.take(news).unwrap();
        }
        assert_eq!(*copy.now(), topology);
        let mut late = watch(0).await;
        assert!(matches!(next(&mut late).await, TopologyNews::All(all) if *all == topology));
        // A watcher that knows more is told nothing until this node does.
        let mut ahead = watch(topology.version().0 + 1).await;
        let (first, second) = (preferring(&mut topology), preferring(&mut topology));
        context.cluster.take(TopologyNews::Deltas(vec![first, second.clone()])).unwrap();
        assert_eq!(next(&mut ahead).await, TopologyNews::Deltas(vec![second]));
        context.lifecycle.enter(Phase::Draining);
        assert!(tokio::time::timeout(HANGS, ahead.next()).await.expect("it goes on").is_none());
    }

    #[tokio::test]
    async fn a_watcher_that_takes_nothing_is_ended() {
        let (context, _inbox) = context(NodeId(1), 10);
        let mut topology = founded();
        context.cluster.take(TopologyNews::All(Box::new(topology.clone()))).unwrap();
        for _ in 0..10 {
            let delta = preferring(&mut topology);
            context.cluster.take(TopologyNews::Deltas(vec![delta])).unwrap();
        }
        let (changes, told) = mpsc::channel(TOPOLOGY_CHANGES_UNDER_WAY);
        let told_all = tell(&context, Version(1), &changes, Duration::from_millis(1));
        tokio::time::timeout(HANGS, told_all).await.expect("it goes on for ever");
        assert_eq!(told.len(), TOPOLOGY_CHANGES_UNDER_WAY);
    }

    #[tokio::test]
    async fn watches_are_bounded_and_give_their_places_back() {
        let (context, _inbox) = context(NodeId(1), 10);
        let service = Topologies::new(context.clone());
        let stream = service.watch(request(&context, 0)).await.unwrap();
        let others = service.watches.acquire_many(TOPOLOGY_WATCHES_MAX as u32 - 1).await.unwrap();
        let full = service.watch(request(&context, 0)).await.expect_err("no place is left");
        assert_eq!(full.code(), Code::ResourceExhausted);
        drop(others);
        drop(stream);
        let all = service.watches.acquire_many(TOPOLOGY_WATCHES_MAX as u32);
        let all = tokio::time::timeout(HANGS, all).await.expect("a watcher that has gone stays");
        drop(all.unwrap());
    }

    #[tokio::test]
    async fn strangers_are_told_nothing() {
        let (context, _inbox) = context(NodeId(1), 10);
        let service = Topologies::new(context.clone());
        let mut of_other = Request::new(TopologyServiceWatchRequest { version: 0 });
        ClusterIdentity::new([9; 16], "other".into(), 1).put(of_other.metadata_mut());
        let mut for_other = Request::new(TopologyServiceWatchRequest { version: 0 });
        ClusterIdentity { node: 2, ..context.identity.clone() }.put(for_other.metadata_mut());
        let unsaid = Request::new(TopologyServiceWatchRequest { version: 0 });
        for request in [of_other, for_other, unsaid] {
            let refused = service.watch(request).await.expect_err("a stranger");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        }
    }
}
