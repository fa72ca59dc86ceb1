//! The stream to one peer: it is kept up, refilled from the peer's outbox, and reported when it is
//! lost. It moves when the peer does.

use super::connect::{CONNECT_TIMEOUT, SILENCE, connect};
use super::hello::{Accepted, Greeter, Refusal, seen_to_wire};
use super::outbox::Outbox;
use crate::context::Context;
use crate::frames::DELIVER;
use crate::limits::{GREET_TIMEOUT, RECONNECT, TELL_EVERY};
use crate::metrics::PeerMetrics;
use crate::roles::Caller;
use crate::routes::announced;
use net::dial::{Dialled, Target};
use net::frames::{Event, Frames};
use routing::{NodeId, RouteTable};
use shard::Input;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::Interval;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{
    ClusterIdentity, DeliverRequest, FramesRequest, FramesStatus, GreetRequest, GreetResponse,
    Hello,
};
use wire::reason;

/// A stream that lasted this long was accepted.
const ACCEPTED_AFTER: Duration = Duration::from_millis(500);

/// The longest reason of a peer that ends a stream, in bytes.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// Keeps the stream to one peer.
pub(crate) struct Outgoing {
    pub(crate) context: Arc<Context>,
    pub(crate) greeter: Arc<Greeter>,
    pub(crate) peer: NodeId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) metrics: PeerMetrics,
}

/// The state of the peer that was last logged.
#[derive(PartialEq)]
enum Seen {
    Nothing,
    Connected,
    Lost(String),
}

impl Outgoing {
    /// Keeps the stream until the node stops.
    pub(crate) async fn run(self) {
        let stopped = self.context.lifecycle.reached(crate::lifecycle::Phase::Stopped);
        tokio::select! {
            () = stopped => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&self) {
        let mut seen = Seen::Nothing;
        let mut pause = RECONNECT.0;
        let mut turn = 0;
        loop {
            let began = Instant::now();
            let known = self.context.routes.now();
            let addresses = self.context.addresses(self.peer);
            let nth = turn % addresses.len().max(1);
            let Some(address) = addresses.get(nth) else {
                tokio::time::sleep(RECONNECT.1).await; // it leaves, or comes back
                continue;
            };
            let former = known.address(self.peer);
            let reason = self.converse(address, former, &mut seen).await;
            turn = if seen == Seen::Connected { 0 } else { turn + 1 };
            self.metrics.connected.set(0);
            self.outbox.clear();
            self.context.host.input_all(&Input::Unreachable { node: self.peer });
            let lost = Seen::Lost(reason);
            // At most one of several addresses is the right one, so failures of the others are not
            // logged.
            if seen != lost && (nth == 0 || seen == Seen::Connected) {
                let Seen::Lost(reason) = &lost else { unreachable!("just made") };
                tracing::warn!(peer = %self.peer, %address, %reason, "peer cannot be reached; trying on");
                seen = lost;
            }
            pause = if began.elapsed() >= RECONNECT.1 {
                RECONNECT.0
            } else {
                (pause * 2).min(RECONNECT.1)
            };
            // The pause is spread, so that a cluster that restarts does not dial in step.
            let pause = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            tokio::select! {
                () = pause => {}
                () = self.outbox.heard_from_peer() => {}
                () = self.context.routes.moved(self.peer, former) => turn = 0,
            }
        }
    }

    /// Runs one stream, and returns the reason why it ended. `former` is the likeliest address of
    /// the peer when this one was chosen.
    async fn converse(&self, address: &str, former: Option<&str>, seen: &mut Seen) -> String {
        let channel = match connect(self.context.tls.as_ref(), self.peer, address).await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        let mut client = PeerServiceClient::new(channel);
        let greeted = match self.greet(&mut client, address).await {
            Ok(greeted) => greeted,
            Err(error) => return error.to_string(),
        };
        // What the peer itself has just said is no news of it. Its address may be another one than
        // this, and both may be right.
        let told = Some(greeted.address.as_str());
        let now = self.context.routes.now();
        let former = if now.address(self.peer) == told { told } else { former };
        let hello = self.greeter.hello();
        let hello = DeliverRequest {
            record: hello.record,
            hello: Some(hello),
            ..DeliverRequest::default()
        };
        let mut news = News::new(self, greeted.map_version);
        let carrier = match greeted.takes_frames {
            true => {
                drop(client);
                match self.open_frames(address).await {
                    Ok(frames) => Carrier::Frames(frames),
                    Err(why) => return why,
                }
            }
            false => Carrier::Grpc(client),
        };
        let mut carried = pin!(async {
            match carrier {
                Carrier::Frames(frames) => self.carry_in_frames(frames, hello, &mut news).await,
                Carrier::Grpc(client) => self.carry(client, hello, &mut news).await,
            }
        });
        let mut moved = pin!(self.context.routes.moved(self.peer, former));
        let mut accepted = pin!(tokio::time::sleep(ACCEPTED_AFTER));
        self.metrics.connected.set(1);
        loop {
            tokio::select! {
                why = &mut carried => return why,
                () = &mut moved => return "the peer has another address now".into(),
                () = &mut accepted, if *seen != Seen::Connected => {
                    *seen = Seen::Connected;
                    tracing::info!(peer = %self.peer, address, "peer connected");
                }
            }
        }
    }

    /// Greets the peer, so that each side learns whether the other listens to it. The peer knows
    /// this node's data directory afterwards. Returns the greeting of the peer.
    async fn greet(
        &self,
        client: &mut PeerServiceClient<Channel>,
        address: &str,
    ) -> Result<Hello, NotGreeted> {
        let answer = tokio::time::timeout(
            GREET_TIMEOUT,
            client.greet(GreetRequest { hello: Some(self.greeter.hello()) }),
        )
        .await;
        let answer = answer.map_err(|_| NotGreeted::Silent)?;
        let GreetResponse { hello, refused_store, .. } = answer.map_err(Box::new)?.into_inner();
        if !refused_store.is_empty() {
            self.context
                .lifecycle
                .fail(format!("refused by node {} at {address}: {refused_store}", self.peer));
            return Err(NotGreeted::RefusedStore(refused_store));
        }
        let answers = Caller::at(address);
        let checked = self.greeter.check(hello.clone(), &answers).await?;
        let Accepted { peer: found, is_copy, .. } = checked;
        if found != self.peer {
            return Err(NotGreeted::Other(found));
        }
        self.context.identities.confirmed_by(self.peer, is_copy);
        Ok(hello.unwrap_or_default())
    }

    /// Sends frames over gRPC, to a peer of an earlier build. Returns the reason why the stream
    /// ended.
    async fn carry(
        &self,
        mut client: PeerServiceClient<Channel>,
        hello: DeliverRequest,
        news: &mut News<'_>,
    ) -> String {
        // One frame is under way in the channel, and one in the making. The longer the peer takes,
        // the fuller the next frame is.
        let (frames, stream) = mpsc::channel(1);
        if frames.try_send(hello).is_err() {
            return "the stream closed at once".into();
        }
        let mut call = pin!(client.deliver(ReceiverStream::new(stream)));
        let mut pump = pin!(async {
            while let Ok(room) = frames.reserve().await {
                room.send(news.next_frame().await);
            }
        });
        let mut pumping = true;
        loop {
            tokio::select! {
                ended = &mut call => return match ended {
                    Ok(_) => "the peer ended the stream".into(),
                    Err(status) => reason(&status),
                },
                () = &mut pump, if pumping => pumping = false, // the call says why
            }
        }
    }

    async fn open_frames(&self, address: &str) -> Result<Frames<Dialled>, String> {
        let target = Target::inside(address, self.context.tls.as_ref(), self.peer.0)
            .map_err(|error| error.to_string())?;
        let opened = target.connect_frames(CONNECT_TIMEOUT, STATUS_BYTES_MAX, SILENCE).await;
        let mut frames = opened.map_err(|error| error.to_string())?;
        // The node that was greeted may have given its address to another one since.
        let meant = ClusterIdentity { node: self.peer.0, ..self.context.identity.clone() };
        let opening = FramesRequest { method: DELIVER.into(), identity: Some(meant) };
        frames.put(|buffer| wire::append(&opening, buffer));
        Ok(frames)
    }

    /// As [`carry`](Self::carry), in frames of their own connection. The longer the peer takes, the
    /// fuller the next frame is.
    async fn carry_in_frames(
        &self,
        mut frames: Frames<Dialled>,
        hello: DeliverRequest,
        news: &mut News<'_>,
    ) -> String {
        frames.put(|buffer| wire::append(&hello, buffer));
        loop {
            let has_room = frames.has_room();
            tokio::select! {
                event = frames.next(true) => match event {
                    Ok(Event::Last(bytes)) => return reason(&FramesStatus::read(bytes)),
                    Ok(Event::Ended) => return "the peer ended the stream".into(),
                    Ok(Event::Frame(_) | Event::Written) => {}
                    Err(error) => return error.to_string(),
                },
                frame = news.next_frame(), if has_room => frames.put(|buffer| wire::append(&frame, buffer)),
            }
        }
    }
}

/// What carries the stream to a peer.
enum Carrier {
    Frames(Frames<Dialled>),
    /// For a peer of an earlier build.
    Grpc(PeerServiceClient<Channel>),
}

/// What the next frame to a peer holds.
struct News<'a> {
    outgoing: &'a Outgoing,
    routes: tokio::sync::watch::Receiver<Arc<RouteTable>>,
    tell: Interval,
    /// Of the peer's map.
    map_version: u64,
}

impl<'a> News<'a> {
    fn new(outgoing: &'a Outgoing, map_version: u64) -> News<'a> {
        let mut tell =
            tokio::time::interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        News { outgoing, routes: outgoing.context.routes.watch(), tell, map_version }
    }

    /// Waits for something to send. Dropping the future loses nothing.
    ///
    /// Every frame says how far this node's directory is. So the peer knows that progress up to the
    /// last acknowledgement that it heard. The frames in between tell how far the directories of
    /// this node's own peers are, and the news of the routes.
    async fn next_frame(&mut self) -> DeliverRequest {
        let Outgoing { context, outbox, metrics, .. } = self.outgoing;
        let mut frame = DeliverRequest::default();
        tokio::select! {
            messages = outbox.next_frame() => frame.messages = messages,
            _ = self.tell.tick() => {
                frame.seen = context.identities.seen().into_iter().map(seen_to_wire).collect();
            }
            Ok(()) = self.routes.changed() => {
                let now = self.routes.borrow_and_update().clone();
                if now.map().version().0 > self.map_version {
                    self.map_version = now.map().version().0;
                    frame.routes = Some((&*now).into());
                } else {
                    frame.members = announced(&now);
                }
            }
        }
        // The record is read after the messages were taken, so everything that they acknowledge is
        // on disk.
        frame.record = context.engine.last_record();
        if !frame.messages.is_empty() {
            metrics.frames_sent.inc();
            metrics.messages_sent.inc_by(frame.messages.len() as u64);
            metrics.bytes_sent.inc_by(wire::encoded_bytes(&frame) as u64);
        }
        frame
    }
}

/// The peer and this node did not greet each other.
#[derive(Debug, thiserror::Error)]
enum NotGreeted {
    #[error("no answer to a greeting within {} s", GREET_TIMEOUT.as_secs())]
    Silent,
    #[error("{}", reason(.0))]
    Status(#[from] Box<Status>),
    /// The peer refuses this node's data directory.
    #[error("{0}")]
    RefusedStore(String),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error("node {0} answers there: correct the addresses in the cluster file")]
    Other(NodeId),
}
