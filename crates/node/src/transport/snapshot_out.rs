//! Sending snapshots: apart from the other messages, in chunks, with the ended grants that the
//! receiver lacks.
//!
//! The module promises that the sent history reaches up to the snapshot. It reads the engine only
//! after all writes that were queued before the snapshot was handed over, among them the replica's
//! own checkpoint.

use super::connect::{NotConnected, connect};
use super::hello::Greeter;
use super::pace::Pace;
use crate::context::Context;
use crate::giving_way::giving_way;
use crate::host::Seat;
use crate::lifecycle::Phase;
use crate::limits::{
    SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_HISTORY_PAGE, SNAPSHOT_HISTORY_ROWS,
    SNAPSHOT_STEP_TIMEOUT, SNAPSHOTS_AT_ONCE, SNAPSHOTS_QUEUED_MAX,
};
use routing::{META, NodeId, ShardId};
use shard::{BuiltSnapshot, Input, SnapshotData};
use std::sync::Arc;
use storage::StorageError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::internal::v1::install_snapshot_request::Part;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{
    HistoryChunk, HistoryRecord, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotHeader,
};
use wire::reason;

/// The work on a snapshot off the shard's thread. It is reported to the seat that asked for it, so
/// that no later replica of the shard takes it for its own.
#[derive(Debug)]
pub(crate) enum SnapshotJob {
    /// Make a snapshot of the data that the engine holds after all writes queued before.
    Build { shard: ShardId, seat: Seat },
    Send {
        shard: ShardId,
        seat: Seat,
        to: NodeId,
        /// The encoded Raft message, without the data.
        header: Vec<u8>,
        snapshot: SnapshotData,
    },
}

/// The handle to the task that sends snapshots.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotQueue {
    sender: mpsc::Sender<SnapshotJob>,
}

impl SnapshotQueue {
    pub(crate) fn new() -> (SnapshotQueue, mpsc::Receiver<SnapshotJob>) {
        let (sender, receiver) = mpsc::channel(SNAPSHOTS_QUEUED_MAX);
        (SnapshotQueue { sender }, receiver)
    }

    /// Queues a job; `false` if too many wait.
    pub(crate) fn push(&self, job: SnapshotJob) -> bool {
        self.sender.try_send(job).is_ok()
    }
}

/// Sends snapshots, a few at once, until the node stops. Each job is reported to its shard.
pub(crate) async fn send_snapshots(
    context: Arc<Context>,
    greeter: Arc<Greeter>,
    mut jobs: mpsc::Receiver<SnapshotJob>,
) {
    let room = Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE));
    let pace = Arc::new(Pace::default());
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let job = tokio::select! {
            () = context.lifecycle.reached(Phase::Stopped) => return,
            job = jobs.recv() => job,
        };
        let Some(job) = job else { return };
        let (context, greeter, pace) = (context.clone(), greeter.clone(), pace.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let (shard, seat, to, header, snapshot) = match job {
                SnapshotJob::Build { shard, seat } => {
                    tokio::select! {
                        () = context.lifecycle.reached(Phase::Stopped) => {}
                        built = build(&context, shard) => context.host.input_at(seat, Input::SnapshotBuilt(built)),
                    }
                    return;
                }
                SnapshotJob::Send { shard, seat, to, header, snapshot } => {
                    (shard, seat, to, header, snapshot)
                }
            };
            let bytes = header.len() + snapshot.data.len();
            let sent = tokio::select! {
                () = context.lifecycle.reached(Phase::Stopped) => return,
                sent = send(&context, &greeter, &pace, (shard, seat, to), header, snapshot) => sent,
            };
            match &sent {
                Ok(()) => tracing::info!(%shard, peer = %to, bytes, "snapshot sent"),
                Err(reason) => {
                    tracing::warn!(%shard, peer = %to, bytes, %reason, "snapshot not sent; Raft asks again")
                }
            }
            context.metrics.snapshot_sent(sent.is_ok());
            context.host.input_at(seat, Input::SnapshotSent { node: to, ok: sent.is_ok() });
        });
    }
}

/// A snapshot of the shard's last checkpoint in the engine; `None` if the engine cannot give it
/// now.
async fn build(context: &Arc<Context>, shard: ShardId) -> Option<BuiltSnapshot> {
    context.writer.barrier().await.ok()?;
    let engine = context.engine.clone();
    match giving_way(move || shard::build_snapshot(shard, &*engine)).await {
        Ok(Ok(built)) => built,
        // Locks are served without META, and its other replicas may have a better one.
        Ok(Err(StorageError::Damaged(what))) if shard == META => {
            tracing::error!("a snapshot of the topology cannot be built here: {what}");
            None
        }
        Ok(Err(what)) => {
            context.lifecycle.fail(what.to_string()); // the store is damaged
            None
        }
        Err(error) => {
            tracing::warn!(%shard, %error, "a snapshot was not built; Raft asks again");
            None
        }
    }
}

async fn send(
    context: &Arc<Context>,
    greeter: &Greeter,
    pace: &Pace,
    (shard, seat, to): (ShardId, Seat, NodeId),
    header: Vec<u8>,
    snapshot: SnapshotData,
) -> Result<(), NotSent> {
    context.writer.barrier().await.map_err(|error| NotSent::Own(error.to_string()))?;
    let SnapshotData { index, mut data } = snapshot;
    let data_bytes = data.len() as u64;
    if data_bytes > SNAPSHOT_BYTES_MAX {
        return Err(NotSent::TooLarge { data_bytes });
    }
    tracing::info!(%shard, peer = %to, index, data_bytes, "sending a snapshot");

    let mut client = PeerServiceClient::new(reach(context, to).await?);
    let (chunks, stream) = mpsc::channel(2);
    let header =
        SnapshotHeader { hello: Some(greeter.hello()), shard: shard.0, raft: header, data_bytes };
    put(&chunks, Part::Header(header)).await?;
    let call = client.install_snapshot(ReceiverStream::new(stream));
    let mut progress = in_time(call).await?.map_err(Box::new)?.into_inner();
    let history_after = next(&mut progress).await?.history_after;

    let sent = async {
        send_history(context, pace, shard, history_after, &chunks).await?;
        // What was read is whole only if the replica was here all the time.
        if context.host.seat(shard) != Some(seat) {
            return Err(NotSent::Own("its replica has left this node".into()));
        }
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(SNAPSHOT_CHUNK_BYTES));
            leave(context, pace, chunk.len()).await;
            put(&chunks, Part::Data(chunk)).await?;
        }
        put(&chunks, Part::End(true)).await
    };
    let sent: Result<(), NotSent> = sent.await;
    // If the receiver broke off, its last message tells more than the failure to send does.
    let last = next(&mut progress).await;
    sent.and(last).and_then(|last| if last.installed { Ok(()) } else { Err(NotSent::NotInstalled) })
}

/// Waits until these bytes may leave, at the rate that the cluster has set.
async fn leave(context: &Context, pace: &Pace, bytes: usize) {
    pace.leave(bytes, context.cluster.now().cluster().settings.snapshot_bytes_per_s).await;
}

async fn send_history(
    context: &Arc<Context>,
    pace: &Pace,
    shard: ShardId,
    after: u64,
    chunks: &mpsc::Sender<InstallSnapshotRequest>,
) -> Result<(), NotSent> {
    let mut cursor = None;
    loop {
        let engine = context.engine.clone();
        let page = move || engine.history_since(shard, after, cursor, SNAPSHOT_HISTORY_PAGE);
        let read = giving_way(page).await.map_err(|error| NotSent::Own(error.to_string()))?;
        let (records, next) = read.map_err(|error| {
            context.lifecycle.fail(error.to_string());
            NotSent::Own(error.to_string())
        })?;
        // An empty page gets an empty chunk. The receiver already has most of a long history, and
        // gives up on a sender that is silent.
        let mut records = records.into_iter().map(to_wire).peekable();
        loop {
            let records_of_chunk: Vec<_> = records.by_ref().take(SNAPSHOT_HISTORY_ROWS).collect();
            let of_record = |record: &HistoryRecord| record.name.len() + record.tenure.len();
            let bytes = records_of_chunk.iter().map(of_record).sum();
            leave(context, pace, bytes).await;
            put(chunks, Part::History(HistoryChunk { records: records_of_chunk })).await?;
            if records.peek().is_none() {
                break;
            }
        }
        cursor = next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn to_wire(record: storage::HistoryRecord) -> HistoryRecord {
    let storage::HistoryRecord { day, name, token, index, tenure } = record;
    HistoryRecord { day, name, token, index, tenure }
}

async fn put(chunks: &mpsc::Sender<InstallSnapshotRequest>, part: Part) -> Result<(), NotSent> {
    let sent = in_time(chunks.send(InstallSnapshotRequest { part: Some(part) })).await?;
    sent.map_err(|_| NotSent::BrokeOff)
}

async fn next(
    progress: &mut Streaming<InstallSnapshotResponse>,
) -> Result<InstallSnapshotResponse, NotSent> {
    let message = in_time(progress.message()).await?.map_err(Box::new)?;
    message.ok_or(NotSent::Ended)
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, NotSent> {
    tokio::time::timeout(SNAPSHOT_STEP_TIMEOUT, work).await.map_err(|_| NotSent::Silent)
}

/// Connects to a peer at the first of its addresses that answers.
async fn reach(context: &Context, to: NodeId) -> Result<Channel, NotSent> {
    let mut last = NotSent::NoPeer(to);
    if !context.view.has(to) {
        return Err(last);
    }
    for address in context.addresses(to) {
        match connect(context.tls.as_ref(), to, &address).await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// A snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("node {0} is no peer")]
    NoPeer(NodeId),
    #[error(
        "it has {data_bytes} bytes, more than {SNAPSHOT_BYTES_MAX}: spread its locks over more \
         shards"
    )]
    TooLarge { data_bytes: u64 },
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    #[error("{}", reason(.0))]
    Status(#[from] Box<Status>),
    /// This node's own disk, or its task for the disk, failed.
    #[error("{0}")]
    Own(String),
    #[error("nothing happened for {} s", SNAPSHOT_STEP_TIMEOUT.as_secs())]
    Silent,
    #[error("the receiver broke off")]
    BrokeOff,
    #[error("the receiver ended the stream")]
    Ended,
    #[error("it was not installed")]
    NotInstalled,
}
