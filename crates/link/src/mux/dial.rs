//! Opens one connection and the stream on it.

use super::options::LinkOptions;
use super::protocol::Protocol;
use super::stream::Stream;
use net::dial::{DialError, Dialled, Target};
use net::frames::{Event, Frames};
use net::token::NoToken;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use wire::internal::v1::{ClusterIdentity, FramesRequest, FramesResponse, FramesStatus};
use wire::limits::{HTTP2_FRAME_BYTES_MAX, RESULT_FRAME_BYTES_MAX};
use wire::v1::{Error, ErrorCode};
use wire::{ErrorClass, reason, root_cause};

/// Frames on their way to gRPC. They are few, so that the operations behind them are packed
/// together.
const FRAMES_UNDER_WAY: usize = 2;

/// There is no connection to a server, or no stream on it.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {server}: {why}")]
pub(super) struct NotConnected {
    /// As in `node 2 at 10.0.0.2:7401`.
    server: String,
    #[source]
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{}", root_cause(.0))]
    Dial(#[from] DialError),
    #[error("{}", reason(.0))]
    Status(#[from] Box<Status>),
    #[error(transparent)]
    NotMeant(#[from] NotMeant),
    #[error(transparent)]
    NoToken(#[from] NoToken),
    #[error("no answer in {ms} ms")]
    TimedOut { ms: u128 },
}

/// A node is not the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMeant {
    /// It is of another cluster. With the difference.
    #[error("{0}")]
    Cluster(String),
    /// It is another node of the cluster.
    #[error("node {0} answers there: correct the addresses in the cluster file")]
    Node(u64),
}

impl NotConnected {
    /// Set if no operation of this caller is taken, however often it is tried.
    pub(super) fn denial(&self) -> Option<Error> {
        match &self.why {
            Why::Status(status) => {
                Error::from_status(status).filter(|error| error.class() == ErrorClass::Denied)
            }
            Why::NoToken(why) => Some(Error::new(ErrorCode::Unauthenticated, why.to_string())),
            _ => None,
        }
    }
}

/// Connects and opens the stream, within the connect timeout.
pub(super) async fn dial<P: Protocol>(
    target: Target,
    options: LinkOptions,
) -> Result<Stream<P>, NotConnected> {
    let opened = tokio::time::timeout(options.connect_timeout, open(&target, &options));
    let why = match opened.await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(why)) => why,
        Err(_) => Why::TimedOut { ms: options.connect_timeout.as_millis() },
    };
    Err(NotConnected { server: server(&target, options.identity.as_ref()), why })
}

async fn open<P: Protocol>(target: &Target, options: &LinkOptions) -> Result<Stream<P>, Why> {
    if let Some(method) = P::FRAMES
        && let Some(frames) = open_frames(method, target, options).await?
    {
        return Ok(Stream::Frames(Box::new(frames)));
    }
    let configure = |endpoint: tonic::transport::Endpoint| {
        endpoint
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true)
    };
    let channel = target.connect(options.connect_timeout, configure).await?;
    let (frames, outgoing) = mpsc::channel(FRAMES_UNDER_WAY);
    let mut call = Request::new(ReceiverStream::new(outgoing));
    if let Some(identity) = &options.identity {
        identity.put(call.metadata_mut());
    }
    if let Some(token) = &options.token {
        token.put(call.metadata_mut())?;
    }
    let response = match P::open(channel, call).await {
        Ok(response) => response,
        Err(status) => match target.take_refusal() {
            Some(refusal) => return Err(refusal.into()),
            None => return Err(Box::new(status).into()),
        },
    };
    // Checked before the first frame is sent, because a wrong server would execute the operations
    // in it.
    if let Some(identity) = &options.identity {
        is_meant(identity, ClusterIdentity::of(response.metadata()).as_ref())?;
    }
    Ok(Stream::Grpc { frames, incoming: Box::new(response.into_inner()) })
}

/// Opens the stream in frames, within half of the connect timeout. `None` if the server does not
/// take them, as one of an earlier build, or ends the connection; then the call by gRPC tells more.
async fn open_frames(
    method: &str,
    target: &Target,
    options: &LinkOptions,
) -> Result<Option<Frames<Dialled>>, Why> {
    let timeout = options.connect_timeout;
    let silence = options.keepalive_interval + options.keepalive_timeout;
    let mut frames = target.connect_frames(timeout, RESULT_FRAME_BYTES_MAX, silence).await?;
    let opening = FramesRequest { method: method.to_owned(), identity: options.identity.clone() };
    frames.put(|buffer| wire::append(&opening, buffer));
    let answer = async {
        loop {
            match frames.next(true).await {
                Ok(Event::Written) => {}
                answer => return answer,
            }
        }
    };
    let answer = match tokio::time::timeout(timeout / 2, answer).await {
        Ok(Ok(Event::Frame(bytes))) => FramesResponse::decode(bytes),
        Ok(Ok(Event::Last(bytes))) => return Err(Box::new(FramesStatus::read(bytes)).into()),
        other => {
            if let Some(refusal) = target.take_refusal() {
                return Err(refusal.into());
            }
            tracing::debug!(server = target.address(), ?other, "no frames; trying gRPC");
            return Ok(None);
        }
    };
    let answer = answer.map_err(|error| Box::new(Status::internal(error.to_string())))?;
    // Checked before the first frame is sent, as above.
    if let Some(identity) = &options.identity {
        is_meant(identity, answer.identity.as_ref())?;
    }
    Ok(Some(frames))
}

/// The server's name in messages: `node 2 at 10.0.0.2:7401`, or the address alone.
fn server(target: &Target, identity: Option<&ClusterIdentity>) -> String {
    match identity {
        Some(identity) if identity.node != 0 => {
            format!("node {} at {}", identity.node, target.address())
        }
        _ => target.address().to_owned(),
    }
}

/// Whether a node that answers as `found` is the one that `meant` names.
///
/// # Errors
/// The difference.
pub fn is_meant(meant: &ClusterIdentity, found: Option<&ClusterIdentity>) -> Result<(), NotMeant> {
    if let Some(why) = meant.differs(found) {
        return Err(NotMeant::Cluster(why));
    }
    match found {
        Some(found) if found.node != meant.node => Err(NotMeant::Node(found.node)),
        _ => Ok(()),
    }
}
