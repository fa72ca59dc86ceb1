//! Leader election: one of several processes leads, and another takes over when it ends.
//!
//! ```text
//! palisade dev                                                # in another terminal
//! cargo run -p palisade-examples --bin leader_election alice  # leads for five seconds
//! cargo run -p palisade-examples --bin leader_election bob    # meanwhile: leads after alice
//! ```
//!
//! A lock with a queue is an election: candidates wait in order, the holder leads, and the token is
//! the number of the term. `PALISADE_ENDPOINT` names another gateway, and the second argument the
//! number of seconds to lead.

use palisade_client::{AcquireOptions, Client, Held, LockGuard, LostReason};
use std::error::Error;
use std::time::Duration;

/// The name that all candidates wait for.
const OFFICE: &str = "leader/scheduler";
/// The time without a leader after the leader's machine dies. A short one costs more renewals, and
/// makes a leader lose its office by a short network failure.
const TTL: Duration = Duration::from_secs(5);
const LEADS_S: u64 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("PALISADE_ENDPOINT").unwrap_or("127.0.0.1:7400".into());
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("candidate".into());
    let leads_s = arguments.next().map_or(Ok(LEADS_S), |seconds| seconds.parse())?;
    let client = Client::connect([endpoint]);

    let office = campaign(&client, &name).await?;
    println!("{name}: leads term {}", office.token());

    tokio::select! {
        () = lead(office.token(), Duration::from_secs(leads_s)) => {
            // The next candidate in the queue leads from the same moment. Without this call, it
            // would do so after the TTL at the latest.
            office.release().await?;
            println!("{name}: stepped down");
            Ok(())
        }
        reason = office.lost() => Err(deposed(&name, &reason).into()),
    }
}

/// Waits for the office, however long other processes lead.
async fn campaign(client: &Client, name: &str) -> Result<LockGuard, palisade_client::Error> {
    loop {
        println!("{name}: is a candidate");
        let options =
            AcquireOptions::new(OFFICE).owner(name).ttl(TTL).wait(Duration::from_secs(60));
        match client.lock(options).await {
            // The wait is over, or the cluster is without a quorum for a moment.
            Err(error) if error.is_held() || error.is_retryable() => {
                let pause = error.retry_after.unwrap_or(Duration::from_millis(500));
                tokio::time::sleep(pause).await;
            }
            outcome => return outcome,
        }
    }
}

/// The work of the leader. Each command that it sends to a worker carries the term, so that workers
/// refuse the command of an earlier leader that does not know yet that its term is over.
async fn lead(_term: u64, time: Duration) {
    tokio::time::sleep(time).await;
}

/// What a leader says that lost its office. Its process ends, because that is the surest way to
/// stop all of a leader's work; it can be a candidate again after a restart.
fn deposed(name: &str, reason: &LostReason) -> String {
    format!("{name}: leads no longer: {reason}")
}
