//! Many locks on one lock session: a worker claims the partitions of a topic that are free.
//!
//! ```text
//! palisade dev                                              # in another terminal
//! cargo run -p palisade-examples --bin shared_session alice # claims 6 of 16 partitions
//! cargo run -p palisade-examples --bin shared_session bob   # meanwhile: claims others
//! ```
//!
//! A guard of its own for each lock would send one renewal per lock. The session sends one
//! heartbeat for all of them. `PALISADE_ENDPOINT` names another gateway, and the second argument
//! the number of seconds to work.

use palisade_client::{Client, Held, SessionLock, SessionOptions};
use std::error::Error;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 16;
const CLAIMED_MAX: usize = 6;
const WORKS_S: u64 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("PALISADE_ENDPOINT").unwrap_or("127.0.0.1:7400".into());
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("worker".into());
    let works_s = arguments.next().map_or(Ok(WORKS_S), |seconds| seconds.parse())?;
    let client = Client::connect([endpoint]);

    let options = SessionOptions::new().owner(&name).ttl(Duration::from_secs(15));
    let session = client.open_session(options).await?;
    println!("{name}: session {}", session.id());

    let mut claimed = Vec::new();
    for partition in 0..PARTITIONS {
        if claimed.len() == CLAIMED_MAX {
            break;
        }
        match session.acquire(format!("topic/orders/{partition}")).await {
            Ok(lock) => {
                println!("{name}: {} with token {}", lock.name(), lock.token());
                claimed.push(lock);
            }
            // Another worker has this partition, which is no failure here.
            Err(error) if error.is_held() => {
                println!("{name}: topic/orders/{partition} is taken");
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!(
        "{name}: one heartbeat keeps {} locks on shards {:?}",
        claimed.len(),
        session.shards()
    );

    let end = Instant::now() + Duration::from_secs(works_s);
    while Instant::now() < end && !claimed.is_empty() {
        for lock in claimed.iter().filter(|lock| lock.is_valid()) {
            consume(lock).await;
        }
        // Locks can be lost one by one: an operator breaks a lock, or the session ends on one shard
        // while the others keep theirs. Only the work on that partition has to stop.
        for lock in claimed.extract_if(.., |lock| !lock.is_valid()) {
            println!("{name}: stop the work on {}, its lock is lost", lock.name());
        }
    }

    let released = session.close().await?;
    println!("{name}: closed the session, which released {released} locks");
    Ok(())
}

/// Stands for reading some messages of a partition, and committing the offset with the lock's
/// token.
async fn consume(_partition: &SessionLock) {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
