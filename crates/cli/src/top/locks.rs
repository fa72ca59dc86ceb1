//! The locks that a watch tells: their holders, their queues, and how often they change.
//!
//! The table takes the answers of one watch, and gives rankings: the names that changed most, the
//! longest queues, the oldest holds. It sends nothing and reads no clock.

use super::counts::{Change, LastMinute, Rates};
use super::moment::Moment;
use client::{Event, EventKind, Grant, Told, Waiter};
use std::collections::{BTreeSet, HashMap};
use wire::v1::Mode;

/// Names that are kept. A page of the web console keeps as many.
pub const NAMES_MAX: usize = 250_000;

/// An order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOrder {
    /// Most changes within the last minute first.
    Changes,
    /// Longest queue first, and of equal queues the one with the longest wait.
    Queue,
    /// Oldest hold first.
    Hold,
    /// By name.
    Name,
}

impl LockOrder {
    pub const ALL: [LockOrder; 4] =
        [LockOrder::Changes, LockOrder::Queue, LockOrder::Hold, LockOrder::Name];
}

/// All locks with names that begin with the prefix of one watch.
///
/// * A name is here while it is held or waited for, or changed within the last minute.
/// * The first part of a shard's state replaces all holds and waits of that shard. The counts of
///   changes stay.
#[derive(Clone, Debug)]
pub struct Locks {
    names: HashMap<Box<str>, Lock>,
    /// The shards with a state that was told completely.
    complete: BTreeSet<u32>,
    begun: Moment,
    resync: Option<Moment>,
    rates: Rates,
}

#[derive(Clone, Debug, Default)]
struct Lock {
    shard: u32,
    /// By token, so that the oldest is first.
    holds: Vec<Hold>,
    /// Holds without a token, because this client may not read the name.
    hidden_holds: u32,
    /// As they came.
    waits: Vec<Wait>,
    hidden_waits: u32,
    changes: Option<Box<LastMinute>>,
    last: Option<(EventKind, Moment)>,
}

#[derive(Clone, Debug)]
struct Hold {
    token: u64,
    since_ms: u64,
    owner: Box<str>,
    principal: Box<str>,
    mode: Mode,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    number: u64,
    since_ms: u64,
}

/// The holder of a lock, as a row shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No client holds the lock.
    Free,
    /// This client may not see the holders.
    Hidden,
    /// The oldest holder.
    Known { owner: String, principal: String, token: u64, since_ms: u64, mode: Mode },
}

/// One name of a ranking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub shard: u32,
    pub holder: Holder,
    pub holders: u32,
    pub waiters: u32,
    /// The beginning of the longest wait, in Unix milliseconds.
    pub queued_since_ms: Option<u64>,
    /// Changes within the last minute.
    pub changes: u32,
    pub last: Option<(EventKind, Moment)>,
}

/// The first names in an order, and the sums over all names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    pub rows: Vec<Row>,
    /// Names in all.
    pub names: usize,
    pub held: usize,
    pub waiters: u64,
}

impl Locks {
    /// An empty table, for a watch that begins now.
    pub fn new(now: Moment) -> Locks {
        Locks {
            names: HashMap::new(),
            complete: BTreeSet::new(),
            begun: now,
            resync: None,
            rates: Rates::since(now.ms),
        }
    }

    /// Takes an answer of the watch.
    pub fn take(&mut self, told: &Told, now: Moment) {
        if let Some(state) = &told.state {
            if state.first {
                self.forget(state.shard);
            }
            if state.resync {
                self.resync = Some(now);
            }
            state.held.iter().for_each(|grant| self.of(&grant.resource_name).hold(grant));
            for waiter in &state.queued {
                self.of(&waiter.resource_name).wait(waiter);
            }
            if state.last {
                self.complete.insert(state.shard);
            }
        }
        told.events.iter().for_each(|event| self.change(event, now));
    }

    /// Begins the rates anew.
    pub fn count_anew(&mut self, now: Moment) {
        self.rates = Rates::since(now.ms);
    }

    /// Whether there are more names than this table keeps.
    pub fn is_full(&self) -> bool {
        self.names.len() > NAMES_MAX
    }

    /// When the watch began.
    pub fn begun(&self) -> Moment {
        self.begun
    }

    /// When changes were last lost.
    pub fn resync(&self) -> Option<Moment> {
        self.resync
    }

    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Of the shards with numbers below `count`, those that have not told their state.
    pub fn missing(&self, count: u32) -> Vec<u32> {
        (0..count).filter(|shard| !self.complete.contains(shard)).collect()
    }

    /// Forgets the names of which there is nothing more to tell.
    pub fn prune(&mut self, now: Moment) {
        self.names.retain(|_, lock| lock.is_used() || lock.changes_within(now) > 0);
    }

    /// The first names in an order, at most `limit`.
    pub fn rank(&self, order: LockOrder, limit: usize, now: Moment) -> Ranking {
        let mut ranked: Vec<((u64, u64), &str, &Lock)> = Vec::with_capacity(self.names.len());
        let mut ranking = Ranking { names: self.names.len(), ..Ranking::default() };
        for (name, lock) in &self.names {
            ranking.held += usize::from(lock.holders() > 0);
            ranking.waiters += u64::from(lock.waiters());
            ranked.push((lock.place(order, now), name, lock));
        }
        let by_place = |a: &((u64, u64), &str, &Lock), b: &((u64, u64), &str, &Lock)| {
            a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1))
        };
        if ranked.len() > limit {
            // Only the rows that can be shown are put in order.
            ranked.select_nth_unstable_by(limit, by_place);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by(by_place);
        ranking.rows = ranked.into_iter().map(|(_, name, lock)| lock.row(name, now)).collect();
        ranking
    }

    fn forget(&mut self, shard: u32) {
        self.complete.remove(&shard);
        for lock in self.names.values_mut().filter(|lock| lock.shard == shard) {
            lock.holds.clear();
            lock.waits.clear();
            (lock.hidden_holds, lock.hidden_waits) = (0, 0);
        }
    }

    fn of(&mut self, name: &str) -> &mut Lock {
        if !self.names.contains_key(name) {
            self.names.insert(name.into(), Lock::default());
        }
        self.names.get_mut(name).expect("it was put in if it was missing")
    }

    fn change(&mut self, event: &Event, now: Moment) {
        let kind = event.kind();
        let Some(change) = Change::of(kind) else { return };
        self.rates.add(change, now.ms);
        let lock = self.of(&event.resource_name);
        lock.shard = event.shard;
        match (change, &event.waiter) {
            (Change::Queued, Some(waiter)) => lock.wait(waiter),
            (_, Some(waiter)) => lock.wait_ended(waiter),
            (_, None) => {}
        }
        match (change, &event.grant) {
            (Change::Granted, Some(grant)) => lock.hold(grant),
            (_, Some(grant)) => lock.hold_ended(grant),
            (_, None) => {}
        }
        lock.changes.get_or_insert_default().add(now.ms);
        lock.last = Some((kind, now));
        if change == Change::Granted && event.waiter.is_some() {
            self.rates.add(Change::Waited, now.ms);
        }
    }
}

impl Lock {
    fn hold(&mut self, grant: &Grant) {
        self.shard = grant.shard;
        if grant.fencing_token == 0 {
            self.hidden_holds += 1;
            return;
        }
        let hold = Hold {
            token: grant.fencing_token,
            since_ms: grant.acquired_at_ms,
            owner: grant.owner_id.as_str().into(),
            principal: grant.principal.as_str().into(),
            mode: grant.mode(),
        };
        match self.holds.binary_search_by_key(&hold.token, |hold| hold.token) {
            Ok(at) => self.holds[at] = hold,
            Err(at) => self.holds.insert(at, hold),
        }
    }

    fn hold_ended(&mut self, grant: &Grant) {
        if grant.fencing_token == 0 {
            self.hidden_holds = self.hidden_holds.saturating_sub(1);
        } else if let Ok(at) =
            self.holds.binary_search_by_key(&grant.fencing_token, |hold| hold.token)
        {
            self.holds.remove(at);
        }
    }

    fn wait(&mut self, waiter: &Waiter) {
        self.shard = waiter.shard;
        if waiter.waiter == 0 {
            self.hidden_waits += 1;
            return;
        }
        let wait = Wait { number: waiter.waiter, since_ms: waiter.queued_at_ms };
        match self.waits.binary_search_by_key(&wait.number, |wait| wait.number) {
            Ok(at) => self.waits[at] = wait,
            Err(at) => self.waits.insert(at, wait),
        }
    }

    fn wait_ended(&mut self, waiter: &Waiter) {
        if waiter.waiter == 0 {
            self.hidden_waits = self.hidden_waits.saturating_sub(1);
        } else if let Ok(at) = self.waits.binary_search_by_key(&waiter.waiter, |wait| wait.number) {
            self.waits.remove(at);
        }
    }

    fn holders(&self) -> u32 {
        (self.holds.len() as u32).saturating_add(self.hidden_holds)
    }

    fn waiters(&self) -> u32 {
        (self.waits.len() as u32).saturating_add(self.hidden_waits)
    }

    fn is_used(&self) -> bool {
        self.holders() > 0 || self.waiters() > 0
    }

    fn changes_within(&self, now: Moment) -> u32 {
        self.changes.as_ref().map_or(0, |changes| changes.count(now.ms))
    }

    fn queued_since_ms(&self) -> Option<u64> {
        self.waits.first().map(|wait| wait.since_ms)
    }

    /// The place in an order: lower ones come first, and equal ones by name.
    fn place(&self, order: LockOrder, now: Moment) -> (u64, u64) {
        let most = |count: u32| u64::MAX - u64::from(count);
        match order {
            LockOrder::Changes => (most(self.changes_within(now)), most(self.waiters())),
            LockOrder::Queue => (most(self.waiters()), self.queued_since_ms().unwrap_or(u64::MAX)),
            LockOrder::Hold => (self.holds.first().map_or(u64::MAX, |hold| hold.since_ms), 0),
            LockOrder::Name => (0, 0),
        }
    }

    fn row(&self, name: &str, now: Moment) -> Row {
        let holder = match self.holds.first() {
            Some(hold) => Holder::Known {
                owner: hold.owner.to_string(),
                principal: hold.principal.to_string(),
                token: hold.token,
                since_ms: hold.since_ms,
                mode: hold.mode,
            },
            None if self.hidden_holds > 0 => Holder::Hidden,
            None => Holder::Free,
        };
        Row {
            name: name.to_owned(),
            shard: self.shard,
            holder,
            holders: self.holders(),
            waiters: self.waiters(),
            queued_since_ms: self.queued_since_ms(),
            changes: self.changes_within(now),
            last: self.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::WatchState;

    const fn at(ms: u64) -> Moment {
        Moment { unix_ms: 1_000_000 + ms, ms }
    }

    fn grant(name: &str, token: u64) -> Grant {
        Grant {
            resource_name: name.into(),
            owner_id: format!("owner-{token}"),
            fencing_token: token,
            acquired_at_ms: 1_000 * token,
            ..Grant::default()
        }
    }

    fn waiter(name: &str, number: u64) -> Waiter {
        Waiter {
            resource_name: name.into(),
            waiter: number,
            queued_at_ms: 10 * number,
            ..Waiter::default()
        }
    }

    fn event(kind: EventKind, grant: Option<Grant>, waiter: Option<Waiter>) -> Event {
        let name = grant.as_ref().map(|grant| grant.resource_name.clone());
        let name = name.or(waiter.as_ref().map(|waiter| waiter.resource_name.clone()));
        Event {
            kind: kind.into(),
            resource_name: name.expect("a grant or a waiter"),
            grant,
            waiter,
            ..Event::default()
        }
    }

    fn state(shard: u32, held: Vec<Grant>, queued: Vec<Waiter>) -> Told {
        let held = held.into_iter().map(|grant| Grant { shard, ..grant }).collect();
        let queued = queued.into_iter().map(|waiter| Waiter { shard, ..waiter }).collect();
        let state =
            WatchState { shard, first: true, last: true, held, queued, ..Default::default() };
        Told { state: Some(state), ..Told::default() }
    }

    fn events(events: Vec<Event>) -> Told {
        Told { events, ..Told::default() }
    }

    fn names(ranking: &Ranking) -> Vec<&str> {
        ranking.rows.iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn each_order_has_its_first() {
        let mut locks = Locks::new(at(0));
        let held = vec![grant("a", 30), grant("b", 10), grant("c", 20)];
        locks.take(&state(0, held, vec![waiter("c", 1), waiter("c", 2), waiter("a", 3)]), at(0));
        let release = |name, token| event(EventKind::Released, Some(grant(name, token)), None);
        let acquire = |name, token| event(EventKind::Granted, Some(grant(name, token)), None);
        locks.take(&events(vec![release("b", 10), acquire("b", 40), release("b", 40)]), at(1));
        let first = |order| names(&locks.rank(order, 10, at(2))).join("");
        assert_eq!(first(LockOrder::Changes), "bca", "of those without a change, longer queues");
        assert_eq!(first(LockOrder::Queue), "cab");
        assert_eq!(first(LockOrder::Hold), "cab", "a free name comes last");
        assert_eq!(first(LockOrder::Name), "abc");
        let all = locks.rank(LockOrder::Changes, 1, at(2));
        assert_eq!(names(&all), ["b"], "no more rows than asked for");
        assert_eq!((all.names, all.held, all.waiters), (3, 2, 3), "and yet sums over all");
        assert_eq!((&all.rows[0].holder, all.rows[0].changes), (&Holder::Free, 3));
    }

    #[test]
    fn a_grant_out_of_the_queue_ends_its_wait_and_counts_as_contended() {
        let mut locks = Locks::new(at(0));
        locks.take(&state(1, vec![grant("a", 1)], vec![waiter("a", 5), waiter("a", 6)]), at(0));
        let released = event(EventKind::Released, Some(grant("a", 1)), None);
        let granted = event(EventKind::Granted, Some(grant("a", 2)), Some(waiter("a", 5)));
        let cancelled = event(EventKind::Cancelled, None, Some(waiter("a", 6)));
        locks.take(&events(vec![released, granted]), at(1_000));
        let row = locks.rank(LockOrder::Name, 1, at(1_000)).rows.remove(0);
        assert_eq!((row.holders, row.waiters, row.queued_since_ms), (1, 1, Some(60)));
        assert!(matches!(row.holder, Holder::Known { token: 2, .. }), "{row:?}");
        locks.take(&events(vec![cancelled]), at(1_500));
        assert_eq!(locks.rank(LockOrder::Name, 1, at(1_500)).waiters, 0);
        assert_eq!(locks.rates().contention(2_000), Some(1.0));
    }

    #[test]
    fn a_state_replaces_its_shard_alone_and_keeps_the_counts() {
        let mut locks = Locks::new(at(0));
        locks.take(&state(0, vec![grant("a", 1)], vec![]), at(0));
        locks.take(&state(1, vec![grant("b", 1)], vec![waiter("b", 1)]), at(0));
        assert_eq!(locks.missing(3), [2]);
        let changed = event(EventKind::Granted, Some(grant("a", 2)), None);
        locks.take(&events(vec![changed]), at(10));
        let mut anew = state(0, vec![grant("c", 7)], vec![]);
        let part = anew.state.as_mut().expect("a state");
        (part.resync, part.last) = (true, false);
        locks.take(&anew, at(20));
        assert_eq!((locks.missing(3), locks.resync()), (vec![0, 2], Some(at(20))));
        let ranking = locks.rank(LockOrder::Name, 10, at(20));
        assert_eq!((names(&ranking), ranking.held), (vec!["a", "b", "c"], 2));
        assert_eq!((&ranking.rows[0].holder, ranking.rows[0].changes), (&Holder::Free, 1));
        locks.prune(at(20));
        assert_eq!(locks.rank(LockOrder::Name, 10, at(20)).names, 3, "a changed a moment ago");
        locks.prune(at(90_000));
        assert_eq!(names(&locks.rank(LockOrder::Name, 10, at(90_000))), ["b", "c"]);
    }

    #[test]
    fn a_name_that_may_not_be_read_is_counted_without_its_holder() {
        let mut locks = Locks::new(at(0));
        let hidden = |kind| event(kind, Some(grant("a", 0)), None);
        locks.take(&state(0, vec![grant("a", 0), grant("a", 0)], vec![waiter("a", 0)]), at(0));
        let row = locks.rank(LockOrder::Name, 1, at(0)).rows.remove(0);
        assert_eq!((&row.holder, row.holders, row.waiters), (&Holder::Hidden, 2, 1));
        assert_eq!(row.queued_since_ms, None);
        locks.take(&events(vec![hidden(EventKind::Released), hidden(EventKind::Expired)]), at(1));
        let row = locks.rank(LockOrder::Name, 1, at(1)).rows.remove(0);
        assert_eq!((row.holder, row.holders), (Holder::Free, 0));
    }

    #[test]
    fn the_table_says_when_it_is_full() {
        let mut locks = Locks::new(at(0));
        let held = (0..=NAMES_MAX as u64).map(|n| grant(&format!("n{n}"), n + 1)).collect();
        locks.take(&state(0, held, vec![]), at(0));
        assert!(locks.is_full());
    }
}
