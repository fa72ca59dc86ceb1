//! Sums of repeated events.
//!
//! The first event of a kind and identity is a line at once. Further ones within the next
//! [`WINDOW`] are counted, and their count is one line at its end, with the fields of the last of
//! them. So one identity costs at most two lines per window and kind.

use crate::event::{Event, Kind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The time for which repeats are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Most identities that are told apart. Further ones are counted together.
const IDENTITIES_MAX: usize = 1_024;

/// The events that are being counted.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    windows: BTreeMap<(Kind, String), Window>,
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
        // Without an identity, the address stands for it. Its port changes with each connection.
        let who = match event.principal.is_empty() {
            true => event.remote.rsplit_once(':').map_or("", |(host, _)| host).to_owned(),
            false => event.principal.clone(),
        };
        let mut key = (event.kind, who);
        if self.windows.len() >= IDENTITIES_MAX && !self.windows.contains_key(&key) {
            key.1 = String::new();
        }
        match self.windows.get_mut(&key) {
            Some(window) => {
                window.repeated += 1;
                window.last = Some(event);
                None
            }
            None => {
                self.windows.insert(key, Window { began: now, repeated: 0, last: None });
                Some(event)
            }
        }
    }

    /// The sums of all windows that are over by now, or of all.
    pub(crate) fn sums(&mut self, now: Instant, all: bool) -> Vec<Event> {
        let is_over = |window: &Window| all || now.duration_since(window.began) >= WINDOW;
        let mut sums = Vec::new();
        self.windows.retain(|_, window| {
            if !is_over(window) {
                return true;
            }
            let repeated = window.repeated;
            sums.extend(window.last.take().map(|last| Event { repeated, ..last }));
            false
        });
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
        assert_eq!(repeats.windows.len(), IDENTITIES_MAX + 1);
    }
}
