//! Frames over a connection: one stream of messages each way, without HTTP/2.
//!
//! A connection begins with [`PREFACE`], and a server tells it by that from one of HTTP. Then each
//! side sends frames: four bytes, little-endian, and the message. The bytes hold the length of the
//! message, and `LAST` if it is the last one of its side and tells why. `ALIVE` alone says that
//! its side is alive.
//!
//! One task owns a stream and drives both directions. So a frame costs one wake on each side, where
//! one of HTTP/2 costs two: of the connection, and of the stream
//! (docs/design/0028-frames.md).
//!
//! The module knows nothing of the contents of messages.

use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Interval, MissedTickBehavior};

/// How a connection of frames begins. No connection of TLS, HTTP/1.1 or HTTP/2 begins with its
/// first byte.
pub const PREFACE: &[u8; 24] = b"\xAFpalisade frames, v. 1\r\n";

/// Set in the length of the last frame of a side.
const LAST: u32 = 1 << 31;
/// The header without a message that shows a side to be alive.
const ALIVE: u32 = 1 << 30;
const HEADER_BYTES: usize = 4;
/// Room for reading, in bytes. A longer frame gets its own.
const READ_BYTES: usize = 16 << 10;
/// The most that a buffer for writing keeps between two frames, in bytes.
const KEPT_BYTES: usize = 1 << 20;
/// How often a side without anything to say shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// A stream of frames over a connection.
///
/// - `written` bytes of `write` have been written; the rest is on its way.
/// - `silent_beats` is the number of beats since the other side was heard.
/// - After the error `broken` nothing is written. It is told when all is read, because the other side
///   may have said why.
#[derive(Debug)]
pub struct Frames<C> {
    connection: C,
    frame_bytes_max: usize,
    read: BytesMut,
    write: Vec<u8>,
    written: usize,
    is_flushed: bool,
    broken: Option<io::Error>,
    beat: Interval,
    silent_beats: u32,
    silent_beats_max: u32,
}

/// What happened on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message came.
    Frame(Bytes),
    /// The last message came, which tells why the other side ends the stream.
    Last(Bytes),
    /// Everything was written, so there is [room](Frames::has_room) again.
    Written,
    /// The other side ended the stream without a reason.
    Ended,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Frames<C> {
    /// A stream over a connection whose preface was sent or received. Messages of the other side
    /// may have `frame_bytes_max` bytes. After `silence` and up to a second more without a word of
    /// it, it is given up.
    pub fn new(connection: C, frame_bytes_max: usize, silence: Duration) -> Frames<C> {
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Frames {
            connection,
            frame_bytes_max,
            read: BytesMut::new(),
            write: Vec::new(),
            written: 0,
            is_flushed: true,
            broken: None,
            beat,
            silent_beats: 0,
            silent_beats_max: u32::try_from(silence.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// A stream over a new connection, to whose server the preface is sent.
    pub fn begin(connection: C, frame_bytes_max: usize, silence: Duration) -> Frames<C> {
        let mut frames = Frames::new(connection, frame_bytes_max, silence);
        frames.write.extend_from_slice(PREFACE);
        frames.is_flushed = false;
        frames
    }

    /// Sets the most bytes of a message of the other side, from the next one on.
    pub fn limit(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// The connection.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// Whether all that was put is written.
    pub fn has_room(&self) -> bool {
        self.is_flushed
    }

    /// Adds a message, which `encode` appends to the buffer. Goes with the next call of
    /// [`next`](Self::next). Put messages when there is [room](Self::has_room), so that those behind
    /// are packed together.
    pub fn put(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.put_with(0, encode);
    }

    /// Adds the last message of this side.
    pub fn put_last(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.put_with(LAST, encode);
    }

    fn put_with(&mut self, flag: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let begins = self.write.len();
        self.write.extend_from_slice(&[0; HEADER_BYTES]);
        encode(&mut self.write);
        let bytes = (self.write.len() - begins - HEADER_BYTES) as u32;
        self.write[begins..begins + HEADER_BYTES].copy_from_slice(&(bytes | flag).to_le_bytes());
        self.is_flushed = false;
    }

    /// Writes what was put, and waits for what happens next. With `reads` it takes messages;
    /// without, they wait in the connection. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the connection is lost, if the other side is silent for too long, or if it announces a
    /// message above the limit.
    pub async fn next(&mut self, reads: bool) -> io::Result<Event> {
        poll_fn(|context| self.poll_next(context, reads)).await
    }

    /// Writes everything that was put, and ends the stream. Waits until the other side ends it, too:
    /// a connection that is closed with bytes to read may lose what was written last. Callers bound
    /// the time.
    pub async fn close(&mut self) {
        let written = poll_fn(|context| self.poll_write(context)).await;
        if written.is_err() || self.connection.shutdown().await.is_err() {
            return; // the other side is gone
        }
        self.read.clear();
        while let Ok(1..) = self.connection.read_buf(&mut self.read).await {
            self.read.clear();
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>, reads: bool) -> Poll<io::Result<Event>> {
        while self.beat.poll_tick(context).is_ready() {
            self.silent_beats += u32::from(reads);
            if self.silent_beats > self.silent_beats_max {
                let why = format!("silent for {} s", self.silent_beats_max);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            if self.is_flushed {
                self.write.extend_from_slice(&ALIVE.to_le_bytes());
                self.is_flushed = false;
            }
        }
        if !self.is_flushed && self.broken.is_none() {
            match self.poll_write(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(Event::Written)),
                Poll::Ready(Err(error)) => self.broken = Some(error),
                Poll::Pending => {}
            }
        }
        if !reads {
            return match self.broken.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            };
        }
        let read = ready!(self.poll_read(context));
        Poll::Ready(match (read, self.broken.take()) {
            (Ok(Event::Ended) | Err(_), Some(error)) => Err(error),
            (read, broken) => {
                self.broken = broken;
                read
            }
        })
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        loop {
            if let Some(event) = self.take_frame()? {
                return Poll::Ready(Ok(event));
            }
            if self.read.capacity() - self.read.len() < READ_BYTES / 4 {
                self.read.reserve(READ_BYTES);
            }
            let read = pin!(self.connection.read_buf(&mut self.read));
            if ready!(read.poll(context))? == 0 {
                return Poll::Ready(match self.read.is_empty() {
                    true => Ok(Event::Ended),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            self.silent_beats = 0;
        }
    }

    /// Takes the next message out of what was read. Signs of life are dropped.
    fn take_frame(&mut self) -> io::Result<Option<Event>> {
        while let Some(header) = self.read.first_chunk::<HEADER_BYTES>() {
            let header = u32::from_le_bytes(*header);
            if header == ALIVE {
                self.read.advance(HEADER_BYTES);
                continue;
            }
            let (bytes, is_last) = ((header & !LAST) as usize, header & LAST != 0);
            if bytes > self.frame_bytes_max {
                let why = format!("a frame of {bytes} bytes, above {}", self.frame_bytes_max);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if self.read.len() < HEADER_BYTES + bytes {
                self.read.reserve(HEADER_BYTES + bytes - self.read.len());
                return Ok(None);
            }
            self.read.advance(HEADER_BYTES);
            let message = self.read.split_to(bytes).freeze();
            return Ok(Some(match is_last {
                true => Event::Last(message),
                false => Event::Frame(message),
            }));
        }
        Ok(None)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.write.len() {
            let rest = &self.write[self.written..];
            match ready!(Pin::new(&mut self.connection).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
        }
        ready!(Pin::new(&mut self.connection).poll_flush(context))?;
        self.write.clear();
        self.write.shrink_to(KEPT_BYTES);
        (self.written, self.is_flushed) = (0, true);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    const LIMIT: usize = 1 << 20;
    const SILENCE: Duration = Duration::from_secs(5);

    /// Two ends that are joined by a pipe of so many bytes, behind the preface.
    fn pair(pipe_bytes: usize) -> (Frames<DuplexStream>, Frames<DuplexStream>) {
        let (a, b) = duplex(pipe_bytes);
        (Frames::new(a, LIMIT, SILENCE), Frames::new(b, LIMIT, SILENCE))
    }

    fn put(frames: &mut Frames<DuplexStream>, message: &[u8]) {
        frames.put(|buffer| buffer.extend_from_slice(message));
    }

    /// The next message of `to`, while `from` writes.
    async fn carried(from: &mut Frames<DuplexStream>, to: &mut Frames<DuplexStream>) -> Event {
        let writes = async {
            loop {
                from.next(true).await.unwrap();
            }
        };
        tokio::select! {
            event = to.next(true) => event.unwrap(),
            () = writes => unreachable!("it has no end"),
        }
    }

    #[tokio::test]
    async fn messages_come_whole_and_in_order_through_a_narrow_pipe() {
        for pipe_bytes in [1, 7, 100_000] {
            let (mut from, mut to) = pair(pipe_bytes);
            let messages = [vec![1; 3], vec![2; 40_000], vec![3; 1]];
            messages.iter().for_each(|message| put(&mut from, message));
            assert!(!from.has_room());
            for message in messages {
                let event = carried(&mut from, &mut to).await;
                assert_eq!(event, Event::Frame(message.into()), "{pipe_bytes}");
            }
        }
    }

    #[tokio::test]
    async fn a_side_has_room_when_all_is_written_and_takes_more_before() {
        let (mut from, mut to) = pair(16);
        put(&mut from, &[1; 8]);
        assert_eq!(from.next(false).await.unwrap(), Event::Written);
        assert!(from.has_room());
        put(&mut from, &[2; 8]);
        let stuck = tokio::time::timeout(Duration::from_millis(20), from.next(false)).await;
        assert!(stuck.is_err() && !from.has_room(), "the pipe is full");
        put(&mut from, &[3; 8]);
        for byte in 1..=3 {
            let event = carried(&mut from, &mut to).await;
            assert_eq!(event, Event::Frame(vec![byte; 8].into()));
        }
    }

    #[tokio::test]
    async fn the_last_message_is_told_from_the_others_and_an_end_from_both() {
        let (mut from, mut to) = pair(64);
        from.put_last(|buffer| buffer.extend_from_slice(b"no"));
        let ends = async {
            assert_eq!(to.next(true).await.unwrap(), Event::Last(b"no"[..].into()));
            assert_eq!(to.next(true).await.unwrap(), Event::Ended);
            drop(to);
        };
        tokio::join!(from.close(), ends);
    }

    #[tokio::test]
    async fn a_message_of_no_bytes_is_one() {
        let (mut from, mut to) = pair(64);
        put(&mut from, &[]);
        assert_eq!(carried(&mut from, &mut to).await, Event::Frame(Bytes::new()));
    }

    /// Regression: a side that still had something to write learnt only that the connection was
    /// broken, and not what the other one had said before it ended it.
    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard_by_a_side_that_cannot_write() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(dialled, listener.accept());
        let mut near = Frames::new(near.unwrap(), LIMIT, SILENCE);
        let mut far = Frames::new(far.unwrap().0, LIMIT, SILENCE);
        far.put(|buffer| buffer.push(7));
        far.put_last(|buffer| buffer.extend_from_slice(b"no"));
        assert_eq!(far.next(false).await.unwrap(), Event::Written);
        drop(far);
        while near.broken.is_none() {
            near.put(|buffer| buffer.extend_from_slice(&[1; 1_000]));
            let written = poll_fn(|context| near.poll_write(context)).await;
            near.broken = written.err();
        }
        assert_eq!(near.next(true).await.unwrap(), Event::Frame(vec![7].into()));
        assert_eq!(near.next(true).await.unwrap(), Event::Last(b"no"[..].into()));
        near.next(true).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        let http2 = [0, 0, 18, 4, 0, 0, 0, 0, 0];
        let too_long = (LIMIT as u32 + 1).to_le_bytes();
        for (bytes, kind) in [
            (&http2[..], io::ErrorKind::InvalidData),
            (&too_long[..], io::ErrorKind::InvalidData),
            (&[5, 0, 0, 0, 1][..], io::ErrorKind::UnexpectedEof),
            (&[5, 0][..], io::ErrorKind::UnexpectedEof),
        ] {
            let (mut raw, other) = duplex(64);
            raw.write_all(bytes).await.unwrap();
            drop(raw);
            let mut frames = Frames::new(other, LIMIT, SILENCE);
            let met = loop {
                match frames.next(true).await {
                    Ok(event) => assert_eq!(event, Event::Written),
                    Err(error) => break error,
                }
            };
            assert_eq!(met.kind(), kind, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_says_nothing_is_given_up_and_one_that_beats_is_not() {
        let (mut beats, mut listens) = pair(1_024);
        let driven = async {
            loop {
                beats.next(true).await.unwrap();
            }
        };
        let minute = async {
            loop {
                assert_eq!(listens.next(true).await.unwrap(), Event::Written);
            }
        };
        tokio::select! {
            () = driven => unreachable!("it has no end"),
            () = minute => unreachable!("it has no end"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        let began = tokio::time::Instant::now();
        let error = loop {
            match listens.next(true).await {
                Ok(event) => assert_eq!(event, Event::Written),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waited = began.elapsed();
        assert!(waited >= SILENCE && waited <= SILENCE + 2 * BEAT, "{waited:?}");
    }

    /// A side that does not read cannot tell whether the other one is alive.
    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_read_gives_nobody_up() {
        let (_silent, mut busy) = pair(64 << 10);
        for _ in 0..100 {
            assert_eq!(busy.next(false).await.unwrap(), Event::Written);
        }
    }
}
