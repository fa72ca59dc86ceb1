//! The connection of clients to the service: the SDK's stream, or its unary calls.
//!
//! The stream is used without the SDK's retries. The gateway already retries, and failures beyond
//! that must be visible. The module knows nothing of the operations.

use crate::{LoadError, Options};
use client::{AcquireOptions, Client, ClientOptions, endpoint};
use link::mux::{self, Link, LinkOptions, Locks};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{Consistency, ErrorCode, HeartbeatResponse, Operation};

/// A connection to the service. It is cheap to clone.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A stream, with many operations per frame.
    Stream {
        /// The stream of the SDK.
        link: Link<Locks>,
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
        let in_turn = run.endpoints.iter().cycle().take(run.connections as usize);
        in_turn
            .map(|address| {
                if run.unary {
                    let options = ClientOptions::new()
                        .timeout(run.timeout)
                        .unary(true)
                        .security(run.security.clone());
                    return Ok(Caller::Unary(Client::with_options([address], options)));
                }
                let target = endpoint::target(address, &run.security)?;
                let defaults = LinkOptions::default();
                let token = run.security.token.clone();
                let queue_ops_max = defaults.queue_ops_max.max(run.workload.clients as usize);
                let link = Link::start(target, LinkOptions { queue_ops_max, token, ..defaults });
                Ok(Caller::Stream { link, timeout_ms: run.timeout.as_millis() as u64 })
            })
            .collect()
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, op: Op) -> Result<Answer, Refusal> {
        match self {
            Caller::Stream { link, timeout_ms } => link
                .call(Operation::of(op), *timeout_ms)
                .await
                .map_err(|failure| Refusal::of(&failure)),
            Caller::Unary(client) => call_unary(client, op).await.map_err(Refusal::from),
        }
    }
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
