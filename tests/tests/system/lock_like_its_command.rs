//! `palisade lock` as its caller sees it: signals, terminal, arguments and exit codes are those of
//! the command itself.

use client::{AcquireOptions, Consistency};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_tests::{
    Cluster, LIMIT, Locked, Spec, compile_c, eventually, palisade_binary, process_state,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_that_would_end_it_is_passed_on() {
    let cluster = Cluster::start(Spec::default()).await;
    for signal in
        ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "PIPE", "ABRT", "SEGV", "RTMIN+3"]
    {
        let script = format!(
            "exec bash -c 'trap \"echo {signal} >got; exit 9\" {signal}; echo $$ >pid; while :; do \
             sleep 0.05; done'"
        );
        let mut locked = Locked::start(&cluster, &["a", "--ttl", "24h"], &script).await;
        let sent =
            Command::new("bash").args(["-c", &format!("kill -{signal} {}", locked.id())]).status();
        assert!(sent.expect("run kill").success());
        assert_eq!(locked.written("got").await, signal);
        assert_eq!(locked.ended().await.code(), Some(9), "SIG{signal}: the command's own code");
    }
    let unhandled = "echo $$ >pid; while :; do sleep 0.05; done";
    let mut locked = Locked::start(&cluster, &["a"], unhandled).await;
    locked.signal(Signal::SIGUSR1);
    assert_eq!(locked.ended().await.code(), Some(128 + 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ignored_blocked_or_closed_at_the_start_is_so_in_the_command() {
    let cluster = Cluster::start(Spec::default()).await;
    let show = "grep -E 'SigBlk|SigIgn' /proc/self/status; [ -e /proc/self/fd/0 ] && echo open";
    // Signals 32 and 33 belong to glibc: its posix_spawn ignores them in the processes that it
    // starts.
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let number = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
        let without = |line: &str| {
            number(line).map_or(line.to_owned(), |bits| format!("{:x}", bits & !(3 << 31)))
        };
        text.lines().map(without).collect()
    };
    let palisade = palisade_binary().display().to_string();
    for (setting, close) in [
        (vec!["--default-signal"], ""),
        (vec!["--default-signal", "--ignore-signal=HUP,INT,PIPE,USR1,CHLD,TSTP"], ""),
        (vec!["--default-signal", "--block-signal=TERM,USR2,CHLD"], ""),
        (vec!["--default-signal"], "<&-"),
    ] {
        let run = |wrapper: &str| {
            let start = format!("exec {wrapper} sh -c \"$1\" {close}");
            let mut command = Command::new("env");
            command
                .args(&setting)
                .args(["bash", "-c", &start, "bash", show])
                .env("PALISADE_ENDPOINT", cluster.endpoints());
            command.output().expect("run it")
        };
        let (direct, locked) = (run(""), run(&format!("{palisade} lock a --")));
        assert_eq!(lines(&locked.stdout), lines(&direct.stdout), "{setting:?} {close}");
        assert_eq!(locked.status.code(), direct.status.code());
    }
    // The wrapper goes on as well as the command.
    let ignoring = "echo $$ >pid; while [ ! -e end ]; do sleep 0.05; done; exit 8";
    let mut locked = Locked::start_with(&cluster, &["a"], ignoring, |command| {
        let args: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
        let (dir, envs) =
            (command.get_current_dir().expect("a directory").to_owned(), command.get_envs());
        let envs: Vec<_> = envs.filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned()))).collect();
        *command = Command::new("env");
        command
            .arg("--ignore-signal=HUP,QUIT")
            .args(&args[1..])
            .current_dir(dir)
            .envs(envs)
            .stdin(Stdio::null());
    })
    .await;
    locked.signal(Signal::SIGHUP);
    locked.signal(Signal::SIGQUIT);
    std::fs::write(locked.file("end"), "").expect("let it end");
    assert_eq!(locked.ended().await.code(), Some(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_binary_in_its_place_does_not_stop_a_queued_command() {
    let cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    let held = client.acquire("a").await.expect("acquire");
    let dir = tempfile::tempdir().expect("a directory");
    let (binary, newer) = (dir.path().join("palisade"), dir.path().join("newer"));
    std::fs::copy(palisade_binary(), &binary).expect("copy palisade");
    let mut command = Command::new(&binary);
    command
        .args(["lock", "a", "--wait", "2m", "--", "echo", "ran"])
        .env("PALISADE_ENDPOINT", cluster.endpoints());
    let child = command.stdout(Stdio::piped()).spawn().expect("start palisade lock");
    waiters(&cluster, 1).await;
    std::fs::copy(palisade_binary(), &newer).expect("the newer one");
    std::fs::rename(&newer, &binary).expect("the upgrade");
    client.release("a", held.fencing_token).await.expect("release");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().expect("its end"))
        .await
        .expect("no panic");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]));
}

async fn waiters(cluster: &Cluster, count: u32) {
    let client = cluster.client();
    eventually(&format!("waiters in the queue: {count}"), async || {
        let checked = client.check("a", Consistency::Linearizable).await.ok()?;
        (u64::from(checked.waiters) == u64::from(count)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_left_at_every_signal_that_ends() {
    let cluster = Cluster::start(Spec::default()).await;
    cluster
        .client()
        .acquire(AcquireOptions::new("a").ttl(Duration::from_secs(3_600)))
        .await
        .expect("acquire");
    let acquire = ["acquire", "a", "--wait", "1h"];
    let lock = ["lock", "a", "--wait", "1h", "--", "true"];
    for signal in
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1]
    {
        for verb in [&acquire[..], &lock[..]] {
            let mut waiting = Locked::spawn(&cluster, verb, |_| {});
            waiters(&cluster, 1).await;
            waiting.signal(signal);
            waiters(&cluster, 0).await;
            let ended = waiting.ended().await;
            assert!(
                ended.code().is_some_and(|code| code != 0),
                "{verb:?} did not leave by itself: {ended}"
            );
        }
    }
    // The guard of a killed wrapper leaves the queue, too.
    let waiting = Locked::spawn(&cluster, &lock, |_| {});
    waiters(&cluster, 1).await;
    waiting.signal(Signal::SIGKILL);
    waiters(&cluster, 0).await;
}

/// Runs `palisade lock a` with these options, stops it in the queue, and lets it get its lock. Its
/// command writes the file `started`.
async fn stopped_in_the_queue(
    cluster: &Cluster,
    options: &[&str],
    change: impl FnOnce(&mut Command),
) -> Locked {
    let client = cluster.client();
    let held = client
        .acquire(AcquireOptions::new("a").ttl(Duration::from_secs(3_600)))
        .await
        .expect("acquire");
    let args = [&["lock", "a", "--wait", "1h"], options, &["--", "touch", "started"]].concat();
    let locked = Locked::spawn(cluster, &args, change);
    waiters(cluster, 1).await;
    locked.signal(Signal::SIGSTOP);
    let state = async || (process_state(&locked.id().to_string()) == Some('T')).then_some(());
    eventually("it is stopped", state).await;
    client.release("a", held.fencing_token).await.expect("release");
    // The guard has claimed its grant and waits for its front.
    renewed(cluster, 2).await;
    assert!(!locked.file("started").exists(), "a command that is stopped does nothing");
    locked
}

/// Waits until the holder of `a` has renewed its lock `times` times, or once more if `times` is 0.
async fn renewed(cluster: &Cluster, times: u64) {
    let client = cluster.client();
    let renewals = async || -> Option<u64> {
        Some(
            client.check("a", Consistency::Linearizable).await.ok()?.holders.first()?.renewal_count,
        )
    };
    let before = eventually("it is held", renewals).await;
    let enough = if times == 0 { before + 1 } else { times };
    eventually("it is renewed", async || renewals().await.filter(|now| *now >= enough)).await;
}

/// The guard once waited for a message about SIGCONT, which a front that ignores SIGCONT never
/// sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_stopped_in_the_queue_starts_also_if_it_ignores_sigcont() {
    let cluster = Cluster::start(Spec::default()).await;
    let ignore = |command: &mut Command| {
        let args: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
        let (dir, envs) =
            (command.get_current_dir().expect("a directory").to_owned(), command.get_envs());
        let envs: Vec<_> = envs.filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned()))).collect();
        *command = Command::new("env");
        command
            .arg("--ignore-signal=CONT")
            .args(&args[1..])
            .current_dir(dir)
            .envs(envs)
            .stdin(Stdio::null());
    };
    let mut locked = stopped_in_the_queue(&cluster, &["--ttl", "1s"], ignore).await;
    locked.signal(Signal::SIGCONT);
    assert_eq!(locked.ended().await.code(), Some(0));
    assert!(locked.file("started").exists());
}

/// No code once checked the lock between the stop and the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_started_under_a_lock_that_ends() {
    let cluster = Cluster::start(Spec { gateways: 2, ..Spec::default() }).await;
    let options = ["--ttl", "6s", "--endpoint", cluster.gateway(1)];
    let mut locked = stopped_in_the_queue(&cluster, &options, |_| {}).await;
    renewed(&cluster, 0).await;
    cluster.pause_gateway(1);
    // The wait ends in the last third of the lock's validity. If this thread wakes late, the lock
    // is lost, which ends the same way.
    tokio::time::sleep(Duration::from_secs(5)).await;
    locked.signal(Signal::SIGCONT);
    let ended = locked.ended().await;
    cluster.resume_gateway(1);
    let said = locked.said();
    assert!(!locked.file("started").exists(), "{said}");
    assert_eq!(ended.code(), Some(4), "{said}");
    assert!(said.contains("before the command was started"), "{said}");
}

/// Each step of the call once had the whole timeout for itself, so that the call took twice as
/// long.
#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_is_that_of_the_whole_call() {
    let (timeout, generous) = (Duration::from_secs(12), Duration::from_secs(20));
    let cluster = Cluster::start(Spec::default()).await;
    // The gateway answers, but cannot tell the outcome of the acquire, so the acquire must be
    // cancelled.
    cluster.running_nodes().into_iter().for_each(|id| cluster.pause_node(id));
    let start = Instant::now();
    let silent = cluster.run(&["lock", "a", "--timeout", "12s", "--", "true"]).await;
    let took = start.elapsed();
    cluster.running_nodes().into_iter().for_each(|id| cluster.resume_node(id));
    assert_eq!(silent.status.code(), Some(1), "{}", String::from_utf8_lossy(&silent.stderr));
    assert!(took < generous, "{took:?} for {timeout:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_bytes_and_may_be_long() {
    let cluster = Cluster::start(Spec::default()).await;
    let run = |script: &str, last: &OsStr| {
        let mut command = cluster.palisade(&["lock", "a", "--", "sh", "-c", script, "sh"]);
        command.arg(last).env("X", OsStr::from_bytes(b"\xff")).output().expect("run palisade lock")
    };
    let odd = run("printf %s%s \"$1\" \"$X\"", OsStr::from_bytes(b"caf\xe9"));
    assert_eq!((odd.status.code(), &odd.stdout[..]), (Some(0), &b"caf\xe9\xff"[..]));
    let long = run("printf ${#1}", OsStr::new(&"x".repeat(130_000)));
    assert_eq!((long.status.code(), &long.stdout[..]), (Some(0), &b"130000"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_owner_names_the_process() {
    let cluster = Cluster::start(Spec::default()).await;
    let locked = Locked::start(&cluster, &["a"], "echo $$ >pid; exec sleep 600").await;
    let checked = cluster.client().check("a", Consistency::Linearizable).await.expect("check");
    let owner = &checked.holders[0].owner_id;
    assert!(owner.contains('@') && owner.ends_with(&format!(":{}", locked.id())), "{owner}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_semaphore_by_the_command_line() {
    let cluster = Cluster::start(Spec::default()).await;
    let code = async |args: &[&str]| cluster.run(args).await.status.code();
    assert_eq!(
        code(&["lock", "pool", "--mode", "semaphore", "--", "true"]).await,
        Some(0),
        "a limit of 1"
    );
    let two = ["acquire", "pool", "--mode", "semaphore", "--permits", "2", "--limit", "3"];
    assert_eq!(code(&two).await, Some(0));
    assert_eq!(code(&two).await, Some(3), "one permit is left");
    assert_eq!(code(&["acquire", "pool", "--mode", "semaphore", "--limit", "3"]).await, Some(0));
    assert_eq!(
        code(&["acquire", "other", "--limit", "3"]).await,
        Some(2),
        "only a semaphore has permits"
    );
}

/// An interactive bash on a terminal of its own.
struct Terminal {
    shell: Child,
    keys: File,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(cluster: &Cluster) -> Terminal {
        let pty = openpty(None, None).expect("a terminal");
        let side = |stream: &std::os::fd::OwnedFd| {
            File::from(stream.try_clone().expect("a terminal's side"))
        };
        let mut command = Command::new("setsid");
        command.args(["--ctty", "env", "--default-signal", "bash", "--norc", "--noprofile", "-i"]);
        command.env("PALISADE", palisade_binary()).env("PALISADE_ENDPOINT", cluster.endpoints());
        command.env("PS1", "PROMPT> ").env("TERM", "dumb");
        command.stdin(side(&pty.slave)).stdout(side(&pty.slave)).stderr(side(&pty.slave));
        let shell = command.spawn().expect("start a shell");
        let (seen, mut screen) = (Arc::new(Mutex::new(String::new())), side(&pty.master));
        let write = seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                write.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Terminal { shell, keys: File::from(pty.master), seen }
    }

    fn types(&mut self, text: &str) {
        self.seen.lock().expect("no panic").clear();
        self.keys.write_all(text.as_bytes()).expect("type");
    }

    async fn shows(&self, text: &str) {
        let start = Instant::now();
        while !self.seen.lock().expect("no panic").contains(text) {
            assert!(
                start.elapsed() < LIMIT,
                "no {text:?} in {:?}",
                self.seen.lock().expect("no panic")
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal closes with its last descriptor, and sends SIGHUP to the processes on it.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_a_job_stops_goes_on_and_ends_as_without_a_wrapper() {
    let cluster = Cluster::start(Spec::default()).await;
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
    let mut terminal = Terminal::start(&cluster);
    terminal.shows("PROMPT> ").await;
    terminal
        .types("$PALISADE lock a --ttl 1s -- sh -c 'echo BE''GAN; while :; do sleep 0.1; done'\n");
    terminal.shows("BEGAN").await;
    terminal.types("\x1a");
    terminal.shows("Stopped").await;
    terminal.shows("PROMPT> ").await;
    terminal.types("echo al''ive\n");
    terminal.shows("alive").await;
    // The lock is renewed while the wrapper is stopped.
    let before = eventually("it is held", renewals).await;
    eventually("it is renewed", async || renewals().await.filter(|now: &u64| *now >= before + 3))
        .await;
    terminal.types("fg\n");
    terminal.shows("BE").await;
    terminal.types("\x03");
    terminal.shows("PROMPT> ").await;
    terminal.types("echo code $?\n");
    terminal.shows("code 130").await;
    cluster.client().acquire("a").await.expect("it was let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_stops_itself_gives_the_shell_its_prompt_back() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut terminal = Terminal::start(&cluster);
    terminal.shows("PROMPT> ").await;
    terminal.types("$PALISADE lock a --ttl 2s -- sh -c 'kill -STOP $$; echo WENT''ON; exit 6'\n");
    terminal.shows("Stopped").await;
    terminal.types("fg\n");
    terminal.shows("WENTON").await;
    terminal.shows("PROMPT> ").await;
    terminal.types("echo code $?\n");
    terminal.shows("code 6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_stopped_on_a_terminal_ends_when_its_lock_is_lost() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut terminal = Terminal::start(&cluster);
    terminal.shows("PROMPT> ").await;
    terminal
        .types("$PALISADE lock a --ttl 2s -- sh -c 'echo pid $$.; while :; do sleep 0.1; done'\n");
    let digits = async || {
        let seen = terminal.seen.lock().expect("no panic").clone();
        let pids = seen
            .split("pid ")
            .filter_map(|text| text.split_once('.'))
            .map(|(pid, _)| pid.to_owned());
        pids.filter(|pid| pid.parse::<u32>().is_ok()).last()
    };
    let pid = eventually("its pid", digits).await;
    terminal.types("\x1a");
    terminal.shows("Stopped").await;
    assert_eq!(process_state(&pid), Some('T'));
    cluster.run_json(&["break", "a", "--reason", "test"]).await;
    eventually("the command is gone", async || process_state(&pid).is_none().then_some(())).await;
    // The shell reports the exit before its next prompt, once the wrapper has ended.
    let start = Instant::now();
    while !terminal.seen.lock().expect("no panic").contains("Exit 4") {
        assert!(start.elapsed() < LIMIT, "the wrapper goes on");
        terminal.types("\n");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_can_ask_on_the_terminal_also_behind_a_pipe() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut terminal = Terminal::start(&cluster);
    terminal.shows("PROMPT> ").await;
    terminal.types(
        "echo | $PALISADE lock a -- sh -c 'echo WH''AT; read a </dev/tty; echo got-$a' | cat\n",
    );
    terminal.shows("WHAT").await;
    terminal.types("this\n");
    terminal.shows("got-this").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_zero_in_the_command_reaches_it_once() {
    let cluster = Cluster::start(Spec::default()).await;
    let script = "trap 'echo x >>got' TERM; echo $$ >pid; kill 0; sleep 0.3; kill 0; wc -l <got >count; exit 2";
    // In a process group of its own, as the harness starts it.
    let mut locked = Locked::start(&cluster, &["a"], script).await;
    assert_eq!(locked.written("count").await, "2");
    assert_eq!(locked.ended().await.code(), Some(2));
    let _ = kill(Pid::from_raw(locked.id()), None);
    cluster.client().acquire(AcquireOptions::new("a").wait(LONG)).await.expect("it was let go");
}

/// A program that notes each SIGHUP in the file `got`. SIGUSR1 ends it.
const COUNTS_HUPS: &str = "
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <unistd.h>
    static int got;
    static void on_hup(int number) { if (write(got, \"x\", 1) < 0) _exit(3); }
    static void on_usr1(int number) { if (write(got, \".\", 1) < 0) _exit(3); _exit(0); }
    int main(void) {
        got = open(\"got\", O_CREAT | O_WRONLY | O_APPEND, 0600);
        signal(SIGHUP, on_hup);
        signal(SIGUSR1, on_usr1);
        FILE *file = fopen(\"pid.new\", \"w\");
        fprintf(file, \"%d %d\\n\", getpid(), getppid());
        fclose(file);
        rename(\"pid.new\", \"pid\");
        for (;;) pause();
    }";

/// The kernel sends SIGHUP to the whole group, and the wrapper once passed it on as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_hangs_up_is_heard_once() {
    let cluster = Cluster::start(Spec::default()).await;
    let place = tempfile::tempdir().expect("a directory");
    compile_c(COUNTS_HUPS, &place.path().join("count"));
    let read = async |name: &str, is: fn(&str) -> bool| {
        let text =
            async || std::fs::read_to_string(place.path().join(name)).ok().filter(|text| is(text));
        eventually(name, text).await
    };
    let mut terminal = Terminal::start(&cluster);
    terminal.shows("PROMPT> ").await;
    terminal.types(&format!("cd {} && $PALISADE lock a -- ./count\n", place.path().display()));
    let guard =
        read("pid", |_| true).await.split_whitespace().last().expect("its parent").to_owned();
    let stat = std::fs::read_to_string(format!("/proc/{guard}/stat")).expect("the guard runs");
    let front = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().nth(1))
        .expect("its parent");
    // Two signals at once would count as one, so the processes that pass them on are slowed down.
    let slowed = Command::new("renice")
        .args(["-n", "19", "-p", &guard, front])
        .stdout(Stdio::null())
        .status();
    assert!(slowed.expect("run renice").success());
    terminal.shell.kill().expect("end the leader of the session");
    read("got", |text| text.starts_with('x')).await;
    // Signals are passed on in order.
    kill(Pid::from_raw(front.parse().expect("a pid")), Signal::SIGUSR1)
        .expect("signal palisade lock");
    assert_eq!(read("got", |text| text.ends_with('.')).await, "x.");
}
