//! Large answers on their way to a client.
//!
//! * They go to the transport in small pieces, as the client takes them. So the unread rest of an
//!   answer stays here, with the places that its call holds.
//! * A piece at the transport keeps the places, too. HTTP/2 takes a whole piece however little its
//!   client has room for.
//! * A client that takes nothing for a while loses its connection. HTTP/2 has no such bound itself:
//!   a client that answers probes may leave its answers unread for ever.

use crate::limits::{PIECE_BYTES, TAKEN_WITHIN};
use crate::visitor::Held;
use http_body::{Body as HttpBody, Frame, SizeHint};
use net::accept::Cut;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
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
    let taking = Arc::new(Taking { _places: places, pieces: AtomicU64::new(0) });
    tokio::spawn(watch(Arc::downgrade(&taking), cut, TAKEN_WITHIN));
    answer.map(|body| Body::new(InPieces { body, rest: Bytes::new(), taking }))
}

/// An answer that is being taken.
#[derive(Debug)]
struct Taking {
    _places: Places,
    /// The pieces that the transport has got.
    pieces: AtomicU64,
}

/// Ends a connection on which no piece is taken for `within`.
async fn watch(taking: Weak<Taking>, cut: Cut, within: Duration) {
    let pieces = || taking.upgrade().map(|taking| taking.pieces.load(Relaxed));
    let mut before = pieces();
    while before.is_some() {
        tokio::time::sleep(within).await;
        let now = pieces();
        if now.is_some() && now == before {
            tracing::debug!("a client does not read its answers: its connection ends");
            return cut.now();
        }
        before = now;
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
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
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
    use std::future::poll_fn;

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
        let taking = Arc::new(Taking { _places: places(&place), pieces: AtomicU64::new(0) });
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
}
