//! Clients with identities, for a gateway in front of fake nodes.
#![allow(dead_code)] // each test file uses its own part of it

use crate::fake::{Fakes, NodeAnswer, NodeOp, NodeOperation, Reaction, granted};
use access::{Digest, Principal, Tokens, new_token};
use audit::Audit;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use wire::OperationKind;
use wire::internal::v1 as internal;
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

/// Everyone with a token.
const NAMES: [&str; 6] = ["mallory", "reader", "holder", "both", "operator", "flooder"];

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Without a token.
    Nameless,
    /// With a token of the right form that no one has.
    Guesser,
    Named(&'static str),
}

/// A token that follows from the name.
pub fn token(name: &str) -> String {
    new_token(Digest::of(name.as_bytes()).0)
}

/// The file of all tokens, with an expiry of one of them.
pub fn tokens(expires: Option<(&str, SystemTime)>) -> String {
    let line = |name: &&str| {
        let at = expires.filter(|(of, _)| of == name).map(|(_, at)| at);
        let at_s = at.map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        let principal: Principal = name.parse().unwrap();
        Tokens::line(&principal, &Digest::of(token(name).as_bytes()), at_s)
    };
    NAMES.iter().map(line).collect()
}

/// The files of a cluster with identities.
pub struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub fn of(policy: &str) -> Files {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        files.policy(policy);
        files.tokens(&tokens(None));
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn policy(&self, policy: &str) {
        std::fs::write(self.path("policy.yaml"), policy).unwrap();
    }

    pub fn tokens(&self, tokens: &str) {
        std::fs::write(self.path("tokens.yaml"), tokens).unwrap();
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A gateway that speaks TLS to clients.
    pub async fn start_tls(
        &self,
        tls: std::sync::Arc<net::tls::Server>,
        handler: impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        let change = |options: &mut palisade_gateway::GatewayOptions| {
            options.cluster.access = Some(self.access());
            options.tls = Some(tls);
        };
        Fakes::start_changed(1, 3, &[], change, handler).await
    }

    /// The section of the cluster file.
    pub fn access(&self) -> routing::AccessConfig {
        let path = |name| self.path(name).to_string_lossy().into_owned();
        routing::AccessConfig {
            policy: path("policy.yaml"),
            tokens: Some(path("tokens.yaml")),
            jwt: None,
        }
    }

    pub async fn start(
        &self,
        handler: impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        self.start_audited(Audit::off(), handler).await
    }

    pub async fn start_audited(
        &self,
        audit: Audit,
        handler: impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + 'static,
    ) -> Fakes {
        let change = |options: &mut palisade_gateway::GatewayOptions| {
            options.cluster.access = Some(self.access());
            options.audit = audit;
        };
        Fakes::start_changed(1, 3, &[], change, handler).await
    }
}

/// An authority of certificates.
pub struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Authority(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these hosts and URIs, and its key.
    pub fn issue(&self, hosts: &[&str], uris: &[&str]) -> (String, String) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        for uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A node that does everything that it is asked for.
pub fn answer_all(_: u64, operation: &NodeOperation) -> Reaction {
    Reaction::Answer(match operation.op.as_ref().unwrap() {
        NodeOp::Acquire(request) => return granted(request, 5),
        NodeOp::Renew(_) => NodeAnswer::Renew(RenewResponse::default()),
        NodeOp::Release(_) => NodeAnswer::Release(ReleaseResponse::default()),
        NodeOp::Check(_) => NodeAnswer::Check(CheckResponse::default()),
        NodeOp::Heartbeat(_) => NodeAnswer::Heartbeat(SessionLeaseState::default()),
        NodeOp::CloseSession(_) => NodeAnswer::CloseSession(CloseSessionResponse::default()),
        NodeOp::CancelWait(_) => {
            NodeAnswer::CancelWait(CancelWaitResponse { cancelled: true, grant: None })
        }
        NodeOp::BreakLock(_) => NodeAnswer::BreakLock(BreakLockResponse::default()),
        NodeOp::History(_) => NodeAnswer::History(HistoryResponse::default()),
        NodeOp::List(_) => NodeAnswer::List(internal::ShardPage::default()),
        NodeOp::ReadStatus(_) => NodeAnswer::Status(Box::default()),
    })
}

/// A call: an operation, or one of the two that are calls only.
#[derive(Clone, Debug)]
pub enum Call {
    Op(Op),
    OpenSession(OpenSessionRequest),
    ClusterStatus,
}

impl From<Op> for Call {
    fn from(op: Op) -> Call {
        Call::Op(op)
    }
}

impl From<AcquireRequest> for Call {
    fn from(request: AcquireRequest) -> Call {
        Call::Op(Op::Acquire(request))
    }
}

pub fn in_stream(call: Call) -> Option<Op> {
    match call {
        Call::Op(op) => Some(op),
        _ => None,
    }
}

pub fn is_of_a_name(call: &Call) -> bool {
    matches!(call, Call::Op(op) if op.name().is_some() || matches!(op, Op::List(_)))
}

/// One call of each kind on a name, valid in itself.
pub fn ops(name: &str) -> Vec<(OperationKind, Call)> {
    let name = || name.to_owned();
    let session_id = || "0".repeat(31) + "1";
    let (fencing_token, request_id) = (7, vec![7; 16]);
    let leases = vec![SessionLease::default()];
    let ops = vec![
        Op::Acquire(AcquireRequest { name: name(), ..Default::default() }),
        Op::Renew(RenewRequest { name: name(), fencing_token }),
        Op::Release(ReleaseRequest { name: name(), fencing_token, session_life: 0 }),
        Op::Check(CheckRequest { name: name(), ..Default::default() }),
        Op::Heartbeat(HeartbeatRequest { session_id: session_id(), leases }),
        Op::CloseSession(CloseSessionRequest { session_id: session_id(), shards: vec![0] }),
        Op::CancelWait(CancelWaitRequest { name: name(), request_id }),
        Op::BreakLock(BreakLockRequest {
            name: name(),
            fencing_token,
            reason: "gone".into(),
            broken_by: "me".into(),
        }),
        Op::History(HistoryRequest { name: name(), limit: 0 }),
        Op::List(ListRequest { prefix: name(), ..Default::default() }),
    ];
    let mut calls: Vec<_> = ops.into_iter().map(|op| (op.kind(), Call::Op(op))).collect();
    calls.push((OperationKind::OpenSession, Call::OpenSession(OpenSessionRequest::default())));
    calls.push((OperationKind::ClusterStatus, Call::ClusterStatus));
    calls
}

/// A connection to the gateway.
#[derive(Clone)]
pub struct Door {
    channel: Channel,
}

pub fn signed<T>(body: T, who: Who) -> Request<T> {
    let mut request = Request::new(body);
    let token = match who {
        Who::Nameless => return request,
        Who::Guesser => token("a guess"),
        Who::Named(name) => token(name),
    };
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub fn code_of(status: &Status) -> ErrorCode {
    Error::from_status(status).unwrap_or_else(|| panic!("not ours: {status:?}")).code()
}

impl Door {
    pub async fn of(fakes: &Fakes) -> Door {
        let url = format!("http://{}", fakes.gateway.address());
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Door { channel }
    }

    fn client(&self) -> LockServiceClient<Channel> {
        LockServiceClient::new(self.channel.clone())
    }

    /// The code with which a call was refused, if it was.
    pub async fn call(&self, who: Who, call: Call) -> Option<ErrorCode> {
        let mut client = self.client();
        macro_rules! called {
            ($method:ident, $request:expr) => {
                client.$method(signed($request, who)).await.map(drop)
            };
        }
        let answered = match call {
            Call::Op(Op::Acquire(r)) => called!(acquire, r),
            Call::Op(Op::Renew(r)) => called!(renew, r),
            Call::Op(Op::Release(r)) => called!(release, r),
            Call::Op(Op::Check(r)) => called!(check, r),
            Call::Op(Op::Heartbeat(r)) => called!(heartbeat, r),
            Call::Op(Op::CloseSession(r)) => called!(close_session, r),
            Call::Op(Op::CancelWait(r)) => called!(cancel_wait, r),
            Call::Op(Op::BreakLock(r)) => called!(break_lock, r),
            Call::Op(Op::History(r)) => called!(history, r),
            Call::Op(Op::List(r)) => called!(list, r),
            Call::OpenSession(r) => called!(open_session, r),
            Call::ClusterStatus => called!(cluster_status, ClusterStatusRequest {}),
        };
        answered.err().map(|status| code_of(&status))
    }

    /// The channel, for other services than that of locks.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The error of an acquire that fails.
    pub async fn error(&self, who: Who, request: AcquireRequest) -> Error {
        let refused = self.client().acquire(signed(request, who)).await.unwrap_err();
        Error::from_status(&refused).expect("one of ours")
    }

    pub async fn error_in_stream(&self, who: Who, op: Op) -> Error {
        match self.open(who).await.answer(op).await {
            Ok(Answer::Error(error)) => error,
            answer => panic!("{answer:?}"),
        }
    }

    pub async fn check_with(&self, names: &[&str], request: CheckRequest) -> Code {
        let mut request = Request::new(request);
        for name in names {
            let value = format!("Bearer {}", token(name));
            request.metadata_mut().append("authorization", MetadataValue::try_from(value).unwrap());
        }
        self.client().check(request).await.err().map_or(Code::Ok, |status| status.code())
    }

    pub async fn try_open(&self, who: Who) -> Result<Open, Status> {
        let (frames, sent) = mpsc::channel(16);
        let answers = self.client().stream(signed(ReceiverStream::new(sent), who)).await?;
        Ok(Open { frames, answers: answers.into_inner(), id: 0 })
    }

    pub async fn open(&self, who: Who) -> Open {
        self.try_open(who).await.unwrap_or_else(|status| panic!("{who:?}: {status}"))
    }

    /// The codes with which operations of one stream were refused, if they were.
    pub async fn stream(&self, who: Who, ops: Vec<Op>) -> Result<Vec<Option<ErrorCode>>, Status> {
        let mut open = self.try_open(who).await?;
        let mut answers = Vec::new();
        for op in ops {
            answers.push(open.ask(op).await.map_err(|code| Status::new(code, "ended"))?);
        }
        Ok(answers)
    }

    pub async fn health(&self, who: Who) -> Code {
        let mut client = tonic_health::pb::health_client::HealthClient::new(self.channel.clone());
        let asked = tonic_health::pb::HealthCheckRequest::default();
        client.check(signed(asked, who)).await.err().map_or(Code::Ok, |status| status.code())
    }

    /// The answer to a method of the internal protocol.
    pub async fn inside(&self, who: Who) -> Code {
        use internal::shard_service_client::ShardServiceClient;
        let mut client = ShardServiceClient::new(self.channel.clone());
        let asked = client.cluster(signed(internal::ClusterRequest {}, who)).await;
        asked.err().map_or(Code::Ok, |status| status.code())
    }

    pub async fn reflection(&self, who: Who) -> Code {
        use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
        let mut client = ServerReflectionClient::new(self.channel.clone());
        let asked =
            tokio_stream::iter([tonic_reflection::pb::v1::ServerReflectionRequest::default()]);
        let answered = client.server_reflection_info(signed(asked, who)).await;
        answered.err().map_or(Code::Ok, |status| status.code())
    }
}

/// An open stream.
pub struct Open {
    frames: mpsc::Sender<StreamRequest>,
    answers: Streaming<StreamResponse>,
    id: u64,
}

impl Open {
    /// The answer to one operation, or the code with which the stream ended.
    pub async fn answer(&mut self, op: Op) -> Result<Answer, Code> {
        let id = self.send(op).await;
        let (answered, answer) = self.next().await?;
        assert_eq!(answered, id);
        Ok(answer)
    }

    /// Sends one operation, and returns its id.
    pub async fn send(&mut self, op: Op) -> u64 {
        self.id += 1;
        let operation = Operation { id: self.id, ..Operation::of(op) };
        let frame = StreamRequest { operations: vec![operation], sent_ms: 0 };
        let _ = self.frames.send(frame).await;
        self.id
    }

    /// The next answer and the id of its operation, or the code with which the stream ended.
    pub async fn next(&mut self) -> Result<(u64, Answer), Code> {
        match self.answers.message().await {
            Ok(Some(mut frame)) => {
                let result = frame.results.remove(0);
                Ok((result.id, result.result.unwrap()))
            }
            Ok(None) => Err(Code::Ok),
            Err(status) => Err(status.code()),
        }
    }

    /// The code with which an operation was refused, if it was.
    pub async fn ask(&mut self, op: Op) -> Result<Option<ErrorCode>, Code> {
        Ok(match self.answer(op).await? {
            Answer::Error(error) => Some(error.code()),
            _ => None,
        })
    }

    /// Waits until the stream ends, without a word of the client.
    pub async fn end(&mut self) -> Status {
        match self.answers.message().await {
            Err(status) => status,
            answer => panic!("{answer:?}"),
        }
    }
}
