//! The behaviour of clients: they acquire, renew, release, check and break locks.
//!
//! Clients also forget a lock, come late with it, and retry a request with an unknown outcome. Each
//! actor is one task that performs one action after the other until its round is over.

use super::calls::{Caller, Wish};
use crate::clock::now_us;
use crate::names::Name;
use client::{Error, ErrorCode};
use palisade_sim::checker::Mode;
use palisade_sim::rng::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The time after its first use for which a request id is retried. The lock table remembers the id
/// for half a minute.
const RETRIED_FOR_US: u64 = 12_000_000;
/// The longest wait. It is longer than a silent holder can delay a waiter while there is no fault.
const PATIENCE_MS: u32 = 12_000;
/// The mean pause between two actions of an actor.
const PACE_MS: u64 = 60;

/// The role of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes private leases and renews them by hand.
    Locker,
    /// Takes all its locks on sessions.
    Sessioner,
    /// Takes locks by the SDK's guards.
    Guardian,
    /// Checks locks, and breaks one now and then.
    Watcher,
}

/// One actor in one round.
#[derive(Debug)]
pub struct Actor {
    pub caller: Caller,
    pub role: Role,
    pub rng: Rng,
    /// The start of its round on the record's clock.
    pub from_us: u64,
    pub round: u32,
    pub over: Arc<AtomicBool>,
}

impl Actor {
    /// Acts until the round is over, and then completes the operation under way.
    pub async fn run(mut self) {
        while !self.is_over() {
            match self.role {
                Role::Locker => self.lock_by_hand().await,
                Role::Sessioner => self.use_a_session().await,
                Role::Guardian => self.keep_by_guard().await,
                Role::Watcher => self.watch().await,
            }
            self.pause().await;
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn pause(&mut self) {
        sleep(Duration::from_millis(self.rng.around(PACE_MS))).await;
    }

    fn name(&mut self) -> Name {
        let since_us = now_us().saturating_sub(self.from_us);
        Name::pick(&mut self.rng, self.round, since_us)
    }

    fn wish(&mut self) -> Wish {
        let name = self.name();
        let mode = name.mode(&mut self.rng);
        let ttl_ms = self.rng.range(700, 2_500) as u32;
        let waits = name.hot && self.rng.percent(65);
        let wait_ms = if waits { self.rng.range(200, 2_500) as u32 } else { 0 };
        Wish {
            request: self.caller.number(),
            name: name.name,
            mode,
            ttl_ms,
            wait_ms,
            session: None,
        }
    }

    /// The time to hold a lock, in milliseconds. It is mostly short, so that other actors get the
    /// lock. Sometimes it is so long that the lease must be renewed.
    fn hold_ms(&mut self) -> u64 {
        if self.rng.percent(12) { self.rng.range(800, 3_000) } else { self.rng.around(25) }
    }

    // ---- private leases -------------------------------------------------------------------------

    async fn lock_by_hand(&mut self) {
        let wish = self.wish();
        let Some(token) = self.take(&wish).await else { return };
        self.look_soon(&wish.name).await;
        let fate = self.rng.below(100);
        if fate < 7 {
            // The actor forgets its lock, and remembers it too late.
            let late_ms = u64::from(wish.ttl_ms) + self.rng.range(0, 600);
            return self.come_late(&wish.name, token, late_ms).await;
        }
        self.keep(&wish, token).await;
        let released = self.caller.release(&wish.name, token).await;
        self.look_soon(&wish.name).await;
        if released.is_ok() && fate > 92 {
            let late_ms = self.rng.range(0, 200);
            self.come_late(&wish.name, token, late_ms).await;
        }
    }

    /// Acquires a lock, and retries with the same id while the outcome is unknown.
    async fn take(&mut self, wish: &Wish) -> Option<u64> {
        let first_us = now_us();
        loop {
            match self.caller.acquire(wish).await {
                Ok(grant) => return Some(grant.fencing_token),
                Err(error) if error.is_outcome_unknown() && self.rng.percent(70) => {
                    sleep(Duration::from_millis(self.rng.range(1, 400))).await;
                    if now_us() - first_us > RETRIED_FOR_US || self.is_over() {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Holds the lock for a while, and renews it every third of its TTL.
    async fn keep(&mut self, wish: &Wish, token: u64) {
        let until = Instant::now() + Duration::from_millis(self.hold_ms());
        let third = Duration::from_millis(u64::from(wish.ttl_ms) / 3);
        loop {
            let next = Instant::now() + third;
            sleep_until(next.min(until)).await;
            if next >= until || self.is_over() {
                return;
            }
            if self.caller.renew(&wish.name, token).await.is_err_and(|error| error.is_fenced()) {
                return;
            }
        }
    }

    /// Comes back with a token that is most likely over. The token must be refused if another
    /// client holds the lock.
    async fn come_late(&mut self, name: &str, token: u64, late_ms: u64) {
        sleep(Duration::from_millis(late_ms)).await;
        for _ in 0..self.rng.range(1, 2) {
            if self.rng.percent(50) {
                let _ = self.caller.renew(name, token).await;
            } else {
                let _ = self.caller.release(name, token).await;
            }
        }
    }

    /// A check right after an acknowledged operation must show it, whichever replica answers.
    async fn look_soon(&mut self, name: &str) {
        if self.rng.percent(35) {
            let _ = self.caller.check(name, true).await;
        }
    }

    // ---- guards ---------------------------------------------------------------------------------

    async fn keep_by_guard(&mut self) {
        let wish = self.wish();
        let hold_ms = self.hold_ms();
        let drops = self.rng.percent(10);
        let caller = self.caller.clone();
        let Ok(guard) = caller.lock(&wish).await else { return };
        let until = Instant::now() + Duration::from_millis(hold_ms);
        let mut holds = guard.look();
        while holds && Instant::now() < until && !self.is_over() {
            sleep(Duration::from_millis(60)).await;
            holds = guard.look();
        }
        if !drops && holds {
            let _ = guard.release().await;
        }
    }

    // ---- sessions -------------------------------------------------------------------------------

    /// Opens a session, holds several locks on it for a while, and closes or forgets it.
    async fn use_a_session(&mut self) {
        let ttl_ms = self.rng.range(900, 2_500) as u32;
        let options = client::SessionOptions::new().ttl(Duration::from_millis(ttl_ms.into()));
        let Ok(opened) = self.caller.client.open_session_raw(options).await else { return };
        let session = (self.caller.number(), opened.session_id);
        let mut shards: BTreeSet<u32> = BTreeSet::new();
        let mut held: Vec<(String, u64)> = Vec::new();
        // Each name is asked for once, because the record tells a session's locks apart by their
        // names.
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut beat_at = Instant::now() + Duration::from_millis(u64::from(ttl_ms) / 3);
        for _ in 0..self.rng.range(3, 12) {
            if self.is_over() {
                break;
            }
            if Instant::now() >= beat_at && !shards.is_empty() {
                beat_at = Instant::now() + Duration::from_millis(u64::from(ttl_ms) / 3);
                let named: Vec<u32> = shards.iter().copied().collect();
                if self.caller.heartbeat(&session, &named).await.is_ok_and(|lost| !lost.is_empty())
                {
                    return;
                }
            }
            if held.len() < 3 && self.rng.percent(60) {
                // These waits are shorter than others, because no heartbeat is sent for this
                // session meanwhile.
                let wish = self.wish();
                let wait_ms = wish.wait_ms.min(ttl_ms / 4);
                let wish = Wish { session: Some(session.clone()), ttl_ms, wait_ms, ..wish };
                let shard = self.caller.shard(&wish.name);
                if !asked.insert(wish.name.clone()) {
                    continue;
                }
                match self.caller.acquire(&wish).await {
                    Ok(grant) => {
                        shards.insert(shard);
                        held.push((wish.name.clone(), grant.fencing_token));
                        self.look_soon(&wish.name).await;
                    }
                    Err(error) if error.code == ErrorCode::SessionLost => return,
                    // A waiter or a grant may remain on that shard, so the close must reach it.
                    Err(error) if error.is_outcome_unknown() => {
                        shards.insert(shard);
                    }
                    Err(_) => {}
                }
            } else if let Some((name, token)) = held.pop() {
                sleep(Duration::from_millis(self.rng.around(30))).await;
                let _ = self.caller.release(&name, token).await;
            }
            self.pause().await;
        }
        let named: Vec<u32> = shards.into_iter().collect();
        if named.is_empty() {
            return;
        }
        if self.rng.percent(60) {
            let _ = self.caller.close_session(&session, &named).await;
        } else if self.rng.percent(50) {
            // The actor forgets its session, and remembers it too late.
            sleep(Duration::from_millis(u64::from(ttl_ms) + self.rng.range(0, 800))).await;
            let _ = self.caller.heartbeat(&session, &named).await;
        }
    }

    /// Takes a name of its own, falls silent, and waits for the name as another client would. The
    /// name must be granted once the lease has run out.
    async fn outlive_a_silent_holder(&mut self) {
        let (number, ttl_ms) = (self.caller.number(), self.rng.range(500, 1_000) as u32);
        let (name, mode) = (format!("r{}.silent/{number}", self.round), Mode::Exclusive);
        let silent =
            Wish { request: number, name: name.clone(), mode, ttl_ms, wait_ms: 0, session: None };
        if self.caller.acquire(&silent).await.is_err() {
            return;
        }
        let waiter = Wish { request: self.caller.number(), wait_ms: PATIENCE_MS, ..silent };
        if let Ok(grant) = self.caller.acquire(&waiter).await {
            let _ = self.caller.release(&name, grant.fencing_token).await;
        }
    }

    // ---- looking --------------------------------------------------------------------------------

    async fn watch(&mut self) {
        if self.rng.percent(3) {
            return self.outlive_a_silent_holder().await;
        }
        let name = self.name();
        let linearizable = self.rng.percent(80);
        let Ok(checked) = self.caller.check(&name.name, linearizable).await else { return };
        if let Some(holder) = checked.holders.first()
            && self.rng.percent(3)
        {
            let broken: Result<(), Error> =
                self.caller.break_lock(&name.name, holder.fencing_token).await;
            if broken.is_ok() {
                self.look_soon(&name.name).await;
            }
        }
    }
}
