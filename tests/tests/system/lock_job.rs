//! `palisade lock` as the guard of a job: a job consists of all its processes, and none of them
//! outlives the lock.

use client::{AcquireOptions, Consistency, GrantState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use palisade_tests::{
    Cluster, Locked, Spec, compile_c, eventually, palisade_binary, process_state, runs,
};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);
const ENDED_BY_LOSS: Option<i32> = Some(4);
/// The number of jobs. Each job may show a fault that a single one does not.
const CHAINS: u32 = 10;

/// A script that writes its pid to the file $1 and runs on, because it ignores SIGTERM.
const WORKER: &str =
    "#!/bin/sh\ntrap '' TERM\necho $$ >$1.new; mv $1.new $1; while :; do sleep 0.05; done\n";
/// The same script, but SIGTERM ends it.
const POLITE: &str = "#!/bin/sh\necho $$ >$1.new; mv $1.new $1; while :; do sleep 0.05; done\n";

/// Workers in groups and sessions of their own, one without parents, and one as the command itself.
const EVERYWHERE: &str = "
    timeout 600 ./worker in-a-group &
    setsid ./worker in-a-session &
    (setsid sh -c './worker orphan & exit' &)
    bash -c 'set -m; ./worker job-control & wait' &
    ./worker pid";
const WORKERS: [&str; 5] = ["in-a-group", "in-a-session", "orphan", "job-control", "pid"];

/// Starts [`EVERYWHERE`] under the lock `a`, and waits until all its workers run.
async fn everywhere(
    cluster: &Cluster,
    ttl: &str,
    worker: &str,
    change: impl FnOnce(&mut Command),
) -> Locked {
    let script = format!("printf %s \"$0\" >worker; chmod +x worker; {EVERYWHERE}");
    let args = ["lock", "a", "--ttl", ttl, "--", "sh", "-c", &script, worker];
    let locked = Locked::spawn(cluster, &args, change);
    for worker in WORKERS {
        locked.written(worker).await;
    }
    locked
}

fn still_running(locked: &Locked) -> Vec<&'static str> {
    WORKERS.into_iter().filter(|worker| locked.runs(worker)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_in_groups_and_sessions_of_their_own_end_with_the_lock() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut locked = everywhere(&cluster, "3s", WORKER, |_| {}).await;
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
    assert!(still_running(&locked).is_empty(), "{:?} outlived the lock", still_running(&locked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_told_to_end_keeps_the_lock_until_its_last_process_has_ended() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut locked = everywhere(&cluster, "24h", POLITE, |_| {}).await;
    locked.signal(Signal::SIGTERM);
    cluster
        .client()
        .acquire(AcquireOptions::new("a").wait(LONG))
        .await
        .expect("the lock is let go");
    assert!(
        still_running(&locked).is_empty(),
        "{:?} runs under another's lock",
        still_running(&locked)
    );
    assert_eq!(locked.ended().await.code(), Some(128 + 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_leaves_behind_keeps_the_lock() {
    let cluster = Cluster::start(Spec::default()).await;
    let script = "(setsid sh -c 'echo $$ >pid; while :; do sleep 0.05; done' &); until [ -s pid ]; do :; done; exit 5";
    let mut locked = Locked::start_with(&cluster, &["a", "--ttl", "1s"], script, |command| {
        let told = command.get_current_dir().expect("a directory").join("told");
        command.stderr(std::fs::File::create(told).expect("a file"));
    })
    .await;
    let client = cluster.client();
    eventually("the lock is renewed for what is left", async || {
        let holders = client.check("a", Consistency::Linearizable).await.ok()?.holders;
        (holders.first()?.renewal_count >= 4).then_some(())
    })
    .await;
    let left = locked.written("pid").await;
    assert!(locked.written("told").await.contains(&left), "it says what it waits for");
    let left = left.parse().expect("a pid");
    kill(Pid::from_raw(left), Signal::SIGKILL).expect("end what is left");
    assert_eq!(locked.ended().await.code(), Some(5), "the command's own code");
    let history = client.history("a", 1).await.expect("history");
    assert_eq!(history[0].state(), GrantState::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_wrapper_ends_the_whole_job_and_lets_the_lock_go() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut locked = everywhere(&cluster, "24h", WORKER, |_| {}).await;
    locked.signal(Signal::SIGKILL);
    locked.ended().await;
    // The lock must be free before its TTL of a day ends.
    cluster
        .client()
        .acquire(AcquireOptions::new("a").wait(LONG))
        .await
        .expect("the lock is let go");
    assert!(
        still_running(&locked).is_empty(),
        "{:?} runs under another's lock",
        still_running(&locked)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_ends_the_whole_job() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut locked = everywhere(&cluster, "24h", WORKER, |_| {}).await;
    kill(Pid::from_raw(locked.guard().await), Signal::SIGKILL).expect("kill the guard");
    assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
    assert!(still_running(&locked).is_empty(), "{:?} run without a lock", still_running(&locked));
    assert!(locked.said().contains("signal 9 killed the process that kept the lock"));
}

/// A program that forks and ends, and so does its child, while the file `job` exists. No look at
/// the processes shows it in its present place.
const CHAIN: &str = "
    #include <unistd.h>
    int main(void) { while (access(\"job\", F_OK) == 0) if (fork() > 0) _exit(0); }";

/// A single look at all processes once missed the running one, so the front took the job for ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_ends_a_job_that_does_nothing_but_fork_and_end() {
    let cluster = Cluster::start(Spec::default()).await;
    let place = tempfile::tempdir().expect("a directory");
    let chain = place.path().join("chain");
    compile_c(CHAIN, &chain);
    // Each process of the job inherits the lock of this file.
    let script = format!("exec 9>job; flock 9; echo $$ >pid; exec {}", chain.display());
    for round in 0..CHAINS {
        let mut locked =
            Locked::start(&cluster, &[&format!("a-{round}"), "--ttl", "24h"], &script).await;
        kill(Pid::from_raw(locked.guard().await), Signal::SIGKILL).expect("kill the guard");
        assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
        let file = std::fs::File::open(locked.file("job")).expect("the job's file");
        assert!(file.try_lock().is_ok(), "round {round}: the job runs on without a lock");
    }
}

/// A program that writes its pid to the file `pid` and ends its first thread. From then on `/proc`
/// shows the process as `Z`, although it works.
const LEADERLESS: &str = "
    #include <pthread.h>
    #include <stdio.h>
    #include <unistd.h>
    static void *work(void *none) { for (;;) pause(); }
    int main(void) {
        pthread_t thread;
        pthread_create(&thread, 0, work, 0);
        FILE *file = fopen(\"pid.new\", \"w\");
        fprintf(file, \"%d\\n\", getpid());
        fclose(file);
        rename(\"pid.new\", \"pid\");
        pthread_exit(0);
    }";

/// Such a process once counted as ended. It got no signal, and the lock was held for it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_first_thread_has_ended_is_told_to_end() {
    let cluster = Cluster::start(Spec::default()).await;
    let place = tempfile::tempdir().expect("a directory");
    let daemon = place.path().join("daemon");
    compile_c(LEADERLESS, &daemon);
    let script = format!("(setsid {} &); while :; do sleep 0.05; done", daemon.display());
    let mut locked = Locked::start(&cluster, &["a", "--ttl", "24h"], &script).await;
    let pid = locked.written("pid").await;
    let _daemon = EndsWithTest::new(&pid);
    eventually("its first thread has ended", async || {
        (process_state(&pid) == Some('Z')).then_some(())
    })
    .await;
    locked.signal(Signal::SIGTERM);
    assert_eq!(locked.ended().await.code(), Some(128 + 15));
    assert_eq!(process_state(&pid), None, "the lock was held until it had ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_stopped_goes_on() {
    let cluster = Cluster::start(Spec::default()).await;
    let locked = everywhere(&cluster, "2s", WORKER, |_| {}).await;
    let guard = locked.guard().await;
    let client = cluster.client();
    let renewals = async || {
        client
            .check("a", Consistency::Linearizable)
            .await
            .ok()?
            .holders
            .first()?
            .renewal_count
            .into()
    };
    let before = eventually("it is held", renewals).await;
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGUSR1] {
        kill(Pid::from_raw(guard), signal).expect("signal the guard");
    }
    eventually("it is renewed", async || renewals().await.filter(|now: &u64| *now >= before + 3))
        .await;
    assert_eq!(still_running(&locked), WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_job_ends_when_its_lock_is_lost() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut locked = everywhere(&cluster, "2s", WORKER, |_| {}).await;
    // A bash with job control continues the processes that it leaves stopped.
    for worker in WORKERS.into_iter().filter(|worker| *worker != "job-control") {
        let pid = locked.written(worker).await;
        kill(Pid::from_raw(pid.parse().expect("a pid")), Signal::SIGSTOP).expect("stop a worker");
        eventually("it is stopped", async || (process_state(&pid) == Some('T')).then_some(()))
            .await;
    }
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
    assert!(still_running(&locked).is_empty(), "{:?} would go on", still_running(&locked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_standard_error_does_not_save_the_job() {
    let cluster = Cluster::start(Spec::default()).await;
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    let stderr = writer.try_clone().expect("its other end");
    // The pipe is full, so that even a short message finds no room.
    let full = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
    let mut locked = everywhere(&cluster, "3s", WORKER, |command| {
        command.stderr(stderr);
    })
    .await;
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
    assert!(still_running(&locked).is_empty(), "{:?} outlived the lock", still_running(&locked));
    drop(_reader);
    full.join().expect("the writer ends with its reader");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_error_without_a_reader_does_not_save_the_job() {
    let cluster = Cluster::start(Spec::default()).await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let log_all = |command: &mut Command| {
        command.stderr(writer).env("PALISADE_LOG", "trace");
    };
    let mut locked = everywhere(&cluster, "3s", WORKER, log_all).await;
    drop(reader);
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    assert_eq!(locked.ended().await.code(), ENDED_BY_LOSS);
    assert!(still_running(&locked).is_empty(), "{:?} outlived the lock", still_running(&locked));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped_as_process_one() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root makes pid namespaces here");
        return;
    }
    let cluster = Cluster::start(Spec::default()).await;
    let script = "for i in 1 2 3; do (sleep 0.1 & ); done; while pgrep -x sleep; do :; done; ps -eo stat >states; exit 7";
    let lock = ["--pid", "--fork", "--mount-proc", "sh", "-c", "exec \"$@\"", "sh"];
    let palisade = palisade_binary().display().to_string();
    let mut locked = Locked::spawn(&cluster, &[], |command| {
        let settings: Vec<_> =
            command.get_envs().map(|(n, v)| (n.to_owned(), v.map(Into::into))).collect();
        let dir = command.get_current_dir().map(Path::to_owned);
        *command = Command::new("unshare");
        command
            .args(lock)
            .arg(&palisade)
            .args(["lock", "a", "--ttl", "5s", "--", "sh", "-c", script]);
        command.envs(
            settings
                .into_iter()
                .filter_map(|(n, v): (_, Option<std::ffi::OsString>)| Some((n, v?))),
        );
        command.current_dir(dir.expect("a directory")).stdout(std::process::Stdio::null());
    });
    assert_eq!(locked.ended().await.code(), Some(7));
    assert!(!locked.written("states").await.contains('Z'), "zombies");
}

/// A directory that another user can use, with copies of `palisade` and of programs that become
/// root.
fn for_another_user(locked: &Locked) {
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set a mode")
    };
    open(&locked.file(""), 0o777);
    std::fs::copy(palisade_binary(), locked.file("palisade")).expect("copy palisade");
    for (from, to) in [("/usr/bin/id", "id"), ("/usr/bin/setpriv", "setpriv")] {
        std::fs::copy(from, locked.file(to)).expect("copy a program");
        open(&locked.file(to), 0o4755);
    }
}

/// A command that becomes root, so that no process of another user can end it.
const AS_ROOT: &str = "exec ./setpriv --reuid=0 --regid=0 --clear-groups sh -c 'echo $$ >pid; while :; do sleep 0.05; done'";

/// Ends a process when the test ends, also by a panic. The process may be out of reach of all other
/// means.
struct EndsWithTest(Pid);

impl EndsWithTest {
    fn new(pid: &str) -> EndsWithTest {
        EndsWithTest(Pid::from_raw(pid.parse().expect("a pid")))
    }
}

impl Drop for EndsWithTest {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// `before` is a program that runs the command as root, if it is not empty.
fn as_another_user(
    cluster: &Cluster,
    place: &Locked,
    before: &[&str],
    command: &[&str],
) -> Command {
    let words = [before, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], command]
        .concat();
    let mut run = Command::new(words[0]);
    run.args(&words[1..]).current_dir(place.file(""));
    run.env("PALISADE_ENDPOINT", cluster.endpoints());
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_would_be_out_of_reach_is_refused_and_one_that_is_is_said() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can make a program setuid");
        return;
    }
    let cluster = Cluster::start(Spec::default()).await;
    let place = Locked::spawn(&cluster, &["--version"], |_| {});
    for_another_user(&place);
    let user = |command: &[&str]| as_another_user(&cluster, &place, &[], command);
    let output = |command: &[&str]| user(command).output().expect("run as another user");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if text(&output(&["./id", "-u"]).stdout) != "0" {
        eprintln!("skipped: setuid does nothing on this file system");
        return;
    }
    // The setuid program is seen beforehand, so it is not started and no lock is taken.
    let refused = output(&["./palisade", "lock", "a", "--", "./id", "-u"]);
    assert_eq!(refused.status.code(), Some(7), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("becomes root"), "{}", text(&refused.stderr));
    assert!(
        cluster.client().history("a", 1).await.expect("history").is_empty(),
        "no lock was taken"
    );
    // The setuid program is not seen beforehand, but it does not become another user.
    let inside = output(&["./palisade", "lock", "a", "--", "sh", "-c", "./id -u"]);
    assert_eq!((text(&inside.stdout).as_str(), inside.status.code()), ("65534", Some(0)));
    // The setuid program is allowed, so it runs as root. It works on when the lock is broken, and a
    // message says so.
    let options =
        ["./palisade", "lock", "a", "--ttl", "2s", "--allow-setuid", "--", "sh", "-c", AS_ROOT];
    let told = std::fs::File::create(place.file("told")).expect("a file");
    let mut wrapper = user(&options).stderr(told).spawn().expect("start palisade lock");
    let pid = place.written("pid").await;
    let worker = EndsWithTest::new(&pid);
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    let ended =
        eventually("palisade lock ends", async || wrapper.try_wait().expect("look at a child"))
            .await;
    assert!(runs(&pid), "it is out of reach");
    drop(worker);
    let told = place.written("told").await;
    assert_eq!(ended.code(), Some(6), "{told}");
    assert!(told.contains(&pid), "{told}");
}

/// Becomes root as [`AS_ROOT`] does, and then its first thread ends.
const LEADERLESS_AS_ROOT: &str = "exec ./setpriv --reuid=0 --regid=0 --clear-groups ./leaderless";

/// The lock could be renewed again between SIGTERM and SIGKILL. It was once released although a
/// process still worked.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_lock_is_held_for_a_process_that_cannot_be_ended() {
    it_is_held_until_all_has_ended(AS_ROOT, &[]).await;
}

/// Such a process was once taken for ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_lock_is_held_for_a_process_that_cannot_be_ended_and_whose_first_thread_has() {
    it_is_held_until_all_has_ended(LEADERLESS_AS_ROOT, &[]).await;
}

/// A process that `/proc` does not show was once taken for ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_lock_is_held_for_a_process_that_proc_does_not_show() {
    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let hiding = ["unshare", "--mount", "sh", "-c", hide, "sh"];
    if !Command::new(hiding[0])
        .args(&hiding[1..])
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: only root can mount /proc so that it hides processes");
        return;
    }
    it_is_held_until_all_has_ended(AS_ROOT, &hiding).await;
}

/// Tests a job that becomes root and writes its pid. Another user runs `palisade lock` for it,
/// started by `before`.
async fn it_is_held_until_all_has_ended(job: &str, before: &[&str]) {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can make a program setuid");
        return;
    }
    let cluster = Cluster::start(Spec::default()).await;
    let place = Locked::spawn(&cluster, &["--version"], |_| {});
    for_another_user(&place);
    compile_c(LEADERLESS, &place.file("leaderless"));
    let told = std::fs::File::create(place.file("told")).expect("a file");
    let options =
        ["./palisade", "lock", "a", "--ttl", "15s", "--allow-setuid", "--", "sh", "-c", job];
    let mut wrapper = as_another_user(&cluster, &place, before, &options);
    let mut wrapper = wrapper.stderr(told).spawn().expect("start palisade lock");
    let pid = place.written("pid").await;
    let worker = EndsWithTest::new(&pid);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the command runs");
    if !status.contains("Uid:\t0\t0") {
        eprintln!("skipped: setuid does nothing on this file system");
        wrapper.kill().expect("end palisade lock");
        wrapper.wait().expect("its end");
        return;
    }
    if job == LEADERLESS_AS_ROOT {
        eventually("its first thread has ended", async || {
            (process_state(&pid) == Some('Z')).then_some(())
        })
        .await;
    }
    let says = async |words: &str| {
        eventually(words, async || {
            std::fs::read_to_string(place.file("told")).ok()?.contains(words).then_some(())
        })
        .await;
    };
    cluster.pause_gateway(1);
    says("could not be renewed").await;
    cluster.resume_gateway(1);
    says("cannot be ended").await;
    // The wait is longer than the TTL without renewals, so the lock is still renewed.
    let client = cluster.client();
    let renewals = async || {
        let holders = client.check("a", Consistency::Linearizable).await.ok()?.holders;
        Some(holders.first().expect("it is held").renewal_count)
    };
    let before = eventually("it is held", renewals).await;
    eventually("it is renewed", async || renewals().await.filter(|now| *now >= before + 2)).await;
    assert!(wrapper.try_wait().expect("look at a child").is_none(), "the guard waits");
    assert!(process_state(&pid).is_some(), "it is out of reach");
    drop(worker);
    let ended =
        eventually("palisade lock ends", async || wrapper.try_wait().expect("look at a child"))
            .await;
    let told = place.written("told").await;
    assert_eq!(ended.code(), Some(6), "{told}");
    assert!(told.contains(&pid) && told.contains("was held until all of it had ended"), "{told}");
    let history = client.history("a", 1).await.expect("history");
    assert_eq!(history[0].state(), GrantState::Released);
}
