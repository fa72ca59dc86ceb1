//! Taking a lock once: with a request id, in doubt, and on its way to the caller.
//!
//! A grant that its caller never sees is released, unless the caller chose the request id and may
//! come back with it. The module knows nothing of guards and sessions, which renew.

use crate::options::RequestId;
use crate::session::Keeper;
use crate::tries::LEAST_TIME;
use crate::unwanted::Unwanted;
use crate::{AcquireOptions, Cancelled, Client, Error, Grant};
use link::drive::Driven;
use link::mux::Answer;
use std::time::Duration;
use tokio::time::Instant;
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::operation::Op;
use wire::v1::{self, AcquireResponse};

impl Client {
    /// Takes a lock, now or within [`AcquireOptions::wait`]. The caller has to renew it: see
    /// [`lock`](Self::lock) for a guard that renews itself.
    ///
    /// Dropping the future leaves the queue, and releases a grant that came too late to be seen.
    /// With a request id of the caller's ([`AcquireOptions::request_id`]) it does neither, because
    /// the caller may come back with the id, here or in another process.
    ///
    /// # Errors
    /// [`Error::is_held`] if another holds the lock, also at the end of the wait. An earlier try
    /// may still be in flight then. It is cancelled, so that it cannot be granted to a caller that
    /// no longer waits: before the answer if the caller chose the id, otherwise in the background.
    ///
    /// [`Error::is_outcome_unknown`] if the cancel does not succeed in time, or if an earlier grant
    /// of the same id is being released.
    pub async fn acquire(&self, options: impl Into<AcquireOptions>) -> Result<Grant, Error> {
        let options = options.into();
        let until = options.until(self.options().timeout);
        let timed = self.acquire_timed(options, None).await?;
        if timed.grant.claim_within_ms == 0 {
            return Ok(timed.grant);
        }
        let holding = Holding::of(self, &timed, None);
        let mut grant = timed.grant;
        let token = grant.fencing_token;
        let claimed = self.renew_timed(&grant.resource_name, token, left_until(until)).await;
        let (renewal, _) = claimed.map_err(|error| error.after_grant(token))?;
        holding.into_iter().for_each(Holding::disarm);
        (grant.expires_at_ms, grant.ttl_ms) = (renewal.expires_at_ms, renewal.ttl_ms);
        (grant.renewal_count, grant.claim_within_ms) = (renewal.renewal_count, 0);
        // The full TTL began with the claim just now.
        grant.remaining_ms = renewal.ttl_ms;
        Ok(grant)
    }

    /// Acquires, and tells when the request was first sent. `keeper` is the session that would keep
    /// an unseen grant alive.
    pub(crate) async fn acquire_timed(
        &self,
        options: AcquireOptions,
        keeper: Option<Keeper>,
    ) -> Result<Timed, Error> {
        let chosen = options.request_id;
        let request_id = chosen.unwrap_or_else(rand::random);
        let until = options.until(self.options().timeout);
        let request = options.into_request(&self.options().owner, request_id)?;
        let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
        let (name, lives_for_ms) =
            (request.name.clone(), u64::from(ttl_ms) + u64::from(request.wait_ms));
        // Only this call knows an id of our own. If the call does not see the grant, the grant must
        // be released.
        let mut unseen = Unseen {
            client: self,
            name,
            request_id,
            lives_for_ms,
            keeper,
            armed: chosen.is_none(),
        };
        // A fresh id cannot meet a lock that is being released. Only an id of the caller's can.
        let going = chosen.map(|_| self.letting_go().locks_of(&unseen.name)).unwrap_or_default();
        let began = Instant::now();
        let outcome = self.tried_within(Op::Acquire(request), self.options().timeout).await;
        unseen.armed = match &outcome {
            Ok(_) => false,
            Err((error, in_doubt)) => chosen.is_none() && (*in_doubt || error.is_outcome_unknown()),
        };
        let (grant, first_sent, tries) = match outcome {
            Ok(Driven {
                answer: Answer::Acquire(AcquireResponse { grant: Some(grant) }),
                first_sent,
                tries,
                ..
            }) => (grant, first_sent, tries),
            Ok(_) => return Err(Error::confused("an acquire")),
            // The acquire was refused, but an earlier try may still arrive and be granted.
            Err((error, true)) if chosen.is_some() && !error.is_outcome_unknown() => {
                (self.cancel_first(&unseen.name, request_id, error, until).await?, began, 2)
            }
            Err((error, _)) => return Err(error),
        };
        if chosen.is_some() && !self.letting_go().take_back(&grant, &going) {
            return Err(Error::being_released(grant.fencing_token));
        }
        Ok(Timed { grant, first_sent, tries, fresh_id: chosen.is_none() })
    }

    /// Ends the try that is in doubt before the caller is told that its acquire was refused.
    /// Without this:
    ///
    /// 1. The caller is told HELD, and this client goes on to cancel and release in the background.
    /// 2. The caller asks again with its id, through another client, and is granted the lock.
    /// 3. The cancel finds that grant, and its release ends a lock that the caller holds.
    ///
    /// So a grant of the id becomes the answer, and no release is ever sent for it.
    async fn cancel_first(
        &self,
        name: &str,
        request_id: RequestId,
        refused: Error,
        until: Instant,
    ) -> Result<Grant, Error> {
        let request_id = request_id.to_vec();
        let op = Op::CancelWait(v1::CancelWaitRequest { name: name.into(), request_id });
        match self.run_within(op, left_until(until)).await.map(|driven| driven.answer) {
            Ok(Answer::CancelWait(Cancelled { grant: Some(grant), .. })) => Ok(grant),
            Ok(Answer::CancelWait(_)) => Err(refused),
            Ok(_) => Err(Error::confused("a cancel")),
            Err(why) => Err(refused.in_doubt(&why)),
        }
    }
}

/// A grant, and when it was first asked for.
pub(crate) struct Timed {
    pub(crate) grant: Grant,
    pub(crate) first_sent: Instant,
    pub(crate) tries: u32,
    /// The request id was made for this call, so no request carried it before `first_sent`.
    pub(crate) fresh_id: bool,
}

/// A grant on its way to the caller. It is released on drop, unless it arrives.
pub(crate) struct Holding<'a> {
    client: &'a Client,
    unwanted: Option<Unwanted>,
    ttl: Duration,
    keeper: Option<Keeper>,
}

impl Holding<'_> {
    /// Guards a grant. `keeper` is the session that keeps it alive. `None` if the caller chose the
    /// id. The caller is then told to retry with it, so a background release would end the lock
    /// that the retry gets.
    pub(crate) fn of<'a>(
        client: &'a Client,
        timed: &Timed,
        keeper: Option<Keeper>,
    ) -> Option<Holding<'a>> {
        let ttl = Duration::from_millis(timed.grant.ttl_ms.into());
        timed.fresh_id.then(|| Holding {
            client,
            unwanted: Some(Unwanted::lock(&timed.grant)),
            ttl,
            keeper,
        })
    }

    pub(crate) fn disarm(mut self) {
        self.unwanted = None;
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if let Some(unwanted) = self.unwanted.take() {
            self.client.let_go(unwanted, self.ttl, self.keeper.take());
        }
    }
}

/// The time left until then, for a part of a longer operation.
pub(crate) fn left_until(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(LEAST_TIME)
}

/// An acquire with a grant that no caller may ever see. On drop it is cancelled, and its grant
/// released.
struct Unseen<'a> {
    client: &'a Client,
    name: String,
    request_id: RequestId,
    lives_for_ms: u64,
    keeper: Option<Keeper>,
    armed: bool,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        if self.armed {
            let wait = Unwanted::Wait {
                name: std::mem::take(&mut self.name),
                request_id: self.request_id,
            };
            self.client.let_go(wait, Duration::from_millis(self.lives_for_ms), self.keeper.take());
        }
    }
}
