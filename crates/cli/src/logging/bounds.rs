//! A bound on log lines of one kind, so that a burst neither fills a disk nor hides other lines.
//!
//! * A kind is a place in the source. Each gets [`LINES_MAX`] lines per [`WINDOW`].
//! * Lines beyond the bound are left out and counted. One line per kind and window says how many
//!   there were.
//! * That line has the message and the fields of the last one that was left out.
//! * Errors have no bound. Lines below `info` have none either: they are only there if an operator
//!   asked for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one kind in one window.
const LINES_MAX: u32 = 60;
/// The time in which the lines of a kind are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How often windows that are over are looked for.
const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// The target of the lines that sum up. They have no bound.
const TARGET: &str = "palisade_log";

/// The lines of one kind that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sum {
    level: Level,
    count: u64,
    /// The last of them: its message and its fields.
    last: String,
}

/// The lines of one kind since its window began.
#[derive(Debug)]
struct Kind {
    since: Instant,
    lines: u32,
    left_out: Option<Sum>,
}

/// Counts of all kinds, and the sums of windows that are over.
#[derive(Debug, Default)]
struct Counts {
    kinds: HashMap<Identifier, Kind>,
    owed: Vec<Sum>,
}

impl Counts {
    /// Whether there is room for a line of this kind. `text` is asked for each line that is left
    /// out.
    fn admit(
        &mut self,
        kind: Identifier,
        level: Level,
        now: Instant,
        text: impl FnOnce() -> String,
    ) -> bool {
        let new = || Kind { since: now, lines: 0, left_out: None };
        let counted = self.kinds.entry(kind).or_insert_with(new);
        if now.duration_since(counted.since) >= WINDOW {
            self.owed.extend(std::mem::replace(counted, new()).left_out);
        }
        if counted.lines < LINES_MAX {
            counted.lines += 1;
            return true;
        }
        let new = || Sum { level, count: 0, last: String::new() };
        let sum = counted.left_out.get_or_insert_with(new);
        sum.count += 1;
        sum.last = text();
        false
    }

    /// All sums, also those of windows that are not over.
    fn all_sums(&mut self) -> Vec<Sum> {
        let mut sums = std::mem::take(&mut self.owed);
        sums.extend(self.kinds.values_mut().filter_map(|kind| kind.left_out.take()));
        sums
    }

    /// The sums of all windows that are over. Each is handed out once.
    fn sums(&mut self, now: Instant) -> Vec<Sum> {
        let mut sums = std::mem::take(&mut self.owed);
        self.kinds.retain(|_, kind| {
            let is_over = now.duration_since(kind.since) >= WINDOW;
            if is_over {
                sums.extend(kind.left_out.take());
            }
            !is_over
        });
        sums
    }
}

/// The bound of all kinds. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds(Arc<Mutex<Counts>>);

impl Bounds {
    /// Logs the sums of windows that are over, for ever, on a thread of its own. Without a thread
    /// the lines are left out all the same, and not summed up.
    pub(super) fn start_sums(&self) {
        let bounds = self.clone();
        let sum_up = move || {
            loop {
                std::thread::sleep(LOOKS_EVERY);
                bounds.say_sums(Instant::now());
            }
        };
        drop(std::thread::Builder::new().name("log-sums".into()).spawn(sum_up));
    }

    /// Logs all sums, also those of windows that are not over.
    pub(super) fn say_all_sums(&self) {
        let sums = self.counts().all_sums();
        say(sums);
    }

    fn say_sums(&self, now: Instant) {
        let sums = self.counts().sums(now);
        say(sums);
    }

    fn admit(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let (kind, level) = (metadata.callsite(), *metadata.level());
        level == Level::ERROR
            || level > Level::INFO
            || metadata.target() == TARGET
            || self.counts().admit(kind, level, Instant::now(), || text(event))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(sums: Vec<Sum>) {
    for Sum { level, count, last } in sums {
        let line = format!("and {count} more in the last minute, the last one: {last}");
        // A macro has one level, so there is one for each.
        match level {
            Level::WARN => tracing::warn!(target: TARGET, "{line}"),
            _ => tracing::info!(target: TARGET, "{line}"),
        }
    }
}

/// A layer that sees only events for which there is room.
///
/// It is no filter of tracing-subscriber, because those may not let one event of a kind through and
/// hold back the next.
pub(super) struct Bounded<L> {
    pub(super) layer: L,
    /// `None`: all events have room.
    pub(super) bounds: Option<Bounds>,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Bounded<L> {
    fn on_layer(&mut self, subscriber: &mut S) {
        self.layer.on_layer(subscriber);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.layer.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.layer.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.bounds.as_ref().is_none_or(|bounds| bounds.admit(event)) {
            self.layer.on_event(event, context);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.layer.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.layer.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.layer.on_close(id, context);
    }
}

/// The message of an event, and its fields.
fn text(event: &Event<'_>) -> String {
    #[derive(Default)]
    struct Text {
        message: String,
        fields: String,
    }
    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            match field.name() {
                "message" => self.message = format!("{value:?}"),
                name => self.fields += &format!(" {name}={value:?}"),
            }
        }
    }
    let mut text = Text::default();
    event.record(&mut text);
    text.message + &text.fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tracing::Metadata;
    use tracing::subscriber::Interest;
    use tracing_subscriber::layer::SubscriberExt;

    /// Lines that are kept for the test.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_burst_is_summed_up_and_other_kinds_stand_beside_it() {
        let (kept, bounds) = (Kept::default(), Bounds::default());
        let writer = kept.clone();
        let layer =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let bounded = Bounded { layer, bounds: Some(bounds.clone()) };
        let subscriber = tracing_subscriber::registry().with(bounded);
        let lines = |of: &str| {
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains(of)).count()
        };
        tracing::subscriber::with_default(subscriber, || {
            for nth in 0..180 {
                tracing::warn!(nth, "a peer cannot be reached");
                tracing::debug!("a detail");
                tracing::error!("an error");
            }
            tracing::info!("another kind");
            assert_eq!(lines("a peer cannot be reached"), LINES_MAX as usize);
            assert_eq!((lines("another kind"), lines("a detail")), (1, 180));
            assert_eq!(lines("an error"), 180);
            bounds.say_sums(Instant::now());
            assert_eq!(lines("more in the last minute"), 0, "the minute is not over");
            bounds.say_sums(Instant::now() + WINDOW);
            let sum = "WARN palisade_log: and 120 more in the last minute, the last one: a peer \
                       cannot be reached nth=179";
            assert_eq!(lines(sum), 1);
            bounds.say_sums(Instant::now() + 2 * WINDOW);
            assert_eq!(lines("more in the last minute"), 1, "said once");
            (0..LINES_MAX + 2).for_each(|nth| tracing::info!(nth, "at the end"));
            bounds.say_all_sums();
            bounds.say_all_sums();
            assert_eq!(lines("and 2 more in the last minute, the last one: at the end nth=61"), 1);
        });
    }

    #[test]
    fn a_kind_has_room_again_in_its_next_window() {
        let (bounds, mut admitted) = (Bounds::default(), 0);
        let began = Instant::now();
        struct Here;
        impl tracing::Callsite for Here {
            fn set_interest(&self, _: Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("nobody asks")
            }
        }
        static HERE: Here = Here;
        let line = |at: Duration| {
            let kind = Identifier(&HERE);
            bounds.counts().admit(kind, Level::INFO, began + at, || "m".into())
        };
        for _ in 0..LINES_MAX + 3 {
            admitted += u32::from(line(Duration::ZERO));
        }
        assert_eq!(admitted, LINES_MAX);
        assert!(line(WINDOW), "a new window");
        let sum = Sum { level: Level::INFO, count: 3, last: "m".into() };
        assert_eq!(bounds.counts().sums(began + WINDOW), [sum]);
    }
}
