//! Streams of frames: connections to the node's port that speak no HTTP/2. Each carries one stream
//! of `Operate` or `Deliver`, and its first frame says which.

use net::accept::Connection;
use net::frames::Frames;
use std::time::Duration;

/// A stream of frames from another process.
pub(crate) type NodeFrames = Box<Frames<Connection<()>>>;

/// The time that the other side has to take the last frame of a stream.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// The method of the stream from a gateway.
pub(crate) const OPERATE: &str = "/palisade.internal.v1.ShardService/Operate";
/// The method of the stream from a peer.
pub(crate) const DELIVER: &str = "/palisade.internal.v1.PeerService/Deliver";
