//! The watches of fake nodes: all nodes serve the same events, as replicas of the same shards do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};
use wire::internal::v1::{StartWatch, WatchFrame, WatchPlace, WatchRequest, WatchResponse};
use wire::v1::{Error, ErrorCode, Event, EventKind, Grant, WatchFilter, WatchState};

type Frames = mpsc::Sender<Result<WatchResponse, Status>>;

/// What all fake nodes know of watches.
pub struct Watches {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// By shard: the events of each entry, from index 1.
    logs: BTreeMap<u32, Vec<Vec<Event>>>,
    /// By shard: entries before this index are forgotten.
    oldest: BTreeMap<u32, u64>,
    /// How often each node has ended its calls.
    cuts: BTreeMap<u64, u64>,
    /// Nodes that end each watch at once.
    refusing: BTreeSet<u64>,
    /// Nodes that do not know watches.
    old: BTreeSet<u64>,
    /// Parts of each state; 0 counts as 1.
    parts: usize,
    started: Vec<(u64, StartWatch)>,
    stopped: Vec<(u64, u64)>,
    kept: BTreeMap<u64, Vec<u32>>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches { inner: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

/// An event that a hold of this name, token and principal began or ended.
pub fn event(kind: EventKind, name: &str, token: u64, principal: &str) -> Event {
    let grant = Grant {
        resource_name: name.into(),
        fencing_token: token,
        owner_id: format!("owner of {principal}"),
        principal: principal.into(),
        ..Default::default()
    };
    Event {
        kind: kind.into(),
        resource_name: name.into(),
        grant: Some(grant),
        reason: "WHY".into(),
        ..Default::default()
    }
}

fn matches(filter: &WatchFilter, event: &Event) -> bool {
    let grant = event.grant.as_ref();
    (filter.name.is_empty() || filter.name == event.resource_name)
        && event.resource_name.starts_with(&filter.prefix)
        && (filter.kinds.is_empty() || filter.kinds.contains(&event.kind))
        && (filter.owner.is_empty() || grant.is_some_and(|of| of.owner_id == filter.owner))
        && (filter.session_id.is_empty()
            || grant.is_some_and(|of| of.session_id == filter.session_id))
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Appends one entry to the log of a shard.
    pub fn push(&self, shard: u32, mut events: Vec<Event>) {
        let mut inner = self.lock();
        let log = inner.logs.entry(shard).or_default();
        let index = log.len() as u64 + 1;
        for (ordinal, event) in (0..).zip(&mut events) {
            (event.shard, event.index, event.ordinal) = (shard, index, ordinal);
        }
        log.push(events);
        drop(inner);
        self.changed();
    }

    /// Forgets all entries of a shard.
    pub fn forget(&self, shard: u32) {
        let mut inner = self.lock();
        let end = inner.logs.get(&shard).map_or(0, Vec::len) as u64 + 1;
        inner.oldest.insert(shard, end);
    }

    /// Tells each state in so many parts.
    pub fn tell_in_parts(&self, parts: usize) {
        self.lock().parts = parts;
    }

    /// Ends the calls of a node.
    pub fn cut(&self, node: u64) {
        *self.lock().cuts.entry(node).or_default() += 1;
        self.changed();
    }

    /// Lets a node end each watch, or serve again.
    pub fn refuse(&self, node: u64, refuses: bool) {
        let mut inner = self.lock();
        match refuses {
            true => inner.refusing.insert(node),
            false => inner.refusing.remove(&node),
        };
        drop(inner);
        self.changed();
    }

    /// Lets a node know no watches.
    pub fn be_old(&self, node: u64) {
        self.lock().old.insert(node);
    }

    pub fn started(&self) -> Vec<(u64, StartWatch)> {
        self.lock().started.clone()
    }

    pub fn stopped(&self) -> usize {
        self.lock().stopped.len()
    }

    /// The shards that each node keeps.
    pub fn kept(&self) -> BTreeMap<u64, Vec<u32>> {
        self.lock().kept.clone()
    }

    /// Serves one call.
    pub(super) fn serve(
        self: Arc<Watches>,
        node: u64,
        mut requests: Streaming<WatchRequest>,
    ) -> Result<mpsc::Receiver<Result<WatchResponse, Status>>, Status> {
        if self.lock().old.contains(&node) {
            return Err(Status::unimplemented("this node does not serve watches"));
        }
        let (frames, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            let cut = self.cuts(node);
            let mut changes = self.changes.subscribe();
            let mut tasks = BTreeMap::new();
            loop {
                let request = tokio::select! {
                    request = requests.message() => request,
                    _ = changes.wait_for(|_| self.cuts(node) != cut) => {
                        Err(Status::unavailable("cut"))
                    }
                };
                let request = match request {
                    Ok(Some(request)) => request,
                    Ok(None) => break,
                    Err(status) => {
                        let _ = frames.send(Err(status)).await;
                        break;
                    }
                };
                for id in request.stop {
                    self.lock().stopped.push((node, id));
                    if let Some(task) = tasks.remove(&id) {
                        tokio::task::JoinHandle::abort(&task);
                    }
                }
                if let Some(keep) = request.keep {
                    self.lock().kept.insert(node, keep.shards);
                }
                for start in request.start {
                    self.lock().started.push((node, start.clone()));
                    let (id, watch) = (start.id, self.clone().watch(node, start, frames.clone()));
                    tasks.insert(id, tokio::spawn(watch));
                }
            }
            tasks.into_values().for_each(|task| task.abort());
        });
        Ok(stream)
    }

    fn cuts(&self, node: u64) -> u64 {
        self.lock().cuts.get(&node).copied().unwrap_or(0)
    }

    async fn watch(self: Arc<Watches>, node: u64, start: StartWatch, frames: Frames) {
        let StartWatch { id, route, filter, after } = start;
        let (shard, filter) = (route.unwrap().shard, filter.unwrap());
        let mut changes = self.changes.subscribe();
        let mut at = after;
        loop {
            changes.borrow_and_update();
            let refuses = self.lock().refusing.contains(&node);
            let (new, place) = match refuses {
                true => {
                    let why = Error::new(ErrorCode::NoLeader, "behind");
                    let ended = WatchFrame { id, ended: Some(why), ..Default::default() };
                    (vec![ended], None)
                }
                false => self.next(id, shard, &filter, at, after.is_some()),
            };
            for frame in new {
                let ended = frame.ended.is_some();
                let sent = frames.send(Ok(WatchResponse { frames: vec![frame] })).await;
                if sent.is_err() || ended {
                    return;
                }
            }
            at = place;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The frames of a watch after a place, and the place after them.
    fn next(
        &self,
        id: u64,
        shard: u32,
        filter: &WatchFilter,
        at: Option<WatchPlace>,
        resumed: bool,
    ) -> (Vec<WatchFrame>, Option<WatchPlace>) {
        let inner = self.lock();
        let log = inner.logs.get(&shard).cloned().unwrap_or_default();
        let oldest = inner.oldest.get(&shard).copied().unwrap_or(0);
        let end = WatchPlace { index: log.len() as u64 + 1, ordinals: 0 };
        let Some(at) = at.filter(|at| at.index >= oldest) else {
            let mut held: BTreeMap<(String, u64), Grant> = BTreeMap::new();
            for event in log.iter().flatten().filter(|event| {
                matches(&WatchFilter { kinds: Vec::new(), ..filter.clone() }, event)
            }) {
                let grant = event.grant.clone().unwrap();
                let key = (grant.resource_name.clone(), grant.fencing_token);
                match event.kind() {
                    EventKind::Granted => drop(held.insert(key, grant)),
                    _ => drop(held.remove(&key)),
                }
            }
            let parts = inner.parts.max(1);
            let held: Vec<Grant> = held.into_values().collect();
            let size = held.len().div_ceil(parts).max(1);
            let part = |nth: usize| WatchFrame {
                id,
                state: Some(WatchState {
                    shard,
                    first: nth == 0,
                    last: nth + 1 == parts,
                    resync: nth == 0 && resumed,
                    held: held.iter().skip(nth * size).take(size).cloned().collect(),
                    queued: Vec::new(),
                }),
                place: (nth + 1 == parts).then_some(end),
                ..Default::default()
            };
            return ((0..parts).map(part).collect(), Some(end));
        };
        let told = |event: &Event| {
            (event.index, event.ordinal) >= (at.index, at.ordinals) && matches(filter, event)
        };
        let frames = log.iter().flatten().filter(|event| told(event)).map(|event| WatchFrame {
            id,
            events: vec![event.clone()],
            place: Some(WatchPlace { index: event.index, ordinals: event.ordinal + 1 }),
            ..Default::default()
        });
        (frames.collect(), Some(if at.index > end.index { at } else { end }))
    }
}
