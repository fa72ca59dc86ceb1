//! Opens one connection and the stream on it.

use super::{LinkOptions, Protocol};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};
use wire::internal::v1::ClusterIdentity;
use wire::limits::HTTP2_FRAME_BYTES_MAX;
use wire::{reason, root_cause};

/// Connects and opens the stream, within the connect timeout. Errors are for people.
pub(super) async fn dial<P: Protocol>(
    endpoint: Endpoint,
    options: LinkOptions,
    frames: mpsc::Receiver<P::Frame>,
) -> Result<Streaming<P::Results>, String> {
    let whom = whom(&endpoint, options.identity.as_ref());
    let opened = async {
        let endpoint = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
        let mut call = Request::new(ReceiverStream::new(frames));
        if let Some(identity) = &options.identity {
            identity.put(call.metadata_mut());
        }
        let response = P::open(channel, call).await.map_err(|status| reason(&status))?;
        // Checked before the first frame is sent, because a wrong server would execute the
        // operations in it.
        if let Some(identity) = &options.identity {
            is_meant(identity, ClusterIdentity::of(response.metadata()).as_ref())?;
        }
        Ok::<_, String>(response.into_inner())
    };
    match tokio::time::timeout(options.connect_timeout, opened).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(why)) => Err(format!("cannot connect to {whom}: {why}")),
        Err(_) => Err(format!(
            "cannot connect to {whom}: no answer in {} ms",
            options.connect_timeout.as_millis()
        )),
    }
}

/// The server's name in messages: `node 2 at 10.0.0.2:7401`, or the address alone.
fn whom(endpoint: &Endpoint, identity: Option<&ClusterIdentity>) -> String {
    let address = endpoint.uri().authority().map(ToString::to_string).unwrap_or_default();
    match identity {
        Some(identity) if identity.node != 0 => format!("node {} at {address}", identity.node),
        _ => address,
    }
}

/// Whether a node that answers as `found` is the one that `meant` names.
///
/// # Errors
/// The difference, as a message for people.
pub fn is_meant(meant: &ClusterIdentity, found: Option<&ClusterIdentity>) -> Result<(), String> {
    if let Some(why) = meant.differs(found) {
        return Err(why);
    }
    match found {
        Some(found) if found.node != meant.node => Err(format!(
            "node {} answers there: correct the addresses in the cluster file",
            found.node
        )),
        _ => Ok(()),
    }
}
