//! The load of `palisade bench --mix acquire-release` on ZooKeeper: create an ephemeral node, then
//! delete it.
//!
//! The program speaks ZooKeeper's own protocol (jute: big-endian numbers, strings and buffers with
//! a 4-byte length, frames with a 4-byte length). Each connection is one session and carries many
//! clients' requests. It does not wait for answers, because ZooKeeper answers in order. All ready
//! requests are written together.

use clap::Parser;
use palisade_benches::closed_loop::{Load, Meter, name, run_id};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const PING: i32 = 11;
/// The number of every ping. Other requests count from 1.
const PING_XID: i32 = -2;
const EPHEMERAL: i32 = 1;
const ALL_PERMISSIONS: i32 = 31;
const SESSION_TIMEOUT_MS: i32 = 30_000;
/// The longest frame among these answers.
const FRAME_BYTES_MAX: usize = 1 << 20;

#[derive(Parser)]
struct Args {
    /// Servers, comma-separated; connections are spread over them.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2181")]
    endpoints: Vec<String>,
    #[command(flatten)]
    load: Load,
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(Args::parse()));
    runtime.shutdown_background();
    outcome
}

async fn run(args: Args) -> io::Result<()> {
    let (meter, run) = (Meter::new(), run_id());
    let connections = args.load.connections.min(args.load.clients);
    for (at, address) in args.endpoints.iter().cycle().take(connections).enumerate() {
        let stream = open_session(address).await?;
        let clients: Vec<usize> = (at..args.load.clients).step_by(connections).collect();
        let (meter, load) = (meter.clone(), args.load.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &meter, &load, run, clients).await {
                eprintln!("zookeeper-load: connection {at}: {error}");
            }
        });
    }
    meter.run("zookeeper", &args.load, 1).await;
    Ok(())
}

async fn open_session(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = Frame::new();
    request.int(0); // protocol version
    request.long(0); // last transaction seen
    request.int(SESSION_TIMEOUT_MS);
    request.long(0); // session: a new one
    request.buffer(&[0; 16]);
    request.0.push(0); // not read-only
    let mut bytes = Vec::new();
    request.finish(&mut bytes);
    stream.write_all(&bytes).await?;
    let length = stream.read_u32().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(invalid("an answer that is too long"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    // The answer has the version, then the timeout. A timeout of 0 says that there is no session.
    match answer.get(4..8) {
        Some(timeout) if timeout != [0; 4] => Ok(stream),
        _ => Err(invalid("no session")),
    }
}

/// One client of a connection.
struct Client {
    number: usize,
    round: u64,
    path: String,
    holds: bool,
}

/// A request without an answer yet: its kind, its client and its start.
struct Open {
    xid: i32,
    client: Option<usize>,
    sent: Instant,
}

/// Runs a connection's clients until the end of the load.
async fn serve(
    mut stream: TcpStream,
    meter: &Arc<Meter>,
    load: &Load,
    run: u32,
    numbers: Vec<usize>,
) -> io::Result<()> {
    let new = |number| Client { number, round: 0, path: String::new(), holds: false };
    let mut clients: Vec<Client> = numbers.into_iter().map(new).collect();
    let owner = vec![b'o'; load.owner_bytes];
    let (mut open, mut xid, mut out) = (VecDeque::<Open>::new(), 0, Vec::new());
    let mut input: Vec<u8> = Vec::with_capacity(64 << 10);
    let mut ready: Vec<usize> = (0..clients.len()).collect();
    let mut last_ping = Instant::now();
    loop {
        let sent = Instant::now();
        if !meter.stopping() {
            for at in ready.drain(..) {
                xid += 1;
                clients[at].next(xid, run, load, &owner, &mut out);
                open.push_back(Open { xid, client: Some(at), sent });
            }
            if last_ping.elapsed() > Duration::from_secs(5) {
                last_ping = sent;
                let mut ping = Frame::new();
                ping.int(PING_XID);
                ping.int(PING);
                ping.finish(&mut out);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(invalid("the server closed the connection"));
        }
        let mut at = 0;
        while let Some(frame) = next_frame(&input, &mut at)? {
            // The fields of an answer are number, transaction and error.
            let (Some(number), Some(error)) = (int_at(frame, 0), int_at(frame, 12)) else {
                return Err(invalid("an answer that is too short"));
            };
            if number == PING_XID {
                continue;
            }
            let Some(Open { xid, client: Some(at), sent }) = open.pop_front() else {
                return Err(invalid("an answer to nothing"));
            };
            if number != xid {
                return Err(invalid("an answer out of order"));
            }
            if error == 0 {
                meter.done(sent)
            } else {
                meter.failed()
            }
            clients[at].answered(error == 0);
            ready.push(at);
        }
        input.drain(..at);
    }
}

impl Client {
    fn next(&mut self, xid: i32, run: u32, load: &Load, owner: &[u8], out: &mut Vec<u8>) {
        let mut request = Frame::new();
        request.int(xid);
        if self.holds {
            request.int(DELETE);
            request.buffer(self.path.as_bytes());
            request.int(-1); // any version
        } else {
            self.round += 1;
            // The path has one level, because a slash within it would name a parent.
            self.path = format!(
                "/{}",
                name(run, self.number, self.round, load.name_bytes - 1).replace('/', "_")
            );
            request.int(CREATE);
            request.buffer(self.path.as_bytes());
            request.buffer(owner);
            request.int(1);
            request.int(ALL_PERMISSIONS);
            request.buffer(b"world");
            request.buffer(b"anyone");
            request.int(EPHEMERAL);
        }
        request.finish(out);
    }

    fn answered(&mut self, well: bool) {
        self.holds = well && !self.holds;
    }
}

/// A frame under construction.
struct Frame(Vec<u8>);

impl Frame {
    fn new() -> Frame {
        Frame(Vec::with_capacity(256))
    }

    fn int(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends a buffer, or a string, which has the same encoding.
    fn buffer(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as i32);
        self.0.extend_from_slice(bytes);
    }

    fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.0);
    }
}

fn int_at(frame: &[u8], at: usize) -> Option<i32> {
    frame.get(at..at + 4)?.try_into().ok().map(i32::from_be_bytes)
}

/// Returns the frame at `at` if it is complete, and moves `at` past it.
fn next_frame<'a>(input: &'a [u8], at: &mut usize) -> io::Result<Option<&'a [u8]>> {
    let Some(length) = int_at(input, *at) else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| invalid("a frame that is too long"))?;
    let Some(frame) = input.get(*at + 4..*at + 4 + length) else { return Ok(None) };
    *at += 4 + length;
    Ok(Some(frame))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
