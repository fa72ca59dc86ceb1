//! One client's watch: its answers and its end.

use super::handle::Seat;
use super::queue::Next;
use crate::core::watch::{Binding, Part, Position, legs};
use crate::limits::{
    PROVE_AGAIN_EVERY, RESULT_FRAME_BYTES, WATCH_EVENTS_MAX, WATCH_POSITION_EVERY,
    WATCH_RESUME_EVERY,
};
use crate::notice::Notice;
use crate::router::Router;
use crate::sight::Sight;
use crate::visitor::Visitor;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use wire::v1::{Error, ErrorCode, WatchFilter, WatchRequest, WatchResponse};

/// The end of a watch with its gateway.
const ENDING: &str = "this gateway is shutting down: go on through another, with the last position";

/// An event that a watch has to act on.
#[allow(clippy::large_enum_variant)] // moved once: a box would cost more
enum Happened {
    Ending,
    LookAgain,
    TellAgain,
    GoOn,
    Next(Next),
}

/// The watch of one client. Dropping it ends the watch.
///
/// * Its place is that of the call, which is held until the client has taken all that it was told.
/// * `position` is that of the last response.
pub(crate) struct Watched {
    router: Arc<Router>,
    notice: Notice,
    visitor: Visitor,
    filter: WatchFilter,
    sight: Sight,
    seat: Seat,
    binding: Binding,
    position: Position,
    /// The position has changed since the last response.
    untold: bool,
    /// Its queue was full, and is empty now.
    stopped: bool,
    look_again: Interval,
    tell_again: Interval,
    go_on: Interval,
}

impl Watched {
    /// Begins a watch that is permitted. `counted` says as how many operations the call was counted
    /// before.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a wrong filter or position, BUSY if there is no room or the rate is
    /// exceeded, SHUTTING_DOWN if the gateway ends, and those of a visitor that may not watch.
    pub(crate) fn begin(
        router: Arc<Router>,
        ending: watch::Receiver<bool>,
        visitor: Visitor,
        request: WatchRequest,
        counted: u32,
    ) -> Result<Watched, Box<Error>> {
        if *ending.borrow() {
            return Err(Box::new(Error::new(ErrorCode::ShuttingDown, ENDING)));
        }
        let filter = request.filter.unwrap_or_default();
        wire::check_watch_filter(&filter)?;
        // One, however many shards it asks: many at once would take the room of the client's
        // acquires.
        if counted == 0 {
            router.within_rate_of(&visitor, None, || 1)?;
        }
        let sight = router.permit_watch(&visitor, &filter)?;
        let binding = Binding::of(&router.identity.fingerprint, &filter);
        let position = Position::decode(&request.position, &binding)
            .map_err(|why| Box::new(Error::invalid(why.to_string())))?;
        // A newer map may change the shards of an open watch. It keeps its count.
        let place = router.admission.watch(&visitor, legs(&filter, &router.directory))?;
        let _ = visitor.held.set(Box::new(place)); // a call has one
        let connection = visitor.connection.clone();
        let seat = router.watching.start(filter.clone(), position.clone(), connection);
        let notice = router.notices.notice();
        let every = |period, first| {
            let mut every = interval_at(first, period);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        };
        let now = Instant::now();
        Ok(Watched {
            router,
            notice,
            visitor,
            filter,
            sight,
            seat,
            binding,
            position,
            untold: false,
            stopped: false,
            look_again: every(PROVE_AGAIN_EVERY, now + PROVE_AGAIN_EVERY),
            tell_again: every(WATCH_POSITION_EVERY, now + WATCH_POSITION_EVERY),
            go_on: every(WATCH_RESUME_EVERY, now),
        })
    }

    /// The cluster and the filter that its positions belong to.
    pub(crate) fn binding(&self) -> Binding {
        self.binding
    }

    /// The position of the last response, or the one that the watch began with.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// The next answer for the client. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The watch ends: with the gateway, with the rights of its client, or because the client is
    /// too slow for the state of a shard.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Box<Error>> {
        loop {
            let has_identity = self.router.identities.is_some();
            let happened = tokio::select! {
                biased;
                () = self.notice.given() => Happened::Ending,
                // A token may expire, or an identity be revoked, while nothing happens.
                _ = self.look_again.tick(), if has_identity => Happened::LookAgain,
                next = self.seat.queue.next() => Happened::Next(next),
                _ = self.tell_again.tick(), if self.untold => Happened::TellAgain,
                // A state that does not fit begins anew each time, at the cost of its node.
                _ = self.go_on.tick(), if self.stopped => Happened::GoOn,
            };
            match happened {
                Happened::Ending => {
                    return Err(Box::new(Error::new(ErrorCode::ShuttingDown, ENDING)));
                }
                Happened::LookAgain => self.permit_again()?,
                Happened::TellAgain => return Ok(self.respond(WatchResponse::default())),
                Happened::Next(Next::Part(part)) => {
                    if let Some(response) = self.tell(part)? {
                        return Ok(response);
                    }
                }
                Happened::Next(Next::Resume) => self.stopped = true,
                Happened::GoOn => {
                    self.stopped = false;
                    self.seat.resume();
                }
                Happened::Next(Next::Over(error)) => return Err(error),
            }
        }
    }

    /// The response with a part, and with the events of those behind it that fit. `None` if nothing
    /// of it is for the client.
    fn tell(&mut self, mut part: Part) -> Result<Option<WatchResponse>, Box<Error>> {
        if self.router.identities.is_some() {
            self.permit_again()?;
        }
        let mut response = WatchResponse::default();
        let mut bytes = 0;
        loop {
            self.untold |= self.take(part, &mut response);
            if response.state.is_some() || response.events.len() >= WATCH_EVENTS_MAX {
                break;
            }
            let fits = |next: &Part, more: usize| {
                next.state.is_none() && bytes + more <= RESULT_FRAME_BYTES
            };
            let Some((next, more)) = self.seat.queue.next_if(fits) else { break };
            bytes += more;
            part = next;
        }
        if response.state.is_none() && response.events.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.respond(response)))
    }

    /// Adds a part to a response, as far as the client may see the part. Returns whether the
    /// position after it is to be told. That of a hidden part waits for the next one.
    fn take(&mut self, mut part: Part, response: &mut WatchResponse) -> bool {
        let is_shown = self.sight.show(&mut part);
        let Part { shard, state, events, place } = part;
        if state.as_ref().is_some_and(|state| state.first) {
            self.position.set(shard, None);
        }
        if place.is_some() {
            self.position.set(shard, place);
        }
        response.state = state;
        response.events.extend(events);
        is_shown
    }

    fn respond(&mut self, response: WatchResponse) -> WatchResponse {
        self.untold = false;
        self.tell_again.reset();
        WatchResponse { position: self.position.encode(&self.binding), ..response }
    }

    /// Proves the identity of the client anew, if files changed or its time is over, and compares
    /// the watch with its rights.
    fn permit_again(&mut self) -> Result<(), Box<Error>> {
        let former = self.visitor.version;
        self.router.prove_again(&mut self.visitor)?;
        if self.visitor.version != former {
            self.sight = self.router.permit_watch(&self.visitor, &self.filter)?;
        }
        Ok(())
    }
}
