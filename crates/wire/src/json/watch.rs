//! What a watch tells: changes of locks, and the state that they change.

use super::{Grant, Waiter};
use crate::v1::{self, EventKind};
use serde::Serialize;

/// One change of one lock.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// `granted`, `queued`, `released`, `expired`, `broken`, or `cancelled`: a wait ended without a
    /// grant.
    pub kind: &'static str,
    /// The name of the lock.
    pub resource_name: String,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// The position in the shard's log.
    pub index: u64,
    /// The number among the events of that position, from 0.
    pub ordinal: u32,
    /// Unix milliseconds by the leader's wall clock, for display.
    pub at_ms: u64,
    /// The hold that began or ended. `null` with `queued` and `cancelled`.
    pub grant: Option<Grant>,
    /// The wait that began or ended. With `granted`, if the grant came out of the queue.
    pub waiter: Option<Waiter>,
    /// The reason of a break, or how a wait ended.
    pub reason: String,
    /// The name that a break gave; empty otherwise.
    pub broken_by: String,
    /// The identity that broke the lock; empty otherwise, and where identities are off.
    pub broken_by_principal: String,
}

impl From<&v1::Event> for Event {
    fn from(event: &v1::Event) -> Event {
        Event {
            kind: event_word(event.kind()),
            resource_name: event.resource_name.clone(),
            shard: event.shard,
            index: event.index,
            ordinal: event.ordinal,
            at_ms: event.at_ms,
            grant: event.grant.as_ref().map(Grant::from),
            waiter: event.waiter.as_ref().map(Waiter::from),
            reason: event.reason.clone(),
            broken_by: event.broken_by.clone(),
            broken_by_principal: event.broken_by_principal.clone(),
        }
    }
}

/// A part of the present state of one shard.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WatchState {
    /// The shard.
    pub shard: u32,
    /// Whether this is the first part: forget what was told of the shard before.
    pub first: bool,
    /// Whether this is the last part: the state of the shard is complete.
    pub last: bool,
    /// Whether events were lost, because the watch was too slow or its position too old.
    pub resync: bool,
    /// The holds, by name and then by token.
    pub held: Vec<Grant>,
    /// The waits, by name and then by place.
    pub queued: Vec<Waiter>,
}

impl From<&v1::WatchState> for WatchState {
    fn from(state: &v1::WatchState) -> WatchState {
        WatchState {
            shard: state.shard,
            first: state.first,
            last: state.last,
            resync: state.resync,
            held: state.held.iter().map(Grant::from).collect(),
            queued: state.queued.iter().map(Waiter::from).collect(),
        }
    }
}

/// What a watch tells at once. A later watch goes on after its position.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Watched {
    /// A part of the state of a shard, or `null`. It comes before the events.
    pub state: Option<WatchState>,
    /// The changes, in the order of each lock.
    pub events: Vec<Event>,
    /// The text with which a watch with the same filter goes on. It has no other meaning.
    pub position: String,
}

impl From<&v1::WatchResponse> for Watched {
    fn from(told: &v1::WatchResponse) -> Watched {
        Watched {
            state: told.state.as_ref().map(WatchState::from),
            events: told.events.iter().map(Event::from).collect(),
            position: told.position.clone(),
        }
    }
}

/// The kinds of events, and their words.
const KINDS: [(EventKind, &str); 6] = [
    (EventKind::Granted, "granted"),
    (EventKind::Queued, "queued"),
    (EventKind::Released, "released"),
    (EventKind::Expired, "expired"),
    (EventKind::Broken, "broken"),
    (EventKind::Cancelled, "cancelled"),
];

/// The word for a kind of event.
pub fn event_word(kind: EventKind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("unknown", |(_, word)| word)
}

/// The kind of event that a word stands for. `None` if it is no such word.
pub fn event_kind(word: &str) -> Option<EventKind> {
    KINDS.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_word() {
        for kind in (1..).map_while(|kind| EventKind::try_from(kind).ok()) {
            assert_eq!(event_kind(event_word(kind)), Some(kind));
        }
        assert_eq!(event_kind("unknown"), None);
    }

    #[test]
    fn an_event_shows_what_began_or_ended() {
        let event = v1::Event {
            kind: EventKind::Broken.into(),
            resource_name: "a".into(),
            grant: Some(v1::Grant { fencing_token: 7, ..Default::default() }),
            reason: "gone".into(),
            ..Default::default()
        };
        let json = serde_json::to_value(Event::from(&event)).expect("JSON");
        assert_eq!((&json["kind"], &json["grant"]["fencing_token"]), (&"broken".into(), &7.into()));
        assert_eq!((&json["waiter"], &json["reason"]), (&serde_json::Value::Null, &"gone".into()));
    }
}
