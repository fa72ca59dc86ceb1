//! The limits of gRPC alone: a gateway without a service behind it that answers every request at
//! once, and the load for it.
//!
//! `echo serve --listen 127.0.0.1:7499` speaks `LockService`, so `palisade bench` can use it. That
//! combination measures the load generator itself. `echo load --unary` and `echo load --per-frame
//! 32` are the bare ceilings, without the SDK.

use clap::{Args, Parser, Subcommand};
use palisade_benches::closed_loop::{Load, Meter, name, run_id};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::lock_service_server::{LockService, LockServiceServer};
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer everything at once.
    Serve {
        #[arg(long, default_value = "127.0.0.1:7499")]
        listen: SocketAddr,
    },
    /// Ask.
    Load(LoadArgs),
}

#[derive(Args)]
struct LoadArgs {
    #[arg(long, default_value = "127.0.0.1:7499")]
    endpoint: String,
    /// One RPC per operation instead of frames on a stream.
    #[arg(long)]
    unary: bool,
    /// Operations per frame of a stream.
    #[arg(long, default_value_t = 32)]
    per_frame: usize,
    #[command(flatten)]
    load: Load,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    let mut builder = match cli.command {
        Command::Serve { .. } => tokio::runtime::Builder::new_multi_thread(),
        Command::Load(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Serve { listen } => serve(listen).await,
            Command::Load(args) => load(args).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

async fn serve(listen: SocketAddr) -> Result<(), Failure> {
    let service = LockServiceServer::new(Echo::default());
    Ok(Server::builder().tcp_nodelay(true).add_service(service).serve(listen).await?)
}

async fn load(args: LoadArgs) -> Result<(), Failure> {
    let mut channels = Vec::new();
    for _ in 0..args.load.connections {
        let endpoint = Endpoint::from_shared(format!("http://{}", args.endpoint))?;
        channels.push(endpoint.tcp_nodelay(true).connect().await?);
    }
    let (meter, run) = (Meter::new(), run_id());
    if args.unary {
        for client in 0..args.load.clients {
            let (meter, load) = (meter.clone(), args.load.clone());
            tokio::spawn(unary(
                meter,
                channels[client % channels.len()].clone(),
                load,
                run,
                client,
            ));
        }
        meter.run("tonic unary echo", &args.load, 1).await;
    } else {
        // Each frame stands for as many clients as it has operations.
        let frames = (args.load.clients / args.per_frame).max(args.load.connections);
        for (at, channel) in channels.iter().enumerate() {
            let share = frames / channels.len() + usize::from(at < frames % channels.len());
            let (meter, channel, load) = (meter.clone(), channel.clone(), args.load.clone());
            tokio::spawn(stream(meter, channel, load, run, (at, share, args.per_frame)));
        }
        meter.run("tonic stream echo", &args.load, args.per_frame as u64).await;
    }
    Ok(())
}

fn ask(load: &Load, run: u32, client: usize, round: u64) -> AcquireRequest {
    AcquireRequest {
        name: name(run, client, round, load.name_bytes),
        owner: "o".repeat(load.owner_bytes),
        ttl_ms: 30_000,
        request_id: vec![7; 16],
        ..AcquireRequest::default()
    }
}

async fn unary(meter: Arc<Meter>, channel: Channel, load: Load, run: u32, client: usize) {
    let mut service = LockServiceClient::new(channel);
    for round in 0.. {
        if meter.stopping() {
            return;
        }
        let request = ask(&load, run, client, round);
        let sent = Instant::now();
        match service.acquire(request).await {
            Ok(_) => meter.done(sent),
            Err(_) => meter.failed(),
        }
    }
}

/// Keeps `share` frames of `per_frame` operations under way on one stream.
async fn stream(
    meter: Arc<Meter>,
    channel: Channel,
    load: Load,
    run: u32,
    (at, share, per_frame): (usize, usize, usize),
) {
    let (frames, outgoing) = tokio::sync::mpsc::channel(share.max(1));
    let mut round = 0;
    let mut frame = || {
        let operations = (0..per_frame).map(|_| {
            round += 1;
            let op = Some(Op::Acquire(ask(&load, run, at, round)));
            Operation { id: round, timeout_ms: 5_000, op, ..Operation::default() }
        });
        StreamRequest { operations: operations.collect(), ..Default::default() }
    };
    let mut sent = std::collections::VecDeque::new();
    for _ in 0..share {
        sent.push_back(Instant::now());
        let _ = frames.send(frame()).await;
    }
    let answers = LockServiceClient::new(channel).stream(ReceiverStream::new(outgoing)).await;
    let Ok(mut answers) = answers.map(Response::into_inner) else { return meter.failed() };
    while !meter.stopping() {
        match answers.message().await {
            Ok(Some(answer)) if answer.results.len() == per_frame => {
                meter.done(sent.pop_front().unwrap_or_else(Instant::now))
            }
            _ => return meter.failed(),
        }
        sent.push_back(Instant::now());
        let _ = frames.send(frame()).await;
    }
}

/// A service that answers every request at once.
#[derive(Default)]
struct Echo {
    tokens: Arc<AtomicU64>,
}

impl Echo {
    fn grant(&self, request: AcquireRequest) -> Grant {
        grant(&self.tokens, request)
    }
}

fn grant(tokens: &AtomicU64, request: AcquireRequest) -> Grant {
    Grant {
        resource_name: request.name,
        owner_id: request.owner,
        fencing_token: tokens.fetch_add(1, Ordering::Relaxed) + 1,
        acquired_at_ms: 1_700_000_000_000,
        expires_at_ms: 1_700_000_030_000,
        ttl_ms: request.ttl_ms,
        state: GrantState::Acquired.into(),
        session_id: request.session_id,
        ..Grant::default()
    }
}

fn answer(tokens: &AtomicU64, op: Op) -> Answer {
    match op {
        Op::Acquire(request) => Answer::granted(grant(tokens, request)),
        Op::Renew(_) => Answer::Renew(RenewResponse::default()),
        Op::Release(_) => Answer::Release(ReleaseResponse::default()),
        Op::Check(_) => Answer::Check(CheckResponse::default()),
        Op::Heartbeat(_) => Answer::Heartbeat(HeartbeatResponse::default()),
        Op::CloseSession(_) => Answer::CloseSession(CloseSessionResponse::default()),
        _ => Answer::Error(Error {
            message: "there is nothing behind this echo".into(),
            ..Error::default()
        }),
    }
}

fn nothing<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("there is nothing behind this echo"))
}

#[tonic::async_trait]
impl LockService for Echo {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (results, stream) = tokio::sync::mpsc::channel(16);
        let (mut frames, tokens) = (request.into_inner(), self.tokens.clone());
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                let answered = frame.operations.into_iter().filter_map(|operation| {
                    let result = Some(answer(&tokens, operation.op?));
                    Some(OperationResult { id: operation.id, result })
                });
                if results.send(Ok(StreamResponse { results: answered.collect() })).await.is_err() {
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
        Ok(Response::new(AcquireResponse { grant: Some(self.grant(request.into_inner())) }))
    }
    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn heartbeat(
        &self,
        _: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn close_session(
        &self,
        _: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let session_id = format!("s{}", self.tokens.fetch_add(1, Ordering::Relaxed));
        Ok(Response::new(OpenSessionResponse { session_id, ttl_ms: request.into_inner().ttl_ms }))
    }
    async fn cancel_wait(
        &self,
        _: Request<CancelWaitRequest>,
    ) -> Result<Response<CancelWaitResponse>, Status> {
        nothing()
    }
    async fn break_lock(
        &self,
        _: Request<BreakLockRequest>,
    ) -> Result<Response<BreakLockResponse>, Status> {
        nothing()
    }
    async fn history(
        &self,
        _: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        nothing()
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        nothing()
    }
    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        nothing()
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("there is nothing behind this echo"))
    }
}
