//! A slow network in user space: connections through it deliver their bytes late, each piece with
//! another delay.
//!
//! The order stays within one direction of one connection, as TCP promises. Between directions,
//! connections and hosts the order may change. The module does not interpret the bytes.

use palisade_sim::rng::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The largest number of pieces under way in one direction of a connection. A sender of more pieces
/// is held back.
const PIECES_MAX: usize = 256;
const PIECE_BYTES: usize = 16 << 10;
/// The share of pieces that are delayed by far more than the others.
const STRAGGLERS_PERCENT: u64 = 2;

/// A listener for connections to one host. The connections break when it is dropped.
#[derive(Debug)]
pub struct SlowWay {
    listens: u16,
    led: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl SlowWay {
    /// Opens a way to `to`, with delays of up to `most` in each direction. Now and then a delay is
    /// five times as long.
    ///
    /// # Errors
    /// If no socket can be bound.
    pub async fn open(to: String, most: Duration, seed: u64) -> std::io::Result<SlowWay> {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0))).await?;
        let listens = listener.local_addr()?.port();
        let led = Arc::new(AtomicUsize::new(0));
        let count = led.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut rng = Rng::new(seed);
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { return };
                        count.fetch_add(1, Ordering::Relaxed);
                        let rngs = [Rng::new(rng.next_u64()), Rng::new(rng.next_u64())];
                        connections.spawn(lead(near, to.clone(), most, rngs));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(SlowWay { listens, led, _tasks: tasks })
    }

    /// The number of connections that went through so far.
    pub fn led(&self) -> usize {
        self.led.load(Ordering::Relaxed)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.listens
    }
}

async fn lead(near: TcpStream, to: String, most: Duration, [out, back]: [Rng; 2]) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one direction ends, the connection is over.
    tokio::select! {
        () = carry(near_in, far_out, most, out) => {}
        () = carry(far_in, near_out, most, back) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, most: Duration, mut rng: Rng) {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut last = Instant::now();
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let stretch = if rng.percent(STRAGGLERS_PERCENT) { 5.0 } else { 1.0 };
            last = last.max(Instant::now() + most.mul_f64(stretch * rng.unit()));
            if pieces.send((last, piece[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_whole_and_in_order_both_ways() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let to = echo.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("accept");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let way = SlowWay::open(to, Duration::from_millis(3), 7).await.expect("open");
        let mut stream = TcpStream::connect(("127.0.0.1", way.port())).await.expect("connect");
        let sent: Vec<u8> = (0..60_000u32).flat_map(u32::to_le_bytes).collect();
        let (mut read, mut write) = stream.split();
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
        wrote.expect("write");
        read.expect("read");
        assert_eq!(got, sent);
    }
}
