//! Which events a watcher is told.

use locks::{Event, EventKind, PictureOf};

/// Which locks, and which of their events. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This name only. `None`: all names of `prefix`.
    pub name: Option<String>,
    /// Names that begin with this.
    pub prefix: String,
    /// Only grants and waits of sessions with this id. Empty: any, also those without a session.
    pub session: String,
    /// Only grants and waits of this owner. Empty: any.
    ///
    /// A grant that came out of the queue matches by its waiter's owner too. Otherwise a watcher
    /// that was told of the wait would not learn of its end. The owners differ where a waiter named
    /// another owner than its session has. So the reader of such an event counts its grant, and
    /// likewise its waiter, only if that has the owner of the filter: see [`Filter::counts`].
    pub owner: String,
    /// Only events of these kinds.
    pub kinds: Kinds,
}

/// A set of kinds of events. By default it has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Default for Kinds {
    fn default() -> Self {
        Kinds(u8::MAX)
    }
}

impl Kinds {
    /// The set of these kinds.
    pub fn of(kinds: impl IntoIterator<Item = EventKind>) -> Kinds {
        Kinds(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u8))
    }

    fn has(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl Filter {
    /// Whether an event is told.
    ///
    /// ```
    /// use locks::{Event, EventKind, Mode, Waiter};
    /// use palisade_watch::{Filter, Kinds};
    ///
    /// let waiter = Waiter {
    ///     name: "orders/42".into(),
    ///     owner: "ann".into(),
    ///     principal: String::new(),
    ///     number: 1,
    ///     place: 1,
    ///     mode: Mode::Exclusive,
    ///     session: String::new(),
    ///     metadata: String::new(),
    ///     queued_wall_ms: 0,
    /// };
    /// let event = Event::Queued(Box::new(waiter));
    /// let filter = Filter { prefix: "orders/".into(), owner: "ann".into(), ..Filter::default() };
    /// assert!(filter.matches(&event));
    /// let filter = Filter { kinds: Kinds::of([EventKind::Granted]), ..filter };
    /// assert!(!filter.matches(&event));
    /// ```
    pub fn matches(&self, event: &Event) -> bool {
        let name = event.name();
        self.kinds.has(event.kind())
            && self.name.as_ref().is_none_or(|only| only == name)
            && name.starts_with(&self.prefix)
            && (self.session.is_empty() || self.session == event.session())
            && (self.owner.is_empty() || event.owners().any(|owner| owner == self.owner))
    }

    /// Whether the grant or the waiter of an event that is told counts, by its owner.
    pub fn counts(&self, owner: &str) -> bool {
        self.owner.is_empty() || self.owner == owner
    }

    /// The rows of its picture. Kinds are of events, so they do not count here.
    pub fn picture(&self) -> PictureOf {
        PictureOf {
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            session: self.session.clone(),
            owner: self.owner.clone(),
        }
    }
}
