//! One client that takes all it can get, for `scripts/measure flood`.
//!
//! It opens many connections. On all of them it waits for a lock that it holds itself, and opens
//! sessions, until it is refused and then again and again. After some seconds it says `flooding`,
//! and from then on it also sends acquires of many names at a fixed rate, whatever the answers are.
//! When its standard input ends, it prints how often each request had each outcome. Waits that have
//! none are still under way.

use clap::Parser;
use client::{Client, ClientOptions, ClientSide, Pem, Security, SessionOptions, endpoint};
use link::mux::{Answer, Failure, Link, LinkOptions, Locks};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, Operation, ReleaseRequest};

/// The time of an operation that does not wait.
const TIMEOUT_MS: u64 = 5_000;
/// The lease of the locks that it takes and forgets to release.
const TTL_MS: u32 = 5_000;
/// Waits and sessions last as long as the flood.
const LONG_MS: u32 = 3_600_000;
/// Pause between two tries of a connection for one more wait or session.
const TRIES_AGAIN: Duration = Duration::from_millis(100);
/// Interval at which the acquires that are due are sent.
const TICK: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Parser)]
struct Args {
    /// A gateway, as host:port
    #[arg(long)]
    endpoint: String,
    /// PEM file of the authorities of the gateway's certificate
    #[arg(long)]
    ca: PathBuf,
    /// PEM file of the client's certificate
    #[arg(long)]
    cert: PathBuf,
    /// PEM file of its key
    #[arg(long)]
    key: PathBuf,
    /// Connections, with a stream each
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Different names
    #[arg(long, default_value_t = 100_000)]
    names: u64,
    /// Acquires per second
    #[arg(long)]
    rate: u64,
    /// Seconds for waits and sessions before the acquires begin
    #[arg(long, default_value_t = 5)]
    fill_s: u64,
}

/// How often each request had each outcome.
#[derive(Clone, Debug, Default)]
struct Outcomes(Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>);

impl Outcomes {
    fn count(&self, request: &'static str, outcome: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((request, outcome)).or_default() += 1;
    }

    fn print(&self) {
        for ((request, outcome), count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("{request} {outcome} {count}");
        }
    }
}

/// The outcome of a call, as one word.
fn word(outcome: &Result<Answer, Failure>) -> &'static str {
    match outcome {
        Ok(_) => "DONE",
        Err(Failure::Refused(error)) => error.code().name(),
        Err(Failure::NotSent(_)) => "NOT_SENT",
        Err(_) => "LOST",
    }
}

fn request_id(number: u64) -> Vec<u8> {
    // Those of another process are others.
    let process = u64::from(std::process::id()) | 0xf1 << 56;
    [number.to_be_bytes(), process.to_be_bytes()].concat()
}

async fn call(link: &Link<Locks>, op: Op) -> Result<Answer, Failure> {
    link.call(Operation::of(op), TIMEOUT_MS).await
}

/// Takes the lock that all waits are for. It may be refused for a while.
async fn hold(link: &Link<Locks>, name: &str) {
    let request = Op::Acquire(AcquireRequest {
        name: name.to_owned(),
        ttl_ms: LONG_MS,
        request_id: request_id(u64::MAX),
        ..Default::default()
    });
    while call(link, request.clone()).await.is_err() {
        tokio::time::sleep(TRIES_AGAIN).await;
    }
}

/// Adds wait after wait to the queue of a name.
async fn wait(link: Link<Locks>, name: String, first: u64, outcomes: Outcomes) {
    for number in first.. {
        let request = Op::Acquire(AcquireRequest {
            name: name.clone(),
            ttl_ms: TTL_MS,
            wait_ms: LONG_MS,
            request_id: request_id(number),
            ..Default::default()
        });
        let (link, outcomes) = (link.clone(), outcomes.clone());
        outcomes.count("wait", "SENT");
        tokio::spawn(async move { outcomes.count("wait", word(&call(&link, request).await)) });
        tokio::time::sleep(TRIES_AGAIN).await;
    }
}

/// Opens session after session, each with a lock.
async fn open_sessions(client: Client, link: Link<Locks>, run: String, outcomes: Outcomes) {
    let options = SessionOptions::new().ttl(Duration::from_millis(LONG_MS.into()));
    for number in 0u64.. {
        match client.open_session_raw(options.clone()).await {
            Err(error) => outcomes.count("session", error.code.name()),
            Ok(session) => {
                let outcome = call(
                    &link,
                    Op::Acquire(AcquireRequest {
                        name: format!("{run}/session/{number}"),
                        session_id: session.session_id,
                        request_id: request_id(1 << 60 | number),
                        ..Default::default()
                    }),
                );
                outcomes.count("session", word(&outcome.await));
            }
        }
        tokio::time::sleep(TRIES_AGAIN).await;
    }
}

/// Sends acquires at a fixed rate, over all connections in turn. What is granted is released.
async fn acquire(args: Args, links: Vec<Link<Locks>>, run: String, outcomes: Outcomes) {
    let (start, mut sent) = (Instant::now(), 0u64);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let due = start.elapsed().as_millis() as u64 * args.rate / 1_000;
        while sent < due {
            let name = format!("{run}/{}", sent % args.names);
            let link = links[sent as usize % links.len()].clone();
            let request = AcquireRequest {
                name: name.clone(),
                ttl_ms: TTL_MS,
                request_id: request_id(1 << 61 | sent),
                ..Default::default()
            };
            let outcomes = outcomes.clone();
            outcomes.count("acquire", "SENT");
            tokio::spawn(async move {
                let outcome = call(&link, Op::Acquire(request)).await;
                outcomes.count("acquire", word(&outcome));
                if let Some(grant) = outcome.ok().as_ref().and_then(Answer::grant) {
                    let fencing_token = grant.fencing_token;
                    let release = ReleaseRequest { name, fencing_token, session_life: 0 };
                    outcomes.count("release", word(&call(&link, Op::Release(release)).await));
                }
            });
            sent += 1;
        }
    }
}

fn connect(args: &Args) -> Result<(Vec<Link<Locks>>, Client), client::Error> {
    let own = (Pem::File(args.cert.clone()), Pem::File(args.key.clone()));
    let tls = ClientSide { ca: Pem::File(args.ca.clone()), own: Some(own) };
    let security = Security { tls: Some(tls.into()), ..Security::default() };
    let mut links = Vec::new();
    for _ in 0..args.connections {
        let target = endpoint::target(&args.endpoint, &security)?;
        links.push(Link::start(target, LinkOptions::default()));
    }
    let options =
        ClientOptions::new().security(security).timeout(Duration::from_millis(TIMEOUT_MS));
    Ok((links, Client::with_options([&args.endpoint], options)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let (links, client) = match connect(&args) {
        Ok(connected) => connected,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // `palisade bench` uses names of this beginning, too, so one policy permits both.
    let run = format!("b/flood-{}", std::process::id());
    let (held, outcomes) = (format!("{run}/held"), Outcomes::default());
    hold(&links[0], &held).await;
    for (link, first) in links.iter().zip((0..).step_by(1 << 32)) {
        tokio::spawn(wait(link.clone(), held.clone(), first, outcomes.clone()));
    }
    tokio::spawn(open_sessions(client, links[0].clone(), run.clone(), outcomes.clone()));
    tokio::time::sleep(Duration::from_secs(args.fill_s)).await;
    println!("flooding");
    tokio::spawn(acquire(args, links, run, outcomes.clone()));
    // The caller ends it by closing standard input.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    outcomes.print();
    ExitCode::SUCCESS
}
