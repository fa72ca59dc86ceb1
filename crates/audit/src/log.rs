//! The handle of the log, and the thread that writes it.

use crate::event::Event;
use crate::files::{Settings, Sink};
use crate::repeats::Repeats;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Lines on their way to the thread. Further ones are dropped and counted.
const QUEUE_LINES_MAX: usize = 4_096;
/// How often the thread looks for sums that are due.
const TICK: Duration = Duration::from_secs(1);
/// Most bytes of one write.
const WRITE_BYTES: usize = 64 << 10;

/// A handle of the log. A clone is the same log. The default is off, and records nothing.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    log: Option<Arc<Log>>,
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {file} cannot be opened: {source}")]
pub struct AuditError {
    file: String,
    source: std::io::Error,
}

#[derive(Debug)]
struct Log {
    /// `None` once the log ends.
    queue: Option<SyncSender<Event>>,
    shared: Arc<Shared>,
    operations: bool,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    repeats: Mutex<Repeats>,
    dropped: AtomicU64,
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    process: &'a str,
}

impl Audit {
    /// A log that records nothing.
    pub fn off() -> Audit {
        Audit::default()
    }

    /// Opens a log. Its lines name the process, such as `gateway-a`. `operations` says whether the
    /// caller should record every operation.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn start(settings: Settings, process: &str, operations: bool) -> Result<Audit, AuditError> {
        let file = settings.file.clone();
        let failed = |source| AuditError { file: file.clone(), source };
        let sink = Sink::open(settings).map_err(failed)?;
        let (queue, events) = sync_channel(QUEUE_LINES_MAX);
        let shared = Arc::<Shared>::default();
        let writer = Writer { sink, events, shared: shared.clone(), process: process.to_owned() };
        let named = std::thread::Builder::new().name("audit".into());
        let thread = Some(named.spawn(move || writer.run()).map_err(failed)?);
        let log = Log { queue: Some(queue), shared, operations, thread };
        Ok(Audit { log: Some(Arc::new(log)) })
    }

    /// Whether anything is recorded. Callers ask before they make an event that costs something.
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// Whether every operation should be recorded.
    pub fn has_operations(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.operations)
    }

    /// Records an event. Never waits.
    pub fn record(&self, event: Event) {
        let Some(log) = &self.log else { return };
        let event = event.bounded();
        let event = match event.kind.is_summed_up() {
            true => log.shared.repeats().take(event, Instant::now()),
            false => Some(event),
        };
        if let (Some(event), Some(queue)) = (event, &log.queue)
            && queue.try_send(event).is_err()
        {
            log.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    /// Waits until all lines are written.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    sink: Sink,
    events: Receiver<Event>,
    shared: Arc<Shared>,
    process: String,
}

impl Writer {
    fn run(mut self) {
        let (mut bytes, mut failing) = (Vec::new(), false);
        let mut ticked = Instant::now();
        loop {
            let next = self.events.recv_timeout(TICK);
            let ends = matches!(next, Err(RecvTimeoutError::Disconnected));
            bytes.clear();
            if let Ok(event) = next {
                self.line(&event, &mut bytes);
                while bytes.len() < WRITE_BYTES
                    && let Ok(event) = self.events.try_recv()
                {
                    self.line(&event, &mut bytes);
                }
            }
            if ends || ticked.elapsed() >= TICK {
                ticked = Instant::now();
                let sums = self.shared.repeats().sums(ticked, ends);
                sums.iter().for_each(|sum| self.line(sum, &mut bytes));
            }
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            let dropped = self.count_dropped(&mut bytes);
            if !bytes.is_empty() {
                failing = !self.write(&bytes, lines + dropped, failing);
            }
            if ends {
                return;
            }
        }
    }

    /// Writes these bytes, and returns whether they were written. If they were not, the next
    /// line of lost lines counts `lines`. The first of consecutive failures is logged.
    fn write(&mut self, bytes: &[u8], lines: u64, failing: bool) -> bool {
        let Err(error) = self.sink.write(bytes) else { return true };
        if !failing {
            tracing::error!(%error, "the audit log cannot be written: its lines are lost");
        }
        self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
        false
    }

    fn line(&self, event: &Event, bytes: &mut Vec<u8>) {
        let line = Line { event, process: &self.process };
        if serde_json::to_writer(&mut *bytes, &line).is_ok() {
            bytes.push(b'\n');
        }
    }

    /// Adds the line of those that found no room, or that could not be written, and returns their
    /// number.
    fn count_dropped(&self, bytes: &mut Vec<u8>) -> u64 {
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let line = serde_json::json!({
                "at": at, "event": "dropped", "lines": dropped, "process": self.process,
            });
            bytes.extend(line.to_string().into_bytes());
            bytes.push(b'\n');
        }
        dropped
    }
}
