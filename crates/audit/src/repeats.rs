//! Sums of repeated events.
//!
//! The first event of a kind and identity is a line at once. Further ones within the next
//! [`WINDOW`] are counted, and their count is one line at its end, with the fields of the last of
//! them. So one identity costs at most two lines per window and kind. An event without an identity
//! is counted by its source.

use crate::event::{Event, Kind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The time for which repeats are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Most identities that are told apart in one kind. Further ones are counted together.
const IDENTITIES_MAX: usize = 1_024;

/// The events that are being counted.
///
/// * Each kind has its own room, so that sources without an identity take none of the room of
///   denials.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    windows: BTreeMap<Kind, BTreeMap<String, Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    repeated: u64,
    last: Option<Event>,
}

impl Repeats {
    /// Returns an event that is a line now. `None` if it is counted.
    pub(crate) fn take(&mut self, event: Event, now: Instant) -> Option<Event> {
        // The port of an address changes with each connection.
        let host = || event.remote.rsplit_once(':').map_or("", |(host, _)| host);
        let mut who = match (event.principal.as_str(), event.source.as_str()) {
            ("", "") => host().to_owned(),
            ("", source) => source.to_owned(),
            (principal, _) => principal.to_owned(),
        };
        let windows = self.windows.entry(event.kind).or_default();
        if windows.len() >= IDENTITIES_MAX && !windows.contains_key(&who) {
            who = String::new();
        }
        match windows.get_mut(&who) {
            Some(window) => {
                window.repeated += 1;
                window.last = Some(event);
                None
            }
            None => {
                windows.insert(who, Window { began: now, repeated: 0, last: None });
                Some(event)
            }
        }
    }

    /// The sums of all windows that are over by now, or of all.
    pub(crate) fn sums(&mut self, now: Instant, all: bool) -> Vec<Event> {
        let is_over = |window: &Window| all || now.duration_since(window.began) >= WINDOW;
        let mut sums = Vec::new();
        for windows in self.windows.values_mut() {
            windows.retain(|_, window| {
                if !is_over(window) {
                    return true;
                }
                let repeated = window.repeated;
                sums.extend(window.last.take().map(|last| Event { repeated, ..last }));
                false
            });
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(principal: &str) -> Event {
        Event { principal: principal.into(), ..Event::of(Kind::Denied) }
    }

    #[test]
    fn a_flood_of_one_identity_is_two_lines_and_hides_no_other() {
        let (mut repeats, began) = (Repeats::default(), Instant::now());
        let lines = (0..1_000).filter_map(|_| repeats.take(denied("mallory"), began)).count();
        assert_eq!(lines, 1);
        assert!(repeats.take(denied("alice"), began).is_some());
        assert!(repeats.sums(began, false).is_empty());
        let sums = repeats.sums(began + WINDOW, false);
        assert_eq!(sums.len(), 1, "one denial of alice needs no sum");
        assert_eq!((sums[0].principal.as_str(), sums[0].repeated), ("mallory", 999));
        assert!(repeats.take(denied("mallory"), began + WINDOW).is_some(), "a new window");
    }

    #[test]
    fn identities_without_bound_take_bounded_memory() {
        let (mut repeats, began) = (Repeats::default(), Instant::now());
        let lines =
            (0..5_000).filter_map(|n| repeats.take(denied(&format!("made-up-{n}")), began)).count();
        assert_eq!(lines, IDENTITIES_MAX + 1);
        assert_eq!(repeats.windows[&Kind::Denied].len(), IDENTITIES_MAX + 1);
    }

    fn failed(remote: &str, source: &str) -> Event {
        let (remote, source) = (remote.into(), source.into());
        Event { remote, source, ..Event::of(Kind::SignedInFailed) }
    }

    /// Regression: failed sign-ins from many addresses took the room of all kinds, and the denials
    /// of each identity were one sum.
    #[test]
    fn sources_without_bound_hide_no_denial() {
        let (mut repeats, began) = (Repeats::default(), Instant::now());
        for n in 0..5_000 {
            repeats.take(failed("x:1", &format!("10.0.0.{n}")), began);
        }
        assert!(repeats.take(denied("alice"), began).is_some());
        assert!(repeats.take(denied("bob"), began).is_some());
    }

    /// Regression: one machine with a network of IPv6 addresses had a line for each of them.
    #[test]
    fn a_source_of_many_addresses_is_one_line() {
        let (mut repeats, began) = (Repeats::default(), Instant::now());
        let of = |n| failed(&format!("[2001:db8::{n:x}]:1"), "2001:db8::");
        assert_eq!((0..1_000).filter_map(|n| repeats.take(of(n), began)).count(), 1);
        assert!(repeats.take(failed("[::1]:1", ""), began).is_some());
        assert!(repeats.take(failed("[::1]:2", ""), began).is_none(), "its port does not count");
    }
}
