//! One connection and the stream on it.

use super::LinkOptions;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use wire::limits::{HTTP2_FRAME_BYTES_MAX, RESULT_FRAME_BYTES_MAX};
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::shard_service_client::ShardServiceClient;
use wire::v1::{OperationFrame, ResultFrame};

/// Which service a link speaks to; both take the same frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `LockService.Stream`, of a gateway.
    Locks,
    /// `ShardService.Operate`, of a node.
    Shards,
}

/// Connects and opens the stream, within the connect timeout. Errors are for people.
pub(super) async fn dial(
    endpoint: Endpoint,
    options: LinkOptions,
    frames: mpsc::Receiver<OperationFrame>,
) -> Result<Streaming<ResultFrame>, String> {
    let address = endpoint.uri().to_string();
    let opened = async {
        let endpoint = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
        let frames = ReceiverStream::new(frames);
        let stream = match options.service {
            Service::Locks => {
                LockServiceClient::new(channel).max_decoding_message_size(RESULT_FRAME_BYTES_MAX).stream(frames).await
            }
            Service::Shards => {
                ShardServiceClient::new(channel).max_decoding_message_size(RESULT_FRAME_BYTES_MAX).operate(frames).await
            }
        };
        stream.map(|response| response.into_inner()).map_err(|status| status.message().to_owned())
    };
    match tokio::time::timeout(options.connect_timeout, opened).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(why)) => Err(format!("cannot connect to {address}: {why}")),
        Err(_) => Err(format!("cannot connect to {address}: no answer in {} ms", options.connect_timeout.as_millis())),
    }
}

/// The cause that says something: tonic's own outermost text is "transport error".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
