//! The task of one watched shard.

use super::call::{Call, CallId, Handle};
use super::filter::filter;
use super::orders::{Desks, Order};
use crate::context::Context;
use crate::host::{News, NewsReader, WATCH_STREAM, ticket};
use crate::lifecycle::{PanicGuard, Phase};
use crate::limits::{
    RESULT_FRAME_BYTES, WATCH_KEEP, WATCH_LIMITS, WATCH_LOOK_EVERY, WATCH_PAGE_ROWS,
    WATCH_PAGES_AT_ONCE, WATCH_ROOM,
};
use ::shard::{Answer, Input, Query, Reply, Watched};
use routing::{ShardId, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use watch::{Ask, Filter, Part, Place, Recent, WatcherId};
use wire::internal::v1::{StartWatch, WatchFrame, WatchPlace, WatchResponse};
use wire::v1::{Error, ErrorCode, WatchState};

/// A read under way, by whose answer a watch goes on.
enum Reading {
    /// A watch is to begin after a place, once the replica has applied what was committed before.
    Begin {
        call: CallId,
        id: u64,
        filter: Filter,
        after: Place,
    },
    Page {
        call: CallId,
        watcher: WatcherId,
        attempt: u64,
    },
}

pub(super) struct ShardTask {
    desks: Arc<Desks>,
    context: Arc<Context>,
    shard: ShardId,
    orders: UnboundedReceiver<Order>,
    news: NewsReader,
    recent: Recent,
    /// Whether the replica has said where its events begin. A picture that was asked for before that
    /// would be void.
    has_begun: bool,
    calls: BTreeMap<CallId, Call>,
    /// The call of each watcher, and the id that the call gave it.
    watchers: BTreeMap<WatcherId, (CallId, u64)>,
    /// By the index of their ticket.
    readings: BTreeMap<u32, Reading>,
    next_reading: u32,
    next_watcher: u64,
    /// Calls that wait for room.
    rooms: JoinSet<CallId>,
    keeps: BTreeSet<CallId>,
    /// Since when nobody needs this task.
    idle_since: Instant,
    /// Since when the replica knows no leader.
    leaderless_since: Option<Instant>,
    election_timeout: Duration,
    /// What was counted of it last.
    counted_resyncs: u64,
}

impl ShardTask {
    pub(super) fn new(
        desks: Arc<Desks>,
        context: Arc<Context>,
        shard: ShardId,
        election_timeout: Duration,
        orders: UnboundedReceiver<Order>,
        news: NewsReader,
    ) -> ShardTask {
        context.metrics.watch_rings.inc();
        ShardTask {
            desks,
            context,
            shard,
            orders,
            news,
            recent: Recent::new(WATCH_LIMITS),
            has_begun: false,
            calls: BTreeMap::new(),
            watchers: BTreeMap::new(),
            readings: BTreeMap::new(),
            next_reading: 0,
            next_watcher: 0,
            rooms: JoinSet::new(),
            keeps: BTreeSet::new(),
            idle_since: Instant::now(),
            leaderless_since: None,
            election_timeout,
            counted_resyncs: 0,
        }
    }

    /// Runs until nobody has needed the shard's events for a while, the replica ends, or the node
    /// stops.
    pub(super) async fn run(mut self) {
        let lifecycle = self.context.lifecycle.clone();
        // Otherwise the watches of a task that panicked would wait for ever.
        let _guard = PanicGuard { lifecycle: &lifecycle, thread: "watch" };
        let drains = lifecycle.reached(Phase::Draining);
        tokio::pin!(drains);
        let mut look = tokio::time::interval(WATCH_LOOK_EVERY);
        let error = loop {
            tokio::select! {
                () = &mut drains => break shutting_down(),
                news = self.news.next() => match news {
                    Some(news) => self.take_news(news),
                    None => break self.elsewhere("has no replica here"),
                },
                Some(order) = self.orders.recv(), if self.has_begun => self.take_order(order),
                Some(Ok(call)) = self.rooms.join_next() => {
                    if let Some(call) = self.calls.get_mut(&call) {
                        call.is_blocked = false;
                    }
                    self.pump(call);
                }
                _ = look.tick() => {
                    self.look_around();
                    if self.idle_since.elapsed() >= WATCH_KEEP && self.orders.is_empty() {
                        break self.elsewhere("was not watched here for long");
                    }
                }
            }
        };
        self.end(error);
    }

    fn take_news(&mut self, news: News) {
        let News { watched, answers, has_leader } = news;
        if let Some(watched) = watched {
            self.take_events(watched);
        }
        for (index, reply) in answers {
            self.take_answer(index, reply);
        }
        if let Some(has_leader) = has_leader {
            let since = self.leaderless_since.unwrap_or_else(Instant::now);
            self.leaderless_since = (!has_leader).then_some(since);
        }
    }

    fn take_events(&mut self, watched: Watched) {
        let Watched { begins_after, entries, applied_index } = watched;
        if let Some(after) = begins_after {
            self.has_begun = true;
            let woken = self.recent.begin(after);
            self.wake(woken);
        }
        for entry in entries {
            let woken = self.recent.push(entry.index, entry.wall_ms, entry.events);
            self.wake(woken);
        }
        self.recent.applied(applied_index);
        self.pump_all();
    }

    fn take_answer(&mut self, index: u32, reply: Reply) {
        let Some(reading) = self.readings.remove(&index) else { return };
        let answer = match reply {
            Reply::Read { answer, .. } => Ok(answer),
            Reply::Busy => Err(Error::busy(
                format!("shard {} has too many reads queued: watch again later", self.shard),
                200,
            )),
            _ => Err(self.elsewhere("has no leader or no quorum right now")),
        };
        match (reading, answer) {
            (Reading::Begin { call, id, filter, after }, Ok(_)) => {
                self.begin(call, id, filter, Some(after));
            }
            (Reading::Begin { call, id, .. }, Err(error)) => self.refuse(call, id, error),
            (Reading::Page { call, watcher, attempt }, answer) => {
                if let Some(call) = self.calls.get_mut(&call) {
                    call.reading.remove(&watcher);
                }
                match answer {
                    Ok(Answer::Picture(page)) => {
                        self.recent.page(watcher, attempt, page);
                        self.wake([watcher]);
                    }
                    Ok(_) => {}
                    Err(error) => self.end_watcher(watcher, error),
                }
            }
        }
        self.pump_all();
    }

    fn take_order(&mut self, order: Order) {
        match order {
            Order::Start { call, watch } => {
                let id = self.enter(call);
                self.start(id, *watch);
                self.pump(id);
            }
            Order::Stop { call, id } => {
                let found = self.calls.get_mut(&call).and_then(|call| call.watches.remove(&id));
                if let Some(watcher) = found {
                    self.forget(watcher);
                }
                self.readings.retain(|_, reading| {
                    !matches!(reading, Reading::Begin { call: of, id: begun, .. } if (*of, *begun) == (call, id))
                });
            }
            Order::Keep { call } => {
                self.keeps.insert(call);
            }
            Order::LetGo { call } => {
                self.keeps.remove(&call);
            }
            Order::Gone { call } => {
                self.keeps.remove(&call);
                self.drop_call(call);
            }
        }
    }

    fn enter(&mut self, call: Arc<Handle>) -> CallId {
        let id = call.id;
        self.calls.entry(id).or_insert_with(|| Call::new(call));
        id
    }

    fn start(&mut self, call: CallId, watch: StartWatch) {
        let id = watch.id;
        let filter = match self.checked(&watch) {
            Ok(filter) => filter,
            Err(error) => return self.refuse(call, id, error),
        };
        match watch.after {
            None => self.begin(call, id, filter, None),
            Some(WatchPlace { index, ordinals }) => {
                let after = Place { index, ordinals };
                self.read(Reading::Begin { call, id, filter, after }, Query::Position, true);
            }
        }
    }

    fn checked(&self, watch: &StartWatch) -> Result<Filter, Error> {
        let filter = filter(watch.filter.clone().unwrap_or_default())?;
        let topology = self.context.topology.now();
        let map = topology.map();
        let owns = |name: &String| map.owner(Slot::of(name)) == self.shard;
        if filter.name.as_ref().is_some_and(|name| !owns(name)) {
            return Err(Error::busy(
                format!("shard {} does not own the name by this node's map", self.shard),
                200,
            ));
        }
        Ok(filter)
    }

    /// The watch begins: with a picture, or after a place that is applied here.
    fn begin(&mut self, call: CallId, id: u64, filter: Filter, after: Option<Place>) {
        let Some(of) = self.calls.get_mut(&call) else { return };
        let watcher = WatcherId(self.next_watcher);
        self.next_watcher += 1;
        if let Some(former) = of.watches.insert(id, watcher) {
            self.forget(former); // the id was used again
        }
        self.watchers.insert(watcher, (call, id));
        self.context.metrics.watches.inc();
        self.recent.start(watcher, filter, after);
        self.wake([watcher]);
        self.pump(call);
    }

    fn wake(&mut self, woken: impl IntoIterator<Item = WatcherId>) {
        for watcher in woken {
            let call = self.watchers.get(&watcher).and_then(|(call, _)| self.calls.get_mut(call));
            if let Some(call) = call {
                call.push_due(watcher);
            }
        }
    }

    fn pump_all(&mut self) {
        let ready = self.calls.iter().filter(|(_, call)| call.has_work() && !call.is_blocked);
        for call in ready.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.pump(call);
        }
    }

    /// Sends a call what is due to it, as far as its gateway takes it.
    fn pump(&mut self, id: CallId) {
        while let Some(call) = self.calls.get_mut(&id)
            && call.has_work()
            && !call.is_blocked
        {
            match call.handle.outbound.clone().try_reserve_owned() {
                Ok(permit) => {
                    let response = self.next_response(id);
                    if self.context.lifecycle.failed() {
                        return;
                    }
                    if !response.frames.is_empty() {
                        permit.send(Ok(response));
                    }
                }
                Err(TrySendError::Full(outbound)) => {
                    call.is_blocked = true;
                    // The place is given back at once: only the wait for it counts.
                    self.rooms.spawn(async move {
                        let _ = outbound.reserve().await;
                        id
                    });
                }
                Err(TrySendError::Closed(_)) => return self.drop_call(id),
            }
        }
        self.read_pages(id);
    }

    /// Takes frames for a call, each watcher in turn, up to the size of a response.
    fn next_response(&mut self, id: CallId) -> WatchResponse {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let Some(call) = self.calls.get_mut(&id) else { return WatchResponse::default() };
        frames.extend(call.take_ended(WATCH_ROOM.events));
        for _ in 0..call.due() {
            let Some(watcher) = self.calls.get_mut(&id).and_then(Call::pop_due) else { break };
            if let Some(frame) = self.next_frame(watcher) {
                bytes += wire::encoded_bytes(&frame) + 8;
                frames.push(frame);
            }
            if let Some(call) = self.calls.get_mut(&id) {
                if self.recent.is_due(watcher) {
                    call.push_due(watcher);
                }
                if self.recent.needs_page(watcher) {
                    call.push_wants(watcher);
                }
            }
            if bytes >= RESULT_FRAME_BYTES {
                break;
            }
        }
        self.count_resyncs();
        WatchResponse { frames }
    }

    fn next_frame(&mut self, watcher: WatcherId) -> Option<WatchFrame> {
        let part = self.recent.deliver(watcher, WATCH_ROOM)?;
        let (_, id) = *self.watchers.get(&watcher)?;
        let shard = self.shard;
        let frame = WatchFrame { id, ..WatchFrame::default() };
        let place = |Place { index, ordinals }| WatchPlace { index, ordinals };
        Some(match part {
            Part::State { first, last, resync, held, queued, place: at } => {
                let (held, queued) = ::service::picture(shard, held, queued);
                let state = WatchState { shard: shard.0, first, last, resync, held, queued };
                WatchFrame { state: Some(state), place: at.map(place), ..frame }
            }
            Part::Events { events, place: at } => {
                self.context.metrics.watch_events.inc_by(events.len() as u64);
                let told = events.iter().map(|told| {
                    let at = (told.index, told.ordinal);
                    ::service::event(shard, at, told.wall_ms, &told.event)
                });
                WatchFrame { events: told.collect(), place: at.map(place), ..frame }
            }
        })
    }

    /// Reads the pages that the watchers of a call need, a few at a time, while the call takes what
    /// it is sent.
    fn read_pages(&mut self, id: CallId) {
        while let Some(call) = self.calls.get_mut(&id)
            && !call.is_blocked
            && call.reading.len() < WATCH_PAGES_AT_ONCE
            && let Some(watcher) = call.pop_wants()
        {
            let Some(Ask { attempt, of, after }) = self.recent.wants_page(watcher) else {
                continue;
            };
            call.reading.insert(watcher);
            // The first page shows that this replica is not behind.
            let is_first = after.is_none();
            let query = Query::Picture { of, after, limit: WATCH_PAGE_ROWS };
            self.read(Reading::Page { call: id, watcher, attempt }, query, is_first);
        }
    }

    fn read(&mut self, reading: Reading, query: Query, linearizable: bool) {
        let index = self.next_reading;
        self.next_reading = self.next_reading.wrapping_add(1);
        self.readings.insert(index, reading);
        let ticket = ticket(WATCH_STREAM, index);
        self.context.host.input(self.shard, Input::Read { ticket, query, linearizable });
    }

    fn refuse(&mut self, call: CallId, id: u64, error: Error) {
        if let Some(call) = self.calls.get_mut(&call) {
            call.push_ended(id, error);
        }
    }

    fn end_watcher(&mut self, watcher: WatcherId, error: Error) {
        let Some(&(call, id)) = self.watchers.get(&watcher) else { return };
        if let Some(call) = self.calls.get_mut(&call) {
            call.watches.remove(&id);
            call.push_ended(id, error);
        }
        self.forget(watcher);
    }

    /// Forgets a watcher that its call does not have any more.
    fn forget(&mut self, watcher: WatcherId) {
        if let Some((call, _)) = self.watchers.remove(&watcher) {
            self.context.metrics.watches.dec();
            if let Some(call) = self.calls.get_mut(&call) {
                call.reading.remove(&watcher);
            }
        }
        self.recent.stop(watcher);
    }

    fn drop_call(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        call.watches.into_values().for_each(|watcher| self.forget(watcher));
        self.readings.retain(|_, reading| {
            let (Reading::Begin { call, .. } | Reading::Page { call, .. }) = reading;
            *call != id
        });
    }

    /// Ends all watches if the replica may be behind, and notes whether the task is needed.
    fn look_around(&mut self) {
        let is_alone =
            self.leaderless_since.is_some_and(|since| since.elapsed() >= self.election_timeout);
        if is_alone {
            self.end_all(&self.elsewhere("has known no leader here for a while"));
        } else if self.context.disk.state().hangs {
            self.end_all(&self.elsewhere("is on a node whose disk hangs"));
        }
        if !self.watchers.is_empty() || !self.readings.is_empty() || !self.keeps.is_empty() {
            self.idle_since = Instant::now();
        }
    }

    fn end_all(&mut self, error: &Error) {
        let begins = std::mem::take(&mut self.readings);
        for reading in begins.into_values() {
            if let Reading::Begin { call, id, .. } = reading {
                self.refuse(call, id, error.clone());
            }
        }
        for watcher in self.watchers.keys().copied().collect::<Vec<_>>() {
            self.end_watcher(watcher, error.clone());
        }
        self.pump_all();
    }

    /// The last words of this task.
    fn end(mut self, error: Error) {
        self.context.host.watch(self.shard, None);
        // Orders that came meanwhile are refused with the others.
        loop {
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Start { call, watch } => {
                        let call = self.enter(call);
                        self.refuse(call, watch.id, error.clone());
                    }
                    other => self.take_order(other),
                }
            }
            if self.desks.leave(self.shard, &self.orders) {
                break;
            }
        }
        self.end_all(&error);
        self.count_resyncs();
    }

    fn count_resyncs(&mut self) {
        let resyncs = self.recent.resyncs();
        self.context.metrics.watch_resyncs.inc_by(resyncs - self.counted_resyncs);
        self.counted_resyncs = resyncs;
    }

    fn elsewhere(&self, why: &str) -> Error {
        Error::no_leader(format!("shard {} {why}: watch another replica", self.shard))
    }
}

impl Drop for ShardTask {
    fn drop(&mut self) {
        self.context.metrics.watch_rings.dec();
        self.context.metrics.watches.sub(self.watchers.len() as i64);
    }
}

fn shutting_down() -> Error {
    Error::new(ErrorCode::ShuttingDown, "this node is shutting down: watch another replica")
}
