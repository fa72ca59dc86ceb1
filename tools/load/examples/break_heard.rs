//! Breaks locks that guards and a session hold, for `scripts/measure break-heard`.
//!
//! One client holds the locks, and another one breaks them, one after the other. No renewal is due
//! while this runs, so only its watch can tell the holder. Each line of output is a kind of holder,
//! and the milliseconds until its `lost` resolves: from the answer to the break, and from its
//! request. The first is 0 where the holder heard before the answer came.

use clap::Parser;
use client::{AcquireOptions, Client, ClientOptions, Error, Held, SessionOptions};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// A TTL and a time between renewals that no run reaches.
const LONG: Duration = Duration::from_secs(3_600);
/// Guards at a time. A client watches no more than 64.
const BATCH: usize = 50;
/// A holder that has not heard by then has no watch.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Parser)]
struct Args {
    /// A gateway, as host:port
    #[arg(long)]
    endpoint: String,
    /// Breaks of each kind of holder
    #[arg(long, default_value_t = 200)]
    breaks: usize,
    /// Milliseconds from the grants to the first break, in which the watches begin
    #[arg(long, default_value_t = 2_000)]
    settle_ms: u64,
}

/// Breaks these locks, and prints how late their holder heard of each.
async fn break_all<L: Held + 'static>(
    kind: &str,
    locks: Vec<L>,
    breaker: &Client,
) -> Result<(), String> {
    for lock in locks {
        let (name, token) = (lock.name().to_owned(), lock.token());
        let heard = tokio::spawn(async move {
            let reason = lock.lost().await;
            (Instant::now(), reason)
        });
        let asked = Instant::now();
        let broken = breaker.break_lock(&name, token, "measured", "break-heard").await;
        let answered = Instant::now();
        broken.map_err(|error| format!("{name} could not be broken: {error}"))?;
        let (heard, _) = tokio::time::timeout(PATIENCE, heard)
            .await
            .map_err(|_| format!("the {kind} of {name} did not hear of the break"))?
            .map_err(|error| error.to_string())?;
        let since = |then| heard.saturating_duration_since(then).as_secs_f64() * 1e3;
        println!("{kind} {:.3} {:.3}", since(answered), since(asked));
    }
    Ok(())
}

async fn measure(args: &Args) -> Result<(), String> {
    let said = |error: Error| error.to_string();
    let settle = Duration::from_millis(args.settle_ms);
    let options = ClientOptions::new().renew_interval_max(LONG);
    let holder = Client::with_options([&args.endpoint], options);
    let breaker = Client::connect([&args.endpoint]);
    let run = format!("b/break-heard-{}", std::process::id());
    let numbers: Vec<usize> = (0..args.breaks).collect();
    for batch in numbers.chunks(BATCH) {
        let mut guards = Vec::new();
        for number in batch {
            let options = AcquireOptions::new(format!("{run}/guard/{number}")).ttl(LONG);
            guards.push(holder.lock(options).await.map_err(said)?);
        }
        tokio::time::sleep(settle).await;
        break_all("guard", guards, &breaker).await?;
    }
    let session = holder.open_session(SessionOptions::new().ttl(LONG)).await.map_err(said)?;
    let mut locks = Vec::new();
    for number in numbers {
        locks.push(session.acquire(format!("{run}/session/{number}")).await.map_err(said)?);
    }
    tokio::time::sleep(settle).await;
    break_all("session", locks, &breaker).await?;
    session.close().await.map_err(said)?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match measure(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
