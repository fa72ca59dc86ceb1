//! The SDK's operations, each noted before it is made and when it is answered.

use crate::record::{Attempt, Recorder};
use client::{AcquireOptions, Checked, Client, Consistency, Error, ErrorCode, Grant, LockGuard, RequestId};
use palisade_sim::checker::{Call, Holder, Mode, Outcome};
use routing::ShardMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wire::ErrorClass;

/// One recorded client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The SDK.
    pub client: Client,
    /// Its number in the record, unique among all processes.
    pub id: u32,
    recorder: Arc<Recorder>,
    map: Arc<ShardMap>,
    numbers: Arc<AtomicU64>,
}

/// An acquire, as it is asked for and asked for again.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Stands for the request id in the record; the id is made of it.
    pub request: u64,
    /// Of the resource.
    pub name: String,
    /// How.
    pub mode: Mode,
    /// Of the lease.
    pub ttl_ms: u32,
    /// 0: it does not wait.
    pub wait_ms: u32,
    /// Its number and id, if it is to hang on one.
    pub session: Option<(u64, String)>,
}

impl Wish {
    /// What checks and the history show as its owner: the request's number, so that they tell whose grant they mean. All that
    /// a session holds is shown as owned by whoever opened it.
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

/// The number in an owner, as a check or the history shows it: of a request, or of a session.
pub fn number_of(owner: &str) -> Option<u64> {
    owner.strip_prefix("request-").or_else(|| owner.strip_prefix("session-"))?.parse().ok()
}

impl Caller {
    /// A caller whose numbers begin at `id` << 40, so that no two of a run share one.
    pub fn new(client: Client, id: u32, recorder: Arc<Recorder>, map: Arc<ShardMap>) -> Caller {
        let numbers = Arc::new(AtomicU64::new(u64::from(id) << 40));
        Caller { client, id, recorder, map, numbers }
    }

    /// A number that nobody else has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The shard that a name lives on.
    pub fn shard(&self, name: &str) -> u32 {
        self.map.route(name).shard.0
    }

    fn asked(&self, name: &str, call: Call) -> Attempt {
        self.recorder.asked(self.id, name, self.shard(name), call)
    }

    /// Takes a lock that its caller renews by itself.
    pub async fn acquire(&self, wish: &Wish) -> Result<Grant, Error> {
        let attempt = self.asked(&wish.name, wish.call());
        let answer = self.client.acquire(wish.options().request_id(wish.request_id())).await;
        let outcome = match &answer {
            Ok(grant) => Outcome::Granted { token: grant.fencing_token, ttl_ms: grant.ttl_ms },
            // Its own grant, which has ended since.
            Err(error) if error.code == ErrorCode::Expired => Outcome::Refused,
            Err(error) => refusal(error),
        };
        self.recorder.answered(attempt, outcome);
        answer
    }

    /// Takes a lock that the SDK keeps: under an id of its own, with renewals and beliefs of its own.
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
                // A refused acquire holds nothing. Any other error may be of the guard's own first renewal: then there is
                // a grant, which the SDK lets go.
                if matches!(error.code.class(), ErrorClass::TryLater | ErrorClass::FixInput) {
                    self.recorder.answered(attempt, Outcome::Refused);
                }
                Err(error)
            }
        }
    }

    /// Another TTL.
    pub async fn renew(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Renew { token });
        let answer = self.client.renew(name, token).await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, |_| Outcome::Renewed));
        answer.map(|_| ())
    }

    /// Lets go.
    pub async fn release(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Release { token });
        let answer = self.client.release(name, token).await;
        let outcome = |released: &client::Released| Outcome::Released { already: released.already_released };
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, outcome));
        answer.map(|_| ())
    }

    /// Ends another's hold.
    pub async fn break_lock(&self, name: &str, token: u64) -> Result<(), Error> {
        let attempt = self.asked(name, Call::Break { token });
        let answer = self.client.break_lock(name, token, "chaos", "operator").await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, |_| Outcome::Broken));
        answer.map(|_| ())
    }

    /// Who holds it?
    pub async fn check(&self, name: &str, linearizable: bool) -> Result<Checked, Error> {
        let attempt = self.asked(name, Call::Check { linearizable });
        let consistency = if linearizable { Consistency::Linearizable } else { Consistency::Stale };
        let answer = self.client.check(name, consistency).await;
        self.recorder.answered(attempt, answer.as_ref().map_or_else(refusal, shown));
        answer
    }

    /// A heartbeat. Returns the shards that have lost the session.
    pub async fn heartbeat(&self, session: &(u64, String), shards: &[u32]) -> Result<Vec<u32>, Error> {
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

    /// The end of a session.
    pub async fn close_session(&self, session: &(u64, String), shards: &[u32]) -> Result<(), Error> {
        let call = |_: &u32| Call::CloseSession { session: session.0 };
        let attempts = self.asked_of_shards(shards, call);
        let answer = self.client.close_session(&session.1, shards).await;
        for (_, attempt) in attempts {
            // A failure does not say which of the shards it was.
            let outcome = answer.as_ref().map_or(Outcome::Unknown, |_| Outcome::Closed);
            self.recorder.answered(attempt, outcome);
        }
        answer.map(|_| ())
    }

    fn asked_of_shards(&self, shards: &[u32], call: impl Fn(&u32) -> Call) -> Vec<(u32, Attempt)> {
        shards.iter().map(|shard| (*shard, self.recorder.asked(self.id, "", *shard, call(shard)))).collect()
    }
}

/// A lock that the SDK keeps. Dropping it leaves it to the SDK to let go in the background; nobody hears how that goes.
#[derive(Debug)]
pub struct Guard<'a> {
    caller: &'a Caller,
    attempt: Attempt,
    /// `None` once it is released.
    guard: Option<LockGuard>,
}

impl Guard<'_> {
    /// Notes what the guard says of itself now; says whether it still holds.
    pub fn look(&self) -> bool {
        let Some(guard) = &self.guard else { return false };
        let valid_us = guard.valid_for().as_micros() as u64;
        if valid_us > 0 {
            self.caller.recorder.believed(self.attempt, guard.token(), valid_us);
        }
        valid_us > 0
    }

    /// Lets go.
    pub async fn release(mut self) -> Result<(), Error> {
        let Some(guard) = self.guard.take() else { return Ok(()) };
        let attempt = self.caller.asked(guard.name(), Call::Release { token: guard.token() });
        let answer = guard.release().await;
        // The guard does not tell whether it had been released before: it had not.
        let outcome = answer.as_ref().map_or_else(refusal, |()| Outcome::Released { already: false });
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

/// What an answer to a check shows.
fn shown(checked: &Checked) -> Outcome {
    let holder = |grant: &Grant| Holder { token: grant.fencing_token, request: number_of(&grant.owner_id) };
    Outcome::Holders { holders: checked.holders.iter().map(holder).collect(), waiters: checked.waiters }
}

/// What an error says for certain.
fn refusal(error: &Error) -> Outcome {
    match error.code.class() {
        ErrorClass::Retry => Outcome::NotDone,
        ErrorClass::TryLater | ErrorClass::FixInput => Outcome::Refused,
        ErrorClass::Fenced => Outcome::Fenced,
        ErrorClass::Unknown | ErrorClass::Internal => Outcome::Unknown,
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
