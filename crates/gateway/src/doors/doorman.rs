//! The layer before all services: it finds out the client of each request, and lets only those
//! methods of gRPC through that the table of permissions has.
//!
//! * Without identities it lets every request of gRPC through, also those that no row has.
//! * A request for the door of HTTP goes through as it came. That door looks into the same table,
//!   with the row of its route, and calls [`Router::enter`] before anything else.
//! * While the gateway drains, each answer of HTTP/1.1 closes its connection, so that its client
//!   connects elsewhere before the gateway ends. A connection of HTTP/2 is told by GOAWAY at the end.
//! * gRPC over HTTP/1.1 is refused, and so is a request to its methods without its media type. No
//!   client sends these, but the page of a browser can, without the permission of the gateway, and
//!   with the certificate of its reader.

use crate::doors::http::problem::{Problem, Refused};
use crate::doors::taken::kept_until_taken;
use crate::limits::HEADER_BYTES_MAX;
use crate::permissions::method;
use crate::router::Router;
use crate::visitor::Visitor;
use futures_util::FutureExt;
use futures_util::future::{Either, Map, Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower_layer::Layer;

/// The size that HTTP/2 counts for each header beside its name and value (RFC 9113).
const HEADER_BYTES_EACH: usize = 32;

/// Puts a [`Doorman`] before a service.
#[derive(Clone)]
pub(crate) struct DoormanLayer(pub(crate) Arc<Router>);

impl<S> Layer<S> for DoormanLayer {
    type Service = Doorman<S>;

    fn layer(&self, service: S) -> Doorman<S> {
        Doorman { router: self.0.clone(), service }
    }
}

/// A service behind the table of permissions.
#[derive(Clone)]
pub(crate) struct Doorman<S> {
    router: Arc<Router>,
    service: S,
}

/// The result of a request.
type Answered<E> = Result<http::Response<Body>, E>;
/// A request that is being served, and the function that takes its result.
type Serving<F, E> = Map<F, Box<dyn FnOnce(Answered<E>) -> Answered<E> + Send>>;

impl<S, B> Service<http::Request<B>> for Doorman<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future =
        Either<Serving<S::Future, S::Error>, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let of_old = (request.version() < http::Version::HTTP_2).then(|| self.router.clone());
        match visitor(&self.router, &request) {
            Ok(visitor) => {
                // The header is not needed any more, so that nothing behind can show it.
                request.headers_mut().remove(http::header::AUTHORIZATION);
                let (places, cut) = (visitor.held.clone(), visitor.cut.clone());
                request.extensions_mut().insert(visitor);
                let keep = move |answered: Result<_, S::Error>| {
                    answered.map(|answer| last(of_old, kept_until_taken(answer, places, cut)))
                };
                Either::Left(self.service.call(request).map(Box::new(keep)))
            }
            Err(refusal) => Either::Right(ready(Ok(last(of_old, *refusal)))),
        }
    }
}

/// Closes the connection with this answer of HTTP/1.1, if the gateway drains. A client that sends
/// a request while its idle connection is closed cannot tell whether it was served.
fn last(of_old: Option<Arc<Router>>, mut answer: http::Response<Body>) -> http::Response<Body> {
    if of_old.is_some_and(|router| router.is_draining()) {
        let close = http::HeaderValue::from_static("close");
        answer.headers_mut().insert(http::header::CONNECTION, close);
    }
    answer
}

/// The answer to a request that goes no further.
type Refusal = Box<http::Response<Body>>;

/// The client of a request that may call its method. That of a request for the door of HTTP is not
/// proven yet.
fn visitor<B>(router: &Router, request: &http::Request<B>) -> Result<Visitor, Refusal> {
    let refused = |status: Status| Box::new(status.into_http());
    if request.version() < http::Version::HTTP_2 {
        check_old(request)?;
    }
    let of = method(request.uri().path());
    if of.is_some() && !is_grpc(request) {
        return Err(problem(Refused::GrpcOnly));
    }
    let mut visitor = Visitor::of(request);
    if router.identities.is_none() {
        return Ok(visitor);
    }
    match of {
        Some(of) => {
            router.enter(&mut visitor, of).map_err(|error| refused(Status::from(*error)))?;
        }
        None if is_grpc(request) => {
            return Err(refused(Status::unimplemented("this gateway has no such method")));
        }
        None => {}
    }
    Ok(visitor)
}

/// Refuses a request of HTTP/1.1 that the transport would refuse of HTTP/2.
fn check_old<B>(request: &http::Request<B>) -> Result<(), Refusal> {
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_BYTES_EACH
    };
    if request.headers().iter().map(header).sum::<usize>() > HEADER_BYTES_MAX as usize {
        return Err(problem(Refused::HeadTooLarge));
    }
    match method(request.uri().path()) {
        Some(_) => Err(problem(Refused::GrpcOnly)),
        None => Ok(()),
    }
}

fn problem(refused: Refused) -> Refusal {
    Box::new(Problem::from(refused).into_http())
}

/// Whether a request says that it is one of gRPC.
pub(crate) fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|of| of.as_bytes().starts_with(b"application/grpc"))
}
