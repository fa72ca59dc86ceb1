//! Streams of TLS that end when the certificate of their other end does.
//!
//! - Whenever [`Changes`] says so, a connection checks its other end's certificate again, before its
//!   next byte is read or written. If the check fails, nothing is read or written any more.
//! - A connection that waits is woken for that.
//! - In between, a poll costs one atomic load and no lock.
//!
//! The module knows nothing of the rules for a certificate.

use rustls::pki_types::UnixTime;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The moments at which open connections are to be checked again.
#[derive(Debug, Default)]
pub struct Changes {
    number: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// The tasks of open connections.
#[derive(Debug, Default)]
struct Waiting {
    next_key: u64,
    tasks: HashMap<u64, Waker>,
}

impl Changes {
    /// The number of moments so far. A check that begins after this call sees all of them.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Has all open connections checked again. Their own tasks do it.
    pub(crate) fn check_again(&self) {
        self.number.fetch_add(1, Ordering::Release);
        let tasks: Vec<Waker> = self.waiting().tasks.values().cloned().collect();
        tasks.iter().for_each(Waker::wake_by_ref);
    }

    /// Has `task` woken at each moment from now on, in place of the former task of this key.
    /// Returns the key.
    fn wake(&self, key: Option<u64>, task: &Waker) -> u64 {
        let mut waiting = self.waiting();
        let key = key.unwrap_or_else(|| {
            waiting.next_key += 1;
            waiting.next_key
        });
        waiting.tasks.insert(key, task.clone());
        key
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the other end of a stream has still a right to it, at a time. The error says why not.
pub(crate) type Check<T> = Box<dyn FnMut(&T, UnixTime) -> Result<(), String> + Send>;

/// A stream that is checked again.
pub(crate) struct Rechecked<T> {
    tls: T,
    /// `None` if the other end has shown no certificate.
    watch: Option<Watch<T>>,
}

struct Watch<T> {
    changes: Arc<Changes>,
    check: Check<T>,
    /// The moments up to this number are dealt with.
    seen: u64,
    /// The task that polled last, and its key among those that are woken.
    task: Option<(u64, Waker)>,
    /// Why the stream has ended.
    ended: Option<String>,
}

impl<T> Rechecked<T> {
    /// A stream that was checked by what was in use at the moment `seen`, or later.
    pub(crate) fn new(tls: T, changes: Arc<Changes>, seen: u64, check: Check<T>) -> Rechecked<T> {
        Rechecked { tls, watch: Some(Watch { changes, check, seen, task: None, ended: None }) }
    }

    /// A stream with nothing to check.
    pub(crate) fn unchecked(tls: T) -> Rechecked<T> {
        Rechecked { tls, watch: None }
    }

    /// The stream, if its other end has still a right to it.
    fn checked(&mut self, context: &Context<'_>) -> io::Result<Pin<&mut T>>
    where
        T: Unpin,
    {
        if let Some(watch) = &mut self.watch
            && !watch.is_done(context)
        {
            watch.look(&self.tls, context, UnixTime::now())?;
        }
        Ok(Pin::new(&mut self.tls))
    }
}

impl<T> Watch<T> {
    /// Whether nothing happened since the last look, and this task would be woken if it did.
    fn is_done(&self, context: &Context<'_>) -> bool {
        let is_known = |(_, task): &(u64, Waker)| task.will_wake(context.waker());
        self.changes.number() == self.seen
            && self.ended.is_none()
            && self.task.as_ref().is_some_and(is_known)
    }

    #[cold]
    fn look(&mut self, tls: &T, context: &Context<'_>, now: UnixTime) -> io::Result<()> {
        // The task is known before the number is read. So a moment after that wakes it.
        let key = self.changes.wake(self.task.take().map(|(key, _)| key), context.waker());
        self.task = Some((key, context.waker().clone()));
        let number = self.changes.number();
        if self.ended.is_none() && number != self.seen {
            self.seen = number;
            self.ended = (self.check)(tls, now).err();
        }
        match &self.ended {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.clone())),
        }
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        if let Some((key, _)) = self.task {
            self.changes.waiting().tasks.remove(&key);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rechecked<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.checked(context)?.poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rechecked<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.checked(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.checked(context)?.poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.checked(context)?.poll_flush(context)
    }

    /// Not checked, because an end may always be said.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// A stream with a check that counts, and fails from the second time on.
    fn stream(changes: &Arc<Changes>) -> (Rechecked<DuplexStream>, DuplexStream, Arc<AtomicUsize>) {
        let ((near, far), checks) = (duplex(64), Arc::<AtomicUsize>::default());
        let count = checks.clone();
        let check = move |_: &DuplexStream, _| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err("no right any more".to_owned()),
        };
        let seen = changes.number();
        (Rechecked::new(near, changes.clone(), seen, Box::new(check)), far, checks)
    }

    #[tokio::test]
    async fn a_stream_is_checked_once_per_moment_and_ends_for_good() {
        let changes = Arc::<Changes>::default();
        let (mut near, mut far, checks) = stream(&changes);
        for _ in 0..3 {
            far.write_u8(1).await.unwrap();
            near.read_u8().await.unwrap();
        }
        assert_eq!(checks.load(Ordering::Relaxed), 0, "no moment came");
        changes.check_again();
        near.write_u8(2).await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(checks.load(Ordering::Relaxed), 1);
        changes.check_again();
        far.write_u8(3).await.unwrap();
        for _ in 0..2 {
            let ended =
                [near.read_u8().await.map(drop), near.write_u8(4).await, near.flush().await];
            for error in ended.map(|ended| ended.expect_err("it has ended")) {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                assert_eq!(error.to_string(), "no right any more");
            }
        }
        assert_eq!(checks.load(Ordering::Relaxed), 2, "a stream that has ended is not checked");
        near.shutdown().await.expect("an end may be said");
        assert_eq!(far.read_u8().await.unwrap(), 2);
        assert!(far.read_u8().await.is_err(), "nothing came after the end");
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken_and_forgotten_with_its_end() {
        let changes = Arc::<Changes>::default();
        let (mut near, mut far, checks) = stream(&changes);
        let (begun, waits) = tokio::sync::oneshot::channel();
        let reading = tokio::spawn(async move {
            near.read_u8().await.unwrap();
            begun.send(()).unwrap();
            near.read_u8().await
        });
        far.write_u8(1).await.unwrap();
        waits.await.unwrap();
        for moments in 1..=2 {
            changes.check_again();
            while checks.load(Ordering::Relaxed) < moments {
                tokio::task::yield_now().await;
            }
        }
        let ended = reading.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        assert!(changes.waiting().tasks.is_empty());
    }

    /// A moment between the files of a handshake and the first byte after it is not lost.
    #[tokio::test]
    async fn a_stream_whose_files_changed_in_its_handshake_is_checked_at_once() {
        let changes = Arc::<Changes>::default();
        let (mut near, _far, checks) = stream(&changes);
        changes.check_again();
        near.write_u8(1).await.unwrap();
        assert_eq!(checks.load(Ordering::Relaxed), 1);
    }
}
