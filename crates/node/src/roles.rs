//! The calls that a certificate of the inside permits.
//!
//! - One table decides, by the name of the service. A service that is not in the table is denied,
//!   and so is a caller without a role.
//! - Without TLS inside the cluster no caller proves anything, and nothing is checked.
//!
//! The module knows nothing of the contents of calls. That the node of a greeting is the node of
//! the certificate, `transport/hello.rs` checks.

use audit::{Audit, Event, Kind};
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use net::accept::{Peer, source_of};
use net::role::{Process, Role};
use routing::NodeId;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use wire::v1::{Error, ErrorCode};

/// Who may call the methods of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    Nodes,
    NodesAndGateways,
}

/// The services of a node. Probes come from the inside too, because the port of a node takes no
/// other certificates.
const SERVICES: [(&str, Callers); 3] = [
    ("palisade.internal.v1.PeerService", Callers::Nodes),
    ("palisade.internal.v1.ShardService", Callers::NodesAndGateways),
    ("grpc.health.v1.Health", Callers::NodesAndGateways),
];

/// What the caller of a request has proven, in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Proven(Option<Role>);

impl Proven {
    /// What the caller of this request has proven. Nothing where no layer looked, as in tests.
    pub(crate) fn by<T>(request: &tonic::Request<T>) -> Proven {
        request.extensions().get().cloned().unwrap_or(Proven(None))
    }

    /// The node that the caller has proven to be, if it has proven anything.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self.0.as_ref()?.process {
            Process::Node(id) => Some(NodeId(id)),
            Process::Gateway(_) => None,
        }
    }
}

/// Lets through what the table permits, if callers have to prove a role.
#[derive(Clone, Debug)]
pub(crate) struct OnlyPermitted {
    pub(crate) with_tls: bool,
    /// What is refused is told here.
    pub(crate) audit: Audit,
}

impl<S> Layer<S> for OnlyPermitted {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, with_tls: self.with_tls, audit: self.audit.clone() }
    }
}

/// A service behind [`OnlyPermitted`].
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    with_tls: bool,
    audit: Audit,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let role = if self.with_tls {
            match role_of(&request).and_then(|role| {
                permitted(request.uri().path(), &role)?;
                Ok(role)
            }) {
                Ok(role) => Some(role),
                Err(error) => {
                    self.audit.record(refusal(&request, &error));
                    let refused = Status::from(*error).into_http();
                    return Either::Right(ready(Ok(refused)));
                }
            }
        } else {
            None
        };
        request.extensions_mut().insert(Proven(role));
        Either::Left(self.inner.call(request))
    }
}

/// The event of a caller that was refused. Its certificate tells its name, and no identity.
fn refusal<B>(request: &Request<B>, error: &Error) -> Event {
    let mut event = Event { why: error.message.clone(), ..Event::of(Kind::PeerRefused) };
    request.uri().path().clone_into(&mut event.name);
    if let Some(peer) = request.extensions().get::<Peer<()>>() {
        event.remote = peer.remote.to_string();
        event.source = source_of(peer.remote).to_string();
        let name = peer.certificate.as_ref().and_then(|certificate| certificate.name());
        event.principal = name.unwrap_or_default().to_owned();
    }
    event
}

fn role_of<B>(request: &Request<B>) -> Result<Role, Box<Error>> {
    let denied = |why: String| Box::new(Error::new(ErrorCode::Unauthenticated, why));
    let certificate =
        request.extensions().get::<Peer<()>>().and_then(|peer| peer.certificate.as_ref());
    let certificate = certificate.ok_or_else(|| {
        denied(
            "this node takes calls from the inside of its cluster only: show a certificate".into(),
        )
    })?;
    Role::of(certificate).map_err(|error| denied(error.to_string()))
}

/// Whether a process with this role may call the method at `path`, as in
/// `/palisade.internal.v1.PeerService/Greet`.
fn permitted(path: &str, role: &Role) -> Result<(), Box<Error>> {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let callers = service.and_then(|(service, _)| {
        SERVICES.iter().find(|(name, _)| *name == service).map(|(_, callers)| *callers)
    });
    let is_permitted = match (callers, &role.process) {
        (Some(_), Process::Node(_)) | (Some(Callers::NodesAndGateways), Process::Gateway(_)) => {
            true
        }
        (Some(Callers::Nodes), Process::Gateway(_)) | (None, _) => false,
    };
    if is_permitted {
        return Ok(());
    }
    let why = format!("{} may not call {path} of a node", role.process);
    Err(Box::new(Error::new(ErrorCode::PermissionDenied, why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_the_name_and_the_address_of_its_caller() {
        let certificate = net::certificate::Certificate {
            uris: vec!["palisade://other/node/2".into()],
            dns_names: Vec::new(),
            common_name: None,
            not_before_s: 0,
            not_after_s: 0,
            fingerprint: [0; 32],
        };
        let remote = "127.0.0.1:9".parse().unwrap();
        let peer = Peer { remote, state: (), certificate: Some(std::sync::Arc::new(certificate)) };
        let mut request = Request::new(());
        *request.uri_mut() = "/palisade.internal.v1.PeerService/Greet".parse().unwrap();
        request.extensions_mut().insert(peer);
        let event = refusal(&request, &Error::new(ErrorCode::PermissionDenied, "not you"));
        assert_eq!((event.kind, event.why.as_str()), (Kind::PeerRefused, "not you"));
        assert_eq!(event.name, "/palisade.internal.v1.PeerService/Greet");
        assert_eq!(
            (event.principal.as_str(), event.remote.as_str()),
            ("palisade://other/node/2", "127.0.0.1:9")
        );
    }

    #[test]
    fn only_nodes_call_what_peers_call_and_other_paths_are_denied() {
        let role = |process| Role { cluster: "prod".into(), process };
        let (node, gateway) = (role(Process::Node(2)), role(Process::Gateway("a".into())));
        let may = |path: &str, role: &Role| permitted(path, role).is_ok();
        assert!(may("/palisade.internal.v1.PeerService/Greet", &node));
        assert!(!may("/palisade.internal.v1.PeerService/Greet", &gateway));
        assert!(may("/palisade.internal.v1.ShardService/Operate", &gateway));
        for path in [
            "",
            "/",
            "/x/y",
            "palisade.internal.v1.ShardService/Operate",
            "/palisade.internal.v1.ShardServiceX/Operate",
        ] {
            assert!(!may(path, &node) && !may(path, &gateway), "{path:?}");
        }
    }
}
