//! One lock that renews itself, and work that stops as soon as the lock is lost.
//!
//! ```text
//! palisade dev                                            # in another terminal
//! cargo run -p palisade-examples --bin guard              # works for five seconds
//! palisade break jobs/nightly --reason "to see it stop"   # meanwhile, in a third terminal
//! ```
//!
//! `PALISADE_ENDPOINT` names another gateway, and the first argument another number of steps.

use palisade_client::{AcquireOptions, Client, Held};
use std::error::Error;
use std::time::Duration;

const STEPS: u32 = 25;
const STEP: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("PALISADE_ENDPOINT").unwrap_or("127.0.0.1:7400".into());
    let steps = std::env::args().nth(1).map_or(Ok(STEPS), |steps| steps.parse())?;
    let client = Client::connect([endpoint]);

    // The TTL bounds the time that others wait if this process dies. The guard renews every third
    // of it, which is also how soon the guard notices that an operator broke the lock.
    let options = AcquireOptions::new("jobs/nightly")
        .ttl(Duration::from_secs(3))
        .wait(Duration::from_secs(60));
    let guard = client.lock(options).await?;
    println!("locked {} with token {}", guard.name(), guard.token());

    // The first branch that finishes ends the other one: `select!` drops the future of the work at
    // its next `.await`, so a lost lock stops the work between two steps.
    tokio::select! {
        () = work(guard.token(), steps) => {}
        reason = guard.lost() => return Err(format!("stop, the lock is lost: {reason}").into()),
    }

    // A guard that goes out of scope releases its lock in the background. `release` waits for the
    // answer, and an error says that the lock was lost before the work was done.
    guard.release().await?;
    println!("done and released");
    Ok(())
}

/// The work under the lock. It hands the token to each system that it writes to, so that the system
/// can refuse a holder whose lock has passed to another: see `fencing_postgres.rs`.
async fn work(token: u64, steps: u32) {
    for step in 1..=steps {
        println!("step {step} of {steps} with token {token}");
        tokio::time::sleep(STEP).await;
    }
}
