//! A watch over HTTP, as server-sent events.
//!
//! * An event of the stream is named by the kind of the lock's event: `granted`, `queued` and so on.
//!   A part of the present state is named `state`, and `resync` before it says that events were lost.
//!   Before the gateway ends a watch, `ended` says why.
//! * Each `id` is the position after its event, so a client that comes back with the last one gets
//!   every later event once, and no other.

use super::problem::Problem;
use crate::core::watch::{Binding, Position};
use crate::doors::single::Single;
use crate::limits::WATCH_COMMENT_EVERY;
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
use wire::json;
use wire::v1::{Error, EventKind, WatchFilter, WatchRequest, WatchResponse};

/// The header with the last `id` that a client has seen.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long a client should pause before it comes back.
const RETRY_MS: u32 = 1_000;
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

/// Serves a watch until its client goes, or the watch ends.
///
/// # Errors
/// The refusal of a watch that was not begun.
pub(super) fn serve(
    single: &Single,
    visitor: Visitor,
    watch: Watch,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let watched = single.watch(visitor, watch.into_request(headers)?)?;
    let teller = Teller { binding: watched.binding(), position: watched.position().clone() };
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
        match tokio::time::timeout(WATCH_COMMENT_EVERY, self.watched.next()).await {
            Err(_) => Some(":\n\n".to_owned()),
            Ok(Ok(response)) => Some(self.teller.tell(&response, self.watched.position())),
            Ok(Err(error)) => {
                self.over = true;
                let mut text = String::new();
                push(&mut text, "ended", &Problem::from(error), None);
                Some(text)
            }
        }
    }
}

/// Turns responses into the text of the stream.
struct Teller {
    binding: Binding,
    /// After the last event that was told.
    position: Position,
}

impl Teller {
    /// The text of a response. `position` is the one after it.
    fn tell(&mut self, response: &WatchResponse, position: &Position) -> String {
        let mut text = String::new();
        if let Some(state) = &response.state {
            if state.first {
                self.position.set(state.shard, None);
            }
            if state.resync {
                push(&mut text, "resync", &json!({ "shard": state.shard }), None);
            }
            // The place of the state counts at its end, before the events that came with it.
            if response.events.is_empty() {
                self.position = position.clone();
            }
            push(&mut text, "state", &json::WatchState::from(state), Some(&self.id()));
        }
        let last = response.events.len().saturating_sub(1);
        for (at, event) in response.events.iter().enumerate() {
            match at == last {
                true => self.position = position.clone(),
                false => self.position.pass(event),
            }
            let name = match event.kind() {
                EventKind::Unspecified => "unknown",
                kind => json::event_word(kind),
            };
            push(&mut text, name, &json::Event::from(event), Some(&self.id()));
        }
        if response.state.is_none() && response.events.is_empty() {
            self.position = position.clone();
            let _ = write!(text, "id: {}\n\n", self.id()); // never fails
        }
        text
    }

    fn id(&self) -> String {
        self.position.encode(&self.binding)
    }
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
    use wire::v1::{Event, WatchState};

    /// The names and ids of the events in a text.
    fn read(text: &str) -> Vec<(String, Option<String>)> {
        let of = |block: &str| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            (field("event: ").unwrap_or_default().to_owned(), field("id: ").map(str::to_owned))
        };
        text.split_terminator("\n\n").map(of).collect()
    }

    #[test]
    fn each_event_has_the_position_after_it() {
        let binding = Binding::of(b"c", &WatchFilter::default());
        let mut teller = Teller { binding, position: Position::default() };
        let at = |index, ordinals| {
            let mut position = Position::default();
            position.set(2, Some(WatchPlace { index, ordinals }));
            position
        };
        let id = |position: &Position| Some(position.encode(&binding));
        let state = WatchState { shard: 2, first: true, resync: true, ..Default::default() };
        let part = WatchResponse { state: Some(state), ..Default::default() };
        let told = read(&teller.tell(&part, &Position::default()));
        let none = id(&Position::default());
        assert_eq!(told, [("resync".into(), None), ("state".into(), none.clone())]);
        let event = |kind: EventKind, index, ordinal| Event {
            kind: kind.into(),
            shard: 2,
            index,
            ordinal,
            ..Default::default()
        };
        let state = WatchState { shard: 2, last: true, ..Default::default() };
        let part = WatchResponse { state: Some(state), ..Default::default() };
        assert_eq!(read(&teller.tell(&part, &at(7, 0))), [("state".into(), id(&at(7, 0)))]);
        let events = vec![event(EventKind::Queued, 7, 1), event(EventKind::Broken, 8, 0)];
        let part = WatchResponse { events, ..Default::default() };
        let told = read(&teller.tell(&part, &at(9, 0)));
        assert_eq!(told, [("queued".into(), id(&at(7, 2))), ("broken".into(), id(&at(9, 0)))]);
        let told = read(&teller.tell(&WatchResponse::default(), &at(12, 0)));
        assert_eq!(told, [(String::new(), id(&at(12, 0)))]);
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
