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

/// The processes that may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    Nodes,
    NodesAndGateways,
}

/// The services of a node, and methods with other callers than the rest of their service, before it.
/// Probes come from the inside too, because the port of a node takes no other certificates.
const SERVICES: [(&str, Callers); 5] = [
    ("palisade.internal.v1.PeerService", Callers::Nodes),
    ("palisade.internal.v1.ShardService", Callers::NodesAndGateways),
    ("palisade.internal.v1.TopologyService/Report", Callers::Nodes),
    ("palisade.internal.v1.TopologyService", Callers::NodesAndGateways),
    ("grpc.health.v1.Health", Callers::NodesAndGateways),
];

/// The process at the other end of a connection. Without TLS it has proven nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The node that it has proven to be.
    pub(crate) node: Option<NodeId>,
    /// It has shown a certificate: of a node, or of another process.
    pub(crate) is_certified: bool,
    /// The name in its certificate, or nothing.
    name: String,
    /// Its address, or nothing if it is not known.
    pub(crate) remote: String,
    /// Its address, as its connections are counted.
    source: String,
}

/// The name that it has proven, if any, and its address.
impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "unnamed" } else { &self.name };
        write!(f, "{name} at {}", self.remote)
    }
}

impl Caller {
    /// The caller of the request with these extensions.
    pub(crate) fn of(extensions: &http::Extensions) -> Caller {
        extensions.get::<Peer<()>>().map(Caller::of_peer).unwrap_or_default()
    }

    /// The process at the other end of a connection.
    pub(crate) fn of_peer(peer: &Peer<()>) -> Caller {
        let certificate = peer.certificate.as_ref();
        let role = certificate.and_then(|certificate| Role::of(certificate).ok());
        let node = role.and_then(|role| match role.process {
            Process::Node(id) => Some(NodeId(id)),
            Process::Gateway(_) => None,
        });
        let name = certificate.and_then(|certificate| certificate.name()).unwrap_or_default();
        let source = source_of(peer.remote).to_string();
        let is_certified = certificate.is_some();
        let (name, remote) = (name.to_owned(), peer.remote.to_string());
        Caller { node, is_certified, name, remote, source }
    }

    /// Whether it may speak for this node: it has proven to be the node, or without TLS nobody
    /// proves anything.
    pub(crate) fn may_be(&self, node: NodeId) -> bool {
        !self.is_certified || self.node == Some(node)
    }

    /// A process that was dialled. It has proven nothing beyond the checks of the dial.
    pub(crate) fn at(address: &str) -> Caller {
        Caller { remote: address.to_owned(), ..Caller::default() }
    }

    /// The event of its refusal. Its certificate tells its name, and no identity.
    pub(crate) fn refused(&self, why: String) -> Event {
        let Caller { name, remote, source, .. } = self.clone();
        Event { principal: name, remote, source, why, ..Event::of(Kind::PeerRefused) }
    }
}

/// Lets through the calls that the table permits, if callers have to prove a role.
#[derive(Clone, Debug)]
pub(crate) struct OnlyPermitted {
    pub(crate) with_tls: bool,
    /// Each refusal is told here.
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer<()>>();
        if let Err(error) = check_call(self.with_tls, peer, request.uri().path()) {
            self.audit.record(refusal(&request, &error));
            return Either::Right(ready(Ok(Status::from(*error).into_http())));
        }
        Either::Left(self.inner.call(request))
    }
}

/// The event of a caller without the permission for its call.
fn refusal<B>(request: &Request<B>, error: &Error) -> Event {
    let refused = Caller::of(request.extensions()).refused(error.message.clone());
    Event { name: request.uri().path().to_owned(), ..refused }
}

/// Whether the process at the other end of a connection may call the method at `path`. Without TLS
/// it may.
///
/// # Errors
/// The reason, for the caller.
pub(crate) fn check_call(
    with_tls: bool,
    peer: Option<&Peer<()>>,
    path: &str,
) -> Result<(), Box<Error>> {
    if !with_tls {
        return Ok(());
    }
    let denied = |why: String| Box::new(Error::new(ErrorCode::Unauthenticated, why));
    let certificate = peer.and_then(|peer| peer.certificate.as_ref()).ok_or_else(|| {
        denied(
            "this node takes calls from the inside of its cluster only: show a certificate".into(),
        )
    })?;
    let role = Role::of(certificate).map_err(|error| denied(error.to_string()))?;
    permitted(path, &role)
}

/// Whether a process with this role may call the method at `path`, as in
/// `/palisade.internal.v1.PeerService/Greet`.
fn permitted(path: &str, role: &Role) -> Result<(), Box<Error>> {
    let method = path.strip_prefix('/').filter(|method| method.contains('/'));
    let service = method.and_then(|method| method.split('/').next());
    let row = SERVICES.iter().find(|(name, _)| [service, method].contains(&Some(name)));
    let callers = row.map(|(_, callers)| *callers);
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
        let peer = Peer {
            remote,
            state: (),
            certificate: Some(std::sync::Arc::new(certificate)),
            cut: Default::default(),
        };
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
        let watch = "/palisade.internal.v1.TopologyService/Watch";
        assert!(may(watch, &node) && may(watch, &gateway));
        assert!(may("/palisade.internal.v1.TopologyService/Report", &node));
        assert!(!may("/palisade.internal.v1.TopologyService/Report", &gateway));
        assert!(may("/palisade.internal.v1.TopologyService/Propose", &gateway));
        for path in [
            "",
            "/",
            "/x/y",
            "palisade.internal.v1.ShardService/Operate",
            "/palisade.internal.v1.PeerService",
            "/palisade.internal.v1.ShardServiceX/Operate",
        ] {
            assert!(!may(path, &node) && !may(path, &gateway), "{path:?}");
        }
    }
}
