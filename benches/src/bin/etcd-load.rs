//! The load of `palisade bench --mix acquire-release` on etcd: a transaction that creates the key
//! if it is absent, then a delete.
//!
//! `--mix keep-alive` renews leases instead. etcd keeps these renewals in its leader's memory and
//! does not replicate them.

use clap::{Parser, ValueEnum};
use palisade_benches::closed_loop::{Load, Meter, name, run_id};
use palisade_benches::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use palisade_benches::etcd::kv_client::KvClient;
use palisade_benches::etcd::lease_client::LeaseClient;
use palisade_benches::etcd::request_op::Request;
use palisade_benches::etcd::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RequestOp,
    TxnRequest,
};
use std::sync::Arc;
use std::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[derive(Clone, Copy, ValueEnum)]
enum Mix {
    AcquireRelease,
    KeepAlive,
}

#[derive(Parser)]
struct Args {
    /// Members, comma-separated; connections are spread over them.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    #[arg(long, value_enum, default_value = "acquire-release")]
    mix: Mix,
    #[command(flatten)]
    load: Load,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(Args::parse()));
    runtime.shutdown_background();
    outcome
}

async fn run(args: Args) -> Result<(), Failure> {
    let mut channels = Vec::new();
    for address in args.endpoints.iter().cycle().take(args.load.connections) {
        channels.push(
            Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?,
        );
    }
    let (meter, run) = (Meter::new(), run_id());
    for client in 0..args.load.clients {
        let (meter, channel, load) =
            (meter.clone(), channels[client % channels.len()].clone(), args.load.clone());
        match args.mix {
            Mix::AcquireRelease => tokio::spawn(acquire_release(meter, channel, load, run, client)),
            Mix::KeepAlive => tokio::spawn(async move {
                if let Err(error) = keep_alive(meter, channel).await {
                    eprintln!("etcd-load: {error}");
                }
            }),
        };
    }
    let system = match args.mix {
        Mix::AcquireRelease => "etcd",
        Mix::KeepAlive => "etcd keep-alive",
    };
    meter.run(system, &args.load, 1).await;
    Ok(())
}

async fn acquire_release(meter: Arc<Meter>, channel: Channel, load: Load, run: u32, client: usize) {
    let mut kv = KvClient::new(channel);
    let owner = vec![b'o'; load.owner_bytes];
    for round in 0.. {
        if meter.stopping() {
            return;
        }
        let key = name(run, client, round, load.name_bytes).into_bytes();
        let absent = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::CreateRevision(0)),
        };
        let put = PutRequest { key: key.clone(), value: owner.clone(), lease: 0 };
        let create = RequestOp { request: Some(Request::RequestPut(put)) };
        let sent = Instant::now();
        match kv
            .txn(TxnRequest { compare: vec![absent], success: vec![create], failure: vec![] })
            .await
        {
            Ok(answer) if answer.get_ref().succeeded => meter.done(sent),
            _ => {
                meter.failed();
                continue;
            }
        }
        let sent = Instant::now();
        match kv.delete_range(DeleteRangeRequest { key }).await {
            Ok(answer) if answer.get_ref().deleted == 1 => meter.done(sent),
            _ => meter.failed(),
        }
    }
}

async fn keep_alive(meter: Arc<Meter>, channel: Channel) -> Result<(), tonic::Status> {
    let mut leases = LeaseClient::new(channel);
    let id = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
    let (beats, stream) = tokio::sync::mpsc::channel(1);
    let mut sent = Instant::now();
    let _ = beats.send(LeaseKeepAliveRequest { id }).await;
    let mut answers = leases.lease_keep_alive(ReceiverStream::new(stream)).await?.into_inner();
    while !meter.stopping() {
        match answers.message().await? {
            Some(answer) if answer.ttl > 0 => meter.done(sent),
            _ => meter.failed(),
        }
        sent = Instant::now();
        let _ = beats.send(LeaseKeepAliveRequest { id }).await;
    }
    Ok(())
}
