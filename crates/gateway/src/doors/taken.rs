//! Large answers, and watches, on their way to a client.
//!
//! * They go to the transport in small pieces, as the client takes them. So the unread rest of an
//!   answer stays here, with the places that its call holds.
//! * A piece at the transport keeps the places, too. HTTP/2 takes a whole piece however little its
//!   client has room for.
//! * A client that takes nothing for a while loses its connection. HTTP/2 has no such bound itself:
//!   a client that answers probes may leave its answers unread for ever. A watch that has nothing to
//!   tell is no such answer.

use crate::limits::{PIECE_BYTES, TAKEN_WITHIN};
use crate::visitor::Held;
use http_body::{Body as HttpBody, Frame, SizeHint};
use net::accept::Cut;
use std::pin::Pin;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, http};

/// The places that one request holds.
type Places = Arc<OnceLock<Held>>;

/// Has an answer keep the places of its request until the client has taken it, or cannot take it
/// any more. An answer without places goes as it is.
pub(super) fn kept_until_taken(
    answer: http::Response<Body>,
    places: Places,
    cut: Cut,
) -> http::Response<Body> {
    if places.get().is_none() {
        return answer;
    }
    let taking = Arc::new(Taking::of(places));
    let watcher = tokio::spawn(watch(Arc::downgrade(&taking), cut, TAKEN_WITHIN));
    let _ = taking.watcher.set(watcher.abort_handle()); // it is empty
    answer.map(|body| Body::new(InPieces { body, rest: Bytes::new(), taking }))
}

/// An answer that is being taken.
#[derive(Debug)]
struct Taking {
    _places: Places,
    /// The pieces that the transport has got. A piece is counted before it ends the idleness.
    pieces: AtomicU64,
    /// The transport has taken all that there is, and waits for more.
    is_idle: AtomicBool,
    /// The task that watches the answer.
    watcher: OnceLock<AbortHandle>,
}

impl Taking {
    fn of(places: Places) -> Taking {
        Taking {
            _places: places,
            pieces: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
            watcher: OnceLock::new(),
        }
    }
}

impl Drop for Taking {
    /// The task would sleep on, and clients can make many answers in that time.
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.abort();
        }
    }
}

/// Ends a connection on which no piece is taken for `within`, although there is one.
async fn watch(taking: Weak<Taking>, cut: Cut, within: Duration) {
    let look = || {
        let taking = taking.upgrade()?;
        let is_idle = taking.is_idle.load(Acquire);
        Some((taking.pieces.load(Relaxed), is_idle))
    };
    let mut before = look().map(|(pieces, _)| pieces);
    while before.is_some() {
        tokio::time::sleep(within).await;
        let Some((pieces, is_idle)) = look() else { return };
        // It was not idle at any time between, because that would have ended with a piece.
        if !is_idle && before == Some(pieces) {
            tracing::debug!("a client does not read its answers: its connection ends");
            return cut.now();
        }
        before = Some(pieces);
    }
}

/// The body of a large answer.
struct InPieces {
    body: Body,
    /// The rest of the last frame.
    rest: Bytes,
    taking: Arc<Taking>,
}

/// A piece that keeps the places of its answer until the transport has written it.
struct Piece {
    data: Bytes,
    _taking: Arc<Taking>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl HttpBody for InPieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            if polled.is_pending() {
                self.taking.is_idle.store(true, Release);
            }
            let polled = ready!(polled);
            self.taking.pieces.fetch_add(1, Relaxed);
            self.taking.is_idle.store(false, Release);
            match polled {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        self.taking.pieces.fetch_add(1, Relaxed);
        let length = PIECE_BYTES.min(self.rest.len());
        let piece = Piece { data: self.rest.split_to(length), _taking: self.taking.clone() };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use tokio::sync::mpsc;

    fn places(place: &Arc<()>) -> Places {
        let places = Places::default();
        places.set(Box::new(place.clone())).unwrap();
        places
    }

    fn answer(bytes: usize) -> http::Response<Body> {
        http::Response::new(Body::new("x".repeat(bytes)))
    }

    /// Regression: the place of a list was given back before its answer was read, so unread answers
    /// filled the memory.
    #[tokio::test]
    async fn an_answer_keeps_its_places_until_its_last_piece_is_taken() {
        let place = Arc::new(());
        let bytes = 2 * PIECE_BYTES + 1;
        let kept = kept_until_taken(answer(bytes), places(&place), Cut::default());
        let mut body = kept.into_body();
        let (mut pieces, mut at_transport) = (Vec::new(), None);
        while !body.is_end_stream() {
            assert_eq!(Arc::strong_count(&place), 2);
            let left = bytes - pieces.iter().sum::<usize>();
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let piece = frame.unwrap().unwrap().into_data().unwrap();
            pieces.push(piece.len());
            at_transport = Some(piece);
        }
        assert_eq!(pieces, [PIECE_BYTES, PIECE_BYTES, 1]);
        drop(body);
        assert_eq!(Arc::strong_count(&place), 2, "the last piece is not written yet");
        drop(at_transport);
        assert_eq!(Arc::strong_count(&place), 1);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_connection_and_another_one_does_not() {
        let (cut, place) = (Cut::default(), Arc::new(()));
        let taking = Arc::new(Taking::of(places(&place)));
        watch(Arc::downgrade(&taking), cut.clone(), Duration::from_millis(1)).await;
        assert!(cut.is_made());
        let cut = Cut::default();
        let watched = watch(Arc::downgrade(&taking), cut.clone(), Duration::from_millis(50));
        let takes = async {
            for _ in 0..200 {
                taking.pieces.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
            drop(taking);
        };
        tokio::join!(watched, takes);
        assert!(!cut.is_made(), "it took all");
    }

    /// Regression: a watcher that read nothing kept its place and its unread parts for ever. One
    /// that has read all may be quiet for as long as nothing happens.
    #[tokio::test]
    async fn a_watch_ends_if_its_client_takes_nothing_and_not_if_there_is_nothing_to_take() {
        let within = Duration::from_millis(10);
        let (cut, place) = (Cut::default(), Arc::new(()));
        let (pieces, mut told) = mpsc::unbounded_channel::<Result<Bytes, Infallible>>();
        let stream = futures_util::stream::poll_fn(move |context| told.poll_recv(context));
        let body = Body::new(axum::body::Body::from_stream(stream));
        let taking = Arc::new(Taking::of(places(&place)));
        let mut body = InPieces { body, rest: Bytes::new(), taking: taking.clone() };
        let watched = watch(Arc::downgrade(&taking), cut.clone(), within);
        let mut watched = std::pin::pin!(watched);
        for _ in 0..3 {
            pieces.send(Ok(Bytes::from_static(b"granted"))).unwrap();
            let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(next.unwrap().is_ok());
            let idle = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context)));
            assert!(idle.await.is_pending(), "all is taken");
            assert!(tokio::time::timeout(5 * within, &mut watched).await.is_err());
            assert!(!cut.is_made(), "nothing happened");
        }
        pieces.send(Ok(Bytes::from_static(b"broken"))).unwrap();
        let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(next.unwrap().is_ok());
        pieces.send(Ok(Bytes::from_static(b"granted"))).unwrap();
        watched.await; // the client does not come back for the second
        assert!(cut.is_made());
    }
}
