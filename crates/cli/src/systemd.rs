//! News for systemd, if it started this process as a service of type `notify`.
//!
//! * A server is ready once it has opened its data and listens, and says so when it begins to stop.
//!   The replicas of a node that is ready may still have entries to catch up with.
//! * A beat for the watchdog means that tokio runs tasks and that every shard thread has finished a
//!   round since the beat before. Without beats systemd kills the process, and starts it again.
//! * A disk that hangs holds up no beat, because shard threads do not wait for the disk. The node
//!   ends itself then, after `disk_hang_exit_ms`.
//!
//! The protocol is that of `sd_notify(3)`: lines in one datagram.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Looks at the threads within the time limit of the watchdog.
const LOOKS_IN_LIMIT: u64 = 6;

/// The service manager, as the environment of this process names it.
#[derive(Debug)]
pub struct Systemd {
    /// `None` if no manager waits for news.
    address: Option<SocketAddr>,
    /// Time between two looks at the threads. `None` if there is no watchdog.
    look_every: Option<Duration>,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn of_environment() -> Systemd {
        Systemd::of(&|name| std::env::var_os(name), std::process::id())
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Systemd {
        let socket = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let address = socket.and_then(|name| {
            let address = address(&name);
            if let Err(error) = &address {
                tracing::warn!(%error, "NOTIFY_SOCKET names no socket: systemd is not told when this server is ready");
            }
            address.ok()
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_for_us = match variable("WATCHDOG_PID") {
            Some(_) => number("WATCHDOG_PID") == Some(pid.into()),
            None => true,
        };
        let watchdog = number("WATCHDOG_USEC").filter(|us| *us > 0 && is_for_us);
        // Short against the limit, so that threads which move again bring a beat before systemd kills.
        let look_every = watchdog.map(|us| Duration::from_micros(us.div_ceil(LOOKS_IN_LIMIT)));
        Systemd { address, look_every }
    }

    /// The server has opened its data, and listens.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The server begins to stop. The watchdog ends with this.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Keeps the watchdog content while work goes on. `rounds` tells the rounds that each shard
    /// thread has finished. Never returns.
    pub async fn keep_watched(&self, rounds: impl Fn() -> Vec<u64>) {
        let Some(every) = self.look_every.filter(|_| self.address.is_some()) else {
            return std::future::pending().await;
        };
        let (mut at_beat, mut beat) = (rounds(), Instant::now());
        loop {
            tokio::time::sleep(every).await;
            // A task of its own, because this one may not run on a worker thread.
            let _ = tokio::spawn(std::future::ready(())).await;
            let now = rounds();
            match idle(&at_beat, &now).as_slice() {
                [] => {
                    self.say("WATCHDOG=1");
                    (at_beat, beat) = (now, Instant::now());
                }
                threads => tracing::error!(
                    ?threads,
                    "shard threads have not moved for {} s: after {} s systemd kills this process, and starts it again",
                    beat.elapsed().as_secs(),
                    (every * LOOKS_IN_LIMIT as u32).as_secs()
                ),
            }
        }
    }

    fn say(&self, news: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to_addr(news.as_bytes(), address));
        if let Err(error) = sent {
            tracing::warn!(%error, news, "systemd was not told");
        }
    }
}

/// A path, or `@` and a name in the abstract namespace.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// The threads that have finished no round between a beat and now.
fn idle(before: &[u64], now: &[u64]) -> Vec<usize> {
    let threads = before.iter().zip(now).enumerate();
    threads.filter(|(_, (before, now))| before == now).map(|(thread, _)| thread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn of(variables: &[(&str, &OsStr)]) -> Systemd {
        let variables: BTreeMap<&str, &OsStr> = variables.iter().copied().collect();
        Systemd::of(&|name| variables.get(name).map(OsString::from), 77)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("palisade-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let in_the_abstract = UnixDatagram::bind_addr(&abstract_name).unwrap();
        let name = OsString::from(format!("@{name}"));
        for (socket, name) in [(at_path, path.as_os_str()), (in_the_abstract, &name)] {
            let systemd = of(&[("NOTIFY_SOCKET", name)]);
            systemd.ready();
            systemd.stopping();
            assert_eq!((heard(&socket), heard(&socket)), ("READY=1".into(), "STOPPING=1".into()));
        }
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_a_missing_socket_is_no_failure() {
        for name in ["", "/nowhere/notify"] {
            of(&[("NOTIFY_SOCKET", OsStr::new(name))]).ready();
        }
        of(&[]).ready();
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let every = |pid: &[(&str, &str)], us: &str| {
            let all = pid.iter().copied().chain([("WATCHDOG_USEC", us)]);
            let all: Vec<(&str, &OsStr)> = all.map(|(name, v)| (name, OsStr::new(v))).collect();
            of(&all).look_every
        };
        assert_eq!(every(&[], "30000000"), Some(Duration::from_secs(5)));
        assert_eq!(every(&[("WATCHDOG_PID", "77")], "7"), Some(Duration::from_micros(2)));
        assert_eq!(every(&[("WATCHDOG_PID", "78")], "30000000"), None, "of another process");
        assert_eq!(every(&[], "0"), None);
        assert_eq!(every(&[], "soon"), None);
    }

    /// The beats during twelve looks, at which each thread has finished this many rounds.
    async fn beats(rounds_at: impl Fn(u64) -> Vec<u64>) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let systemd =
            of(&[("NOTIFY_SOCKET", path.as_os_str()), ("WATCHDOG_USEC", OsStr::new("6000"))]);
        let looks = AtomicU64::new(0);
        let rounds = || rounds_at(looks.fetch_add(1, Ordering::Relaxed).min(12));
        let many_looks = async {
            while looks.load(Ordering::Relaxed) <= 12 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = systemd.keep_watched(rounds) => {}
            () = many_looks => {}
        }
        let mut beats = 0;
        while let Ok(length) = socket.try_recv(&mut [0; 64]) {
            assert_eq!(length, "WATCHDOG=1".len());
            beats += 1;
        }
        beats
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn there_is_no_beat_while_a_shard_thread_is_stuck() {
        // Thread 0 always moves, and thread 1 has moved at four looks.
        assert_eq!(beats(|look| vec![look, look.min(4)]).await, 4);
        assert_eq!(idle(&[3, 5, 7], &[4, 5, 7]), [1, 2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn threads_that_move_at_different_looks_bring_a_beat() {
        // Thread 0 moves at odd looks, and thread 1 at even ones.
        assert_eq!(beats(|look| vec![look.div_ceil(2), look / 2]).await, 6);
    }
}
