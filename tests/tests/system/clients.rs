//! Clients in other languages, as their users write them, against a real gateway. Each must treat
//! an error as docs/protocol.md says.
//!
//! The clients are in `tests/clients`, and their tools are installed below `target/clients`. If a
//! language or the network is missing, its test says that it was skipped.

use client::AcquireOptions;
use palisade_tests::tools::{Skipped, build, install, kept_dir, need};
use palisade_tests::{Cluster, Spec};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn sources(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(of)
}

fn proto() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto").canonicalize().expect("proto/")
}

/// A directory that is kept from run to run, with a client's sources in it.
fn workshop(of: &str) -> PathBuf {
    let dir = kept_dir(of);
    copy(&sources(of), &dir);
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("the sources") {
        let (from, to) =
            entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("a source");
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
}

/// Runs a client and returns its output, one line for each call. `command` is the client, ready for
/// its arguments.
fn said(command: &mut Command, gateway: &str, wanted: &[&str]) -> Vec<String> {
    let output = command.arg(gateway).args(wanted).output().expect("the client runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Runs a client against a healthy cluster, and against a cluster without a quorum. `client` makes
/// it ready to run.
async fn judge(language: &str, client: impl FnOnce() -> Result<Box<dyn Fn() -> Command>, Skipped>) {
    let client = match client() {
        Ok(client) => client,
        Err(Skipped(why)) => return eprintln!("skipped: {language}: {why}"),
    };
    let mut cluster = Cluster::start(Spec::default()).await;
    let held = AcquireOptions::new("held").owner("alice").ttl(Duration::from_secs(3_600));
    let token = cluster.client().acquire(held).await.expect("acquire").fencing_token;
    let line = |error: &str, grpc: u32, token: u64| {
        format!(
            "{error} grpc={grpc} reason={error} domain=palisade error=ERROR_CODE_{error} \
             token={token}"
        )
    };
    let well = ["HELD", "NOT_OWNER", "INVALID_ARGUMENT", "WAIT_TIMEOUT"];
    let told = said(&mut client(), cluster.gateway(1), &well);
    let expected = [
        line(well[0], 10, token),
        line(well[1], 9, token),
        line(well[2], 3, 0),
        line(well[3], 10, 0),
    ];
    assert_eq!(told, expected, "{language}");

    cluster.kill_node(1);
    cluster.kill_node(2);
    let told = said(&mut client(), cluster.gateway(1), &["NO_LEADER"]);
    assert_eq!(told, [line("NO_LEADER", 14, 0)], "{language}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_with_grpcio() {
    let ready = || -> Result<Box<dyn Fn() -> Command>, Skipped> {
        need("python3", "--version")?;
        let dir = workshop("python");
        let python = dir.join("venv/bin/python");
        install(
            "python3 -m venv",
            Command::new("python3").args(["-m", "venv", "venv"]).current_dir(&dir),
        )?;
        let pip =
            ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"];
        install("pip install", Command::new(&python).args(pip).current_dir(&dir))?;
        let generated = dir.join("gen");
        std::fs::create_dir_all(&generated).expect("a directory");
        let mut protoc = Command::new(&python);
        protoc
            .args(["-m", "grpc_tools.protoc", "--python_out=gen", "--grpc_python_out=gen", "-I"])
            .arg(proto());
        protoc.arg("palisade/v1/palisade.proto").current_dir(&dir);
        build("grpc_tools.protoc", &mut protoc);
        Ok(Box::new(move || {
            let mut client = Command::new(&python);
            client.arg(dir.join("client.py")).env("PYTHONPATH", &generated);
            client
        }))
    };
    judge("Python", ready).await;
}

/// Prepares one of the clients in `tests/clients/node`.
fn node(script: &'static str) -> Result<Box<dyn Fn() -> Command>, Skipped> {
    // Both tests work in one directory, so they run one at a time.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    need("node", "--version")?;
    need("npm", "--version")?;
    need("protoc", "--version")?;
    let dir = workshop("node");
    install(
        "npm install",
        Command::new("npm").args(["install", "--no-audit", "--no-fund"]).current_dir(&dir),
    )?;
    std::fs::create_dir_all(dir.join("gen")).expect("a directory");
    let mut protoc = Command::new("protoc");
    protoc.arg("--plugin=protoc-gen-es=node_modules/.bin/protoc-gen-es");
    protoc.args(["--es_out=gen", "--es_opt=target=js", "-I", ".", "-I"]).arg(proto());
    protoc.args(["palisade/v1/palisade.proto", "google/rpc/status.proto"]).current_dir(&dir);
    build("protoc", &mut protoc);
    Ok(Box::new(move || {
        let mut client = Command::new("node");
        client.arg(dir.join(script)).env("PROTO_DIR", proto());
        client
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_grpc_js() {
    judge("grpc-js", || node("grpcjs.mjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_connect_es() {
    judge("connect-es", || node("connect.mjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_with_grpc_go() {
    let ready = || -> Result<Box<dyn Fn() -> Command>, Skipped> {
        need("go", "version")?;
        need("protoc", "--version")?;
        let dir = workshop("go");
        let bin = dir.join("bin");
        let go = |args: &[&str]| {
            let mut go = Command::new("go");
            go.args(args)
                .env("GOPATH", dir.join("path"))
                .env("GOFLAGS", "-modcacherw")
                .current_dir(&dir);
            go
        };
        let plugins = [
            "google.golang.org/protobuf/cmd/protoc-gen-go",
            "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
        ];
        std::fs::create_dir_all(&bin).expect("a directory");
        install("go mod download", &mut go(&["mod", "download"]))?;
        build("go build", &mut go(&["build", "-o", "bin/", plugins[0], plugins[1]]));
        let mut protoc = Command::new("protoc");
        protoc
            .args(["--plugin=bin/protoc-gen-go", "--plugin=bin/protoc-gen-go-grpc", "-I"])
            .arg(proto());
        for plugin in ["go", "go-grpc"] {
            let package = "Mpalisade/v1/palisade.proto=palisadetest/palisadev1,module=palisadetest";
            protoc.arg(format!("--{plugin}_out=.")).arg(format!("--{plugin}_opt={package}"));
        }
        protoc.arg("palisade/v1/palisade.proto").current_dir(&dir);
        build("protoc", &mut protoc);
        build("go build", &mut go(&["build", "-o", "bin/client", "."]));
        Ok(Box::new(move || Command::new(bin.join("client"))))
    };
    judge("Go", ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_with_grpc_java() {
    let ready = || -> Result<Box<dyn Fn() -> Command>, Skipped> {
        need("java", "-version")?;
        need("mvn", "--version")?;
        let dir = workshop("java");
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "compile"]).current_dir(&dir);
        mvn.arg(format!("-Dmaven.repo.local={}", dir.join("repository").display()));
        mvn.arg(format!("-Dproto.dir={}", proto().display()));
        // Maven fetches and builds in one step.
        let output = mvn.output().expect("mvn runs");
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("Could not transfer artifact") {
            return Err(Skipped("Maven cannot fetch what the client needs".to_owned()));
        }
        assert!(output.status.success(), "mvn compile: {said}");
        let classes = format!("{0}/target/classes:{0}/target/dependency/*", dir.display());
        Ok(Box::new(move || {
            let mut client = Command::new("java");
            client.args(["-cp", &classes, "Client"]);
            client
        }))
    };
    judge("Java", ready).await;
}
