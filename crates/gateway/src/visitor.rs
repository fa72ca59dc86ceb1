//! The client of one call or stream: its connection, its address, and its identity.

use crate::connection::Connection;
use crate::core::Caller;
use audit::{Event, Kind};
use net::accept::{Cut, Peer, source_of};
use net::certificate::Certificate;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tonic::Request;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{self, HeaderValue};
use traces::Parent;

/// The proofs of its identity that a client has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// The certificate of its connection.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// The `authorization` of its call.
    pub(crate) header: Option<HeaderValue>,
}

/// A place that is given back when it is dropped.
pub(crate) type Held = Box<dyn std::fmt::Debug + Send + Sync>;

/// The client of one call or stream. The door's layer makes one for each request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitor {
    pub(crate) connection: Arc<Connection>,
    pub(crate) caller: Caller,
    /// The version of the files by which its identity was proven.
    pub(crate) version: u64,
    pub(crate) proof: Proof,
    pub(crate) remote: Option<SocketAddr>,
    /// The trace that it says its call belongs to, while traces are on.
    pub(crate) trace: Option<Parent>,
    /// The place of its call, if the answer can be large. The layer before all services keeps it
    /// until the answer is taken.
    pub(crate) held: Arc<OnceLock<Held>>,
    /// Ends its connection.
    pub(crate) cut: Cut,
}

impl Visitor {
    /// The client that sent a request, without an identity yet.
    pub(crate) fn of<B>(request: &http::Request<B>) -> Visitor {
        let peer = request.extensions().get::<Peer<Arc<Connection>>>();
        // The state of the connection is made with it, and not anew for each request.
        let mut visitor = match peer {
            None => Visitor::default(),
            Some(Peer { remote, state, certificate, cut }) => Visitor {
                connection: state.clone(),
                caller: Caller::default(),
                version: 0,
                proof: Proof { certificate: certificate.clone(), header: None },
                remote: Some(*remote),
                trace: None,
                held: Arc::default(),
                cut: cut.clone(),
            },
        };
        if traces::is_on() {
            let header = request.headers().get("traceparent");
            visitor.trace = header.and_then(|text| Parent::parse(text.to_str().ok()?));
        }
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        visitor.proof.header = headers.next().map(|header| {
            // Two headers would be two identities, so they are none.
            let only = if headers.next().is_some() {
                HeaderValue::from_static("")
            } else {
                header.clone()
            };
            sensitive(only)
        });
        visitor
    }

    /// The visitor that the door's layer found. The default is for tests, which may serve without
    /// the layer.
    pub(crate) fn take<T>(request: &mut Request<T>) -> Visitor {
        request.extensions_mut().remove::<Visitor>().unwrap_or_default()
    }

    /// An event of the audit log about this client.
    pub(crate) fn event(&self, kind: Kind) -> Event {
        let principal = self
            .caller
            .identity()
            .map_or_else(String::new, |identity| identity.principal.to_string());
        let remote = self.remote.map_or_else(String::new, |remote| remote.to_string());
        let source = self.remote.map_or_else(String::new, |remote| source_of(remote).to_string());
        Event { principal, remote, source, ..Event::of(kind) }
    }
}

/// Keeps a header out of texts for debugging.
fn sensitive(mut header: HeaderValue) -> HeaderValue {
    header.set_sensitive(true);
    header
}
