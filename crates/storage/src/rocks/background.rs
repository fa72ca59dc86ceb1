//! The threads of RocksDB that flush and merge, for all databases of this process.
//!
//! They run at a lower priority than the threads that answer requests.

use super::options::{FLUSHES, MERGES};
use crate::StorageError;
use rocksdb::Env;

/// How much nicer they are than the thread that starts them.
///
/// With three busy threads on its core, such a thread still gets 3 % of it, so a flush of 0.1 s
/// ends within about three seconds. At the lowest priority (19), flushes took 18 to 105 s beside
/// busy threads, and writes waited for them.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Starts the threads, if no other database has.
///
/// RocksDB starts them when it is told their number, and a thread inherits its priority. So a
/// thread of its own lowers its priority and sets the numbers. The thread that opens the database
/// keeps its priority.
pub(super) fn start() -> Result<(), StorageError> {
    let mut env =
        Env::new().map_err(|error| StorageError::Io(format!("no RocksDB environment: {error}")))?;
    let start = || {
        give_way();
        env.set_high_priority_background_threads(FLUSHES);
        env.set_background_threads(MERGES);
    };
    std::thread::scope(|scope| std::thread::Builder::new().spawn_scoped(scope, start).map(drop))
        .map_err(|error| StorageError::Io(format!("cannot start a thread: {error}")))
}

/// Lowers the priority of this thread and of those that it starts, for work that takes a processor
/// for long and may take longer. If the system refuses, they only compete more.
#[cfg(target_os = "linux")]
pub fn give_way() {
    if let Ok(own) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, own + NICER);
    }
}

/// Does nothing: only Linux has priorities of single threads.
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}
