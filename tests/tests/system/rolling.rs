//! All nodes and all gateways are restarted by SIGTERM, one after the other, while clients work. No
//! operation fails, no lock is lost, and no waiter loses its turn.

use client::{
    AcquireOptions, Client, ClientOptions, Consistency, Error, ErrorCode, Held, SessionOptions,
    Watch, WatchOptions,
};
use nix::sys::signal::Signal;
use palisade_tests::{Cluster, LIMIT, Spec, eventually};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const CLIENTS: usize = 256;
/// Names that several clients wait for.
const QUEUES: usize = 8;
/// Pause of a client between two rounds, so that all of them together leave some of the machine to
/// the processes that start.
const PAUSE: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3_600);

/// The work of a client.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// Keeps one lock, and takes, renews and releases another.
    Cycle,
    /// Waits for a lock that others want, and holds it for a moment.
    Queue,
    /// Keeps a lock by the heartbeats of a session, and takes and releases another.
    Session,
    /// Takes a lock and breaks it.
    Break,
    /// Keeps a lock by a guard, and watches the locks of other clients.
    Watch,
}

impl Job {
    fn of(number: usize) -> Job {
        match number % 16 {
            0 | 1 => Job::Queue,
            2 | 3 => Job::Break,
            4 => Job::Session,
            5 if number < 128 => Job::Watch,
            _ => Job::Cycle,
        }
    }
}

/// A name that several clients wait for.
///
/// * `last` is the highest token of a holder.
#[derive(Debug, Default)]
struct Queue {
    last: AtomicU64,
    is_held: AtomicBool,
}

/// The state that the clients share.
#[derive(Debug)]
struct Work {
    is_over: AtomicBool,
    /// The rounds of each client.
    rounds: Vec<AtomicU64>,
    /// Breaks whose first try was not answered in time.
    doubts: AtomicU64,
    queues: Vec<Queue>,
}

/// The clients. A failure says which client and operation it was.
type Workers = JoinSet<Result<(), String>>;

impl Work {
    /// Waits until each client has begun and ended some more rounds. Panics with the failure of a
    /// client.
    async fn goes_on(&self, workers: &mut Workers) {
        let rounds = || self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed));
        let before: Vec<u64> = rounds().collect();
        eventually("each client goes on", async || {
            if let Some(ended) = workers.try_join_next() {
                panic!("a client ended: {ended:?}");
            }
            rounds().zip(&before).all(|(now, before)| now >= before + 2).then_some(())
        })
        .await;
    }
}

/// One client at its work. The first failure ends it.
struct Worker {
    client: Client,
    number: usize,
    shared: Arc<Work>,
    /// The highest token so far of the lock that it takes again and again.
    last: u64,
}

impl Worker {
    fn failed(&self, what: &'static str) -> impl Fn(Error) -> String + use<> {
        let number = self.number;
        move |error| format!("client {number}: {what}: {error} ({:?})", error.code)
    }

    /// Fails unless a condition holds.
    fn ensure(&self, holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
        if holds { Ok(()) } else { Err(format!("client {}: {}", self.number, what())) }
    }

    /// Notes a token of the lock that it takes again and again.
    fn rises(&mut self, token: u64) -> Result<(), String> {
        let last = std::mem::replace(&mut self.last, token);
        self.ensure(token > last, || format!("token {token} after {last}"))
    }

    /// Counts a round. Returns whether there is another one.
    async fn again(&self) -> bool {
        self.shared.rounds[self.number].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
        !self.shared.is_over.load(Ordering::Relaxed)
    }

    async fn run(self) -> Result<(), String> {
        match Job::of(self.number) {
            Job::Cycle => self.cycle().await,
            Job::Queue => self.queue().await,
            Job::Session => self.session().await,
            Job::Break => self.break_locks().await,
            Job::Watch => self.watch().await,
        }
    }

    async fn cycle(mut self) -> Result<(), String> {
        let (kept, name) = (format!("kept/{}", self.number), format!("job/{}", self.number));
        let keep = self.client.acquire(AcquireOptions::new(&kept).ttl(LONG)).await;
        let token = keep.map_err(self.failed("keep"))?.fencing_token;
        loop {
            let grant = self.client.acquire(name.as_str()).await.map_err(self.failed("acquire"))?;
            self.rises(grant.fencing_token)?;
            self.client.renew(&kept, token).await.map_err(self.failed("renew"))?;
            let released = self.client.release(&name, grant.fencing_token).await;
            released.map_err(self.failed("release"))?;
            if !self.again().await {
                break;
            }
        }
        self.client.release(&kept, token).await.map(drop).map_err(self.failed("let go"))
    }

    async fn queue(self) -> Result<(), String> {
        let at = self.number / 16 % QUEUES;
        let (name, queue) = (format!("queue/{at}"), &self.shared.queues[at]);
        loop {
            let options = AcquireOptions::new(&name).wait(LONG).ttl(LONG);
            let grant = self.client.acquire(options).await.map_err(self.failed("wait"))?;
            let token = grant.fencing_token;
            let last = queue.last.swap(token, Ordering::SeqCst);
            self.ensure(token > last, || format!("{name}: token {token} after {last}"))?;
            let was_held = queue.is_held.swap(true, Ordering::SeqCst);
            self.ensure(!was_held, || format!("{name}: another client holds it, too"))?;
            tokio::time::sleep(PAUSE / 10).await;
            queue.is_held.store(false, Ordering::SeqCst);
            self.client.release(&name, token).await.map_err(self.failed("release"))?;
            if !self.again().await {
                return Ok(());
            }
        }
    }

    async fn session(mut self) -> Result<(), String> {
        // A round takes no lock from a session that a busy machine lets wait for its heartbeat.
        let options = SessionOptions::new().ttl(LIMIT);
        let session = self.client.open_session(options).await.map_err(self.failed("open"))?;
        let kept = session.acquire(format!("kept/{}", self.number)).await;
        let kept = kept.map_err(self.failed("keep"))?;
        loop {
            let lock = session.acquire(format!("job/{}", self.number)).await;
            let lock = lock.map_err(self.failed("acquire"))?;
            self.rises(lock.token())?;
            lock.release().await.map_err(self.failed("release"))?;
            self.ensure(kept.is_valid(), || "a lock of a session was lost".into())?;
            if !self.again().await {
                break;
            }
        }
        self.still_holds(&kept).await?;
        session.close().await.map(drop).map_err(self.failed("close"))
    }

    async fn break_locks(mut self) -> Result<(), String> {
        let name = format!("job/{}", self.number);
        loop {
            let grant = self.client.acquire(name.as_str()).await.map_err(self.failed("acquire"))?;
            let token = grant.fencing_token;
            self.rises(token)?;
            let tenure = match self.client.break_lock(&name, token, "a test", "rolling").await {
                Err(error) if error.code == ErrorCode::OutcomeUnknown => {
                    // On a busy machine a node answers later than a gateway waits. A second try of a
                    // break finds the lock gone, and the history says by whom.
                    self.shared.doubts.fetch_add(1, Ordering::Relaxed);
                    let history = self.client.history(&name, 1).await;
                    let mut tenures = history.map_err(self.failed("history"))?.into_iter();
                    let tenure = tenures.next();
                    self.ensure(
                        tenure.as_ref().is_some_and(|of| of.broken_by == "rolling"),
                        || format!("broke {tenure:?}"),
                    )?;
                    tenure.expect("just seen")
                }
                broken => broken.map_err(self.failed("break"))?,
            };
            self.ensure(tenure.fencing_token == token, || format!("broke {tenure:?}"))?;
            if !self.again().await {
                return Ok(());
            }
        }
    }

    async fn watch(self) -> Result<(), String> {
        let options = AcquireOptions::new(format!("kept/{}", self.number)).ttl(LIMIT);
        let guard = self.client.lock(options).await.map_err(self.failed("keep"))?;
        let mut watch = self.client.watch(WatchOptions::new().prefix("job/"));
        let mut places = BTreeMap::new();
        loop {
            self.hear(&mut watch, &mut places).await?;
            self.ensure(guard.is_valid(), || "a lock of a guard was lost".into())?;
            if !self.again().await {
                break;
            }
        }
        self.still_holds(&guard).await?;
        guard.release().await.map_err(self.failed("let go"))
    }

    /// Awaits the next events of a watch, which come in the order of each shard's log. At the end no
    /// more may come.
    async fn hear(
        &self,
        watch: &mut Watch,
        places: &mut BTreeMap<u32, (u64, u32)>,
    ) -> Result<(), String> {
        loop {
            // A future of a watch that is dropped loses nothing.
            let Ok(told) = tokio::time::timeout(PAUSE, watch.next()).await else {
                if self.shared.is_over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            };
            let told = told.map_err(self.failed("watch"))?;
            for event in &told.events {
                let place = (event.index, event.ordinal);
                let former = places.insert(event.shard, place);
                self.ensure(former < Some(place), || format!("{place:?} after {former:?}"))?;
            }
            if !told.events.is_empty() {
                return Ok(());
            }
        }
    }

    /// Fails unless the cluster says that a lock is held with its token.
    async fn still_holds(&self, lock: &impl Held) -> Result<(), String> {
        let checked = self.client.check(lock.name(), Consistency::Linearizable).await;
        let holders = checked.map_err(self.failed("check"))?.holders;
        let tokens: Vec<u64> = holders.iter().map(|holder| holder.fencing_token).collect();
        self.ensure(tokens == [lock.token()], || format!("{tokens:?}, not {}", lock.token()))
    }
}

/// Whether the answer to a probe has the status 200.
fn is_ok(answer: &str) -> bool {
    answer.split(' ').nth(1) == Some("200")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_gateways_are_restarted_one_by_one_under_load_and_no_operation_fails() {
    let spec = Spec { gateways: 2, ..Spec::five_by_four() };
    let (nodes, gateways) = (spec.nodes, spec.gateways);
    let mut cluster = Cluster::start(spec).await;
    let shared = Arc::new(Work {
        is_over: AtomicBool::new(false),
        rounds: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
        doubts: AtomicU64::new(0),
        queues: (0..QUEUES).map(|_| Queue::default()).collect(),
    });
    let mut workers = Workers::new();
    for number in 0..CLIENTS {
        // One half begins at each gateway. Each client has connections of its own.
        let mut endpoints = vec![cluster.gateway(1), cluster.gateway(2)];
        endpoints.rotate_left(number % 2);
        let options = ClientOptions::new().timeout(LIMIT);
        let client = Client::with_options(endpoints, options);
        let worker = Worker { client, number, shared: shared.clone(), last: 0 };
        workers.spawn(worker.run());
    }
    shared.goes_on(&mut workers).await;

    let mut led = 0;
    for node in 1..=nodes {
        let shards = cluster.status().await.shards;
        led += shards.iter().filter(|it| it.node == node && it.role == "leader").count();
        cluster.signal_node(node, Signal::SIGTERM);
        let (status, log) = cluster.node_ended(node).await;
        assert!(status.success(), "node {node}: {status}\n{log}");
        cluster.start_node(node);
        eventually("it is ready again", async || {
            is_ok(&cluster.node_probe(node, "/readyz")).then_some(())
        })
        .await;
        shared.goes_on(&mut workers).await;
    }
    assert!(led > 0, "no node led when it was restarted");
    for gateway in 1..=gateways {
        cluster.signal_gateway(gateway, Signal::SIGTERM);
        let status = cluster.gateway_ended(gateway).await;
        assert!(status.success(), "gateway {gateway}: {status}");
        cluster.start_gateway(gateway);
        eventually("it is ready again", async || {
            is_ok(&cluster.gateway_probe(gateway, "/readyz")).then_some(())
        })
        .await;
        shared.goes_on(&mut workers).await;
    }

    shared.is_over.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.expect("no client panics").expect("no operation fails");
    }
    cluster.replicas_agree().await;
    let rounds: u64 = shared.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    let doubts = shared.doubts.load(Ordering::Relaxed);
    println!("{CLIENTS} clients did {rounds} rounds, and {doubts} breaks were tried twice");
}
