//! The watchers that may have to be told of an event, found without asking every watcher.

use crate::filter::Filter;
use crate::place::WatcherId;
use locks::Event;
use std::collections::{BTreeMap, BTreeSet};

type Watchers = BTreeSet<WatcherId>;

/// Watchers by the narrowest part of their filters.
///
/// - Each watcher is in one place.
/// - `prefixes` has no empty prefix and no empty set, and `lengths` counts the prefixes of each
///   length.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    names: BTreeMap<String, Watchers>,
    sessions: BTreeMap<String, Watchers>,
    owners: BTreeMap<String, Watchers>,
    prefixes: BTreeMap<String, Watchers>,
    lengths: BTreeMap<usize, usize>,
    all: Watchers,
}

impl Finder {
    pub(crate) fn add(&mut self, id: WatcherId, filter: &Filter) {
        if let Some(name) = &filter.name {
            self.names.entry(name.clone()).or_default().insert(id);
        } else if !filter.session.is_empty() {
            self.sessions.entry(filter.session.clone()).or_default().insert(id);
        } else if !filter.owner.is_empty() {
            self.owners.entry(filter.owner.clone()).or_default().insert(id);
        } else if filter.prefix.is_empty() {
            self.all.insert(id);
        } else {
            let watchers = self.prefixes.entry(filter.prefix.clone()).or_default();
            if watchers.is_empty() {
                *self.lengths.entry(filter.prefix.len()).or_default() += 1;
            }
            watchers.insert(id);
        }
    }

    pub(crate) fn remove(&mut self, id: WatcherId, filter: &Filter) {
        if let Some(name) = &filter.name {
            take(&mut self.names, name, id);
        } else if !filter.session.is_empty() {
            take(&mut self.sessions, &filter.session, id);
        } else if !filter.owner.is_empty() {
            take(&mut self.owners, &filter.owner, id);
        } else if filter.prefix.is_empty() {
            self.all.remove(&id);
        } else if take(&mut self.prefixes, &filter.prefix, id) {
            let length = filter.prefix.len();
            let left = self.lengths.get_mut(&length).expect("the prefix was counted");
            *left -= 1;
            if *left == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// The watchers with a filter that may match. A watcher may come twice.
    pub(crate) fn find<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = WatcherId> + 'a {
        let name = event.name();
        let prefixes = self.lengths.keys().filter_map(|length| name.get(..*length));
        let of_prefixes = prefixes.filter_map(|prefix| self.prefixes.get(prefix));
        let owners = event.owners().filter_map(|owner| self.owners.get(owner));
        let found = [self.names.get(name), self.sessions.get(event.session()), Some(&self.all)];
        found.into_iter().flatten().chain(owners).chain(of_prefixes).flatten().copied()
    }
}

/// Takes a watcher out. Returns whether it was the last one there.
fn take(watchers: &mut BTreeMap<String, Watchers>, key: &str, id: WatcherId) -> bool {
    let Some(here) = watchers.get_mut(key) else { return false };
    here.remove(&id);
    let is_last = here.is_empty();
    if is_last {
        watchers.remove(key);
    }
    is_last
}
