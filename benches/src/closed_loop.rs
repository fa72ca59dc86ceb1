//! The clock and counts of a closed loop.
//!
//! The loop measures operations that end within the measured span, with their latencies. The result
//! is one line of JSON with the keys of `palisade bench --json`.

use load::latency::Latencies;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What every load program takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Operations in flight.
    #[arg(long, default_value_t = 256)]
    pub clients: usize,
    /// Connections that share them.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Measured, in seconds.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Before that, in seconds.
    #[arg(long, default_value_t = 3)]
    pub warmup: u64,
    /// Length of a name.
    #[arg(long, default_value_t = 100)]
    pub name_bytes: usize,
    /// Length of an owner.
    #[arg(long, default_value_t = 50)]
    pub owner_bytes: usize,
}

/// The state that all clients of a run share.
#[derive(Debug, Default)]
pub struct Meter {
    measuring: AtomicBool,
    stopping: AtomicBool,
    errors: AtomicU64,
    latencies: Mutex<Latencies>,
}

impl Meter {
    /// Creates a meter that does not measure yet.
    pub fn new() -> Arc<Meter> {
        Arc::default()
    }

    /// Counts one operation that was sent at `sent` and has been answered just now.
    pub fn done(&self, sent: Instant) {
        if self.measuring.load(Ordering::Relaxed) {
            self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(sent.elapsed());
        }
    }

    /// Counts one failed operation.
    pub fn failed(&self) {
        if self.measuring.load(Ordering::Relaxed) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether clients must start no new operations.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Warms up, measures, tells the clients to stop, and prints the result.
    pub async fn run(&self, system: &str, load: &Load, operations_per_answer: u64) {
        tokio::time::sleep(Duration::from_secs(load.warmup)).await;
        let began = Instant::now();
        self.measuring.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(load.seconds)).await;
        self.measuring.store(false, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        self.stopping.store(true, Ordering::Relaxed);
        let p = self.latencies.lock().unwrap_or_else(PoisonError::into_inner).percentiles();
        let operations = p.count * operations_per_answer;
        println!(
            "{{\"system\":\"{system}\",\"clients\":{},\"connections\":{},\"seconds\":{seconds:.3},\"operations\":{operations},\
             \"operations_per_s\":{:.1},\"errors\":{},\"latency\":{{\"all\":{{\"count\":{},\"p50_ms\":{:.3},\
             \"p90_ms\":{:.3},\"p99_ms\":{:.3},\"p999_ms\":{:.3},\"max_ms\":{:.3}}}}}}}",
            load.clients,
            load.connections,
            operations as f64 / seconds,
            self.errors.load(Ordering::Relaxed),
            p.count,
            p.p50_ms,
            p.p90_ms,
            p.p99_ms,
            p.p999_ms,
            p.max_ms,
        );
    }
}

/// The name that a client uses in its `round`-th turn. It differs for all clients and rounds of a
/// run.
pub fn name(run: u32, client: usize, round: u64, bytes: usize) -> String {
    const PADDING: &str = "................................................................";
    let mut name = String::with_capacity(bytes);
    // A write to a string cannot fail.
    let _ = write!(name, "b/{run:08x}/{client:06}/{round:010}");
    while name.len() < bytes {
        name.push_str(&PADDING[..PADDING.len().min(bytes - name.len())]);
    }
    name
}

/// Distinguishes runs by the clock's nanoseconds and the process id.
pub fn run_id() -> u32 {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u32) ^ std::process::id().rotate_left(16)
}
