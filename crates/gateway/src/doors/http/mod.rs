//! The door for HTTP with JSON: each operation as a request.
//!
//! * The routes are made from the table of permissions, and the document of `openapi` too.
//! * A wait is a request that is held. It ends with the connection of its client, or its stream.
//! * Pages of other sites may not use it. A request that a browser marks as theirs is refused. A
//!   request with a body has to say that it is JSON, and no answer permits a page anything.

pub(crate) mod probes;
pub(crate) mod problem;

mod changes;
mod cluster;
mod openapi;
mod permissions;
mod plan;
mod requests;
mod terraform;
mod watch;

use super::console::with_files;
use super::doorman::is_grpc;
use super::single::Single;
use crate::core::mismatched_answer;
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_TIMEOUT};
use crate::permissions::{Method, ROUTES, TERRAFORM};
use crate::visitor::Visitor;
use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Query, RawPathParams, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any};
use probes::Detail;
use problem::{Problem, Refused};
use requests::{IDEMPOTENCY_KEY, with_nearest_field};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tonic::Status;
use wire::OperationKind;
use wire::json;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{
    CloseSessionRequest, Error, ErrorCode, HeartbeatRequest, HeartbeatResponse, Operation,
};

/// The number of operations that a request was counted as before its body came.
const COUNTED: u32 = 1;

/// All routes. `local` says that they serve this machine only, and every user on it.
pub(crate) fn routes(single: &Single, local: bool) -> axum::Router {
    let other = || async { Problem::from(Refused::OtherMethod) };
    let mut paths = BTreeMap::<&str, MethodRouter>::new();
    let door = |verb, path, of| Arc::new(Door { single: single.clone(), local, verb, path, of });
    for (verb, path, of) in ROUTES {
        let Some(filter) = filter(verb) else { continue };
        let door = door(*verb, *path, *of);
        let serve = move |ids, request| door.clone().serve(ids, request);
        let methods = paths.remove(path).unwrap_or_else(|| MethodRouter::new().fallback(other));
        paths.insert(path, methods.on(filter, serve));
    }
    let routes = axum::Router::new().fallback(no_route);
    let routes = paths.into_iter().fold(routes, |routes, (path, of)| routes.route(path, of));
    let locks: Vec<Arc<Door>> = ROUTES
        .iter()
        .filter(|(_, path, _)| *path == TERRAFORM)
        .map(|(verb, path, of)| door(*verb, *path, *of))
        .collect();
    let serve = move |ids, request: Request| {
        let door = locks.iter().find(|door| door.verb == request.method().as_str()).cloned();
        async move {
            match door {
                Some(door) => door.serve(ids, request).await,
                None => Door::no_state(),
            }
        }
    };
    with_files(routes.route(TERRAFORM, any(serve)))
}

/// `None` for a method that axum has no filter for.
fn filter(verb: &str) -> Option<MethodFilter> {
    match verb {
        "POST" => Some(MethodFilter::POST),
        "DELETE" => Some(MethodFilter::DELETE),
        "GET" => Some(MethodFilter::GET),
        _ => None,
    }
}

/// The answer to a request without a route, in the protocol of the request.
async fn no_route(request: Request) -> Response {
    if is_grpc(&request) {
        return Status::unimplemented("this gateway has no such method").into_http();
    }
    Problem::from(Refused::NoRoute).into_response()
}

/// One route. Its requests share it, so that none copies it.
struct Door {
    single: Single,
    local: bool,
    verb: &'static str,
    path: &'static str,
    of: Method,
}

/// The content of a request, and its client.
struct Asked {
    visitor: Visitor,
    /// The session, or the name, in the path; empty if the path has none.
    of_path: String,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Door {
    async fn serve(
        self: Arc<Door>,
        ids: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Response {
        let answered = self.answer(ids, request).await;
        let mut response = answered.unwrap_or_else(IntoResponse::into_response);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    async fn answer(
        &self,
        ids: Result<RawPathParams, RawPathParamsRejection>,
        mut request: Request,
    ) -> Result<Response, Problem> {
        if self.local && !is_for_this_machine(&request) {
            return Err(Refused::OtherHost.into());
        }
        if is_of_other_site(&request) {
            return Err(Refused::OtherOrigin.into());
        }
        let mut visitor = request.extensions_mut().remove::<Visitor>().unwrap_or_default();
        self.sign_in(&mut visitor);
        self.single.router.enter(&mut visitor, self.of)?;
        let kind = match self.of {
            Method::Operation(kind) => Some(kind),
            Method::Watch | Method::Cluster(_) => None,
            Method::Anyone => {
                self.single.begin(&visitor, None)?;
                queried::<requests::Nothing>(request.uri())?;
                return document(permissions::Permissions::of(&self.single.router, &visitor));
            }
            Method::Known => return self.plan(visitor, request).await,
            _ => return self.open(request.uri()),
        };
        self.single.begin(&visitor, kind)?;
        let ids = ids.map_err(|_| invalid("the path is no UTF-8: encode it as UTF-8"))?;
        let of_path = ids.iter().next().map_or_else(String::new, |(_, id)| id.to_owned());
        let (Parts { uri, headers, .. }, body) = request.into_parts();
        let body = self.body(&uri, &headers, body, &visitor).await?;
        let asked = Asked { visitor, of_path, uri, headers, body };
        if let Method::Cluster(_) = self.of {
            // In a box, because such requests are rare and their future is large.
            return Box::pin(self.cluster(&asked)).await;
        }
        let Some(kind) = kind else {
            let watch = asked.query::<watch::Watch>()?;
            return watch::serve(&self.single, asked.visitor, watch, &asked.headers, COUNTED);
        };
        match kind {
            OperationKind::Acquire if self.is_for_terraform() => self.lock(asked).await,
            _ if self.is_for_terraform() => self.unlock(asked).await,
            kind => self.operation(kind, asked).await,
        }
    }

    /// The body of a request. Fields come in the body of a POST, and in the query of other methods,
    /// and nowhere else. Locks for Terraform have both.
    async fn body(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: Body,
        visitor: &Visitor,
    ) -> Result<Bytes, Problem> {
        if self.verb != "POST" && !self.is_for_terraform() {
            return match self.received(body, visitor).await? {
                body if body.is_empty() => Ok(body),
                _ => Err(invalid("this method has no body: give the fields in the query")),
            };
        }
        let has_query = uri.query().is_some_and(|query| !query.is_empty());
        if has_query && !self.is_for_terraform() {
            return Err(invalid("a POST has no query: give the fields in the body"));
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|of| of.to_str().ok());
        let essence = content_type.and_then(|of| of.split(';').next()).unwrap_or_default();
        let is_json = essence.trim().eq_ignore_ascii_case("application/json");
        // A browser sends these methods to no other origin without permission.
        if !is_json && !self.is_for_terraform() {
            return Err(Refused::NotJson.into());
        }
        self.received(body, visitor).await
    }

    /// The bytes of a body. One that is still on its way takes a place until it has come.
    async fn received(&self, body: Body, visitor: &Visitor) -> Result<Bytes, Problem> {
        if body.size_hint().lower() > HTTP_BODY_BYTES_MAX as u64 {
            return Err(Refused::BodyTooLarge.into());
        }
        let mut request = Request::new(body);
        DefaultBodyLimit::max(HTTP_BODY_BYTES_MAX).apply(&mut request);
        let mut coming = pin!(Bytes::from_request(request, &()));
        let come = match poll_fn(|context| Poll::Ready(coming.as_mut().poll(context))).await {
            Poll::Ready(come) => Ok(come),
            Poll::Pending => {
                let _place = self.single.router.admission.body(visitor)?;
                tokio::time::timeout(HTTP_BODY_TIMEOUT, coming).await
            }
        };
        match come {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refused::BodyTooLarge.into())
            }
            Ok(Err(_)) => Err(invalid("the body of the request broke off: send it again")),
            Err(_) => Err(Refused::SlowBody.into()),
        }
    }

    /// Serves the fields of a workload, and plans. A plan counts as one operation, and takes the
    /// place of a call with a large answer.
    async fn plan(&self, visitor: Visitor, request: Request) -> Result<Response, Problem> {
        self.single.begin(&visitor, None)?;
        let (Parts { uri, headers, .. }, body) = request.into_parts();
        if self.verb == "GET" {
            queried::<requests::Nothing>(&uri)?;
            return document(plan::WorkloadFields::all());
        }
        let body = self.body(&uri, &headers, body, &visitor).await?;
        let plan = posted::<plan::Plan>(&body)?;
        self.single.hold_scan(&visitor).map_err(|error| self.single.refused(error))?;
        // The place is kept until the work is done, even if the client hangs up.
        let made = tokio::task::spawn_blocking(move || (plan.made(), visitor.held).0);
        let made = made.await.map_err(|_| Error::internal("the plan broke off: report this"))?;
        document(made?)
    }

    /// Serves the routes that are open to all clients.
    fn open(&self, uri: &Uri) -> Result<Response, Problem> {
        match uri.path() {
            "/livez" => Ok(probes::live()),
            "/readyz" => Ok(probes::ready(&self.single.router, uri, Detail::Numbers)),
            _ if uri.query().is_some_and(|query| !query.is_empty()) => {
                Err(invalid("this path has no query: leave it out"))
            }
            _ => Ok(openapi::served()),
        }
    }

    /// Serves an operation of this kind.
    async fn operation(&self, kind: OperationKind, asked: Asked) -> Result<Response, Problem> {
        match kind {
            OperationKind::Acquire => {
                let request = asked.json::<requests::Acquire>()?;
                let op = Op::Acquire(request.into_operation(asked.request_id()?)?);
                match self.ask(asked, op).await?.into_grant() {
                    Some(grant) => document(json::Grant::from(&grant)),
                    None => Err(mismatched_answer().into()),
                }
            }
            OperationKind::Renew => {
                let request = asked.json::<requests::Renew>()?;
                match self.ask(asked, Op::Renew((&request).into())).await? {
                    Answer::Renew(renewed) => {
                        let requests::Renew { name, fencing_token } = request;
                        document(json::Renewed::new(&name, fencing_token, &renewed))
                    }
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::Release => {
                let request = asked.json::<requests::Release>()?;
                match self.ask(asked, Op::Release((&request).into())).await? {
                    Answer::Release(released) => {
                        let requests::Release { name, fencing_token } = request;
                        document(json::Released::new(&name, fencing_token, &released))
                    }
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::Break => {
                let request = asked.json::<requests::Break>()?;
                match self.ask(asked, Op::BreakLock(request.into())).await? {
                    Answer::BreakLock(broken) => {
                        document(json::Tenure::from(&broken.tenure.unwrap_or_default()))
                    }
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::Check => {
                let request = asked.query::<requests::Check>()?;
                match self.ask(asked, Op::Check(request.request()?)).await? {
                    Answer::Check(checked) => document(json::Check::new(&request.name, &checked)),
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::History => {
                let request = asked.query::<requests::History>()?;
                match self.ask(asked, Op::History(request.request()?)).await? {
                    Answer::History(history) => {
                        document(json::History::new(&request.name, &history.tenures))
                    }
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::List => {
                let request = asked.query::<requests::List>()?.into_request()?;
                match self.ask(asked, Op::List(request)).await? {
                    Answer::List(listed) => document(json::Locks::from(&listed)),
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::OpenSession => {
                let request = asked.json::<requests::OpenSession>()?.into_request()?;
                let opened = self.single.open_session(&asked.visitor, request, COUNTED)?;
                document(json::SessionOpened::from(&opened))
            }
            OperationKind::Heartbeat => {
                let leases = asked.json::<requests::Heartbeat>()?.leases()?;
                let session = asked.of_path.clone();
                let op = Op::Heartbeat(HeartbeatRequest { session_id: session.clone(), leases });
                match self.ask(asked, op).await? {
                    Answer::Heartbeat(beat) => renewed(&session, &beat),
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::CloseSession => {
                let shards = asked.query::<requests::CloseSession>()?.shards()?;
                let session_id = asked.of_path.clone();
                let request = CloseSessionRequest { session_id: session_id.clone(), shards };
                match self.ask(asked, Op::CloseSession(request)).await? {
                    Answer::CloseSession(closed) => {
                        document(json::SessionClosed { released: closed.released, session_id })
                    }
                    _ => Err(mismatched_answer().into()),
                }
            }
            OperationKind::ClusterStatus => {
                asked.query::<requests::Nothing>()?;
                let status = self.single.cluster_status(&asked.visitor, COUNTED).await?;
                document(json::ClusterStatus::from(&status))
            }
            // No route has these.
            OperationKind::CancelWait | OperationKind::ShardStatus => Err(Refused::NoRoute.into()),
        }
    }

    /// Serves an operation of the protocol. A wait can take a day, so no body is kept for it.
    ///
    /// # Errors
    /// Its error.
    async fn ask(&self, asked: Asked, op: Op) -> Result<Answer, Problem> {
        let visitor = asked.into_visitor();
        match self.single.operation(visitor, Operation::of(op), COUNTED).await? {
            Answer::Error(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }
}

impl Asked {
    /// Drops all that came with the request, and keeps only its visitor.
    fn into_visitor(self) -> Visitor {
        self.visitor
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        posted(&self.body)
    }

    fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        queried(&self.uri)
    }

    /// The request id; empty if the request has no key.
    fn request_id(&self) -> Result<Vec<u8>, Problem> {
        let mut keys = self.headers.get_all(IDEMPOTENCY_KEY).iter();
        match (keys.next(), keys.next()) {
            (None, _) => Ok(Vec::new()),
            (Some(key), None) => Ok(requests::request_id(key.as_bytes())?),
            (Some(_), Some(_)) => {
                Err(invalid("the header idempotency-key stands twice: leave one out"))
            }
        }
    }
}

/// The fields of a body.
///
/// # Errors
/// INVALID_ARGUMENT if they are not those of the request.
fn posted<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match Json::from_bytes(body) {
        Ok(Json(request)) => Ok(request),
        Err(rejection) => Err(invalid(with_nearest_field(rejection.body_text()))),
    }
}

/// The fields of a query.
///
/// # Errors
/// INVALID_ARGUMENT if they are not those of the request.
fn queried<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    if !requests::is_utf8(uri.query().unwrap_or_default()) {
        return Err(invalid("the query is no UTF-8: encode its values as UTF-8"));
    }
    match Query::try_from_uri(uri) {
        Ok(Query(request)) => Ok(request),
        Err(rejection) => Err(invalid(with_nearest_field(rejection.body_text()))),
    }
}

/// Whether a request names this machine. The page of a browser could name another host. The address
/// of that host in the DNS could then turn into that of this machine.
fn is_for_this_machine(request: &Request) -> bool {
    let Some(authority) = authority(request) else { return false };
    let host = authority.host();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok()
}

/// Whether a browser says that a page of another site sent a request.
fn is_of_other_site(request: &Request) -> bool {
    let is_ours = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        // An origin without a host is that of a page that the browser keeps apart.
        origin.is_some_and(|of| {
            of.scheme().is_some() && of.authority() == authority(request).as_ref()
        })
    };
    let headers = request.headers();
    let sites = headers.get_all("sec-fetch-site");
    !headers.get_all(ORIGIN).iter().all(is_ours)
        || !sites.iter().all(|site| site == "none" || site == "same-origin")
}

/// The host and the port that a request names.
fn authority(request: &Request) -> Option<Authority> {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let header = header.and_then(|host| host.parse().ok());
    header.or_else(|| request.uri().authority().cloned())
}

/// The answer to a heartbeat. One that lost a shard, or kept none, is a problem, so that a loop
/// that looks at the status alone stops.
fn renewed(session: &str, beat: &HeartbeatResponse) -> Result<Response, Problem> {
    let renewed = json::SessionRenewed::new(session, beat);
    let (code, message) = if !beat.lost_shards.is_empty() {
        let message = "the session is lost on `lost_shards`, with all that it held there: stop \
            acting on those locks, and leave these shards out of the next heartbeat";
        (ErrorCode::SessionLost, message)
    } else if beat.renewed_shards == 0 && !beat.failed_shards.is_empty() {
        let message = "no shard could be asked: send the heartbeat again, and stop acting on the \
            locks when the TTL since the last one that succeeded has passed";
        (ErrorCode::NoLeader, message)
    } else {
        return document(renewed);
    };
    Err(Problem::of_heartbeat(Error::new(code, message), renewed))
}

fn document(document: impl Serialize) -> Result<Response, Problem> {
    Ok(Json(document).into_response())
}

fn invalid(message: impl Into<String>) -> Problem {
    Error::invalid(message).into()
}
