//! Words on standard error that never hold up the process that says them.
//!
//! Standard error may be a pipe that is full, or one without a reader. A thread of its own writes to it, and takes no error
//! seriously. What does not fit into its short queue is dropped: ending a job is worth more than saying so.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Messages that wait for a slow reader.
const QUEUE: usize = 64;

enum Line {
    Say(String),
    Flush(SyncSender<()>),
}

/// The queue of the thread that writes; `None`: there could be no thread, so nothing is said.
fn lines() -> Option<&'static SyncSender<Line>> {
    static LINES: OnceLock<Option<SyncSender<Line>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = sync_channel(QUEUE);
        let write = move || {
            for line in receiver {
                match line {
                    // An error means that nobody listens. That is no reason to do anything else.
                    Line::Say(text) => drop(io::stderr().write_all(text.as_bytes())),
                    Line::Flush(done) => drop(done.try_send(())),
                }
            }
        };
        std::thread::Builder::new().name("voice".into()).spawn(write).ok().map(|_| sender)
    };
    LINES.get_or_init(start).as_ref()
}

/// Says it, if there is room. Returns at once.
pub fn say(text: String) {
    if let Some(lines) = lines() {
        let _ = lines.try_send(Line::Say(text));
    }
}

/// Waits until everything has been said, but no longer than this.
pub fn flush(within: Duration) {
    let Some(lines) = lines() else { return };
    let (done, is_done) = sync_channel(1);
    if lines.try_send(Line::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(within);
    }
}
