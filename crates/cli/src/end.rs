//! The end of a server's process, also where something does not end.
//!
//! A thread that a hung disk holds never returns, and waiting for it (by a join, by the destructors that run at exit) would
//! keep a dead node's process alive. So a server ends at once when it has done what it could, and within a limit if that
//! takes too long. Nothing is lost by it: what was acknowledged is on disk.

use crate::failure::Exit;
use crate::voice;
use std::io::Write;
use std::time::Duration;

/// A server that was told to stop, or has failed, is gone within this time.
pub const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// Standard error may be on the disk that hangs, or not be read.
pub const WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Ends this process without running destructors: RocksDB's own threads would find its statics gone, or never end.
pub fn now(code: u8) -> ! {
    // Only what this program printed itself; nobody can be told if that fails.
    let _ = std::io::stdout().flush();
    #[expect(unsafe_code, reason = "std ends a process by its destructors, or by a signal")]
    // SAFETY: `_exit` takes any value and returns to nothing.
    unsafe {
        libc::_exit(code.into())
    }
}

/// Ends this process after a while, if it has not ended by itself.
pub fn within(limit: Duration) {
    let wait = move || {
        std::thread::sleep(limit);
        let words = format!(
            "error: this process did not stop within {} s, most likely because a disk hangs: ended; nothing that was \
             acknowledged is lost\n  next: look after the disk (dmesg, smartctl) before it is started again\n",
            limit.as_secs()
        );
        voice::last_words(words, WORDS_WITHIN);
        now(Exit::DiskHangs as u8);
    };
    // Without a thread it ends as it can.
    let _ = std::thread::Builder::new().name("end".into()).spawn(wait);
}
