//! The threads of RocksDB that flush and merge, for all databases of this process.
//!
//! They give way to what somebody waits for.

use super::options::{FLUSHES, MERGES};
use crate::StorageError;
use rocksdb::Env;

/// How much nicer they are than who starts them. With three busy threads on its core such a thread still gets 3 % of it, so that a
/// flush of 0.1 s ends within three seconds or so. At the lowest priority (19) flushes took
/// 18 to 105 s beside busy threads, and writes waited for them.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Starts them, if no other database has. RocksDB starts them where it is told how many there are, and threads inherit their priority;
/// opening a database does not give way.
pub(super) fn start() -> Result<(), StorageError> {
    let mut env = Env::new().map_err(|error| StorageError::Io(format!("no RocksDB environment: {error}")))?;
    let start = || {
        give_way();
        env.set_high_priority_background_threads(FLUSHES);
        env.set_background_threads(MERGES);
    };
    std::thread::scope(|scope| std::thread::Builder::new().spawn_scoped(scope, start).map(drop))
        .map_err(|error| StorageError::Io(format!("cannot start a thread: {error}")))
}

/// This thread, and those that it starts. Where it cannot be had, they are in the way more than they need be.
#[cfg(target_os = "linux")]
fn give_way() {
    if let Ok(own) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, own + NICER);
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}
