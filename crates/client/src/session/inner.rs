//! The state that a session shares with its locks and its heartbeats, and the requests about it.

use super::lives::{self, Answered, Keeper, Lives, LockCell, Named};
use crate::acquiring::{Timed, left_until};
use crate::ends::{self, Heard};
use crate::hearing::Subject;
use crate::lease::{Lease, LeaseCell, Sent};
use crate::{Client, Error, ErrorCode, Opened, WatchOptions};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wire::v1::HeartbeatRequest;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) id: String,
    pub(super) ttl: Duration,
    pub(super) owner: String,
    pub(super) metadata: String,
    lives: Arc<Mutex<Lives>>,
    /// Signals that a lease was started or is in doubt, because it may be due before the next
    /// heartbeat.
    pub(super) due_changed: Notify,
    /// Hears of ends of the session's locks, once it has held one.
    hearing: Mutex<Option<JoinHandle<()>>>,
}

/// An acquire of a session, in flight.
pub(super) struct Acquiring<'a> {
    session: &'a Inner,
    doubts: u64,
}

impl Acquiring<'_> {
    pub(super) fn begin(session: &Inner) -> Acquiring<'_> {
        Acquiring { session, doubts: session.lives().begin_acquire() }
    }
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        self.session.lives().end_acquire();
    }
}

impl Inner {
    pub(super) fn new(client: Client, opened: Opened, owner: String, metadata: String) -> Inner {
        Inner {
            client,
            id: opened.session_id,
            ttl: Duration::from_millis(opened.ttl_ms.into()),
            owner,
            metadata,
            lives: Arc::default(),
            due_changed: Notify::new(),
            hearing: Mutex::default(),
        }
    }

    pub(super) fn lives(&self) -> MutexGuard<'_, Lives> {
        lives::lock(&self.lives)
    }

    /// The session's hold on locks that are to be released.
    pub(super) fn keeper(&self) -> Keeper {
        Keeper::of(&self.lives)
    }

    /// Makes a lock of a grant.
    pub(super) async fn take_up(
        self: &Arc<Self>,
        timed: &Timed,
        acquiring: &Acquiring<'_>,
        until: Instant,
    ) -> Result<Arc<LockCell>, Error> {
        let grant = &timed.grant;
        let lease = self.lease_of(timed, until).await?;
        let mut doubts = acquiring.doubts;
        loop {
            let taken_up = self.lives().take_up(grant, lease.clone(), doubts)?;
            if let Some(cell) = taken_up {
                self.hear();
                return Ok(cell);
            }
            // Another may have ended the lock while its grant was in flight. A renewal of the lock
            // tells.
            doubts = self.lives().doubts();
            self.client
                .renew_timed(&grant.resource_name, grant.fencing_token, left_until(until))
                .await?;
        }
    }

    /// The session's lease on the shard of a new grant.
    ///
    /// An acquire does not renew, and does not tell how long ago the session began there. So one
    /// heartbeat starts the lease, unless a lease of the life is running. The heartbeat also claims
    /// a grant that must be claimed.
    pub(super) async fn lease_of(
        &self,
        timed: &Timed,
        until: Instant,
    ) -> Result<Arc<LeaseCell>, Error> {
        let (grant, shard) = (&timed.grant, timed.grant.shard);
        let named = {
            let mut lives = self.lives();
            let running = lives.lease_of(grant)?;
            if let Some(lease) = running
                && grant.claim_within_ms == 0
            {
                return Ok(lease);
            }
            lives.named_for(grant)
        };
        let (answered, sent) =
            self.heartbeat(std::slice::from_ref(&named), left_until(until)).await?;
        let (said, broken_count) = match answered.first() {
            Some(Answered::Renewed { ttl, broken_count }) => (*ttl, *broken_count),
            Some(Answered::Lost) => {
                return Err(Error::new(
                    ErrorCode::SessionLost,
                    format!(
                        "shard {shard} lost this session right after a grant: open a new session"
                    ),
                ));
            }
            _ => return Err(unconfirmed(shard)),
        };
        // The server's TTL counts if it is shorter, because another acquire may have begun the
        // session there with its own.
        let ttl = self.ttl.min(said.unwrap_or(self.ttl));
        let fresh = Lease::new(sent.at, ttl);
        if fresh.valid_for(Instant::now()).is_zero() {
            return Err(unconfirmed(shard));
        }
        let clock = self.client.options().suspend_clock.clone();
        let lease =
            self.lives().start(grant, LeaseCell::new(fresh, sent.asleep, clock), broken_count)?;
        self.due_changed.notify_one();
        Ok(lease)
    }

    /// Hears of ends of the session's locks from now on, unless it does.
    fn hear(self: &Arc<Self>) {
        let mut hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lives().is_closed() || hearing.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (client, id) = (self.client.clone(), self.id.clone());
        *hearing = Some(tokio::spawn(hear(client, id, Arc::downgrade(self))));
    }

    /// Ends all leases. Returns the shards where the server may still hold locks.
    pub(super) fn end(&self) -> Vec<u32> {
        if let Some(task) = &*self.hearing.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
        let mut lives = self.lives();
        lives.close();
        lives.shards()
    }

    pub(super) async fn close(&self) -> Result<u32, Error> {
        // The shards stay known. If this future is dropped, the next close must name them.
        let shards = self.end();
        if shards.is_empty() {
            return Ok(0);
        }
        self.client.close_session(&self.id, &shards).await
    }

    /// Sends one heartbeat of these lives. Returns each shard's answer.
    pub(super) async fn heartbeat(
        &self,
        named: &[Named],
        timeout: Duration,
    ) -> Result<(Vec<Answered>, Sent), Error> {
        let request = HeartbeatRequest {
            session_id: self.id.clone(),
            leases: named.iter().map(|named| named.lease).collect(),
        };
        let (answer, sent) = self.client.heartbeat_timed(request, timeout).await?;
        Ok((self.lives().answered(named, &answer, sent, self.ttl), sent))
    }

    /// Sends one heartbeat for all shards. The result sets the time of the next.
    pub(super) async fn beat_once(&self, within: Duration) -> Result<(), Error> {
        let named = self.lives().named();
        if named.is_empty() {
            return Ok(());
        }
        let timeout = within.min(self.pace() / 3);
        let (answered, _) = self.heartbeat(&named, timeout).await?;
        match answered.iter().zip(&named).find(|(answered, _)| **answered == Answered::Failed) {
            None => Ok(()),
            Some((_, Named { lease, .. })) => {
                let message = format!("shard {} could not be asked in time", lease.shard);
                Err(Error::new(ErrorCode::NoLeader, message))
            }
        }
    }

    /// The TTL that sets the time between heartbeats.
    pub(super) fn pace(&self) -> Duration {
        self.lives().ttl().map_or(self.ttl, |ttl| ttl.min(self.ttl))
    }

    /// Releases locks that no caller can count on any more, because the heartbeats would keep them.
    pub(super) fn let_go_of_lost(&self) {
        let unwanted = self.lives().unwanted(Instant::now());
        for lock in unwanted {
            self.client.let_go(lock, self.ttl, Some(self.keeper()));
        }
    }
}

/// Passes on ends of a session's locks until the session is gone.
async fn hear(client: Client, id: String, session: Weak<Inner>) {
    ends::hear(&client, Subject::Session, WatchOptions::new().session(&id), |heard| {
        let Some(session) = session.upgrade() else { return ControlFlow::Break(()) };
        match heard {
            Heard::Event(event) => {
                if let (Some(why), Some(grant)) = (ends::reason(event), &event.grant)
                    && grant.session_id == id
                {
                    let (life, token) = (grant.session_life, grant.fencing_token);
                    session.lives().heard_of_end(event.shard, life, token, why);
                }
            }
            Heard::State { shard, tokens } => {
                session.lives().heard_of_state(shard, &tokens);
                session.due_changed.notify_one();
            }
        }
        ControlFlow::Continue(())
    })
    .await;
}

fn unconfirmed(shard: u32) -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        format!(
            "granted, but shard {shard} could not confirm the session's lease in time: try again"
        ),
    )
}
