//! The connection of clients to the service: the SDK's stream, or its unary calls.
//!
//! The stream is used without the SDK's retries. The gateway already retries, and failures beyond
//! that must be visible. Only when a gateway ends, its connections go to the next one, as those of
//! every client do: an operation that was certainly not done is sent there at once. The module knows
//! nothing of the operations.

use crate::{LoadError, Options};
use client::{AcquireOptions, Client, ClientOptions, endpoint};
use link::mux::{self, Link, LinkOptions, Locks};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{Consistency, ErrorCode, HeartbeatResponse, Operation};

/// A connection to the service. It is cheap to clone.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A stream, with many operations per frame.
    Stream {
        /// The streams of the SDK, one to each gateway. One of them is used at a time, and the
        /// others do not connect.
        links: Arc<[Link<Locks>]>,
        /// The number of turns to another gateway. Clones share it.
        turns: Arc<AtomicUsize>,
        /// The timeout of each operation.
        timeout_ms: u64,
    },
    /// Unary calls, with one RPC for each operation.
    Unary(Client),
}

/// The failure of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// A name of [`ErrorCode`], or one of the SDK's own: `NOT_SENT`, `LOST`.
    pub kind: &'static str,
    /// Another request holds the lock; this is an answer like any other.
    pub held: bool,
    /// The shortest pause before the next try.
    pub pause: Duration,
    /// The message for people.
    pub message: String,
}

/// The pause after a refusal, unless it asks for a longer one. Without it, a client that is refused
/// at once would spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

impl Caller {
    /// Opens the connections of a run, to its endpoints in turn. Each connects at its first use.
    ///
    /// # Errors
    /// If there are no endpoints, or an endpoint is invalid.
    pub fn connect(run: &Options) -> Result<Vec<Caller>, LoadError> {
        if run.endpoints.is_empty() {
            return Err(LoadError::NoEndpoint);
        }
        (0..run.connections as usize)
            .map(|number| {
                let mut endpoints = run.endpoints.clone();
                endpoints.rotate_left(number % run.endpoints.len());
                if run.unary {
                    let options = ClientOptions::new()
                        .timeout(run.timeout)
                        .unary(true)
                        .security(run.security.clone());
                    return Ok(Caller::Unary(Client::with_options(endpoints, options)));
                }
                let link = |address: &String| {
                    let target = endpoint::target(address, &run.security)?;
                    let defaults = LinkOptions::default();
                    let token = run.security.token.clone();
                    let queue_ops_max = defaults.queue_ops_max.max(run.workload.clients as usize);
                    let options = LinkOptions { queue_ops_max, token, ..defaults };
                    Ok::<_, LoadError>(Link::start(target, options))
                };
                let links = endpoints.iter().map(link).collect::<Result<_, _>>()?;
                let timeout_ms = run.timeout.as_millis() as u64;
                Ok(Caller::Stream { links, turns: Arc::default(), timeout_ms })
            })
            .collect()
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, op: Op) -> Result<Answer, Refusal> {
        match self {
            Caller::Stream { links, turns, timeout_ms } => {
                let outcome = call_stream(links, turns, *timeout_ms, op).await;
                outcome.map_err(|failure| Refusal::of(&failure))
            }
            Caller::Unary(client) => call_unary(client, op).await.map_err(Refusal::from),
        }
    }
}

/// Sends an operation to the present gateway. If that one ends, it goes to the others, each once.
async fn call_stream(
    links: &[Link<Locks>],
    turns: &AtomicUsize,
    timeout_ms: u64,
    op: Op,
) -> mux::Outcome<Answer> {
    for _ in 1..links.len() {
        let turn = turns.load(Ordering::Relaxed);
        let link = &links[turn % links.len()];
        let outcome = link.call(Operation::of(op.clone()), timeout_ms).await;
        let has_ended = match &outcome {
            Err(mux::Failure::Refused(error)) => error.code() == ErrorCode::ShuttingDown,
            // With a connection, its queue was full or the time was over.
            Err(mux::Failure::NotSent(_)) => !link.is_connected(),
            _ => false,
        };
        if !has_ended {
            return outcome;
        }
        // Of many clients that find this out at once, one turns.
        let next = turn.wrapping_add(1);
        let _ = turns.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
    }
    let link = &links[turns.load(Ordering::Relaxed) % links.len()];
    link.call(Operation::of(op), timeout_ms).await
}

async fn call_unary(client: &Client, op: Op) -> Result<Answer, client::Error> {
    Ok(match op {
        Op::Acquire(request) => {
            let request_id = request
                .request_id
                .as_slice()
                .try_into()
                .expect("16 bytes, as the script makes them");
            let options = AcquireOptions::new(request.name)
                .owner(request.owner)
                .ttl(Duration::from_millis(request.ttl_ms.into()))
                .session(request.session_id)
                .request_id(request_id);
            Answer::granted(client.acquire(options).await?)
        }
        Op::Renew(request) => {
            Answer::Renew(client.renew(&request.name, request.fencing_token).await?)
        }
        Op::Release(request) => {
            Answer::Release(client.release(&request.name, request.fencing_token).await?)
        }
        Op::Check(request) => {
            let consistency = Consistency::try_from(request.consistency).unwrap_or_default();
            Answer::Check(client.check(&request.name, consistency).await?)
        }
        Op::Heartbeat(request) => {
            let shards: Vec<u32> = request.leases.iter().map(|lease| lease.shard).collect();
            Answer::Heartbeat(client.heartbeat(&request.session_id, &shards).await?)
        }
        Op::CancelWait(request) => {
            let request_id = request
                .request_id
                .as_slice()
                .try_into()
                .expect("16 bytes, as the script makes them");
            Answer::CancelWait(client.cancel_wait(&request.name, request_id).await?)
        }
        Op::CloseSession(request) => {
            let released = client.close_session(&request.session_id, &request.shards).await?;
            Answer::CloseSession(wire::v1::CloseSessionResponse { released })
        }
        other => unreachable!("no script asks for {other:?}"),
    })
}

/// Whether a heartbeat reached every shard of its session, and found the session alive there.
pub fn kept_alive(answer: &HeartbeatResponse) -> bool {
    answer.lost_shards.is_empty() && answer.failed_shards.is_empty()
}

impl Refusal {
    fn new(kind: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { kind, held: false, pause: PAUSE_AFTER_ERROR, message: message.into() }
    }

    /// A refusal for a heartbeat that did not keep all locks alive.
    pub fn of_heartbeat(answer: &HeartbeatResponse) -> Refusal {
        Refusal::new(
            if answer.lost_shards.is_empty() { "SHARD_FAILED" } else { "SESSION_LOST" },
            format!("{answer:?}"),
        )
    }

    fn of(failure: &mux::Failure) -> Refusal {
        match failure {
            mux::Failure::Refused(error) => client::Error::from((**error).clone()).into(),
            // Gateways never send these two answers.
            mux::Failure::NotLeader { why, .. } | mux::Failure::StaleRoute { why, .. } => {
                Refusal::new("NO_LEADER", &**why)
            }
            mux::Failure::NotSent(why) => Refusal::new("NOT_SENT", &**why),
            mux::Failure::Lost(why) => Refusal::new("LOST", &**why),
        }
    }
}

impl From<client::Error> for Refusal {
    fn from(error: client::Error) -> Refusal {
        let held = matches!(error.code, ErrorCode::Held);
        let pause = if held { Duration::ZERO } else { PAUSE_AFTER_ERROR };
        Refusal {
            kind: error.code.name(),
            held,
            pause: error.retry_after.unwrap_or(pause),
            message: error.message,
        }
    }
}
