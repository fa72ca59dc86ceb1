//! Many watches, each of a lock of its own, and a load that changes these locks. `scripts/measure
//! watchers` starts it, hurts the cluster meanwhile, and reads its reports.
//!
//! The locks are acquired and released in turn, again and again. Each lock is changed by one task,
//! and an operation is tried again until it is answered, with the same request id. So the changes
//! that each watch must be told are known: the acknowledged ones, in order.
//!
//! Standard input takes one order per line, and standard output gives one line of JSON for each:
//!
//! ```text
//! load      changes the locks from now on
//! stop      no more, after each lock was changed twice; waits for the watches, and judges them
//! leave     the watches end, and keep their positions
//! return    the watches go on from these positions; waits until each was told a state
//! ```

use clap::Parser;
use client::{AcquireOptions, Client, ClientOptions, EventKind, Told, WatchOptions};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

/// Watches of one connection. A gateway has room for 256.
const WATCHES_PER_CONNECTION: usize = 200;
/// The lease of the locks. None ends by itself while this runs.
const TTL: Duration = Duration::from_secs(3_600);
/// The time of one try of an operation.
const TRY_FOR: Duration = Duration::from_secs(5);
/// The longest time for an operation, and for all watches to be told what they lack.
const PATIENCE: Duration = Duration::from_secs(300);
/// Watches that wait for their first state at the same time.
const STARTS_AT_ONCE: usize = 256;
/// How often the watches are compared with the changes while they are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Parser)]
struct Args {
    /// The gateways of the watches, comma-separated: the first is used as long as it lives
    #[arg(long, value_delimiter = ',')]
    watch: Vec<String>,
    /// The gateway of the load
    #[arg(long)]
    load: String,
    /// How many watches, each of a lock of its own
    #[arg(long, default_value_t = 10_000)]
    watches: usize,
    /// Tasks that change the locks
    #[arg(long, default_value_t = 64)]
    tasks: usize,
}

/// A change of a lock: the token of its grant, and whether the grant began.
type Change = (u64, bool);

/// One lock: what was acknowledged, and what its watch was told, since the last report.
#[derive(Debug, Default)]
struct Lock {
    changes: Vec<(Change, Instant)>,
    told: Vec<(Change, Instant)>,
    /// The states that were told, with the token that holds: `resync` says that events were lost.
    states: Vec<(bool, Option<u64>)>,
    /// The token that holds, by the last acknowledged change.
    held: Option<u64>,
    position: String,
}

#[derive(Debug)]
struct Watched {
    name: String,
    lock: Mutex<Lock>,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the lock, from its position on.
    async fn watch(self: Arc<Watched>, client: Client, starts: Arc<Semaphore>) {
        let mut start = starts.acquire_owned().await.ok();
        let options = WatchOptions::new().name(&self.name).position(&self.lock().position);
        let mut watch = client.watch(options);
        loop {
            match watch.next().await {
                Ok(told) => {
                    self.take(told);
                    drop(start.take());
                }
                Err(error) => return eprintln!("{}: {error}", self.name),
            }
        }
    }

    fn take(&self, told: Told) {
        let (mut lock, now) = (self.lock(), Instant::now());
        if let Some(state) = told.state {
            let held = state.held.first().map(|grant| grant.fencing_token);
            lock.states.push((state.resync, held));
        }
        for event in told.events {
            let token = event.grant.as_ref().map_or(0, |grant| grant.fencing_token);
            lock.told.push(((token, event.kind() == EventKind::Granted), now));
        }
        lock.position = told.position;
    }

    /// Changes the lock once: acquires it if it is free, and releases it otherwise.
    ///
    /// # Errors
    /// The last error of the operation, if none of its tries was answered in time.
    async fn change(&self, client: &Client, number: u64) -> Result<(), client::Error> {
        let (held, began) = (self.lock().held, Instant::now());
        let mut id = [0xa7; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        loop {
            let done = match held {
                Some(token) => client.release(&self.name, token).await.map(|_| token),
                None => {
                    let options = AcquireOptions::new(&self.name).ttl(TTL).request_id(id);
                    client.acquire(options).await.map(|grant| grant.fencing_token)
                }
            };
            match done {
                Ok(token) => {
                    let mut lock = self.lock();
                    lock.held = held.is_none().then_some(token);
                    lock.changes.push(((token, held.is_none()), Instant::now()));
                    return Ok(());
                }
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

/// The load while it runs.
struct Load {
    tasks: JoinSet<Result<(), String>>,
    is_over: Arc<AtomicBool>,
    began: Instant,
}

impl Load {
    fn start(
        args: &Args,
        client: &Client,
        locks: &[Arc<Watched>],
        numbers: &Arc<AtomicU64>,
    ) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for task in 0..args.tasks {
            let own: Vec<Arc<Watched>> =
                locks.iter().skip(task).step_by(args.tasks).cloned().collect();
            let (client, over, numbers) = (client.clone(), is_over.clone(), numbers.clone());
            tasks.spawn(async move {
                for pass in 0.. {
                    for lock in &own {
                        if pass >= 2 && over.load(Relaxed) {
                            return Ok(());
                        }
                        let number = numbers.fetch_add(1, Relaxed);
                        let changed = lock.change(&client, number).await;
                        changed.map_err(|error| format!("{}: {error}", lock.name))?;
                    }
                }
                Ok(())
            });
        }
        Load { tasks, is_over, began: Instant::now() }
    }

    /// Ends it. Returns how long it ran.
    async fn stop(mut self) -> Result<Duration, String> {
        self.is_over.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| error.to_string())??;
        }
        Ok(self.began.elapsed())
    }
}

/// What is wrong with the watches since the last report, and how late they were.
#[derive(Debug, Default)]
struct Judged {
    changes: usize,
    told: usize,
    missing: usize,
    double: usize,
    out_of_order: usize,
    /// Told, and never acknowledged.
    unknown: usize,
    /// States because events were lost, and other states.
    resyncs: usize,
    states: usize,
    late: Vec<Duration>,
}

impl Judged {
    /// Takes one lock in, and forgets what it was told.
    fn add(&mut self, lock: &mut Lock) {
        let changes = std::mem::take(&mut lock.changes);
        let told = std::mem::take(&mut lock.told);
        for (resync, _) in lock.states.drain(..) {
            *(if resync { &mut self.resyncs } else { &mut self.states }) += 1;
        }
        self.changes += changes.len();
        self.told += told.len();
        let places: BTreeMap<Change, usize> =
            changes.iter().enumerate().map(|(place, (change, _))| (*change, place)).collect();
        let (mut seen, mut last) = (vec![false; changes.len()], None);
        for (change, at) in told {
            let Some(place) = places.get(&change).copied() else {
                self.unknown += 1;
                continue;
            };
            if std::mem::replace(&mut seen[place], true) {
                self.double += 1;
                continue;
            }
            self.out_of_order += usize::from(Some(place) < last);
            last = last.max(Some(place));
            self.late.push(at.saturating_duration_since(changes[place].1));
        }
        self.missing += seen.iter().filter(|seen| !**seen).count();
    }

    fn late_ms(&self, share: f64) -> f64 {
        let place = ((self.late.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.late.get(place).map_or(0.0, |late| late.as_secs_f64() * 1e3)
    }

    fn json(mut self, load: Duration, caught_up: Duration) -> String {
        self.late.sort_unstable();
        serde_json::json!({
            "changes": self.changes, "told": self.told, "missing": self.missing,
            "double": self.double, "out_of_order": self.out_of_order, "unknown": self.unknown, "resyncs": self.resyncs,
            "states": self.states, "load_s": load.as_secs_f64(),
            "caught_up_s": caught_up.as_secs_f64(), "late_p50_ms": self.late_ms(0.5),
            "late_p99_ms": self.late_ms(0.99), "late_max_ms": self.late_ms(1.0),
        })
        .to_string()
    }
}

/// Waits until all locks are as wanted. Returns how long that took, or `None` if it took too long.
async fn all(locks: &[Arc<Watched>], wanted: impl Fn(&Lock) -> bool) -> Option<Duration> {
    let began = Instant::now();
    while !locks.iter().all(|lock| wanted(&lock.lock())) {
        if began.elapsed() > PATIENCE {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Some(began.elapsed())
}

/// Whether a watch was told the last change of its lock.
fn is_told_all(lock: &Lock) -> bool {
    let last = |list: &[(Change, Instant)]| list.last().map(|(change, _)| *change);
    last(&lock.told) == last(&lock.changes)
}

/// Starts all watches, and waits until each was told a state.
async fn start(
    args: &Args,
    locks: &[Arc<Watched>],
) -> Result<(Vec<JoinHandle<()>>, Duration), String> {
    let (mut watches, starts) = (Vec::new(), Arc::new(Semaphore::new(STARTS_AT_ONCE)));
    for locks in locks.chunks(WATCHES_PER_CONNECTION) {
        let client = Client::with_options(&args.watch, ClientOptions::new());
        watches.extend(
            locks
                .iter()
                .map(|lock| tokio::spawn(lock.clone().watch(client.clone(), starts.clone()))),
        );
    }
    let took = all(locks, |lock| !lock.states.is_empty()).await;
    took.map(|took| (watches, took)).ok_or_else(|| {
        let untold = locks.iter().filter(|lock| lock.lock().states.is_empty()).count();
        format!("{untold} watches were told no state within {PATIENCE:?}")
    })
}

async fn run(args: Args) -> Result<(), String> {
    let run = std::process::id();
    let locks: Vec<Arc<Watched>> = (0..args.watches)
        .map(|number| {
            let name = format!("watched-{run}/{number}");
            Arc::new(Watched { name, lock: Mutex::default() })
        })
        .collect();
    let client =
        Client::with_options([&args.load], ClientOptions::new().timeout(TRY_FOR).owner("load"));
    let numbers = Arc::new(AtomicU64::new(u64::from(run) << 32));
    let (mut watches, began) = start(&args, &locks).await?;
    println!("{{\"watches\": {}, \"began_s\": {}}}", watches.len(), began.as_secs_f64());
    let (orders, mut ordered) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = orders.send(line); // the receiver ends with the process
        }
    });
    let mut load = None;
    while let Some(order) = ordered.recv().await {
        match (&*order, load.take()) {
            ("load", None) => {
                load = Some(Load::start(&args, &client, &locks, &numbers));
                println!("{{}}");
            }
            ("stop", Some(running)) => {
                let (load_s, mut judged) = (running.stop().await?, Judged::default());
                let caught_up = match watches.is_empty() {
                    true => Some(Duration::ZERO),
                    false => all(&locks, is_told_all).await,
                };
                // A second message of the same change, or one too many, would come soon after.
                tokio::time::sleep(Duration::from_secs(1)).await;
                locks.iter().for_each(|lock| judged.add(&mut lock.lock()));
                println!("{}", judged.json(load_s, caught_up.unwrap_or(PATIENCE)));
            }
            ("leave", None) => {
                watches.drain(..).for_each(|watch| watch.abort());
                println!("{{}}");
            }
            ("return", None) => {
                let took;
                (watches, took) = start(&args, &locks).await?;
                let is_right = |lock: &Lock| lock.states == [(true, lock.held)];
                let wrong = locks.iter().filter(|lock| !is_right(&lock.lock())).count();
                println!("{{\"took_s\": {}, \"wrong_states\": {wrong}}}", took.as_secs_f64());
            }
            (order, _) => return Err(format!("{order:?} is no order now")),
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
