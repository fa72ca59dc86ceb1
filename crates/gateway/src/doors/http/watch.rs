//! A watch over HTTP, as server-sent events.
//!
//! * An event of the stream is named by the kind of the lock's event: `granted`, `queued` and so on.
//!   A part of the present state is named `state`, and `resync` before it says that events were lost.
//!   Before the gateway ends a watch, `ended` says why.
//! * Each `id` is the position after its event, so a client that comes back with the last one gets
//!   every later event once, and no other.
//! * The text of a response is made a piece at a time, as the client takes it. With many shards an
//!   `id` is longer than its event, so all of them at once would be many times the response.

use super::problem::Problem;
use crate::core::watch::{Binding, Position};
use crate::doors::single::Single;
use crate::limits::{PIECE_BYTES, WATCH_COMMENT_EVERY};
use crate::visitor::Visitor;
use crate::watching::Watched;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::convert::Infallible;
use std::fmt::Write;
use std::vec::IntoIter;
use wire::encoded_bytes;
use wire::json;
use wire::v1::{Error, Event, EventKind, WatchFilter, WatchRequest, WatchResponse, WatchState};

/// The header with the last `id` that a client has seen.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long a client should pause before it comes back.
const RETRY_MS: u32 = 1_000;
/// A piece of text ends with the event that exceeds this. So it has at most [`PIECE_BYTES`], if the
/// `id` is shorter than a header may be.
const TEXT_BYTES: usize = PIECE_BYTES / 2;
/// Bytes of the rows of a state in one event, by their size in JSON, about.
const STATE_BYTES: usize = PIECE_BYTES / 4;
/// The size in JSON of the names of fields and of times in a row of a state, about.
const ROW_BYTES: usize = 512;
/// Asks proxies such as nginx to pass events on at once.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Watches locks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    /// The name of the lock. Default: all names.
    #[serde(default)]
    name: String,
    /// The beginning of the names, instead of a name.
    #[serde(default)]
    prefix: String,
    /// Only what this session holds and waits for.
    #[serde(default)]
    session: String,
    /// Only what this owner holds and waits for.
    #[serde(default)]
    owner: String,
    /// Only these kinds of events, with commas between them: `released,expired,broken`. Default: all.
    #[serde(default)]
    kinds: String,
    /// The last `id` of an earlier watch with the same filter, to go on after it. The header
    /// `last-event-id` takes its place.
    #[serde(default)]
    position: String,
}

impl Watch {
    fn into_request(self, headers: &HeaderMap) -> Result<WatchRequest, Box<Error>> {
        let last = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty());
        let position = match last.map(|last| last.to_str()) {
            None => self.position,
            Some(Ok(last)) => last.to_owned(),
            Some(Err(_)) => {
                return Err(Box::new(Error::invalid(
                    "the header last-event-id is no id of a watch: send the last one, or none",
                )));
            }
        };
        let kind = |word: &str| {
            json::event_kind(word.trim()).map(i32::from).ok_or_else(|| {
                Box::new(Error::invalid(format!(
                    "there is no kind of event {word:?}: use granted, queued, released, expired, \
                     broken or cancelled"
                )))
            })
        };
        let words = self.kinds.split(',').filter(|word| !word.trim().is_empty());
        let filter = WatchFilter {
            name: self.name,
            prefix: self.prefix,
            session_id: self.session,
            owner: self.owner,
            kinds: words.map(kind).collect::<Result<_, _>>()?,
        };
        Ok(WatchRequest { filter: Some(filter), position })
    }
}

/// Serves a watch until its client goes, or the watch ends. `counted` says as how many operations
/// the request was counted before.
///
/// # Errors
/// The refusal of a watch that was not begun.
pub(super) fn serve(
    single: &Single,
    visitor: Visitor,
    watch: Watch,
    headers: &HeaderMap,
    counted: u32,
) -> Result<Response, Problem> {
    let watched = single.watch(visitor, watch.into_request(headers)?, counted)?;
    let teller = Teller::new(watched.binding(), watched.position().clone());
    let state = State { watched, teller, begun: false, over: false };
    let body = Body::from_stream(stream::unfold(state, |mut state| async move {
        let text = state.next().await?;
        Some((Ok::<Bytes, Infallible>(text.into()), state))
    }));
    let content_type = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(([content_type, UNBUFFERED], body).into_response())
}

/// A watch that is being told.
struct State {
    watched: Watched,
    teller: Teller,
    begun: bool,
    over: bool,
}

impl State {
    /// The next text of the stream. `None` at its end.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(format!("retry: {RETRY_MS}\n\n"));
        }
        if self.over {
            return None;
        }
        if let Some(text) = self.teller.next() {
            return Some(text);
        }
        match tokio::time::timeout(WATCH_COMMENT_EVERY, self.watched.next()).await {
            Err(_) => Some(":\n\n".to_owned()),
            Ok(Ok(response)) => {
                self.teller.take(response, self.watched.position());
                self.teller.next()
            }
            Ok(Err(error)) => {
                self.over = true;
                let mut text = String::new();
                push(&mut text, "ended", &Problem::from(error), None);
                Some(text)
            }
        }
    }
}

/// Turns responses into the text of the stream, a piece at a time.
struct Teller {
    binding: Binding,
    /// After the last event that was told.
    position: Position,
    /// After the response that is being told.
    after: Position,
    /// The rest of its state.
    state: Option<WatchState>,
    /// The rest of its events.
    events: IntoIter<Event>,
    /// It has nothing but its position.
    is_bare: bool,
}

impl Teller {
    /// `position` is the one that the watch begins with.
    fn new(binding: Binding, position: Position) -> Teller {
        let after = position.clone();
        let events = Vec::new().into_iter();
        Teller { binding, position, after, state: None, events, is_bare: false }
    }

    /// Takes the next response, after all text of the one before. `after` is the position after it.
    fn take(&mut self, response: WatchResponse, after: &Position) {
        let WatchResponse { state, events, .. } = response;
        self.is_bare = state.is_none() && events.is_empty();
        (self.state, self.events) = (state, events.into_iter());
        self.after = after.clone();
    }

    /// The next piece of text. `None` once the response is told.
    fn next(&mut self) -> Option<String> {
        let mut text = String::new();
        while text.len() < TEXT_BYTES && self.tell_next(&mut text) {}
        (!text.is_empty()).then_some(text)
    }

    /// Tells the next event of the stream. Returns whether there was one.
    fn tell_next(&mut self, text: &mut String) -> bool {
        if let Some(mut state) = self.state.take() {
            let part = split_off(&mut state);
            if part.first {
                self.position.set(part.shard, None);
            }
            if part.resync {
                push(text, "resync", &json!({ "shard": part.shard }), None);
            }
            if !part.last && has_rows(&state) {
                self.state = Some(state);
            } else if self.events.len() == 0 {
                // The place of the state counts at its end, before the events that came with it.
                self.position = self.after.clone();
            }
            push(text, "state", &json::WatchState::from(&part), Some(&self.id()));
        } else if let Some(event) = self.events.next() {
            match self.events.len() {
                0 => self.position = self.after.clone(),
                _ => self.position.pass(&event),
            }
            let name = match event.kind() {
                EventKind::Unspecified => "unknown",
                kind => json::event_word(kind),
            };
            push(text, name, &json::Event::from(&event), Some(&self.id()));
        } else if std::mem::take(&mut self.is_bare) {
            self.position = self.after.clone();
            let _ = write!(text, "id: {}\n\n", self.id()); // never fails
        } else {
            return false;
        }
        true
    }

    fn id(&self) -> String {
        self.position.encode(&self.binding)
    }
}

/// Takes the first rows of a part of a state as a part of their own, and leaves the rest.
fn split_off(rest: &mut WatchState) -> WatchState {
    let mut room = STATE_BYTES;
    let held = take_rows(&mut rest.held, &mut room, encoded_bytes);
    let queued = take_rows(&mut rest.queued, &mut room, encoded_bytes);
    let part = WatchState { held, queued, last: rest.last && !has_rows(rest), ..*rest };
    (rest.first, rest.resync) = (false, false);
    part
}

/// Takes the first rows that fit, and the one that exceeds the room.
fn take_rows<T>(rows: &mut Vec<T>, room: &mut usize, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut count = 0;
    while *room > 0
        && let Some(row) = rows.get(count)
    {
        *room = room.saturating_sub(ROW_BYTES + bytes(row));
        count += 1;
    }
    rows.drain(..count).collect()
}

fn has_rows(state: &WatchState) -> bool {
    !state.held.is_empty() || !state.queued.is_empty()
}

fn push(text: &mut String, name: &str, data: &impl Serialize, id: Option<&str>) {
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = write!(text, "event: {name}\ndata: {data}\n"); // never fails
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::internal::v1::WatchPlace;

    /// The names and ids of the events in a text.
    fn read(text: &str) -> Vec<(String, Option<String>)> {
        let of = |block: &str| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            (field("event: ").unwrap_or_default().to_owned(), field("id: ").map(str::to_owned))
        };
        text.split_terminator("\n\n").map(of).collect()
    }

    /// All text of a response.
    fn tell(teller: &mut Teller, response: WatchResponse, after: &Position) -> String {
        teller.take(response, after);
        std::iter::from_fn(|| teller.next()).collect()
    }

    fn at(index: u64, ordinals: u32) -> Position {
        let mut position = Position::default();
        position.set(2, Some(WatchPlace { index, ordinals }));
        position
    }

    fn event(kind: EventKind, index: u64, ordinal: u32) -> Event {
        Event { kind: kind.into(), shard: 2, index, ordinal, ..Default::default() }
    }

    #[test]
    fn each_event_has_the_position_after_it() {
        let binding = Binding::of(b"c", &WatchFilter::default());
        let mut teller = Teller::new(binding, Position::default());
        let id = |position: &Position| Some(position.encode(&binding));
        let state = WatchState { shard: 2, first: true, resync: true, ..Default::default() };
        let part = WatchResponse { state: Some(state), ..Default::default() };
        let told = read(&tell(&mut teller, part, &Position::default()));
        let none = id(&Position::default());
        assert_eq!(told, [("resync".into(), None), ("state".into(), none.clone())]);
        let state = WatchState { shard: 2, last: true, ..Default::default() };
        let part = WatchResponse { state: Some(state), ..Default::default() };
        let told = read(&tell(&mut teller, part, &at(7, 0)));
        assert_eq!(told, [("state".into(), id(&at(7, 0)))]);
        let events = vec![event(EventKind::Queued, 7, 1), event(EventKind::Broken, 8, 0)];
        let part = WatchResponse { events, ..Default::default() };
        let told = read(&tell(&mut teller, part, &at(9, 0)));
        assert_eq!(told, [("queued".into(), id(&at(7, 2))), ("broken".into(), id(&at(9, 0)))]);
        let told = read(&tell(&mut teller, WatchResponse::default(), &at(12, 0)));
        assert_eq!(told, [(String::new(), id(&at(12, 0)))]);
    }

    /// Regression: the text of a response was made at once. With 1,024 shards that was 8 MB for the
    /// events of one response.
    #[test]
    fn the_text_of_a_response_comes_in_pieces() {
        let binding = Binding::of(b"c", &WatchFilter::default());
        let mut wide = at(7, 0);
        for shard in 0..1_024 {
            wide.set(shard, Some(WatchPlace { index: 1 << 20, ordinals: 0 }));
        }
        let mut teller = Teller::new(binding, wide.clone());
        let events = (0..1_024).map(|index| event(EventKind::Queued, (1 << 20) + index, 0));
        let mut after = wide.clone();
        after.set(2, Some(WatchPlace { index: 2 << 20, ordinals: 0 }));
        teller.take(WatchResponse { events: events.collect(), ..Default::default() }, &after);
        let pieces: Vec<_> = std::iter::from_fn(|| teller.next()).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        let told: Vec<_> = pieces.iter().flat_map(|piece| read(piece)).collect();
        assert_eq!(told.len(), 1_024);
        assert_eq!(told.last().unwrap().1, Some(after.encode(&binding)));
    }

    #[test]
    fn a_large_part_of_a_state_comes_as_several_events() {
        let binding = Binding::of(b"c", &WatchFilter::default());
        let grant = |fencing_token| wire::v1::Grant {
            resource_name: "n".repeat(512),
            metadata: "m".repeat(1_024),
            fencing_token,
            ..Default::default()
        };
        let waiter = |place| wire::v1::Waiter { place, ..Default::default() };
        let state = WatchState {
            shard: 2,
            first: true,
            last: true,
            resync: true,
            held: (1..=200).map(grant).collect(),
            queued: (1..=200).map(waiter).collect(),
        };
        let mut teller = Teller::new(binding, at(3, 0));
        let response = WatchResponse { state: Some(state), ..Default::default() };
        teller.take(response, &at(7, 0));
        let pieces: Vec<_> = std::iter::from_fn(|| teller.next()).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        let text: String = pieces.concat();
        let told = read(&text);
        assert_eq!(told[0], ("resync".into(), None));
        let states = &told[1..];
        assert!(states.len() > 10 && states.iter().all(|(name, _)| name == "state"));
        // Only the last one has the place of the state. A client that comes back before begins anew.
        let (last, others) = states.split_last().unwrap();
        assert_eq!(last.1, Some(at(7, 0).encode(&binding)));
        let none = Some(Position::default().encode(&binding));
        assert!(others.iter().all(|(_, id)| *id == none));
        let data: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .skip(1)
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let flags: Vec<_> =
            data.iter().map(|of| (of["first"] == true, of["last"] == true)).collect();
        assert!(flags[0] == (true, false) && flags[flags.len() - 1] == (false, true));
        assert!(flags[1..flags.len() - 1].iter().all(|flags| *flags == (false, false)));
        let rows = |of: &str, field: &str| -> Vec<u64> {
            let rows = data.iter().flat_map(|part| part[of].as_array().unwrap());
            rows.map(|row| row[field].as_u64().unwrap()).collect()
        };
        assert_eq!(rows("held", "fencing_token"), (1..=200).collect::<Vec<_>>());
        assert_eq!(rows("queued", "place"), (1..=200).collect::<Vec<_>>());
    }

    #[test]
    fn a_request_says_what_the_query_says() {
        let watch = |query: &str| {
            let uri = format!("/v1/watch?{query}").parse().unwrap();
            axum::extract::Query::<Watch>::try_from_uri(&uri).unwrap().0
        };
        let mut headers = HeaderMap::new();
        let asked = watch("prefix=a%3A&kinds=broken,expired&position=p").into_request(&headers);
        let WatchRequest { filter, position } = asked.unwrap();
        let kinds = vec![EventKind::Broken.into(), EventKind::Expired.into()];
        let expected = WatchFilter { prefix: "a:".into(), kinds, ..Default::default() };
        assert_eq!((filter, position.as_str()), (Some(expected), "p"));
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static("q"));
        assert_eq!(watch("position=p").into_request(&headers).unwrap().position, "q");
        assert!(watch("kinds=stolen").into_request(&headers).is_err());
    }
}
