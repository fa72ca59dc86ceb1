//! `palisade dev` leaves nothing behind, however it is told to end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_tests::{eventually, ignores, palisade_binary};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn start(temporary: &Path) -> Child {
    Command::new(palisade_binary())
        .args(["dev", "--listen", "127.0.0.1:0"])
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start palisade dev")
}

fn left_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Sends the signal, and waits for the end of the process.
fn ends(mut child: Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("send the signal");
    let ended = child.wait().expect("its end");
    assert_eq!(ended.code(), Some(0), "{signal}: {ended}");
}

#[test]
fn a_cluster_that_serves_removes_its_data_at_every_signal_that_ends_it() {
    // `dev` keeps a SIGHUP that it inherits as ignored, so that it can run under nohup.
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let heard = |signal: &Signal| *signal != Signal::SIGHUP || !ignores("self", *signal as i32);
    for signal in signals.into_iter().filter(heard) {
        let temporary = tempfile::tempdir().expect("a directory");
        let mut child = start(temporary.path());
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let greeting = lines.next().expect("a line").expect("text");
        assert!(greeting.contains("is ready"), "{greeting}");
        assert_eq!(left_in(temporary.path()).len(), 1, "its data");
        ends(child, signal);
        assert_eq!(left_in(temporary.path()), Vec::<PathBuf>::new(), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_ended_while_it_starts_removes_its_data() {
    let temporary = tempfile::tempdir().expect("a directory");
    let child = start(temporary.path());
    eventually("there is a data directory", async || {
        (!left_in(temporary.path()).is_empty()).then_some(())
    })
    .await;
    tokio::task::spawn_blocking(move || ends(child, Signal::SIGINT)).await.expect("ends");
    assert_eq!(left_in(temporary.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_cluster_under_nohup_outlives_its_terminal() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut child = Command::new("nohup")
        .arg(palisade_binary())
        .args(["dev", "--listen", "127.0.0.1:0"])
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start nohup");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let greeting = lines.next().expect("a line").expect("text");
    assert!(greeting.contains("is ready"), "{greeting}");
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGHUP).expect("hang up");
    // A process that listened to SIGHUP would have replaced the disposition that it inherited.
    assert!(ignores(&pid.to_string(), Signal::SIGHUP as i32), "SIGHUP is still ignored");
    ends(child, Signal::SIGTERM);
}
