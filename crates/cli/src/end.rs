//! The end of a server's process, even if some part of it does not end.
//!
//! A thread on a hung disk never returns. A join, or the destructors that run at exit, would wait
//! for it and keep a dead node's process alive. So a server ends at once after its last step, and
//! within a limit if that step takes too long. This loses no data: acknowledged data is on disk.

use crate::failure::Exit;
use crate::voice;
use std::io::Write;
use std::time::Duration;

/// A server that was told to stop, or has failed, is gone within this time.
pub const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// The limit for last messages. Standard error may be on the hanging disk, or have no reader.
pub const WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Ends this process without running destructors. Otherwise RocksDB's own threads would find its
/// statics gone, or never end.
pub fn now(code: u8) -> ! {
    // The flush concerns only this program's own output; a failure of it cannot be reported.
    let _ = std::io::stdout().flush();
    #[expect(unsafe_code, reason = "std ends a process by its destructors, or by a signal")]
    // SAFETY: `_exit` takes any value and returns to no code.
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
        now(Exit::DiskHangs.code());
    };
    // Without this thread, the process ends in the ordinary way.
    let _ = std::thread::Builder::new().name("end".into()).spawn(wait);
}
