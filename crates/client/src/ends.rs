//! Hears at once that a lock which is held here has ended: by a break, an expiry, or a release.
//!
//! * A watch only makes a lock lost. It keeps none, and delays no renewal.
//! * An event about another token changes nothing.
//! * If the gateways know no watches, or the client may not watch, a holder hears of an end with
//!   its next renewal.

use crate::{Client, WatchOptions};
use std::ops::ControlFlow;
use std::time::Duration;
use wire::v1::{Event, EventKind};

/// How long a lock is held before it is watched, so that a short hold costs no watch.
const HELD_FOR: Duration = Duration::from_millis(250);
/// The kinds of events that end a hold.
const KINDS: [EventKind; 3] = [EventKind::Released, EventKind::Expired, EventKind::Broken];

/// Waits until a new hold is worth a watch. Returns whether it may have one.
pub(crate) async fn worth_it(client: &Client) -> bool {
    if !client.options().watch_held {
        return false;
    }
    tokio::time::sleep(HELD_FOR).await;
    !client.hearing().is_refused()
}

/// Passes on each end of a hold, until `on_end` breaks or the watch is refused.
pub(crate) async fn hear(
    client: &Client,
    options: WatchOptions,
    mut on_end: impl FnMut(&Event) -> ControlFlow<()>,
) {
    let mut watch = client.watch(options.kinds(KINDS));
    loop {
        match watch.next().await {
            Ok(told) => {
                if told.events.iter().any(|event| on_end(event).is_break()) {
                    return;
                }
            }
            Err(why) => {
                client.hearing().refused();
                tracing::debug!(%why, "held locks are not watched: an end shows with a renewal");
                return;
            }
        }
    }
}

/// Why the hold of an event has ended, in words. `None` if the event ends none.
pub(crate) fn reason(event: &Event) -> Option<String> {
    let by = match (event.broken_by.as_str(), event.broken_by_principal.as_str()) {
        ("", "") => String::new(),
        ("", by) | (by, _) => format!(" by {by}"),
    };
    match event.kind() {
        EventKind::Broken if event.reason.is_empty() => Some(format!("it was broken{by}")),
        EventKind::Broken => Some(format!("it was broken{by}: {}", event.reason)),
        EventKind::Expired => Some("its lease expired".into()),
        EventKind::Released => Some("it was released by its token, or with its session".into()),
        _ => None,
    }
}
