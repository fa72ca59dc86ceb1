//! The SDK's operations. Each is noted before it is sent and when it is answered.

use crate::record::{Attempt, Recorder};
use client::{
    AcquireOptions, Checked, Client, Consistency, Error, ErrorCode, Grant, Held, LockGuard,
    RequestId,
};
use palisade_sim::checker::{Call, Holder, Mode, Outcome};
use routing::ShardMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wire::ErrorClass;

/// One recorded client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The SDK's client.
    pub client: Client,
    /// The client's number in the record, unique among all processes.
    pub id: u32,
    recorder: Arc<Recorder>,
    map: Arc<ShardMap>,
    numbers: Arc<AtomicU64>,
}

/// An acquire, which can be repeated with the same values.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Stands for the request id in the record. The id is built from it.
    pub request: u64,
    /// The name of the resource.
    pub name: String,
    /// The mode of the lock.
    pub mode: Mode,
    /// The TTL of the lease.
    pub ttl_ms: u32,
    /// The longest wait. With 0 the request does not wait.
    pub wait_ms: u32,
    /// The number and id of the session, if the lock belongs to one.
    pub session: Option<(u64, String)>,
}

impl Wish {
    /// The owner that checks and the history show. It contains the request's number, so that they
    /// identify the grant. All locks of a session show the session's number instead.
    fn owner(&self) -> String {
        match &self.session {
            None => format!("request-{}", self.request),
            Some((number, _)) => format!("session-{number}"),
        }
    }

    fn request_id(&self) -> RequestId {
        let mut id = [0xc5; 16];
        id[8..].copy_from_slice(&self.request.to_be_bytes());
        id
    }

    fn call(&self) -> Call {
        let session = self.session.as_ref().map_or(0, |(number, _)| *number);
        let Wish { request, mode, ttl_ms, wait_ms, .. } = *self;
        Call::Acquire { request, mode, ttl_ms, wait_ms, session }
    }

    fn options(&self) -> AcquireOptions {
        let options = AcquireOptions::new(&self.name).owner(self.owner());
        let options = options.ttl(ms(self.ttl_ms)).wait(ms(self.wait_ms));
        let options = match self.mode {
            Mode::Exclusive => options,
            Mode::Shared => options.shared(),
            Mode::Permits { count, limit } => options.permits(count, limit),
        };
        match &self.session {
            Some((_, id)) => options.session(id),
            None => options,
        }
    }
}

/// Reads the number of a request or a session from an owner, as a check or the history shows it.
pub fn number_of(owner: &str) -> Option<u64> {
    owner.strip_prefix("request-").or_else(|| owner.strip_prefix("session-"))?.parse().ok()
}

impl Caller {
    /// Creates a caller with numbers from `id` << 40, so that no two callers of a run share a
    /// number.
    pub fn new(client: Client, id: u32, recorder: Arc<Recorder>, map: Arc<ShardMap>) -> Caller {
        let numbers = Arc::new(AtomicU64::new(u64::from(id) << 40));
        Caller { client, id, recorder, map, numbers }
    }

    /// A number that no other caller has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The shard of a name.
    pub fn shard(&self, name: &str) -> u32 {
        self.map.route(name).shard.0
    }

    fn asked(&self, name: &str, call: Call) -> Attempt {
        self.recorder.asked(self.id, name, self.shard(name), call)
    }

    /// Acquires a lock that its caller renews by itself.
    pub async fn acquire(&self, wish: &Wish) -> Result<Grant, Error> {
        let attempt = self.asked(&wish.name, wish.call());
        let answer = self.client.acquire(wish.options().request_id(wish.request_id())).await;
        let outcome = match &answer {
            Ok(grant) => Outcome::Granted { token: grant.fencing_token, ttl_ms: grant.ttl_ms },
            // The caller's own grant has ended since.
            Err(error) if error.code == ErrorCode::Expired => Outcome::Refused,
            Err(error) => refusal(error),
        };
        self.recorder.answered(attempt, outcome);
        answer
    }

    /// Acquires a lock that the SDK keeps, with its own request id, renewals and beliefs.
    pub async fn lock(&self, wish: &Wish) -> Result<Guard<'_>, Error> {
        let attempt = self.asked(&wish.name, wish.call());
        self.recorder.let_go(attempt, wish.request);
        match self.client.lock(wish.options()).await {
            Ok(guard) => {
                let (token, ttl_ms) = (guard.token(), guard.grant().ttl_ms);
                self.recorder.answered(attempt, Outcome::Granted { token, ttl_ms });
                Ok(Guard { caller: self, attempt, guard: Some(guard) })
            }
            Err(error) => {
                // A refused acquire holds nothing. Any other error may come from the guard's own
                // first renewal. Then there is a grant, which the SDK releases.
                if matches!(error.code.class(), ErrorClass::TryLater | ErrorClass::FixInput) {
                    self.recorder.answered(attempt, Outcome::Refused);
                }
                Err(error)
            }
        }
    }

    /// Renews a lease for another TTL.
    pub async fn renew(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Renew { token });
        let answer = self.client.renew(name, token).await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, |_| Outcome::Renewed));
        answer.map(|_| ())
    }

    /// Releases a lock.
    pub async fn release(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Release { token });
        let answer = self.client.release(name, token).await;
        let outcome =
            |released: &client::Released| Outcome::Released { already: released.already_released };
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, outcome));
        answer.map(|_| ())
    }

    /// Breaks another client's lock.
    pub async fn break_lock(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Break { token });
        let answer = self.client.break_lock(name, token, "chaos", "operator").await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, |_| Outcome::Broken));
        answer.map(|_| ())
    }

    /// Asks for the current holders.
    pub async fn check(&self, name: &str, linearizable: bool) -> Result<Checked, Error> {
        let attempt = self.asked(name, Call::Check { linearizable });
        let consistency = if linearizable { Consistency::Linearizable } else { Consistency::Stale };
        let answer = self.client.check(name, consistency).await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, shown));
        answer
    }

    /// Sends a heartbeat. Returns the shards that have lost the session.
    pub async fn heartbeat(
        &self,
        session: &(u64, String),
        shards: &[u32],
    ) -> Result<Vec<u32>, Error> {
        let call = |_: &u32| Call::Heartbeat { session: session.0 };
        let attempts = self.asked_of_shards(shards, call);
        let answer = self.client.heartbeat(&session.1, shards).await;
        for (shard, attempt) in attempts {
            let outcome = match &answer {
                Ok(beat) if beat.lost_shards.contains(&shard) => Outcome::Fenced,
                Ok(beat) if beat.failed_shards.contains(&shard) => Outcome::Unknown,
                Ok(_) => Outcome::HeartbeatOk,
                Err(error) => refusal(error),
            };
            self.recorder.answered(attempt, outcome);
        }
        answer.map(|beat| beat.lost_shards)
    }

    /// Closes a session on these shards.
    pub async fn close_session(
        &self,
        session: &(u64, String),
        shards: &[u32],
    ) -> Result<(), Error> {
        let call = |_: &u32| Call::CloseSession { session: session.0 };
        let attempts = self.asked_of_shards(shards, call);
        let answer = self.client.close_session(&session.1, shards).await;
        for (_, attempt) in attempts {
            // A failure does not say which of the shards it concerns.
            let outcome = answer.as_ref().map_or(Outcome::Unknown, |_| Outcome::Closed);
            self.recorder.answered(attempt, outcome);
        }
        answer.map(|_| ())
    }

    fn asked_of_shards(&self, shards: &[u32], call: impl Fn(&u32) -> Call) -> Vec<(u32, Attempt)> {
        shards
            .iter()
            .map(|shard| (*shard, self.recorder.asked(self.id, "", *shard, call(shard))))
            .collect()
    }
}

/// A lock that the SDK keeps. If the guard is dropped, the SDK releases the lock in the background
/// and reports no result.
#[derive(Debug)]
pub struct Guard<'a> {
    caller: &'a Caller,
    attempt: Attempt,
    /// The SDK's guard. `None` once it is released.
    guard: Option<LockGuard>,
}

impl Guard<'_> {
    /// Notes the guard's present belief. Returns whether it still holds the lock.
    pub fn look(&self) -> bool {
        let Some(guard) = &self.guard else { return false };
        let valid_us = guard.valid_for().as_micros() as u64;
        if valid_us > 0 {
            self.caller.recorder.believed(self.attempt, guard.token(), valid_us);
        }
        valid_us > 0
    }

    /// Releases the lock.
    pub async fn release(mut self) -> Result<(), Error> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        let attempt = self.caller.asked(guard.name(), Call::Release { token: guard.token() });
        let answer = guard.release().await;
        // The guard does not tell whether the lock had been released before, but it had not.
        let outcome =
            answer.as_ref().map_or_else(refusal, |()| Outcome::Released { already: false });
        self.caller.recorder.answered(attempt, outcome);
        answer
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            self.caller.asked(guard.name(), Call::Release { token: guard.token() });
        }
    }
}

/// The outcome that a check's answer shows.
fn shown(checked: &Checked) -> Outcome {
    let holder =
        |grant: &Grant| Holder { token: grant.fencing_token, request: number_of(&grant.owner_id) };
    Outcome::Holders {
        holders: checked.holders.iter().map(holder).collect(),
        waiters: checked.waiters,
    }
}

/// The outcome that an error proves.
fn refusal(error: &Error) -> Outcome {
    match error.code.class() {
        ErrorClass::Retry => Outcome::NotDone,
        ErrorClass::TryLater | ErrorClass::FixInput | ErrorClass::Denied => Outcome::Refused,
        ErrorClass::Fenced => Outcome::Fenced,
        ErrorClass::Unknown | ErrorClass::Internal => Outcome::Unknown,
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
