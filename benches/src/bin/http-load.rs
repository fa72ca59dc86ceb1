//! Closed-loop clients of the door for HTTP: each takes a lock and releases it over a connection of
//! HTTP/1.1 of its own, which it keeps.
//!
//! `http-load --endpoint 127.0.0.1:7400 --clients 256`. The clients share one thread, and parse no
//! more of an answer than its status, its length and its token. So the program costs little beside
//! the servers that it loads.

use clap::Parser;
use palisade_benches::closed_loop::{Load, Meter, name, run_id};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Parser)]
struct Cli {
    /// The gateway.
    #[arg(long, default_value = "127.0.0.1:7400")]
    endpoint: SocketAddr,
    /// Its connections are as many as its clients.
    #[command(flatten)]
    load: Load,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let Cli { endpoint, mut load } = Cli::parse();
    load.connections = load.clients;
    let (meter, run) = (Meter::new(), run_id());
    for client in 0..load.clients {
        let connection = Connection::open(endpoint).await?;
        tokio::spawn(serve_one(meter.clone(), connection, load.clone(), run, client));
    }
    meter.run("HTTP/1.1", &load, 1).await;
    Ok(())
}

/// Takes and releases locks until the run ends or the connection fails. A client whose connection
/// has failed does no more, and one failure is counted for it.
async fn serve_one(
    meter: Arc<Meter>,
    mut connection: Connection,
    load: Load,
    run: u32,
    client: usize,
) {
    let owner = "o".repeat(load.owner_bytes);
    for round in 0.. {
        let name = name(run, client, round, load.name_bytes);
        let acquire = format!(r#"{{"name":"{name}","owner":"{owner}","ttl":"30s"}}"#);
        let Some(answer) = timed(&meter, &mut connection, "/v1/acquire", &acquire).await else {
            return;
        };
        let Some(token) = token(&answer) else { return meter.failed() };
        let release = format!(r#"{{"name":"{name}","fencing_token":{token}}}"#);
        if timed(&meter, &mut connection, "/v1/release", &release).await.is_none() {
            return;
        }
    }
}

/// Makes one request, and counts it. `None` if it failed, or the run is over.
async fn timed(
    meter: &Meter,
    connection: &mut Connection,
    path: &str,
    body: &str,
) -> Option<String> {
    if meter.stopping() {
        return None;
    }
    let sent = Instant::now();
    match connection.post(path, body).await {
        Ok(answer) => {
            meter.done(sent);
            Some(answer)
        }
        Err(_) => {
            meter.failed();
            None
        }
    }
}

fn token(grant: &str) -> Option<u64> {
    let (_, rest) = grant.split_once("\"fencing_token\":")?;
    rest[..rest.find([',', '}'])?].parse().ok()
}

/// One connection, which is kept.
struct Connection {
    stream: TcpStream,
    endpoint: SocketAddr,
    /// The bytes that have come of the answer.
    received: Vec<u8>,
}

impl Connection {
    async fn open(endpoint: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, endpoint, received: Vec::new() })
    }

    /// Makes a request. Returns the body of its answer.
    ///
    /// # Errors
    /// If the connection fails, or the answer is no `200`.
    async fn post(&mut self, path: &str, body: &str) -> io::Result<String> {
        let (host, length) = (self.endpoint, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = complete(&self.received)? {
                return Ok(answer.to_owned());
            }
        }
    }
}

/// The body of an answer, once all of it has come.
fn complete(received: &[u8]) -> io::Result<Option<&str>> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let text = std::str::from_utf8(received).map_err(invalid)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(text.to_owned()));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or_default();
    Ok((body.len() >= length).then_some(body))
}
