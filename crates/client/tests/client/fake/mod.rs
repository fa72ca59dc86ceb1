//! A small fake gateway on a loopback port. It answers by a closure, and keeps the operations that
//! it received.
#![allow(dead_code)] // each test file uses its own part of it

use futures_util::StreamExt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use wire::v1::lock_service_server::{LockService, LockServiceServer};
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

/// The fake's reaction to an operation.
pub enum Reaction {
    Answer(Answer),
    /// Answers after a delay.
    Later(Duration, Answer),
    /// Does not answer.
    Silence,
    /// Ends the stream, and with it all operations in flight.
    Hangup,
}

pub fn error(code: ErrorCode) -> Reaction {
    Reaction::Answer(Answer::Error(Error::new(code, "says the fake")))
}

type Handler = dyn Fn(&Op) -> Reaction + Send + Sync;

/// The error of a refused watch, by its request and its bearer token.
type Refuses = dyn Fn(&WatchRequest, &str) -> Option<Error> + Send + Sync;

#[derive(Clone)]
pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    handler: Arc<Handler>,
    watching: Arc<Mutex<Watching>>,
}

type Responses = mpsc::Sender<Result<WatchResponse, Status>>;

/// The watches of a fake. They are not known until a test says so.
#[derive(Default)]
struct Watching {
    served: bool,
    delay: Duration,
    refuses: Option<Box<Refuses>>,
    requests: Vec<WatchRequest>,
    tokens: Vec<String>,
    open: Vec<Responses>,
}

#[derive(Default)]
struct Seen {
    operations: Vec<Operation>,
    frames: Vec<usize>,
    sent_ms: Vec<u64>,
    streams: usize,
    connections: usize,
}

impl Fake {
    pub async fn start(handler: impl Fn(&Op) -> Reaction + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Fake {
            address,
            seen: Arc::default(),
            handler: Arc::new(handler),
            watching: Arc::default(),
        };
        let service = LockServiceServer::new(fake.clone());
        let seen = fake.seen.clone();
        let incoming = TcpListenerStream::new(listener)
            .inspect(move |_| seen.lock().unwrap().connections += 1);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
        );
        fake
    }

    /// Serves watches from now on.
    pub fn serve_watches(&self) {
        self.watching.lock().unwrap().served = true;
    }

    /// Answers each watch after this time from now on.
    pub fn delay_watches(&self, delay: Duration) {
        self.watching.lock().unwrap().delay = delay;
    }

    /// Denies watches from now on.
    pub fn deny_watches(&self) {
        self.refuse_watches(|_, _| Some(Error::new(ErrorCode::PermissionDenied, "says the fake")));
    }

    /// Serves watches from now on, but for those that get an error here.
    pub fn refuse_watches(
        &self,
        refuses: impl Fn(&WatchRequest, &str) -> Option<Error> + Send + Sync + 'static,
    ) {
        let mut watching = self.watching.lock().unwrap();
        watching.served = true;
        watching.refuses = Some(Box::new(refuses));
    }

    /// The bearer tokens of all watches, in the order of `watch_requests`. Empty if there was none.
    pub fn watch_tokens(&self) -> Vec<String> {
        self.watching.lock().unwrap().tokens.clone()
    }

    /// The requests of all watches, also of those that were refused.
    pub fn watch_requests(&self) -> Vec<WatchRequest> {
        self.watching.lock().unwrap().requests.clone()
    }

    /// Waits until so many watches were asked for.
    pub async fn until_watched(&self, count: usize) {
        while self.watch_requests().len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Tells all open watches something.
    pub async fn tell(&self, told: Result<WatchResponse, Status>) {
        let open = self.watching.lock().unwrap().open.clone();
        for responses in open {
            let _ = responses.send(told.clone()).await;
        }
    }

    /// Ends all open watches without a word.
    pub fn end_watches(&self) {
        self.watching.lock().unwrap().open.clear();
    }

    /// The number of open watches.
    pub fn open_watches(&self) -> usize {
        let mut watching = self.watching.lock().unwrap();
        watching.open.retain(|responses| !responses.is_closed());
        watching.open.len()
    }

    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// All operations received so far, in order.
    pub fn seen(&self) -> Vec<Op> {
        self.seen
            .lock()
            .unwrap()
            .operations
            .iter()
            .filter_map(|operation| operation.op.clone())
            .collect()
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.seen.lock().unwrap().operations.clone()
    }

    /// The number of operations in each frame.
    pub fn frames(&self) -> Vec<usize> {
        self.seen.lock().unwrap().frames.clone()
    }

    /// The time of sending in each frame.
    pub fn sent_ms(&self) -> Vec<u64> {
        self.seen.lock().unwrap().sent_ms.clone()
    }

    /// The connections that were made so far.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn streams(&self) -> usize {
        self.seen.lock().unwrap().streams
    }

    /// Waits until `count` operations of a kind were received.
    pub async fn until_seen(&self, count: usize, what: impl Fn(&Op) -> bool) {
        while self.count(&what) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The number of operations of a kind.
    pub fn count(&self, what: impl Fn(&Op) -> bool) -> usize {
        self.seen().iter().filter(|op| what(op)).count()
    }

    fn react(&self, operation: Operation) -> Reaction {
        let reaction = operation.op.as_ref().map(|op| (self.handler)(op));
        self.seen.lock().unwrap().operations.push(operation);
        reaction.unwrap_or(Reaction::Silence)
    }

    async fn unary(&self, op: Op) -> Result<Answer, Status> {
        match self.react(Operation::of(op)) {
            Reaction::Answer(Answer::Error(error)) => Err(error.into()),
            Reaction::Answer(answer) => Ok(answer),
            Reaction::Later(delay, answer) => {
                tokio::time::sleep(delay).await;
                Ok(answer)
            }
            Reaction::Silence => std::future::pending().await,
            Reaction::Hangup => Err(Status::unavailable("hung up")),
        }
    }
}

/// An address that refuses connections.
pub async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub fn grant(request: &AcquireRequest, token: u64) -> Answer {
    Answer::granted(Grant {
        resource_name: request.name.clone(),
        owner_id: request.owner.clone(),
        fencing_token: token,
        ttl_ms: request.ttl_ms,
        session_id: request.session_id.clone(),
        ..Grant::default()
    })
}

macro_rules! answered {
    ($fake:expr, $op:path, $request:expr, $answer:path) => {
        match $fake.unary($op($request.into_inner())).await? {
            $answer(response) => Ok(Response::new(response)),
            other => Err(Status::internal(format!("the fake has {other:?}"))),
        }
    };
}

#[tonic::async_trait]
impl LockService for Fake {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.seen.lock().unwrap().streams += 1;
        let (results, stream) = mpsc::channel(16);
        let fake = self.clone();
        let mut frames = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                {
                    let mut seen = fake.seen.lock().unwrap();
                    seen.frames.push(frame.operations.len());
                    seen.sent_ms.push(frame.sent_ms);
                }
                let mut answered = Vec::new();
                for operation in frame.operations {
                    let id = operation.id;
                    match fake.react(operation) {
                        Reaction::Answer(answer) => {
                            answered.push(OperationResult { id, result: Some(answer) })
                        }
                        Reaction::Later(delay, answer) => {
                            let results = results.clone();
                            tokio::spawn(async move {
                                tokio::time::sleep(delay).await;
                                let result = OperationResult { id, result: Some(answer) };
                                let _ = results
                                    .send(Ok(StreamResponse { results: vec![result] }))
                                    .await;
                            });
                        }
                        Reaction::Silence => {}
                        Reaction::Hangup => {
                            let _ = results.send(Err(Status::unavailable("hung up"))).await;
                            return;
                        }
                    }
                }
                if !answered.is_empty()
                    && results.send(Ok(StreamResponse { results: answered })).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn acquire(
        &self,
        request: Request<AcquireRequest>,
    ) -> Result<Response<AcquireResponse>, Status> {
        answered!(self, Op::Acquire, request, Answer::Acquire)
    }
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        answered!(self, Op::Renew, request, Answer::Renew)
    }
    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        answered!(self, Op::Release, request, Answer::Release)
    }
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        answered!(self, Op::Check, request, Answer::Check)
    }
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        answered!(self, Op::Heartbeat, request, Answer::Heartbeat)
    }
    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        answered!(self, Op::CloseSession, request, Answer::CloseSession)
    }
    async fn cancel_wait(
        &self,
        request: Request<CancelWaitRequest>,
    ) -> Result<Response<CancelWaitResponse>, Status> {
        answered!(self, Op::CancelWait, request, Answer::CancelWait)
    }
    async fn break_lock(
        &self,
        request: Request<BreakLockRequest>,
    ) -> Result<Response<BreakLockResponse>, Status> {
        answered!(self, Op::BreakLock, request, Answer::BreakLock)
    }
    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        answered!(self, Op::History, request, Answer::History)
    }
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        answered!(self, Op::List, request, Answer::List)
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        Ok(Response::new(OpenSessionResponse {
            session_id: "s-1".into(),
            ttl_ms: request.into_inner().ttl_ms,
        }))
    }

    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        Ok(Response::new(ClusterStatusResponse { cluster: "fake".into(), ..Default::default() }))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let token = request.metadata().get("authorization").map(|token| token.to_str().unwrap());
        let token = token.and_then(|token| token.strip_prefix("Bearer ")).unwrap_or("").to_owned();
        let request = request.into_inner();
        let delay = self.watching.lock().unwrap().delay;
        tokio::time::sleep(delay).await;
        let mut watching = self.watching.lock().unwrap();
        let refused = watching.refuses.as_ref().and_then(|refuses| refuses(&request, &token));
        watching.requests.push(request);
        watching.tokens.push(token);
        if let Some(error) = refused {
            return Err(error.into());
        }
        if !watching.served {
            return Err(Status::unimplemented("this gateway does not serve watches"));
        }
        let (responses, stream) = mpsc::channel(16);
        watching.open.push(responses);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
