//! A table in PostgreSQL that refuses a holder whose lock has passed to another.
//!
//! ```text
//! palisade dev                                               # in another terminal
//! DATABASE_URL="host=127.0.0.1 user=postgres dbname=postgres" \
//!     cargo run -p palisade-examples --bin fencing_postgres
//! ```
//!
//! The program plays both sides of the accident that fencing is for:
//!
//! 1. Alice gets the lock, and is paused before she writes.
//! 2. Her lease runs out. Bob gets the lock, with a higher token, and writes.
//! 3. Alice goes on, does not know that she was paused, and writes. The table refuses this.
//!
//! `PALISADE_ENDPOINT` names another gateway.

use palisade_client::{AcquireOptions, Client, Grant};
use std::error::Error;
use std::time::Duration;
use tokio_postgres::NoTls;

/// One row per resource. It keeps the highest token of its writers. The table is temporary, because
/// each new cluster of `palisade dev` begins with token 1.
const TABLE: &str = "
    CREATE TEMPORARY TABLE report (
        name  text   PRIMARY KEY,
        body  text   NOT NULL,
        fence bigint NOT NULL
    )";

/// Writes the row, unless a holder with a higher token has written it. The comparison and the write
/// are one statement, because a check before the write would leave a gap between them. One holder
/// writes often with the same token, so an equal token is accepted.
const WRITE: &str = "
    INSERT INTO report (name, body, fence) VALUES ($1, $2, $3)
        ON CONFLICT (name) DO UPDATE SET body = excluded.body, fence = excluded.fence
            WHERE report.fence <= excluded.fence";

const TTL: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("PALISADE_ENDPOINT").unwrap_or("127.0.0.1:7400".into());
    let database = std::env::var("DATABASE_URL")
        .unwrap_or("host=127.0.0.1 user=postgres dbname=postgres".into());
    let client = Client::connect([endpoint]);
    let (table, connection) = tokio_postgres::connect(&database, NoTls).await?;
    tokio::spawn(connection);
    table.batch_execute(TABLE).await?;

    let of_alice = acquire(&client, "alice").await?;
    // Nothing renews a lock that `acquire` returned. So this wait is like a pause of the process:
    // the lease runs out meanwhile, and Bob's place in the queue becomes a grant.
    let of_bob = acquire(&client, "bob").await?;

    assert!(write(&table, &of_bob, "by Bob").await?, "Bob holds the lock");
    if write(&table, &of_alice, "by Alice").await? {
        return Err("the table accepted a token that is over".into());
    }

    let row = table
        .query_one("SELECT body, fence FROM report WHERE name = $1", &[&of_bob.resource_name])
        .await?;
    println!("the row is {:?} with fence {}", row.get::<_, &str>(0), row.get::<_, i64>(1));
    client.release(&of_bob.resource_name, of_bob.fencing_token).await?;
    Ok(())
}

/// Takes the lock, and waits for it if another owner holds it.
async fn acquire(client: &Client, owner: &str) -> Result<Grant, palisade_client::Error> {
    let options =
        AcquireOptions::new("report/daily").owner(owner).ttl(TTL).wait(Duration::from_secs(30));
    let grant = client.acquire(options).await?;
    println!("{owner} got token {}", grant.fencing_token);
    Ok(grant)
}

/// Writes the resource under the grant's token, and returns whether the table accepted the token.
async fn write(
    table: &tokio_postgres::Client,
    grant: &Grant,
    body: &str,
) -> Result<bool, Box<dyn Error>> {
    // Tokens stay below 2^53, so the conversion does not fail.
    let fence = i64::try_from(grant.fencing_token)?;
    let rows = table.execute(WRITE, &[&grant.resource_name, &body, &fence]).await?;
    let accepted = rows == 1;
    let says = if accepted { "accepted" } else { "refused" };
    println!("{} writes with token {fence}: {says}", grant.owner_id);
    Ok(accepted)
}
