//! The handle of the log, and the thread that writes it.

use crate::event::{Event, Kind};
use crate::files::{Settings, Sink};
use crate::repeats::Repeats;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Lines on their way to the thread. Further ones are dropped and counted.
const QUEUE_LINES_MAX: usize = 4_096;
/// Operations among them. The rest is kept for refusals, breaks and changes, so that a flood of
/// operations pushes none of those out.
const QUEUE_OPERATIONS_MAX: usize = QUEUE_LINES_MAX / 4 * 3;
/// Longest time for the last lines when the log ends.
const FLUSH_MAX: Duration = Duration::from_secs(2);
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
    /// `None` wakes the thread when the log ends.
    queue: SyncSender<Option<Event>>,
    shared: Arc<Shared>,
    operations: bool,
    /// Hears that the thread has ended. A lock, because the receiver alone cannot be shared.
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    repeats: Mutex<Repeats>,
    dropped: AtomicU64,
    /// The operations in the queue.
    operations: AtomicUsize,
    /// The events that were queued, and the sums that are due, and that are not written yet.
    unwritten: AtomicU64,
    /// The log ends, and takes no further event.
    ending: AtomicBool,
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
        let (log, writer) = Log::new(sink, process, operations);
        let named = std::thread::Builder::new().name("audit".into());
        named.spawn(move || writer.run()).map_err(failed)?;
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
        if let Some(event) = event
            && !log.offer(event)
        {
            log.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the log, for all handles of it, and waits for the last lines, at most some two seconds.
    /// A process calls it when it has shut down, because a task that did not end may keep a handle.
    ///
    /// Lines that are recorded afterwards are lost.
    pub fn end(&self) {
        if let Some(log) = &self.log {
            log.finish();
        }
    }
}

impl Log {
    fn new(sink: Sink, process: &str, operations: bool) -> (Log, Writer) {
        let (queue, events) = sync_channel(QUEUE_LINES_MAX);
        let (ends, ended) = channel();
        let shared = Arc::<Shared>::default();
        let log = Log { queue, shared: shared.clone(), operations, ended: Mutex::new(ended) };
        let writer = Writer {
            sink,
            events,
            shared,
            process: process.to_owned(),
            bytes: Vec::new(),
            failing: false,
            ticked: Instant::now(),
            _ends: ends,
        };
        (log, writer)
    }

    /// Puts an event into the queue. Returns whether there was room.
    fn offer(&self, event: Event) -> bool {
        let Shared { operations, unwritten, ending, .. } = &*self.shared;
        if ending.load(Ordering::Acquire) {
            return false;
        }
        let is_operation = event.kind == Kind::Operation;
        let has_room =
            !is_operation || operations.fetch_add(1, Ordering::Relaxed) < QUEUE_OPERATIONS_MAX;
        unwritten.fetch_add(1, Ordering::Relaxed);
        let is_queued = has_room && self.queue.try_send(Some(event)).is_ok();
        if !is_queued {
            unwritten.fetch_sub(1, Ordering::Relaxed);
            operations.fetch_sub(is_operation.into(), Ordering::Relaxed);
        }
        is_queued
    }

    /// Ends the log, and waits until all lines are written. A second call does nothing.
    ///
    /// # Errors
    /// The number of lines that were not written within this time, or that could not be written. A
    /// thread that hangs is left to itself.
    fn end(&self, within: Duration) -> Result<(), u64> {
        let Shared { dropped, unwritten, ending, .. } = &*self.shared;
        if ending.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // If there is no room, the thread is at work, and looks when it is done.
        let _ = self.queue.try_send(None);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout);
        if hangs {
            self.shared.sums(Instant::now(), true);
        }
        let lost = unwritten.load(Ordering::Relaxed) + dropped.load(Ordering::Relaxed);
        if lost == 0 { Ok(()) } else { Err(lost) }
    }

    /// Ends the log, but waits no longer than [`FLUSH_MAX`]. A process that is told to stop must
    /// not hang on a full pipe or a lost disk.
    fn finish(&self) {
        if let Err(lines) = self.end(FLUSH_MAX) {
            tracing::error!(
                lines,
                "the audit log could not be written to its end, and these lines are lost: look at \
                 its disk, or at the reader of its pipe"
            );
        }
    }
}

impl Shared {
    fn repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the sums that are due, or all, to be written. They count as unwritten from now on.
    fn sums(&self, now: Instant, all: bool) -> Vec<Event> {
        let mut repeats = self.repeats();
        let sums = repeats.sums(now, all);
        self.unwritten.fetch_add(sums.len() as u64, Ordering::Relaxed);
        sums
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish();
    }
}

/// * `bytes` and `failing` are of the last write.
struct Writer {
    sink: Sink,
    events: Receiver<Option<Event>>,
    shared: Arc<Shared>,
    process: String,
    bytes: Vec<u8>,
    failing: bool,
    /// When it was last looked for sums that are due.
    ticked: Instant,
    /// Tells by its end that the thread ends. It stands last, so that the file is closed by then.
    _ends: Sender<()>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let next = self.events.recv_timeout(TICK);
            if !self.turn(next) {
                return;
            }
        }
    }

    /// Writes an event with those that are queued behind it, and the sums that are due. Returns
    /// whether the log goes on.
    fn turn(&mut self, next: Result<Option<Event>, RecvTimeoutError>) -> bool {
        // It is read before the queue, so that all events before the end are found there.
        let ending = self.shared.ending.load(Ordering::Acquire);
        let is_gone = matches!(next, Err(RecvTimeoutError::Disconnected));
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut next = next.ok();
        let mut lines = 0;
        while let Some(event) = next {
            if let Some(event) = event {
                lines += 1;
                let is_operation = event.kind == Kind::Operation;
                self.shared.operations.fetch_sub(is_operation.into(), Ordering::Relaxed);
                self.line(&event, &mut bytes);
            }
            let has_room = bytes.len() < WRITE_BYTES;
            next = has_room.then(|| self.events.try_recv().ok()).flatten();
        }
        let ends = is_gone || ending && bytes.len() < WRITE_BYTES;
        if ends || self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            let sums = self.shared.sums(self.ticked, ends);
            lines += sums.len() as u64;
            sums.iter().for_each(|sum| self.line(sum, &mut bytes));
        }
        let dropped = self.tell_dropped(&mut bytes);
        if !bytes.is_empty() {
            self.write(&bytes, lines, dropped);
        }
        self.bytes = bytes;
        !ends
    }

    /// Writes these bytes of so many lines, and of the line that tells `dropped`. Lines that cannot
    /// be written are lost. The first of consecutive failures is logged.
    fn write(&mut self, bytes: &[u8], lines: u64, dropped: u64) {
        let written = self.sink.write(bytes);
        let shared = &self.shared;
        match &written {
            // Only now: while a write hangs, the end of the log still counts the lines in it.
            Ok(()) => drop(shared.dropped.fetch_sub(dropped, Ordering::Relaxed)),
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "the audit log cannot be written: its lines are lost");
                }
                shared.dropped.fetch_add(lines, Ordering::Relaxed);
            }
        }
        shared.unwritten.fetch_sub(lines, Ordering::Relaxed);
        self.failing = written.is_err();
    }

    fn line(&self, event: &Event, bytes: &mut Vec<u8>) {
        let line = Line { event, process: &self.process };
        if serde_json::to_writer(&mut *bytes, &line).is_ok() {
            bytes.push(b'\n');
        }
    }

    /// Adds the line of those that found no room, or that could not be written, and returns their
    /// number.
    fn tell_dropped(&self, bytes: &mut Vec<u8>) -> u64 {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(file: &str) -> Sink {
        let age_max = Duration::from_secs(3_600);
        Sink::open(Settings { file: file.to_owned(), bytes_max: 1 << 30, age_max, keep: 1 })
            .unwrap()
    }

    fn lines(file: &std::path::Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Regression: with every operation recorded, a flood of operations took all of the queue, and
    /// denials and breaks were lost.
    #[test]
    fn a_flood_of_operations_leaves_room_for_all_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.log");
        let (log, mut writer) = Log::new(sink(&file.to_string_lossy()), "gateway-a", true);
        let audit = Audit { log: Some(Arc::new(log)) };
        // The thread does not run, as if its disk hung.
        (0..10_000).for_each(|_| audit.record(Event::of(Kind::Operation)));
        (0..1_000).for_each(|_| audit.record(Event::of(Kind::Break)));
        let shared = writer.shared.clone();
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(counted(&shared.dropped), 10_000 - QUEUE_OPERATIONS_MAX as u64);
        while let Ok(event) = writer.events.try_recv() {
            writer.turn(Ok(event));
        }
        let written = lines(&file);
        let of = |kind: &str| written.iter().filter(|line| line["event"] == kind).count();
        assert_eq!((of("break"), of("operation")), (1_000, QUEUE_OPERATIONS_MAX));
        assert_eq!(counted(&shared.unwritten), 0);
        (0..10_000).for_each(|_| audit.record(Event::of(Kind::Operation)));
        assert_eq!(
            counted(&shared.unwritten),
            QUEUE_OPERATIONS_MAX as u64,
            "as much room as before"
        );
        drop(writer); // so that the log has no end to wait for
    }

    /// Regression: the line with the number of lost lines was lost as one line.
    #[cfg(target_os = "linux")]
    #[test]
    fn lines_that_a_full_disk_has_cost_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.log");
        let (log, mut writer) = Log::new(sink("/dev/full"), "gateway-a", false);
        let audit = Audit { log: Some(Arc::new(log)) };
        for _ in 0..3 {
            (0..5).for_each(|_| audit.record(Event::of(Kind::Break)));
            let next = writer.events.recv_timeout(TICK);
            writer.turn(next);
        }
        writer.sink = sink(&file.to_string_lossy());
        audit.record(Event::of(Kind::Started));
        let next = writer.events.recv_timeout(TICK);
        writer.turn(next);
        drop(writer); // so that the log has no end to wait for
        let lines = lines(&file);
        assert_eq!((lines.len(), &lines[0]["event"]), (2, &"started".into()));
        assert_eq!((&lines[1]["event"], &lines[1]["lines"]), (&"dropped".into(), &15.into()));
    }

    /// Regression: a process with a full pipe as its audit log never ended.
    #[cfg(unix)]
    #[test]
    fn a_log_that_cannot_be_written_ends_and_tells_how_many_lines_are_lost() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // It can be opened for writing because it is open for reading, and nothing reads it.
        let open = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let (log, writer) = Log::new(sink(&pipe.to_string_lossy()), "gateway-a", false);
        let thread = std::thread::spawn(move || writer.run());
        let name = "x".repeat(500);
        for _ in 0..2_000 {
            assert!(log.offer(Event { name: name.clone(), ..Event::of(Kind::Break) }));
        }
        // A pipe has room for 64 KiB, which are less than 200 of these lines.
        let lost = log.end(Duration::from_millis(1)).unwrap_err();
        assert!((1_800..=2_000).contains(&lost), "{lost}");
        drop((open, log));
        assert!(thread.join().is_ok(), "a write to a pipe that nobody reads fails");
    }

    /// Regression: lines of a write that hung, and those that were lost before it, were not
    /// counted.
    #[cfg(unix)]
    #[test]
    fn lines_of_a_write_that_hangs_are_counted() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut open = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        open.write_all(&[b'x'; 64 << 10]).expect("the pipe is full by now, and not before");
        let (log, writer) = Log::new(sink(&pipe.to_string_lossy()), "gateway-a", false);
        let audit = Audit { log: Some(Arc::new(log)) };
        let log = audit.log.as_ref().unwrap();
        log.shared.dropped.store(7, Ordering::Relaxed);
        (0..5).for_each(|_| audit.record(Event::of(Kind::Break)));
        (0..3).for_each(|_| audit.record(Event::of(Kind::Denied)));
        let thread = std::thread::spawn(move || writer.run());
        // Five breaks, one denial and the sum of two, and seven from before.
        assert_eq!(log.end(Duration::from_millis(100)), Err(5 + 1 + 1 + 7));
        drop((open, audit));
        assert!(thread.join().is_ok());
    }

    /// Regression: the end was told to be well although its write had failed.
    #[cfg(target_os = "linux")]
    #[test]
    fn lines_of_a_last_write_that_fails_are_told() {
        let (log, writer) = Log::new(sink("/dev/full"), "gateway-a", false);
        (0..5).for_each(|_| assert!(log.offer(Event::of(Kind::Break))));
        let thread = std::thread::spawn(move || writer.run());
        assert_eq!(log.end(Duration::from_secs(60)), Err(5));
        assert!(thread.join().is_ok());
        assert_eq!(log.end(Duration::from_secs(60)), Ok(()), "it is told once");
    }
}
