//! One run: acquiring the locks of mixes that hold some, warm-up, measurement, and release.
//!
//! The module owns the clock. Scripts choose the operations, and [`Stats`] counts the answers.

use crate::caller::{Caller, Refusal, kept_alive};
use crate::options::Options;
use crate::script::{Script, Step};
use crate::stats::{Ending, Stats};
use crate::{LoadError, Mix};
use client::{Client, SessionOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::OperationKind;
use wire::v1::CancelWaitResponse;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;

/// Limit of tries for one acquire before the mix begins.
const PREPARE_TRIES: u32 = 10;
/// Interval of the progress line.
const PROGRESS: Duration = Duration::from_millis(500);
/// Time that ending clients get beyond the timeout of an operation.
const END_GRACE: Duration = Duration::from_secs(2);

/// The figures of a run.
#[derive(Debug)]
pub struct Measured {
    /// Counters and latencies of the measured span.
    pub stats: Stats,
    /// Length of the measured span.
    pub span: Duration,
    /// Open loop: operations that were due by the end of the span and not done.
    pub behind: u64,
    /// Processor time of this process in the span.
    pub cpu: Duration,
}

/// The state that the clients of a run share.
struct Shared {
    /// Whether answers are counted.
    measuring: AtomicBool,
    /// If set, no new requests are sent, except those that release locks.
    stopping: watch::Sender<bool>,
    stats: Mutex<Stats>,
    /// Statistics since the last progress line.
    lately: Option<Mutex<Stats>>,
    arrivals: Option<Arrivals>,
    keep: bool,
}

impl Shared {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Sleeps until `due`. `false` means that the load stops, and only releasing operations are
    /// sent from now on.
    async fn sleep_until(&self, due: Instant) -> bool {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(due) => !self.stopping(),
            _ = stopping.wait_for(|stopping| *stopping) => false,
        }
    }
}

/// The schedule of an open loop: operations are due at a fixed rate, and each goes to one client.
struct Arrivals {
    start: Instant,
    rate: u32,
    taken: AtomicU64,
    done: AtomicU64,
}

impl Arrivals {
    fn due(&self, number: u64) -> Instant {
        self.start
            + Duration::from_nanos(
                (u128::from(number) * 1_000_000_000 / u128::from(self.rate)) as u64,
            )
    }

    fn take(&self) -> Instant {
        self.due(self.taken.fetch_add(1, Ordering::Relaxed))
    }

    /// The number of operations that were due by `now` and are not done.
    fn behind(&self, now: Instant) -> u64 {
        let due = (now - self.start).as_nanos() * u128::from(self.rate) / 1_000_000_000;
        (due as u64).saturating_sub(self.done.load(Ordering::Relaxed))
    }
}

/// Runs the load over these connections. `sessions` opens the sessions of mixes that use some;
/// `live` draws a line of progress on standard error; `stop` ends the run early.
///
/// # Errors
/// If the locks that the mix holds from the start cannot be acquired, or `stop` came first.
pub async fn run(
    options: &Options,
    callers: &[Caller],
    sessions: &Client,
    live: bool,
    stop: impl Future<Output = ()>,
) -> Result<Measured, LoadError> {
    let clients = prepare(options, callers, sessions).await?;

    let start = Instant::now();
    let arrivals = options.rate.map(|rate| Arrivals {
        start,
        rate,
        taken: AtomicU64::new(0),
        done: AtomicU64::new(0),
    });
    let shared = Arc::new(Shared {
        measuring: AtomicBool::new(false),
        stopping: watch::Sender::new(false),
        stats: Mutex::default(),
        lately: live.then(Mutex::default),
        arrivals,
        keep: options.keep,
    });
    let tasks: Vec<JoinHandle<()>> = clients
        .into_iter()
        .map(|(script, caller)| tokio::spawn(client_task(shared.clone(), script, caller)))
        .collect();
    let progress = live.then(|| {
        tokio::spawn(show_progress(shared.clone(), start, options.warmup + options.duration))
    });

    tokio::pin!(stop);
    let mut interrupted = tokio::select! {
        () = tokio::time::sleep_until(start + options.warmup) => false,
        () = &mut stop => true,
    };
    let (began, cpu) = (Instant::now(), cpu_time());
    if !interrupted {
        shared.measuring.store(true, Ordering::Relaxed);
        interrupted = tokio::select! {
            () = tokio::time::sleep_until(began + options.duration) => false,
            () = &mut stop => true,
        };
        shared.measuring.store(false, Ordering::Relaxed);
    }
    let (ended, cpu) = (Instant::now(), cpu_time().saturating_sub(cpu));
    let behind = shared.arrivals.as_ref().map_or(0, |arrivals| arrivals.behind(ended));
    shared.stopping.send_replace(true);
    let stats = std::mem::take(&mut *shared.stats());

    if let Some(progress) = progress {
        progress.abort();
        eprint!("\r\x1b[K");
    }
    all_ended(options, tasks).await;
    if interrupted {
        return Err(LoadError::Interrupted);
    }
    Ok(Measured { stats, span: ended - began, behind, cpu })
}

/// Waits for clients that release their locks, up to a limit that depends on the mix.
async fn all_ended(options: &Options, tasks: Vec<JoinHandle<()>>) {
    let all_ended = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    // Mixes that hold many locks from the start release them one after the other, so they get more
    // time.
    let patience = options.timeout * 2 + END_GRACE;
    let patience =
        if options.workload.mix.holds_from_the_start() { patience * 10 } else { patience };
    if tokio::time::timeout(patience, all_ended).await.is_err() {
        eprintln!(
            "warning: not all clients could let go in time: what they hold ends with its TTL"
        );
    }
}

/// Releases a client's locks, and cancels its acquires that may have been granted.
async fn let_go(script: &mut Script, caller: &Caller) {
    while let Some(op) = script.let_go() {
        // A lock that cannot be released ends with its TTL.
        if let Ok(Answer::CancelWait(CancelWaitResponse { grant: Some(grant), .. })) =
            caller.call(op).await
        {
            script.was_granted(&grant);
        }
    }
}

/// Acquires the locks that are held from the start. Returns the scripts, each with its connection.
async fn prepare(
    options: &Options,
    callers: &[Caller],
    sessions: &Client,
) -> Result<Vec<(Script, Caller)>, LoadError> {
    let workload = Arc::new(options.workload.clone());
    let sessions = (workload.mix == Mix::Heartbeat).then(|| sessions.clone());
    let mut tasks = Vec::new();
    for client in 0..workload.clients {
        let (workload, sessions) = (workload.clone(), sessions.clone());
        let caller = callers[client as usize % callers.len()].clone();
        tasks.push(tokio::spawn(async move {
            let mut script = Script::new(workload.clone(), client);
            let prepared = take_all(&mut script, &caller, sessions, workload.ttl_ms).await;
            (script, caller, prepared)
        }));
    }
    let (mut clients, mut failed) = (Vec::new(), None);
    for task in tasks {
        let (script, caller, prepared) =
            task.await.map_err(|error| not_prepared("PANIC", &error.to_string()))?;
        clients.push((script, caller));
        failed = failed.or(prepared.err());
    }
    let Some(failure) = failed else { return Ok(clients) };
    // Without this, the locks of the other clients would be held for their whole TTL.
    let letting_go = clients.into_iter().map(|(mut script, caller)| {
        tokio::spawn(async move {
            let_go(&mut script, &caller).await;
        })
    });
    if !options.keep {
        all_ended(options, letting_go.collect()).await;
    }
    Err(failure)
}

async fn take_all(
    script: &mut Script,
    caller: &Caller,
    sessions: Option<Client>,
    ttl_ms: u32,
) -> Result<(), LoadError> {
    if let Some(sessions) = sessions {
        script.use_session(open_session(&sessions, ttl_ms).await?);
    }
    while let Some(op) = script.prepare() {
        let answer = insist(caller, &op).await?;
        if !script.prepared(&answer) {
            return Err(not_prepared("CONFUSED", "the answer to an acquire is no grant"));
        }
    }
    Ok(())
}

async fn open_session(sessions: &Client, ttl_ms: u32) -> Result<String, LoadError> {
    let options = SessionOptions::new().ttl(Duration::from_millis(ttl_ms.into()));
    Ok(sessions.open_session_raw(options).await?.session_id)
}

/// Repeats an acquire until it is granted. A retry has the same request id.
async fn insist(caller: &Caller, op: &Op) -> Result<Answer, LoadError> {
    let mut tries = 1;
    loop {
        match caller.call(op.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) if refusal.held || tries == PREPARE_TRIES => {
                return Err(not_prepared(refusal.kind, &refusal.message));
            }
            Err(refusal) => tokio::time::sleep(refusal.pause * tries).await,
        }
        tries += 1;
    }
}

fn not_prepared(code: &str, message: &str) -> LoadError {
    LoadError::NotPrepared { code: code.to_owned(), message: message.to_owned() }
}

/// Runs one client, from the start to the end of the load.
async fn client_task(shared: Arc<Shared>, mut script: Script, caller: Caller) {
    let mut due = None;
    while !shared.stopping() {
        // The wait comes before the step. A step that is not sent would be forgotten, and its lock
        // with it.
        if let Some(arrivals) = &shared.arrivals
            && due.is_none()
        {
            let next = arrivals.take();
            if !shared.sleep_until(next).await {
                break;
            }
            due = Some(next);
        }
        let op = match script.step() {
            Step::Send(op) => op,
            Step::Pause(pause) => {
                shared.sleep_until(Instant::now() + pause).await;
                continue; // the client keeps its turn, if there are turns
            }
        };
        let due = due.take().unwrap_or_else(Instant::now);
        let kind = op.kind();
        let outcome = caller.call(op).await;
        let latency = Instant::now().saturating_duration_since(due);
        if let Some(arrivals) = &shared.arrivals {
            arrivals.done.fetch_add(1, Ordering::Relaxed);
        }
        let outcome = match outcome {
            Ok(Answer::Heartbeat(beat)) if !kept_alive(&beat) => Err(Refusal::of_heartbeat(&beat)),
            outcome => outcome,
        };
        let ending = match &outcome {
            Ok(_) if kind == OperationKind::Heartbeat => {
                Ending::Done { kept_alive: script.locks_per_heartbeat() }
            }
            Ok(_) => Ending::Done { kept_alive: 0 },
            Err(refusal) => Ending::Refused(refusal),
        };
        if shared.measuring.load(Ordering::Relaxed) {
            shared.stats().record(kind, latency, ending);
        }
        if let Some(lately) = &shared.lately {
            lately.lock().unwrap_or_else(PoisonError::into_inner).record(kind, latency, ending);
        }
        match &outcome {
            Ok(answer) => script.answered(answer),
            Err(refusal) => {
                script.failed(kind, refusal.held);
                if !refusal.pause.is_zero() {
                    shared.sleep_until(Instant::now() + refusal.pause).await;
                }
            }
        }
    }
    if !shared.keep {
        let_go(&mut script, &caller).await;
    }
}

async fn show_progress(shared: Arc<Shared>, start: Instant, total: Duration) {
    let mut before = start;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let Some(lately) = &shared.lately else { return };
        let stats = std::mem::take(&mut *lately.lock().unwrap_or_else(PoisonError::into_inner));
        let now = Instant::now();
        let seconds = (now - std::mem::replace(&mut before, now)).as_secs_f64();
        let latency = stats.all().percentiles();
        eprint!(
            "\r\x1b[K{:>4.1} s of {:.0} s{}  {:>8.0} operations/s  p50 {:.1} ms  p99 {:.1} ms  \
             errors {}",
            (now - start).as_secs_f64(),
            total.as_secs_f64(),
            if shared.measuring.load(Ordering::Relaxed) { "" } else { " (warm-up)" },
            stats.operations() as f64 / seconds,
            latency.p50_ms,
            latency.p99_ms,
            stats.errors.values().sum::<u64>(),
        );
        let _ = std::io::stderr().flush();
    }
}

/// User and system time of this process so far, to 10 ms; zero where `/proc` is missing.
fn cpu_time() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields follow the command's name, which may hold any byte. State is field 3; user and
    // system time are 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_is_due_at_its_rate_whatever_the_answers() {
        let start = Instant::now();
        let arrivals =
            Arrivals { start, rate: 3, taken: AtomicU64::new(0), done: AtomicU64::new(0) };
        let due: Vec<u128> = (0..7).map(|_| (arrivals.take() - start).as_millis()).collect();
        assert_eq!(due, [0, 333, 666, 1_000, 1_333, 1_666, 2_000]);
        arrivals.done.store(2, Ordering::Relaxed);
        assert_eq!(arrivals.behind(start + Duration::from_secs(2)), 4);
        assert_eq!(arrivals.behind(start), 0);
    }

    #[test]
    fn processor_time_is_read() {
        let before = cpu_time();
        let mut sum = 0u64;
        while cpu_time() == before {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_add(n)));
        }
        assert!(cpu_time() > before, "{sum}");
    }
}
