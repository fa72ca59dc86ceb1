//! The call to one node that has all watches of this gateway there.

use crate::limits::{NODE_CONNECT_TIMEOUT, NODE_KEEPALIVE, WATCH_CALL_PAUSE};
use crate::router::Router;
use link::mux::{NotMeant, is_meant};
use net::dial::{DialError, NotAnAddress};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{ClusterIdentity, WatchFrame, WatchRequest, WatchResponse};
use wire::limits::{HTTP2_FRAME_BYTES_MAX, RESULT_FRAME_BYTES_MAX};
use wire::{reason, root_cause};

/// An event of a call to a node.
#[derive(Debug)]
pub(super) enum Heard {
    /// The call is up.
    Up { node: u64, requests: mpsc::UnboundedSender<WatchRequest> },
    /// The call has ended, or could not be made.
    Down { node: u64, too_old: bool },
    /// The node has sent frames.
    Frames { node: u64, frames: Vec<WatchFrame> },
}

/// Keeps a call to one node up while it is wanted. Never returns.
pub(super) async fn keep(
    router: Arc<Router>,
    node: u64,
    mut wanted: watch::Receiver<bool>,
    heard: mpsc::Sender<Heard>,
) {
    let (first, longest) = WATCH_CALL_PAUSE;
    let (mut pause, mut turn) = (first, 0);
    loop {
        let mut too_old = false;
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        // At most the starts and stops of all legs of this node are under way.
        let (requests, sent) = mpsc::unbounded_channel();
        let opened = tokio::time::timeout(NODE_CONNECT_TIMEOUT, open(&router, node, turn, sent));
        match opened.await.unwrap_or(Err(Unusable::Silent)) {
            Ok(mut frames) => {
                let opened = Instant::now();
                if heard.send(Heard::Up { node, requests }).await.is_err() {
                    return;
                }
                loop {
                    match frames.message().await {
                        Ok(Some(response)) => {
                            let frames = response.frames;
                            if heard.send(Heard::Frames { node, frames }).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(status) => {
                            tracing::debug!(node, why = %reason(&status), "the watches of a node end");
                            break;
                        }
                    }
                }
                // A call that ends as soon as it opens is made again as slowly as one that fails.
                if opened.elapsed() >= longest {
                    pause = first;
                }
            }
            Err(why) => {
                tracing::debug!(node, %why, "a node cannot be called for watches");
                too_old = why.is_too_old();
                turn += 1;
            }
        }
        if heard.send(Heard::Down { node, too_old }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
        pause = (pause * 2).min(longest);
    }
}

/// Connects to a node, and opens the call.
async fn open(
    router: &Router,
    node: u64,
    turn: usize,
    requests: mpsc::UnboundedReceiver<WatchRequest>,
) -> Result<Streaming<WatchResponse>, Unusable> {
    let meant = ClusterIdentity { node, ..router.identity.clone() };
    let addresses = router.known.addresses(node);
    let address = addresses.get(turn % addresses.len().max(1)).ok_or(Unusable::Nowhere)?;
    let target = router.nodes.target(node, address)?;
    let configure = |endpoint: Endpoint| {
        endpoint
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .http2_keep_alive_interval(NODE_KEEPALIVE.0)
            .keep_alive_timeout(NODE_KEEPALIVE.1)
            .keep_alive_while_idle(true)
    };
    let channel = target.connect(NODE_CONNECT_TIMEOUT, configure).await?;
    let mut call = Request::new(UnboundedReceiverStream::new(requests));
    meant.put(call.metadata_mut());
    let mut client =
        ShardServiceClient::new(channel).max_decoding_message_size(RESULT_FRAME_BYTES_MAX);
    let response = client.watch(call).await.map_err(Box::new)?;
    is_meant(&meant, ClusterIdentity::of(response.metadata()).as_ref())?;
    Ok(response.into_inner())
}

/// Why a node cannot be called.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it has no address")]
    Nowhere,
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    #[error("{}", root_cause(.0))]
    Dial(#[from] DialError),
    #[error("{}", reason(.0))]
    Status(#[from] Box<Status>),
    #[error("no answer in {} ms", NODE_CONNECT_TIMEOUT.as_millis())]
    Silent,
    #[error(transparent)]
    NotMeant(#[from] NotMeant),
}

impl Unusable {
    /// The node is of a version without watches.
    fn is_too_old(&self) -> bool {
        matches!(self, Unusable::Status(status) if status.code() == Code::Unimplemented)
    }
}
