//! Many clients of the SDK at work, for `scripts/measure rolling` and `scripts/two-builds`.
//!
//! Each client has connections of its own, keeps one lock, and takes, renews and releases another
//! one in a closed loop. Each line of standard input begins a phase of that name. When the input
//! ends, one line of JSON for each phase says how many operations began in it, how long they took,
//! and how many failed. A failure is any error: no operation of this load has a reason to fail.

use clap::Parser;
use client::{AcquireOptions, Client, ClientOptions, Error};
use palisade_load::latency::Latencies;
use serde_json::json;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The lease of the locks that are kept. No run takes as long.
const LONG: Duration = Duration::from_secs(3_600);
/// The lock of a client that failed is free after this time.
const TTL: Duration = Duration::from_secs(10);
/// Failures of each phase that are shown.
const SHOWN: usize = 3;

#[derive(Clone, Debug, Parser)]
struct Args {
    /// Gateways, as host:port
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Clients, of which one half begins at each gateway
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Milliseconds between two rounds of a client
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Milliseconds that an operation may take, retries included
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

/// The operations that began in one phase, as they were seen.
#[derive(Debug, Default)]
struct Phase {
    name: String,
    began: Option<Instant>,
    ended: Option<Instant>,
    latencies: Latencies,
    failed: u64,
    shown: Vec<String>,
}

/// The state that the clients share.
#[derive(Debug, Default)]
struct Shared {
    phases: Mutex<Vec<Phase>>,
    is_over: AtomicBool,
    /// Locks that are kept and were lost, or have another token.
    lost: AtomicUsize,
}

impl Shared {
    fn begin(&self, name: String) {
        let (mut phases, now) = (self.lock(), Instant::now());
        if let Some(before) = phases.last_mut() {
            before.ended = Some(now);
        }
        phases.push(Phase { name, began: Some(now), ..Phase::default() });
    }

    /// The number of the phase now. `None` before the first.
    fn now(&self) -> Option<usize> {
        self.lock().len().checked_sub(1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Phase>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation, and counts it for the phase in which it began.
    async fn timed<T>(
        &self,
        what: &str,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (phase, began) = (self.now(), Instant::now());
        let outcome = operation.await;
        if let Some(at) = phase {
            let phase = &mut self.lock()[at];
            match &outcome {
                Ok(_) => phase.latencies.record(began.elapsed()),
                Err(error) => {
                    phase.failed += 1;
                    if phase.shown.len() < SHOWN {
                        phase.shown.push(format!("{what}: {error}"));
                    }
                }
            }
        }
        outcome
    }
}

async fn work(client: Client, number: usize, pause: Duration, shared: Arc<Shared>) {
    let run = std::process::id();
    let (kept, name) =
        (format!("b/rolling/{run}/kept/{number}"), format!("b/rolling/{run}/{number}"));
    let Ok(keep) = client.acquire(AcquireOptions::new(&kept).ttl(LONG)).await else {
        shared.lost.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let token = keep.fencing_token;
    while !shared.is_over.load(Ordering::Relaxed) {
        let options = AcquireOptions::new(&name).ttl(TTL);
        if let Ok(grant) = shared.timed("acquire", client.acquire(options)).await {
            let _ = shared.timed("renew", client.renew(&kept, token)).await;
            let released = client.release(&name, grant.fencing_token);
            let _ = shared.timed("release", released).await;
        }
        tokio::time::sleep(pause).await;
    }
    if client.release(&kept, token).await.is_err() {
        shared.lost.fetch_add(1, Ordering::Relaxed);
    }
}

async fn measure(args: &Args) {
    let shared = Arc::new(Shared::default());
    let pause = Duration::from_millis(args.pause_ms);
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..args.clients {
        let mut endpoints = args.endpoints.clone();
        endpoints.rotate_left(number % args.endpoints.len().max(1));
        let options = ClientOptions::new().timeout(Duration::from_millis(args.timeout_ms));
        let client = Client::with_options(endpoints, options);
        workers.spawn(work(client, number, pause, shared.clone()));
    }
    let (input_ends, ended) = oneshot::channel();
    let phases = shared.clone();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).for_each(|name| phases.begin(name));
        phases.begin("over".to_owned());
        let _ = input_ends.send(());
    });
    let _ = ended.await;
    shared.is_over.store(true, Ordering::Relaxed);
    while workers.join_next().await.is_some() {}
    let phases = std::mem::take(&mut *shared.lock());
    for phase in &phases {
        let (Some(began), Some(ended)) = (phase.began, phase.ended) else { continue };
        let latency = phase.latencies.percentiles();
        let line = json!({
            "phase": phase.name, "seconds": (ended - began).as_secs_f64(), "operations": latency.count,
            "latency": latency, "failed": phase.failed, "failures": phase.shown,
        });
        println!("{line}");
    }
    println!("{}", json!({ "lost": shared.lost.load(Ordering::Relaxed) }));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    measure(&Args::parse()).await;
    ExitCode::SUCCESS
}
