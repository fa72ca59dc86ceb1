//! The task of one watched shard.

use super::call::{Call, CallId, ENDS_AT_ONCE, Handle, send_ended};
use super::filter::filter;
use super::orders::{Desks, Given, Order};
use crate::context::Context;
use crate::host::{News, NewsReader, WATCH_STREAM, ticket};
use crate::lifecycle::{PanicGuard, Phase};
use crate::limits::{
    RESULT_FRAME_BYTES, WATCH_ASK_EVERY, WATCH_BEHIND_MAX, WATCH_FRAMES, WATCH_KEEP,
    WATCH_LOOK_EVERY, WATCH_PAGE_ROWS, WATCH_PAGES_AT_ONCE, WATCH_PLACES_EVERY, WATCH_ROOM,
};
use ::shard::{Answer, Input, Query, Reply, Watched};
use routing::{ShardId, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use watch::{Ask, Filter, Limits, Part, Place, Recent, WatcherId};
use wire::internal::v1::{StartWatch, WatchFrame, WatchPlace, WatchResponse};
use wire::v1::{Error, ErrorCode, WatchState};

/// A watch that is to begin after a place, once the replica has applied all entries committed
/// before.
struct Begin {
    call: CallId,
    id: u64,
    filter: Filter,
    after: Place,
}

/// A page under way. Its place among them is free once it is answered, even if its watcher ends
/// before.
struct Page {
    watcher: WatcherId,
    attempt: u64,
}

/// A question to the leader under way: whether this replica is behind.
struct Asked {
    reading: u32,
    at: Instant,
    begins: Vec<Begin>,
}

pub(super) struct ShardTask {
    desks: Arc<Desks>,
    context: Arc<Context>,
    shard: ShardId,
    orders: UnboundedReceiver<Given>,
    news: NewsReader,
    recent: Recent,
    /// Whether the replica has said where its events begin. A picture that was asked for before
    /// that would be void.
    has_begun: bool,
    calls: BTreeMap<CallId, Call>,
    /// The call of each watcher, and the id that the call gave it.
    watchers: BTreeMap<WatcherId, (CallId, u64)>,
    next_watcher: u64,
    /// By the index of their ticket.
    pages: BTreeMap<u32, Page>,
    /// The call that was given the last page.
    last_reader: CallId,
    /// The shard has too many reads, or no leader. No read is asked for until the next look.
    is_busy: bool,
    /// Watches that begin with the next question.
    begins: Vec<Begin>,
    asked: Option<Asked>,
    /// The moment of the last question with the answer that the replica was not behind.
    confirmed_at: Instant,
    places_told_at: Instant,
    /// Calls that wait for room.
    rooms: JoinSet<CallId>,
    keeps: BTreeSet<CallId>,
    /// The moment since when this task is not needed.
    idle_since: Instant,
    /// Since when the replica knows no leader.
    leaderless_since: Option<Instant>,
    election_timeout: Duration,
    /// The resyncs of `recent` at the last count.
    counted_resyncs: u64,
}

impl ShardTask {
    pub(super) fn new(
        desks: Arc<Desks>,
        context: Arc<Context>,
        shard: ShardId,
        limits: Limits,
        election_timeout: Duration,
        orders: UnboundedReceiver<Given>,
        news: NewsReader,
    ) -> ShardTask {
        context.metrics.watch_rings.inc();
        let now = Instant::now();
        ShardTask {
            desks,
            context,
            shard,
            orders,
            news,
            recent: Recent::new(limits),
            has_begun: false,
            calls: BTreeMap::new(),
            watchers: BTreeMap::new(),
            next_watcher: 0,
            pages: BTreeMap::new(),
            last_reader: CallId(0),
            is_busy: false,
            begins: Vec::new(),
            asked: None,
            confirmed_at: now,
            places_told_at: now,
            rooms: JoinSet::new(),
            keeps: BTreeSet::new(),
            idle_since: now,
            leaderless_since: None,
            election_timeout,
            counted_resyncs: 0,
        }
    }

    /// Runs until the shard's events were not needed for a while, the replica ends, or the node
    /// stops.
    pub(super) async fn run(mut self) {
        let lifecycle = self.context.lifecycle.clone();
        // Otherwise the watches of a task that panicked would wait for ever.
        let _guard = PanicGuard { lifecycle: &lifecycle, thread: "watch" };
        let drains = lifecycle.reached(Phase::Draining);
        tokio::pin!(drains);
        let mut look = tokio::time::interval(WATCH_LOOK_EVERY);
        let error = loop {
            let is_ready = self.calls.values().any(Call::is_ready);
            tokio::select! {
                () = &mut drains => break Some(shutting_down()),
                news = self.news.next() => match news {
                    Some(news) => self.take_news(news),
                    None => break Some(self.elsewhere("has no replica here")),
                },
                Some(given) = self.orders.recv(), if self.has_begun => self.take_order(given.order),
                Some(Ok(call)) = self.rooms.join_next() => {
                    if let Some(call) = self.calls.get_mut(&call) {
                        call.is_blocked = false;
                    }
                }
                // One response at a time for each call, so that none waits for all of another's.
                () = std::future::ready(()), if is_ready => {
                    self.pump_all();
                    tokio::task::yield_now().await;
                }
                _ = look.tick() => {
                    self.look_around();
                    if self.idle_since.elapsed() >= WATCH_KEEP && self.leave() {
                        break None;
                    }
                }
            }
            self.read_pages();
            self.ask_leader();
        };
        if let Some(error) = error {
            self.end(&error);
        }
        self.count_resyncs();
        for call in std::mem::take(&mut self.calls).into_values() {
            tokio::spawn(send_ended(call));
        }
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
    }

    fn take_answer(&mut self, index: u32, reply: Reply) {
        if let Some(asked) = self.asked.take_if(|asked| asked.reading == index) {
            return self.take_position(asked, &reply);
        }
        let Some(Page { watcher, attempt }) = self.pages.remove(&index) else { return };
        match reply {
            Reply::Read { answer: Answer::Picture(page), .. } => {
                self.recent.page(watcher, attempt, page);
                self.wake([watcher]);
            }
            Reply::Read { .. } => {}
            Reply::Busy => {
                self.is_busy = true;
                self.recent.no_page(watcher, attempt);
                self.push_wants(watcher);
            }
            _ => {
                let error = self.no_quorum();
                self.end_watcher(watcher, error);
            }
        }
    }

    fn take_position(&mut self, asked: Asked, reply: &Reply) {
        let Asked { at, begins, .. } = asked;
        match reply {
            Reply::Read { .. } => {
                self.confirmed_at = at;
                for Begin { call, id, filter, after } in begins {
                    self.begin(call, id, filter, Some(after));
                }
            }
            Reply::Busy => {
                self.is_busy = true;
                self.begins.extend(begins);
            }
            _ => {
                self.is_busy = true; // the next question waits as well
                let error = self.no_quorum();
                for Begin { call, id, .. } in begins {
                    self.refuse(call, id, error.clone());
                }
            }
        }
    }

    fn take_order(&mut self, order: Order) {
        match order {
            Order::Start { call, watch } => {
                let id = self.enter(call);
                self.start(id, *watch);
            }
            Order::Stop { call, id } => self.stop(call, id),
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

    fn stop(&mut self, call: CallId, id: u64) {
        let Some(of) = self.calls.get_mut(&call) else { return };
        of.drop_ended(id);
        match of.watches.remove(&id) {
            Some(watcher) => self.forget(watcher),
            None => self.drop_begins(|begin| (begin.call, begin.id) == (call, id)),
        }
    }

    fn drop_begins(&mut self, is_dropped: impl Fn(&Begin) -> bool) {
        let asked = self.asked.as_mut().map(|asked| &mut asked.begins);
        for begins in asked.into_iter().chain([&mut self.begins]) {
            begins.retain(|begin| !is_dropped(begin));
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
                self.begins.push(Begin { call, id, filter, after });
            }
        }
    }

    fn checked(&self, watch: &StartWatch) -> Result<Filter, Error> {
        let filter = filter(watch.filter.clone().unwrap_or_default())?;
        let routes = self.context.routes.now();
        let map = routes.map();
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
        if self.watchers.is_empty() {
            self.confirmed_at = Instant::now(); // by the read with which the watch begins
        }
        self.watchers.insert(watcher, (call, id));
        self.context.metrics.watches.inc();
        self.recent.start(watcher, filter, after);
        if self.recent.is_due(watcher) {
            self.wake([watcher]);
        }
        self.push_wants(watcher);
    }

    fn wake(&mut self, woken: impl IntoIterator<Item = WatcherId>) {
        for watcher in woken {
            let call = self.watchers.get(&watcher).and_then(|(call, _)| self.calls.get_mut(call));
            if let Some(call) = call {
                call.push_due(watcher);
            }
        }
    }

    /// Puts a watcher in the line for pages, if it needs one.
    fn push_wants(&mut self, watcher: WatcherId) {
        let call = self.watchers.get(&watcher).and_then(|(call, _)| self.calls.get_mut(call));
        if let Some(call) = call.filter(|_| self.recent.needs_page(watcher)) {
            call.push_wants(watcher);
        }
    }

    /// Sends each call one response, if something is due to it and its gateway takes it.
    fn pump_all(&mut self) {
        let ready = self.calls.iter().filter(|(_, call)| call.is_ready());
        for call in ready.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.pump(call);
        }
    }

    fn pump(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.handle.outbound.clone().try_reserve_owned() {
            Ok(permit) => {
                let response = self.next_response(id);
                if !response.frames.is_empty() && !self.context.lifecycle.failed() {
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
            Err(TrySendError::Closed(_)) => self.drop_call(id),
        }
    }

    /// Takes frames for a call, each watcher in turn, up to the size of a response.
    fn next_response(&mut self, id: CallId) -> WatchResponse {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let Some(call) = self.calls.get_mut(&id) else { return WatchResponse::default() };
        frames.extend(call.take_ended(ENDS_AT_ONCE));
        for _ in 0..call.due().min(WATCH_FRAMES) {
            let Some(watcher) = self.calls.get_mut(&id).and_then(Call::pop_due) else { break };
            if let Some(frame) = self.next_frame(watcher) {
                bytes += wire::encoded_bytes(&frame) + 8;
                frames.push(frame);
            }
            if self.recent.is_due(watcher) {
                self.wake([watcher]);
            }
            self.push_wants(watcher);
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
                if events.is_empty() && (at.is_none() || self.recent.is_due(watcher)) {
                    return None; // the search for its events goes on
                }
                self.context.metrics.watch_events.inc_by(events.len() as u64);
                let told = events.iter().map(|told| {
                    let at = (told.index, told.ordinal);
                    ::service::event(shard, at, told.wall_ms, &told.event)
                });
                WatchFrame { events: told.collect(), place: at.map(place), ..frame }
            }
        })
    }

    /// Reads the pages that watchers need, a few at a time. The calls that take their frames get
    /// pages in turn.
    fn read_pages(&mut self) {
        while !self.is_busy && self.pages.len() < WATCH_PAGES_AT_ONCE {
            let can_read = |(_, call): &(&CallId, &Call)| call.wants_pages() && !call.is_blocked;
            let after = (Bound::Excluded(self.last_reader), Bound::Unbounded);
            let mut turns = self.calls.range(after).chain(&self.calls).filter(can_read);
            let Some(id) = turns.next().map(|(id, _)| *id) else { return };
            self.last_reader = id;
            self.read_page(id);
        }
    }

    fn read_page(&mut self, call: CallId) {
        let Some(watcher) = self.calls.get_mut(&call).and_then(Call::pop_wants) else { return };
        let Some(Ask { attempt, of, after }) = self.recent.wants_page(watcher) else { return };
        // The first page shows that this replica is not behind.
        let is_first = after.is_none();
        let query = Query::Picture { of, after, limit: WATCH_PAGE_ROWS };
        let reading = self.read(query, is_first);
        self.pages.insert(reading, Page { watcher, attempt });
    }

    /// Asks whether this replica is behind: for watches that begin after a place, and now and then
    /// while there are watchers. One question is under way at a time.
    fn ask_leader(&mut self) {
        let is_due = !self.watchers.is_empty() && self.confirmed_at.elapsed() >= WATCH_ASK_EVERY;
        if self.asked.is_some() || self.is_busy || self.begins.is_empty() && !is_due {
            return;
        }
        let begins = std::mem::take(&mut self.begins);
        let reading = self.read(Query::Position, true);
        self.asked = Some(Asked { reading, at: Instant::now(), begins });
    }

    /// Asks for a read. Returns its index.
    fn read(&self, query: Query, linearizable: bool) -> u32 {
        let index = self.desks.next_reading();
        let ticket = ticket(WATCH_STREAM, index);
        self.context.host.input(self.shard, Input::Read { ticket, query, linearizable });
        index
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
                call.forget(watcher);
            }
        }
        self.recent.stop(watcher);
    }

    fn drop_call(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        call.watches.into_values().for_each(|watcher| self.forget(watcher));
        self.drop_begins(|begin| begin.call == id);
    }

    /// Ends all watches if the replica may be behind, and notes whether the task is needed.
    fn look_around(&mut self) {
        self.is_busy = false;
        let is_alone =
            self.leaderless_since.is_some_and(|since| since.elapsed() >= self.election_timeout);
        if is_alone {
            self.end_all(&self.elsewhere("has known no leader here for a while"));
        } else if self.context.disk.state().hangs {
            self.end_all(&self.elsewhere("is on a node whose disk hangs"));
        } else if self.confirmed_at.elapsed() >= WATCH_BEHIND_MAX {
            self.end_watchers(&self.elsewhere("may be behind here"));
        }
        if self.places_told_at.elapsed() >= WATCH_PLACES_EVERY {
            self.places_told_at = Instant::now();
            let woken = self.recent.tell_places();
            self.wake(woken);
        }
        let begins = !self.begins.is_empty() || self.asked.is_some();
        if !self.watchers.is_empty() || !self.keeps.is_empty() || begins {
            self.idle_since = Instant::now();
        }
    }

    /// Ends all watches, and those that are to begin.
    fn end_all(&mut self, error: &Error) {
        let asked = self.asked.as_mut().map(|asked| std::mem::take(&mut asked.begins));
        let begins = std::mem::take(&mut self.begins);
        for Begin { call, id, .. } in asked.into_iter().flatten().chain(begins) {
            self.refuse(call, id, error.clone());
        }
        self.end_watchers(error);
    }

    fn end_watchers(&mut self, error: &Error) {
        for watcher in self.watchers.keys().copied().collect::<Vec<_>>() {
            self.end_watcher(watcher, error.clone());
        }
    }

    /// Takes no orders any more, unless one waits. Returns whether that is so.
    fn leave(&self) -> bool {
        let (host, shard) = (&self.context.host, self.shard);
        self.desks.leave(shard, &self.orders, || _ = host.watch(shard, None))
    }

    /// The last words of this task.
    fn end(&mut self, error: &Error) {
        // Orders that came meanwhile are refused with the others.
        while !self.leave() {
            while let Ok(Given { order, .. }) = self.orders.try_recv() {
                match order {
                    Order::Start { call, watch } => {
                        let call = self.enter(call);
                        self.refuse(call, watch.id, error.clone());
                    }
                    other => self.take_order(other),
                }
            }
        }
        self.end_all(error);
    }

    fn count_resyncs(&mut self) {
        let resyncs = self.recent.resyncs();
        self.context.metrics.watch_resyncs.inc_by(resyncs - self.counted_resyncs);
        self.counted_resyncs = resyncs;
    }

    fn no_quorum(&self) -> Error {
        self.elsewhere("has no leader or no quorum right now")
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
