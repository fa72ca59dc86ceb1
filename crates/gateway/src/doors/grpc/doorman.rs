//! The layer before all services: it finds out the client of each request, and lets only those
//! methods through that the table of permissions has.
//!
//! Without identities it lets every request through.

use crate::identities::no_identity;
use crate::permissions::{Method, method};
use crate::router::Router;
use crate::visitor::Visitor;
use futures_util::future::{Either, Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower_layer::Layer;
use wire::v1::{Error, ErrorCode};

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

impl<S, B> Service<http::Request<B>> for Doorman<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match visitor(&self.router, &request) {
            Ok(visitor) => {
                // The header is not needed any more, so that nothing behind can show it.
                request.headers_mut().remove(http::header::AUTHORIZATION);
                request.extensions_mut().insert(visitor);
                Either::Left(self.service.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// The client of a request that may call its method.
fn visitor<B>(router: &Router, request: &http::Request<B>) -> Result<Visitor, Box<Status>> {
    let mut visitor = Visitor::of(request);
    if router.identities.is_none() {
        return Ok(visitor);
    }
    let refused = |error: Box<Error>| Box::new(Status::from(*error));
    let of = method(request.uri().path());
    match of {
        None => Err(Box::new(Status::unimplemented("this gateway has no such method"))),
        Some(Method::Open) => Ok(visitor),
        Some(Method::Inside) => Err(refused(Box::new(Error::new(
            ErrorCode::PermissionDenied,
            "this method is for the processes of a cluster: dial a node with their certificates",
        )))),
        Some(Method::Known | Method::Operation(_) | Method::Stream) => {
            router.prove_again(&mut visitor).map_err(refused)?;
            match (of, visitor.caller.identity()) {
                (Some(Method::Known), Some(identity)) if identity.principal.is_anonymous() => {
                    Err(refused(no_identity()))
                }
                _ => Ok(visitor),
            }
        }
    }
}
