//! The task that serves all watches of a gateway.

use super::call::{self, Heard};
use super::handle::{Asked, Requests};
use super::queue::Queue;
use crate::core::watch::{Call, Hub, Taken, WatchId};
use crate::limits::{WATCH_EVERY, WATCH_FRAMES_UNDER_WAY, WATCH_REQUESTS_PER_TURN};
use crate::router::Router;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wire::internal::v1::WatchRequest;

/// The state of the task.
struct Work {
    router: Arc<Router>,
    hub: Hub,
    queues: BTreeMap<WatchId, Arc<Queue>>,
    /// The calls that are up.
    calls: BTreeMap<u64, mpsc::UnboundedSender<WatchRequest>>,
    /// By node: whether a call to it is wanted.
    wanted: BTreeMap<u64, watch::Sender<bool>>,
    heard: mpsc::Sender<Heard>,
    tasks: JoinSet<()>,
    moves: u64,
}

/// Serves all watches until the gateway ends.
pub(crate) async fn work(
    router: Arc<Router>,
    mut requests: Requests,
    mut ending: watch::Receiver<bool>,
) {
    let (heard, mut outcomes) = mpsc::channel(WATCH_FRAMES_UNDER_WAY);
    let mut work = Work {
        router,
        hub: Hub::new(rand::random()),
        queues: BTreeMap::new(),
        calls: BTreeMap::new(),
        wanted: BTreeMap::new(),
        heard,
        tasks: JoinSet::new(),
        moves: 0,
    };
    let mut look_again = tokio::time::interval(WATCH_EVERY);
    loop {
        let due_at_ms = work.hub.due_at_ms();
        let now_ms = work.router.now_ms();
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            Some(asked) = requests.recv() => {
                work.asked(asked);
                // Thousands of clients may move at once. The watches that go on wait no longer for
                // them than for one turn.
                for _ in 1..WATCH_REQUESTS_PER_TURN {
                    let Ok(asked) = requests.try_recv() else { break };
                    work.asked(asked);
                }
            }
            Some(heard) = outcomes.recv() => work.heard(heard),
            () = until(due_at_ms, now_ms) => {
                let now_ms = work.router.now_ms();
                work.hub.on_time(&work.router.directory, now_ms);
            }
            _ = look_again.tick(), if !work.hub.is_empty() => work.look_at_map(),
        }
        work.send();
    }
}

/// Returns at this time on the clock of all calls.
async fn until(due_at_ms: Option<u64>, now_ms: u64) {
    match due_at_ms {
        Some(at_ms) => {
            tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms))).await;
        }
        None => std::future::pending().await,
    }
}

impl Work {
    fn asked(&mut self, asked: Asked) {
        let (directory, now_ms) = (&self.router.directory, self.router.now_ms());
        match asked {
            Asked::Start { id, filter, from, queue } => {
                self.queues.insert(id, queue);
                self.hub.start(id, filter, &from, directory, now_ms);
                self.look_at_map();
            }
            Asked::Resume(id) => self.hub.resume(id, directory, now_ms),
            Asked::Stop(id) => {
                self.queues.remove(&id);
                self.hub.stop(id, now_ms);
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        let Work { router, hub, queues, calls, .. } = self;
        let (directory, now_ms) = (&router.directory, router.now_ms());
        match heard {
            Heard::Up { node, requests } => {
                calls.insert(node, requests);
                hub.on_node(node, Call::Up, directory, now_ms);
            }
            Heard::Down { node, too_old } => {
                calls.remove(&node);
                let call = if too_old { Call::TooOld } else { Call::Down };
                hub.on_node(node, call, directory, now_ms);
            }
            Heard::Frames { node, frames } => {
                for frame in frames {
                    hub.on_frame(node, frame, directory, now_ms, |id, part| {
                        let events = part.events.len();
                        let taken = queues.get(&id).map_or(Taken::Over, |queue| queue.push(part));
                        match taken {
                            Taken::Yes => router.metrics.watch_events.inc_by(events as u64),
                            Taken::Full => router.metrics.watch_pauses.inc(),
                            Taken::Over => {}
                        }
                        taken
                    });
                }
            }
        }
    }

    /// Takes in a newer map, if there is one.
    fn look_at_map(&mut self) {
        let forgotten = self.hub.on_map(&self.router.directory, self.router.now_ms());
        for (id, part) in forgotten {
            if let Some(queue) = self.queues.get(&id) {
                queue.push_always(part);
            }
        }
    }

    /// Sends the core's messages to the nodes, and begins the calls that the core needs. Tells
    /// clients the ends of their watches.
    fn send(&mut self) {
        for (id, error) in self.hub.over() {
            tracing::debug!(%error, "a watch ends, because no node serves it");
            if let Some(queue) = self.queues.get(&id) {
                queue.end(error);
            }
        }
        if let Some(nodes) = self.hub.wanted(&self.router.directory) {
            for (node, wants) in &self.wanted {
                wants.send_replace(nodes.contains(node));
            }
            for node in nodes {
                self.wanted.entry(node).or_insert_with(|| {
                    let (wants, wanted) = watch::channel(true);
                    let (router, heard) = (self.router.clone(), self.heard.clone());
                    self.tasks.spawn(call::keep(router, node, wanted, heard));
                    wants
                });
            }
        }
        for (node, request) in self.hub.requests() {
            if let Some(call) = self.calls.get(&node) {
                let _ = call.send(request); // its end is on its way here
            }
        }
        let moves = self.hub.moves();
        self.router.metrics.watch_moves.inc_by(moves - self.moves);
        self.moves = moves;
    }
}
