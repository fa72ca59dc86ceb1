//! Invariant 17, of the watches that the clients of real processes recorded.
//!
//! The answers of all watches together give a log of changes. Each watch must have been told its
//! part of that log, and the log must agree with the operations and with the service's history:
//!
//! * No two watches are told different things of one place.
//! * From place to place, a watch is told all that matches its filter, once and in order
//!   ([`Follower`]). A state agrees with the states and changes that other watches were told.
//! * A watch that comes back with a position is told all changes since, or that events were lost.
//! * Each change that is told is in the history. Each tenure of the history is told, where a watch
//!   was told everything around it.
//! * No grant is told before it is asked for, and no operation succeeds with a token after its end
//!   was told. So nothing is told before it is committed.
//! * At the end, each watch has come to the last entry and knows what is held.

use super::history::{Call, End, History, Operation, Outcome};
use super::watch::{Change, Effect, Follower, Picture, Place};
use super::{Invariant, Violation};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The place of the first entry of a log. No name of a round is in use then.
pub const OLDEST: Place = (1, 0);

/// The watch of one client in one round, over all its connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WatchRecord {
    /// The client that watches.
    pub client: u32,
    /// The name that it watches. `None`: all names with the prefix that all such watches of a
    /// round have.
    pub name: Option<String>,
    /// What happened, in order.
    pub notes: Vec<WatchNote>,
}

impl WatchRecord {
    /// The last place on this shard that the watch was told.
    pub fn last_place(&self, shard: u32) -> Option<Place> {
        self.notes.iter().rev().find_map(|note| match note {
            WatchNote::Told { places, .. } => places.get(&shard).copied(),
            WatchNote::GoesOn { .. } => None,
        })
    }
}

/// What happened to a watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WatchNote {
    /// The client began a new call, with the last position or with the [oldest](OLDEST).
    GoesOn {
        /// It is the oldest position. Few nodes remember the changes since then.
        outdated: bool,
    },
    /// An answer arrived.
    Told {
        /// When it arrived.
        at_us: u64,
        /// The part of a state.
        state: Option<ToldState>,
        /// Changes, each with its shard and place.
        events: Vec<(u32, Place, ToldChange)>,
        /// The place on each shard that its position names.
        places: BTreeMap<u32, Place>,
    },
}

/// A part of the state of one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToldState {
    /// The shard.
    pub shard: u32,
    /// The first part: what was told of the shard before is void.
    pub first: bool,
    /// The last part.
    pub last: bool,
    /// Events were lost.
    pub resync: bool,
    /// Tokens and names of grants.
    pub held: Vec<(u64, String)>,
    /// Numbers and names of waiters.
    pub queued: Vec<(u64, String)>,
}

/// One change of one lock, as a watch told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldChange {
    /// The name of the lock.
    pub name: String,
    /// What happened to it.
    pub what: Happened,
}

/// What happened to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// A grant began.
    Granted {
        /// The fencing token of the grant.
        token: u64,
        /// The number of the waiter that it came out of.
        waiter: Option<u64>,
        /// The request or session that its owner names.
        number: Option<u64>,
    },
    /// A wait began.
    Queued {
        /// The number of the waiter.
        waiter: u64,
    },
    /// A grant ended.
    Ended {
        /// The fencing token of the grant.
        token: u64,
        /// How it ended.
        end: End,
    },
    /// A wait ended without a grant.
    Cancelled {
        /// The number of the waiter.
        waiter: u64,
    },
}

impl Change for ToldChange {
    fn name(&self) -> &str {
        &self.name
    }

    fn effect(&self) -> Effect {
        match self.what {
            Happened::Granted { token, waiter, .. } => Effect::Granted { token, waiter },
            Happened::Queued { waiter } => Effect::Queued { waiter },
            Happened::Ended { token, .. } => Effect::Ended { token },
            Happened::Cancelled { waiter } => Effect::Cancelled { waiter },
        }
    }
}

/// Entries to which each watch must have come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reached {
    /// The index of an applied entry of each shard. Empty if no entries are known.
    pub entries: BTreeMap<u32, u64>,
    /// All that was acknowledged before this time is in entries up to these.
    pub at_us: u64,
}

/// How much the watches of a run show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchCounts {
    /// The changes told, once for each watch.
    pub events: usize,
    /// How often a client went on by a position.
    pub resumed: usize,
    /// How often a watch was told a new state of a shard, because events were lost.
    pub resynced: usize,
}

impl std::ops::AddAssign for WatchCounts {
    fn add_assign(&mut self, other: WatchCounts) {
        self.events += other.events;
        self.resumed += other.resumed;
        self.resynced += other.resynced;
    }
}

/// Judges the watches of a round by the history of its operations.
pub fn check_watches(
    watches: &[WatchRecord],
    history: &History,
    reached: &Reached,
) -> (Vec<Violation>, WatchCounts) {
    let mut judge = Judge::default();
    judge.gather(watches);
    for record in watches {
        judge.follow(record, &reached.entries);
    }
    judge.compare_pictures();
    judge.compare_history(history);
    judge.compare_times(history);
    judge.compare_ends(history, reached);
    let violation = |what| Violation { invariant: Invariant::Watch, what, operations: Vec::new() };
    (judge.found.into_iter().map(violation).collect(), judge.counts)
}

/// A change, and when the first watch was told of it.
#[derive(Clone, Copy, Debug)]
struct Logged<'a> {
    change: &'a ToldChange,
    first_us: u64,
}

/// The end of a watch on one shard.
struct Ended<'a> {
    record: &'a WatchRecord,
    shard: u32,
    follower: Follower,
}

/// * `pictures` has each state that was told completely, with the name that is watched.
/// * `spans` are the stretches of which some watch of all names was told everything.
#[derive(Default)]
struct Judge<'a> {
    log: BTreeMap<(u32, Place), Logged<'a>>,
    pictures: Vec<(Option<&'a str>, u32, Place, Picture)>,
    spans: BTreeMap<u32, Vec<(Place, Place)>>,
    ends: Vec<Ended<'a>>,
    counts: WatchCounts,
    found: Vec<String>,
}

fn matches(name: Option<&str>, of: &str) -> bool {
    name.is_none_or(|name| name == of)
}

impl<'a> Judge<'a> {
    /// Puts the answers of all watches into one log.
    fn gather(&mut self, watches: &'a [WatchRecord]) {
        for note in watches.iter().flat_map(|record| &record.notes) {
            let WatchNote::Told { at_us, events, .. } = note else { continue };
            for (shard, place, change) in events {
                self.counts.events += 1;
                let logged =
                    self.log.entry((*shard, *place)).or_insert(Logged { change, first_us: *at_us });
                logged.first_us = logged.first_us.min(*at_us);
                if logged.change != change {
                    self.found.push(format!(
                        "shard {shard}, {place:?}: one watch was told {change:?}, and another {:?}",
                        logged.change
                    ));
                }
            }
        }
    }

    /// Follows one watch from answer to answer.
    fn follow(&mut self, record: &'a WatchRecord, reached: &BTreeMap<u32, u64>) {
        let name = record.name.as_deref();
        let mut followers: BTreeMap<u32, Follower> = BTreeMap::new();
        let mut begins_at = None;
        // The watch has come back with places, and was not told anything since.
        let mut comes_back = false;
        for note in &record.notes {
            let (state, events, places) = match note {
                WatchNote::Told { state, events, places, .. } => (state, events, places),
                WatchNote::GoesOn { outdated } => {
                    comes_back = !outdated && followers.values().any(|one| one.place().is_some());
                    if *outdated {
                        followers.clear();
                        begins_at = Some(OLDEST);
                    }
                    continue;
                }
            };
            // It goes on from there if its first answer is no state.
            self.counts.resumed += usize::from(comes_back && state.is_none());
            comes_back = false;
            if let Some(state) = state {
                let (shard, place) = (state.shard, places.get(&state.shard).copied());
                let follower = followers.entry(shard).or_insert_with(|| Follower::at(begins_at));
                self.counts.resynced += usize::from(state.first && state.resync);
                if state.first && !state.resync && follower.place().is_some() {
                    self.found.push(format!(
                        "client {}, shard {shard}: its watch was told a new state, and no resync",
                        record.client
                    ));
                }
                let part = Picture {
                    held: state.held.iter().cloned().collect(),
                    queued: state.queued.iter().cloned().collect(),
                };
                follower.state(state.first, part, place.filter(|_| state.last));
                if let Some(place) = follower.place() {
                    self.pictures.push((name, shard, place, follower.picture().clone()));
                    self.span(name, shard, place, place);
                }
            }
            let mut told: BTreeMap<u32, Vec<(Place, &ToldChange)>> = BTreeMap::new();
            for (shard, place, change) in events {
                told.entry(*shard).or_default().push((*place, change));
            }
            for shard in places.keys() {
                told.entry(*shard).or_default();
            }
            for (shard, told) in told {
                let follower = followers.entry(shard).or_insert_with(|| Follower::at(begins_at));
                let (from, to) = (follower.place(), places.get(&shard).copied());
                if told.is_empty() && from == to {
                    continue;
                }
                let due = |from: Place, to: Place| {
                    let span = self.log.range((shard, from)..(shard, to));
                    let all = span.map(|((_, place), logged)| (*place, logged.change));
                    all.filter(|(_, change)| matches(name, &change.name)).collect()
                };
                if let Err(what) = follower.events(&told, to, due) {
                    let client = record.client;
                    self.found.push(format!("client {client}, {name:?}, shard {shard}: {what}"));
                }
                if from == Some(OLDEST) {
                    self.pictures.push((name, shard, OLDEST, Picture::default()));
                }
                if let (Some(from), Some(to)) = (from, follower.place()) {
                    self.span(name, shard, from, to);
                }
            }
        }
        for (shard, index) in reached.iter().filter(|(shard, _)| {
            // A watch of one name concerns one shard.
            name.is_none() || followers.contains_key(shard) || followers.is_empty()
        }) {
            let place = followers.get(shard).and_then(Follower::place);
            if place.is_none_or(|place| place <= (*index, u32::MAX)) {
                self.found.push(format!(
                    "client {}, {name:?}, shard {shard}: its watch ended at {place:?}, before entry \
                     {index}",
                    record.client
                ));
            }
        }
        let ended = |(shard, follower)| Ended { record, shard, follower };
        self.ends.extend(followers.into_iter().map(ended));
    }

    fn span(&mut self, name: Option<&str>, shard: u32, from: Place, to: Place) {
        if name.is_none() {
            self.spans.entry(shard).or_default().push((from, to));
        }
    }

    /// The longest stretches of which watches of all names were told everything, in order.
    fn stretches(&self, shard: u32) -> Vec<(Place, Place)> {
        let mut spans = self.spans.get(&shard).cloned().unwrap_or_default();
        spans.sort_unstable();
        let mut merged: Vec<(Place, Place)> = Vec::new();
        for (from, to) in spans {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        merged
    }

    /// Each state is an earlier state with the changes since.
    fn compare_pictures(&mut self) {
        let mut found = Vec::new();
        for shard in self.spans.keys() {
            for (from, to) in self.stretches(*shard) {
                let inside = |at: &Place| (from..=to).contains(at);
                let mut here: Vec<_> = self
                    .pictures
                    .iter()
                    .filter(|(_, of, at, _)| of == shard && inside(at))
                    .collect();
                // A stretch begins with a state of all names.
                here.sort_by_key(|(name, _, at, _)| (*at, name.is_some()));
                let Some((None, _, first_at, first)) = here.first() else { continue };
                let (mut at, mut known) = (*first_at, first.clone());
                for (name, _, place, picture) in here {
                    for (_, logged) in self.log.range((*shard, at)..(*shard, *place)) {
                        known.change(logged.change);
                    }
                    at = *place;
                    let mut expected = known.clone();
                    expected.held.retain(|_, of| matches(*name, of));
                    expected.queued.retain(|_, of| matches(*name, of));
                    if expected != *picture {
                        found.push(format!(
                            "shard {shard}, {place:?}: a watch of {name:?} was told the state \
                             {picture:?}, and by other watches it is {expected:?}"
                        ));
                    }
                }
            }
        }
        self.found.extend(found);
    }

    /// The log has the tenures of the service's history, and no others.
    fn compare_history(&mut self, history: &History) {
        let tenures = history.tenures.as_deref().unwrap_or_default();
        let judged: BTreeSet<&str> = tenures.iter().map(|tenure| &*tenure.name).collect();
        let by_token: BTreeMap<(u32, u64), _> =
            tenures.iter().map(|tenure| ((tenure.shard, tenure.token), tenure)).collect();
        let (mut granted, mut ended) = (BTreeMap::new(), BTreeMap::new());
        for ((shard, place), Logged { change, .. }) in &self.log {
            let (token, end) = match change.what {
                Happened::Granted { token, .. } => (token, None),
                Happened::Ended { token, end } => (token, Some(end)),
                Happened::Queued { .. } | Happened::Cancelled { .. } => continue,
            };
            let list = if end.is_some() { &mut ended } else { &mut granted };
            let again = list.insert((*shard, token), *place).is_some();
            let is_known = match by_token.get(&(*shard, token)) {
                Some(tenure) => tenure.name == change.name && (end.is_none() || end == tenure.end),
                None => !judged.contains(&*change.name),
            };
            if again || !is_known {
                self.found.push(format!(
                    "shard {shard}, {place:?}: {change:?} was told {}",
                    if again { "twice" } else { "and is not in the history" }
                ));
            }
        }
        for ((shard, token), place) in &granted {
            let before = granted.range((*shard, 0)..(*shard, *token)).next_back();
            let end = ended.get(&(*shard, *token));
            if before.is_some_and(|(_, before)| before >= place)
                || end.is_some_and(|end| end <= place)
            {
                self.found.push(format!("shard {shard}, {place:?}: token {token} out of order"));
            }
        }
        // A grant that was not told lies between the grants with the tokens around its own.
        for ((shard, token), tenure) in &by_token {
            if granted.contains_key(&(*shard, *token)) {
                continue;
            }
            let before = granted.range((*shard, 0)..(*shard, *token)).next_back();
            let after = granted.range((*shard, *token)..(*shard, u64::MAX)).next();
            let (Some((_, from)), Some((_, to))) = (before, after) else { continue };
            if self.stretches(*shard).iter().any(|(begin, end)| begin <= from && to < end) {
                self.found.push(format!("shard {shard}: {tenure:?} was told to no watch"));
            }
        }
    }

    /// Nothing was told before it was committed.
    fn compare_times(&mut self, history: &History) {
        let mut asked: BTreeMap<(u64, &str), u64> = BTreeMap::new();
        let mut broken: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        let mut used: BTreeMap<(u32, u64), Vec<&Operation>> = BTreeMap::new();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for operation in &history.operations {
            names.insert(&operation.name);
            let invoke_us = operation.invoke_us;
            if let Call::Acquire { request, session, .. } = operation.call {
                for number in [request, session] {
                    let first = asked.entry((number, &operation.name)).or_insert(invoke_us);
                    *first = (*first).min(invoke_us);
                }
            }
            if let Call::Break { token } = operation.call {
                let first = broken.entry((operation.shard, token)).or_insert(invoke_us);
                *first = (*first).min(invoke_us);
            }
            for token in tokens_used(operation) {
                used.entry((operation.shard, token)).or_default().push(operation);
            }
        }
        for ((shard, place), Logged { change, first_us }) in &self.log {
            let is_sound = match change.what {
                _ if !names.contains(&*change.name) => true,
                Happened::Granted { number: Some(number), .. } => {
                    asked.get(&(number, &change.name)).is_some_and(|asked| asked <= first_us)
                }
                Happened::Ended { token, end } => {
                    let at = (*shard, token);
                    let later = used.get(&at).into_iter().flatten();
                    later.clone().all(|operation| operation.invoke_us <= *first_us)
                        && (end != End::Broken || broken.get(&at).is_some_and(|at| at <= first_us))
                }
                _ => true,
            };
            if !is_sound {
                self.found.push(format!(
                    "shard {shard}, {place:?}: {change:?} was told at {:.6} s, before it can have \
                     been committed",
                    *first_us as f64 / 1e6
                ));
            }
        }
    }

    /// Each watch knows what was held after the operations that its entries have.
    fn compare_ends(&mut self, history: &History, reached: &Reached) {
        let tenures = history.tenures.iter().flatten();
        let open: BTreeSet<(u32, u64)> = tenures
            .filter(|tenure| tenure.end.is_none())
            .map(|tenure| (tenure.shard, tenure.token))
            .collect();
        for Ended { record, shard, follower } in &self.ends {
            let is_at_end = reached
                .entries
                .get(shard)
                .is_some_and(|index| follower.place() > Some((*index, u32::MAX)));
            let here = |operation: &&Operation| {
                operation.shard == *shard
                    && operation.return_us.is_some_and(|return_us| return_us <= reached.at_us)
                    && matches(record.name.as_deref(), &operation.name)
            };
            for operation in history.operations.iter().filter(here).filter(|_| is_at_end) {
                let (token, must_hold) = match (&operation.call, &operation.result) {
                    (_, Outcome::Granted { token, .. }) if open.contains(&(*shard, *token)) => {
                        (*token, true)
                    }
                    (Call::Release { token }, Outcome::Released { .. })
                    | (Call::Break { token }, Outcome::Broken) => (*token, false),
                    _ => continue,
                };
                if follower.picture().held.contains_key(&token) != must_hold {
                    let knows = if must_hold { "not" } else { "still" };
                    self.found.push(format!(
                        "client {}, shard {shard}: {:?} with token {token} is {knows} held by what \
                         its watch was told",
                        record.client, operation.name
                    ));
                }
            }
        }
    }
}

/// The tokens that an operation proves to be held while it was under way.
fn tokens_used(operation: &Operation) -> Vec<u64> {
    match (&operation.call, &operation.result) {
        (Call::Renew { token }, Outcome::Renewed)
        | (Call::Release { token }, Outcome::Released { already: false })
        | (Call::Break { token }, Outcome::Broken) => vec![*token],
        (Call::Check { linearizable: true }, Outcome::Holders { holders, .. }) => {
            holders.iter().map(|holder| holder.token).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
