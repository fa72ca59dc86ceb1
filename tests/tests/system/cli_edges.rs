//! Edge cases of the command line.
//!
//! These are addresses in every spelling, empty variables, taken ports, names with terminal control
//! characters, and a load that ends early.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_tests::{Cluster, Spec, eventually, ignores, palisade_binary};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The `palisade` program without a cluster, and without the test's own environment.
fn palisade(args: &[&str]) -> Command {
    let mut command = Command::new(palisade_binary());
    command.args(args).stdin(Stdio::null()).env("NO_COLOR", "1");
    for variable in ["PALISADE_ENDPOINT", "PALISADE_OWNER", "PALISADE_LOG"] {
        command.env_remove(variable);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("run palisade")
}

/// Whether a terminal obeys this character: it moves the cursor, reorders a line, or is invisible.
fn is_obeyed(c: char) -> bool {
    (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{2069}\u{200b}\u{feff}\u{2028}".contains(c)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_terminal_would_obey_are_shown_by_their_numbers_and_given_to_programs_as_they_are()
 {
    let cluster = Cluster::start(Spec::default()).await;
    let (name, owner, note) = ("\u{202e}eciovni", "\u{2066}alice\u{2069}", "a\u{200b}\u{feff}b");
    cluster.run_json(&["acquire", name, "--owner", owner, "--metadata", note]).await;
    cluster.run_json(&["acquire", "日本語", "--owner", "o"]).await;
    let refused = cluster.run(&["acquire", name]).await;
    assert_eq!(refused.status.code(), Some(3));
    let mut shown = said(&refused);
    for args in [
        &["ls"][..],
        &["check", name],
        &["history", name],
        &["cluster", "status"],
        &["break", name, "--reason", note],
    ] {
        let output = cluster.run(args).await;
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        shown += &said(&output);
    }
    let nobody = cluster.run(&["break", name, "--reason", "again"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    shown += &said(&nobody);
    let obeyed: Vec<String> =
        shown.chars().filter(|c| is_obeyed(*c)).map(|c| format!("{:x}", u32::from(c))).collect();
    assert!(obeyed.is_empty(), "{obeyed:?} reach the terminal: {shown:?}");
    for number in ["\\u{202e}eciovni", "\\u{2066}alice\\u{2069}", "a\\u{200b}\\u{feff}b"] {
        assert!(shown.contains(number), "{number} is not in {shown}");
    }
    // The columns are aligned: a wide character counts as two.
    let table = said(&cluster.run(&["ls"]).await);
    let (header, row) = (
        table.lines().next().expect("a header"),
        table.lines().find(|l| l.contains('日')).expect("a row"),
    );
    let columns_before = |line: &str, what: &str| -> usize {
        let before = line.split(what).next().expect("a part");
        before.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
    };
    assert_eq!(columns_before(header, "owner"), columns_before(row, "o "), "{table}");

    let history = cluster.run_json(&["history", name]).await;
    assert_eq!(
        (&history["tenures"][0]["owner_id"], &history["tenures"][0]["break_reason"]),
        (&owner.into(), &note.into())
    );
    // Times are printed too, because ages alone mean nothing in a log that is read later.
    let history = said(&cluster.run(&["history", name]).await);
    let row = history.lines().nth(1).unwrap_or_default();
    let times: Vec<&str> = row
        .split("  ")
        .map(str::trim)
        .filter(|cell| cell.starts_with("20") && cell.ends_with('Z'))
        .collect();
    assert!(
        times.len() == 2 && times.iter().all(|time| time.len() == 20),
        "acquired and ended: {times:?} in {history}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_write_an_endpoint_reaches_it_or_is_refused() {
    let cluster = Cluster::start(Spec::default()).await;
    let port = cluster.gateway(1).rsplit_once(':').expect("a port").1.to_owned();
    let check =
        |endpoint: &str| palisade(&["check", "x", "--timeout", "5s", "--endpoint", endpoint]);
    for endpoint in [
        format!("localhost:{port}"), // ::1 first on many machines, without a listener
        format!(" 127.0.0.9:9 , 127.0.0.1:{port}, "),
        format!("http://127.0.0.1:{port}"),
        format!("HTTP://127.0.0.1:{port}/"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        let output = run(&mut check(&endpoint));
        assert!(output.status.success(), "{endpoint:?}: {}", said(&output));
    }
    for endpoint in [
        format!("https://127.0.0.1:{port}"),
        format!("HTTPS://127.0.0.1:{port}"),
        format!("grpcs://127.0.0.1:{port}"),
        format!("etcd://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/v3"),
        format!("http://127.0.0.1:{port}?tls=true"),
        format!("http://me:secret@127.0.0.1:{port}"),
        format!("::1:{port}"),
        format!("127.0.0.1:{port} 127.0.0.2:{port}"),
        "127.0.0.1:99999".to_owned(),
        ",,".to_owned(),
        String::new(),
    ] {
        for verb in [
            &["check", "x"][..],
            &["bench"],
            &["bench", "--unary"],
            &["cluster", "status"],
            &["lock", "x"],
        ] {
            let mut command = palisade(verb);
            command.args(["--timeout", "5s", "--endpoint", &endpoint]);
            if verb[0] == "lock" {
                command.args(["--", "true"]);
            }
            let output = run(&mut command);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{verb:?} {endpoint:?}: {said}");
            assert!(!said.contains("secret"), "{verb:?}: {said}");
        }
    }
    // Files of compose, systemd and charts set empty variables as `VAR=`.
    let owner = run(check(cluster.gateway(1)).arg("--json").env("PALISADE_OWNER", ""));
    assert!(owner.status.success(), "{}", said(&owner));
    let acquire = ["acquire", "own", "--endpoint", cluster.gateway(1)];
    let acquired = run(palisade(&acquire)
        .env("PALISADE_OWNER", "")
        .env("PALISADE_LOG", "")
        .env("NO_COLOR", ""));
    assert!(acquired.status.success() && said(&acquired).contains('@'), "{}", said(&acquired));
    let unset = run(palisade(&["check", "x", "--timeout", "300ms"]).env("PALISADE_ENDPOINT", ""));
    assert!(
        !said(&unset).contains("no endpoint") && unset.status.code() != Some(2),
        "{}",
        said(&unset)
    );
}

#[test]
fn an_address_that_is_taken_is_told_at_once_and_before_any_data_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let held: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let [node, node_metrics, gateway, gateway_metrics] =
        [0, 1, 2, 3].map(|at| held[at].local_addr().expect("an address").to_string());
    let file = dir.path().join("c.yaml");
    let (config, data) = (file.to_str().expect("UTF-8"), dir.path().join("data"));
    let data_dir = data.to_str().expect("UTF-8");
    let write = |node: &str, gateway: &str| {
        let yaml = format!(
            "cluster: c\nshards: 1\nreplicas: 1\nnodes: [{{id: 1, address: '{node}', metrics: '{node_metrics}'}}]\n\
             gateways: [{{address: '{gateway}', metrics: '{gateway_metrics}'}}]\n"
        );
        std::fs::write(&file, yaml).expect("write the cluster file");
    };
    let refused = |args: &[&str], address: &str| {
        let output = run(&mut palisade(args));
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        assert!(
            said(&output).contains(&format!("cannot listen on {address}")),
            "{args:?}: {}",
            said(&output)
        );
        assert!(!Path::new(data_dir).exists(), "{args:?} has made data");
    };
    let as_node =
        ["node", "--config", config, "--id", "1", "--data-dir", data_dir, "--new-cluster"];
    write(&node, &gateway);
    refused(&as_node, &node);
    refused(&["gateway", "--config", config], &gateway);
    refused(&["dev", "--listen", &gateway, "--data-dir", data_dir], &gateway);
    // The file now has other addresses.
    write("127.0.0.1:1", "127.0.0.1:1");
    let free = TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("an address")
        .to_string();
    write(&free, &free.replace("127.0.0.1", "127.0.0.2"));
    refused(&as_node, &node_metrics);
    refused(&["gateway", "--config", config], &gateway_metrics);
}

#[test]
fn what_cannot_be_listened_on_is_usage() {
    for address in
        ["localhost", "::1:7400", "http://127.0.0.1:7400", "127.0.0.1:99999", "me@127.0.0.1:1", ""]
    {
        let output = run(&mut palisade(&["dev", "--listen", address]));
        assert_eq!(output.status.code(), Some(2), "{address:?}: {}", said(&output));
        assert!(said(&output).contains("write"), "{address:?}: {}", said(&output));
    }
}

#[test]
fn a_log_filter_that_is_none_is_told_and_does_no_harm() {
    for filter in ["palisade=verbose,,=", "=\u{202e}=\n"] {
        let mut command =
            palisade(&["check", "x", "--endpoint", "127.0.0.9:9", "--timeout", "300ms"]);
        let output = run(command.env("PALISADE_LOG", filter));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("warning: PALISADE_LOG=") && said.contains("is no filter"),
            "{said}"
        );
        assert!(!said.chars().any(is_obeyed), "{said:?}");
    }
}

#[test]
fn a_server_that_closes_without_a_word_leaves_no_empty_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for verb in [&["check", "x"][..], &["cluster", "status"], &["bench"], &["session", "open"]] {
        let output = run(palisade(verb).args(["--timeout", "500ms", "--endpoint", &address]));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        for empty in [": )", "(last: )", ": :", ": \n", "()", ": transport error"] {
            assert!(!said.contains(empty), "{verb:?} leaves {empty:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_leaves_nothing_locked_however_it_ends() {
    let cluster = Cluster::start(Spec::default()).await;
    let none_held = async |what: &str| {
        let held = cluster.run_json(&["ls", "b/"]).await;
        assert_eq!(held["grants"].as_array().expect("grants").len(), 0, "{what}: {held}");
    };
    let common = ["--clients", "4", "--warmup", "0s", "--ttl", "10m", "--names", "100"];
    // The load is so slow that most clients wait for their turn at its end, and each holds a lock.
    for mix in ["acquire-release", "seed"] {
        let load =
            [&["bench", "--mix", mix, "--rate", "8", "--duration", "2s"][..], &common].concat();
        let output = cluster.run(&load).await;
        assert!(output.status.success(), "{mix}: {}", said(&output));
        none_held(mix).await;
    }
    // The load is interrupted.
    let load =
        [&["bench", "--mix", "seed", "--hold", "10m", "--duration", "10m"][..], &common].concat();
    let child = cluster.palisade(&load).spawn().expect("start a load");
    eventually("locks are held", async || {
        let held = cluster.run_json(&["ls", "b/"]).await;
        (held["grants"].as_array().expect("grants").len() == 4).then_some(())
    })
    .await;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("interrupt it");
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().expect("its end"))
        .await
        .expect("no panic");
    assert_eq!(ended.status.code(), Some(130), "{}", said(&ended));
    assert!(said(&ended).contains("interrupted"), "{}", said(&ended));
    none_held("interrupted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_interrupted_ends_with_the_code_of_its_signal() {
    let cluster = Cluster::start(Spec::default()).await;
    cluster.run_json(&["acquire", "a", "--ttl", "10m"]).await;
    // A child of a process that ignores a signal ignores it as well.
    let signals = [Signal::SIGINT, Signal::SIGTERM];
    for signal in signals.into_iter().filter(|signal| !ignores("self", *signal as i32)) {
        let child = cluster.palisade(&["acquire", "a", "--wait", "10m"]).spawn().expect("a wait");
        eventually("it waits", async || {
            let checked = cluster.run_json(&["check", "a"]).await;
            (checked["waiters"] == 1).then_some(())
        })
        .await;
        kill(Pid::from_raw(child.id() as i32), signal).expect("interrupt it");
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().expect("its end"))
            .await
            .expect("no panic");
        assert_eq!(ended.status.code(), Some(128 + signal as i32), "{}", said(&ended));
        let checked = cluster.run_json(&["check", "a"]).await;
        assert_eq!(checked["waiters"], 0, "its place in the queue is given up");
    }
}
