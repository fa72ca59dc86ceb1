//! A session's view of its shards: the session's life on each, its lease there, and the locks that
//! hang on it.
//!
//! This module only keeps books and sends nothing. A story shows why lives matter:
//!
//! 1. A session holds `a` on a shard, and cannot reach the shard for longer than its TTL. The shard
//!    ends the session there.
//! 2. Much later the session acquires `b` on that shard. If the shard has forgotten the old session
//!    by then, a session with the same id begins anew.
//! 3. The next heartbeat succeeds. If it counted for the old session, `a` would seem to be held,
//!    although another holds it by now.
//!
//! So a lease belongs to one life, and a heartbeat renews the life that it names.

use crate::lease::{LeaseCell, LostReason, Sent};
use crate::unwanted::Unwanted;
use crate::{Error, ErrorCode, Grant, Heartbeat};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::v1::{SessionLease, SessionLeaseState};

/// Most locks ended by others that are remembered for acquires in flight. Above it, these acquires
/// are in doubt.
const EARLY_MAX: usize = 1_024;

/// One lock of a session, shared by its holder and the session.
#[derive(Debug)]
pub(super) struct LockCell {
    lease: Arc<LeaseCell>,
    /// The reason why this lock alone is lost, while its lease is not.
    ended: watch::Sender<Option<LostReason>>,
}

impl LockCell {
    fn new(lease: Arc<LeaseCell>) -> LockCell {
        LockCell { lease, ended: watch::Sender::new(None) }
    }

    /// Marks the lock as lost, without its lease. The first reason stays.
    pub(super) fn lose(&self, reason: LostReason) {
        self.ended.send_modify(|ended| {
            ended.get_or_insert(reason);
        });
    }

    pub(super) fn lost_now(&self) -> Option<LostReason> {
        let ended = self.ended.borrow().clone();
        ended.or_else(|| self.lease.lost_now())
    }

    pub(super) fn valid_for(&self) -> Duration {
        if self.ended.borrow().is_some() { Duration::ZERO } else { self.lease.valid_for() }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.lease.ttl()
    }

    /// Resolves when the lock is lost.
    pub(super) async fn lost(&self) -> LostReason {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as `self`.
            Ok(reason) = ended.wait_for(Option::is_some) => reason.clone().unwrap_or(LostReason::NotRenewed),
            reason = self.lease.lost() => reason,
        }
    }
}

/// A lock that the server may still hold for this session.
#[derive(Debug)]
struct Kept {
    name: String,
    /// Gone if the holder dropped the lock. The lock then waits to be released.
    cell: Weak<LockCell>,
    /// When the lock was first seen to be lost in a way that the server may not know of.
    lost_since: Option<Instant>,
}

/// One life of the session on one shard.
#[derive(Debug)]
struct Life {
    /// The number of the life. 0 if the server did not send it.
    id: u64,
    lease: Arc<LeaseCell>,
    broken_seen: u64,
    locks: BTreeMap<u64, Kept>,
}

/// The part of a heartbeat for one shard.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) lease: SessionLease,
    /// The lease that the heartbeat renews. `None` if there is none yet.
    cell: Option<Arc<LeaseCell>>,
}

/// A shard's answer to a heartbeat.
#[derive(Debug, PartialEq)]
pub(super) enum Answered {
    /// The named life is alive.
    Renewed {
        /// The session's TTL on the shard, if the server sent it.
        ttl: Option<Duration>,
        /// How many locks of this life others have ended so far.
        broken_count: u64,
    },
    /// The shard knows no such life.
    Lost,
    /// The shard could not be asked.
    Failed,
}

/// The lives of one session.
///
/// * A shard stays here until it loses the session, even when the session holds nothing there any
///   more. Without heartbeats the session's record there would end, and refuse the next acquire.
/// * A lost lease never comes back. Its locks are lost, and a new lease begins with the next
///   acquire.
/// * `early` has the locks that others ended while acquires are in flight, if they are not known
///   here.
#[derive(Debug, Default)]
pub(super) struct Lives {
    shards: BTreeMap<u32, Life>,
    acquiring: usize,
    early: BTreeSet<(u32, u64)>,
    /// Rises whenever an acquire in flight may have missed that another ended its lock.
    doubts: u64,
    closed: bool,
}

impl Lives {
    pub(super) fn shards(&self) -> Vec<u32> {
        self.shards.keys().copied().collect()
    }

    fn live(&self) -> impl Iterator<Item = &Arc<LeaseCell>> {
        self.shards.values().map(|life| &life.lease).filter(|lease| lease.lost_now().is_none())
    }

    /// When the first lease is due for renewal. A lost lease is never due, and is named only so
    /// that the session stays known.
    pub(super) fn renew_at(&self, interval_max: Duration) -> Option<Instant> {
        self.live().map(|lease| lease.renew_at(interval_max)).min()
    }

    /// The shortest TTL of the leases that live.
    pub(super) fn ttl(&self) -> Option<Duration> {
        self.live().map(|lease| lease.ttl()).min()
    }

    /// Begins an acquire. Returns the number of doubts: see [`take_up`](Self::take_up).
    pub(super) fn begin_acquire(&mut self) -> u64 {
        self.acquiring += 1;
        self.doubts
    }

    pub(super) fn end_acquire(&mut self) {
        self.acquiring -= 1;
        if self.acquiring == 0 {
            self.early.clear();
        }
    }

    pub(super) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// The running lease that a grant hangs on. `None` if a heartbeat must start it.
    ///
    /// A grant of a newer life ends the older life here, because the server has ended it.
    pub(super) fn lease_of(&mut self, grant: &Grant) -> Result<Option<Arc<LeaseCell>>, Error> {
        let Some(life) = self.shards.get(&grant.shard) else { return Ok(None) };
        if grant.session_life < life.id {
            return Err(Error::new(
                ErrorCode::SessionLost,
                format!(
                    "shard {} ended the life of this session that was granted the lock: acquire anew",
                    grant.shard
                ),
            ));
        }
        if grant.session_life > life.id {
            self.end(grant.shard, "ended this session, and has begun it anew since");
            return Ok(None);
        }
        Ok(Some(life.lease.clone()).filter(|lease| lease.lost_now().is_none()))
    }

    /// Takes in a lease that a heartbeat started, and the number of locks that others had ended by
    /// then. Returns the lease to use. If another lease came first, that one is returned.
    pub(super) fn start(
        &mut self,
        grant: &Grant,
        fresh: LeaseCell,
        broken_seen: u64,
    ) -> Result<Arc<LeaseCell>, Error> {
        if let Some(lease) = self.lease_of(grant)? {
            return Ok(lease);
        }
        let fresh = Arc::new(fresh);
        let new = || Life {
            id: grant.session_life,
            lease: fresh.clone(),
            broken_seen,
            locks: BTreeMap::new(),
        };
        // Locks of an older lease of the same life stay lost, and must still be released.
        self.shards.entry(grant.shard).or_insert_with(new).lease = fresh.clone();
        Ok(fresh)
    }

    /// Hangs the lock on this lease. `None` if there are more than `doubts` doubts: another may
    /// then have ended the lock meanwhile.
    pub(super) fn take_up(
        &mut self,
        grant: &Grant,
        lease: Arc<LeaseCell>,
        doubts: u64,
    ) -> Result<Option<Arc<LockCell>>, Error> {
        if self.doubts != doubts {
            return Ok(None);
        }
        let (shard, token) = (grant.shard, grant.fencing_token);
        if self.early.contains(&(shard, token)) {
            return Err(Error::new(
                ErrorCode::NotOwner,
                format!("another ended the lock right after token {token} was granted"),
            ));
        }
        let current = self.shards.get_mut(&shard).filter(|life| Arc::ptr_eq(&life.lease, &lease));
        let Some(life) = current else {
            return Err(Error::new(
                ErrorCode::SessionLost,
                format!("shard {shard} lost this session right after a grant"),
            ));
        };
        let known = life.locks.get(&token).and_then(|kept| kept.cell.upgrade());
        if let Some(cell) =
            known.filter(|cell| Arc::ptr_eq(&cell.lease, &lease) && cell.lost_now().is_none())
        {
            // The caller asked twice with one request id. When one of its objects releases the
            // lock, both must know.
            return Ok(Some(cell));
        }
        let cell = Arc::new(LockCell::new(lease));
        let kept = Kept {
            name: grant.resource_name.clone(),
            cell: Arc::downgrade(&cell),
            lost_since: None,
        };
        life.locks.insert(token, kept);
        Ok(Some(cell))
    }

    /// Whether a later acquire with the same request id has taken the lock up again, after `cell`
    /// lost it.
    pub(super) fn is_taken_up_again(&self, grant: &Grant, cell: &Arc<LockCell>) -> bool {
        let kept =
            self.shards.get(&grant.shard).and_then(|life| life.locks.get(&grant.fencing_token));
        kept.and_then(|kept| kept.cell.upgrade()).is_some_and(|other| !Arc::ptr_eq(&other, cell))
    }

    /// Drops a lock that the server no longer holds.
    pub(super) fn forget(&mut self, name: &str, token: u64) {
        for life in self.shards.values_mut() {
            if life.locks.get(&token).is_some_and(|kept| kept.name == name) {
                life.locks.remove(&token);
            }
        }
    }

    /// The locks to release without a caller's request. A caller dropped them, or they were lost
    /// here while the server keeps them, because it still hears of the session.
    ///
    /// The server has not timed some losses: those after a suspend, or in doubt. Such a lock is
    /// kept for one TTL more, as if it got no heartbeats, so that its holder has time to stop.
    pub(super) fn unwanted(&mut self, now: Instant) -> Vec<Unwanted> {
        let mut unwanted = Vec::new();
        let lives = self.shards.values_mut();
        let locks = lives
            .flat_map(|life| life.locks.iter_mut().map(|(token, kept)| (life.id, *token, kept)));
        for (session_life, token, kept) in locks {
            let over = match kept.cell.upgrade() {
                None => true,
                Some(cell) => match cell.lost_now() {
                    None => false,
                    Some(LostReason::NotRenewed) => true,
                    Some(_) => now >= *kept.lost_since.get_or_insert(now) + cell.ttl(),
                },
            };
            if over {
                unwanted.push(Unwanted::Lock { name: kept.name.clone(), token, session_life });
            }
        }
        unwanted
    }

    /// The parts of a heartbeat, one for each shard.
    pub(super) fn named(&self) -> Vec<Named> {
        let named = self.shards.iter().map(|(shard, life)| Named {
            lease: SessionLease { shard: *shard, life: life.id, broken_seen: life.broken_seen },
            cell: Some(life.lease.clone()),
        });
        named.collect()
    }

    /// The part of the first heartbeat after a grant.
    pub(super) fn named_for(&self, grant: &Grant) -> Named {
        let (shard, life) = (grant.shard, grant.session_life);
        let known = self.shards.get(&shard).filter(|known| known.id == life);
        let broken_seen = known.map_or(0, |known| known.broken_seen);
        Named { lease: SessionLease { shard, life, broken_seen }, cell: None }
    }

    /// Takes in the answer to a heartbeat. `ttl` is the TTL that the session was opened with.
    pub(super) fn answered(
        &mut self,
        named: &[Named],
        answer: &Heartbeat,
        sent: Sent,
        ttl: Duration,
    ) -> Vec<Answered> {
        let lost: BTreeSet<u32> = answer.lost_shards.iter().copied().collect();
        let failed: BTreeSet<u32> = answer.failed_shards.iter().copied().collect();
        let states: BTreeMap<u32, &SessionLeaseState> =
            answer.leases.iter().map(|state| (state.shard, state)).collect();
        let each = named.iter().map(|named| {
            let SessionLease { shard, life, .. } = named.lease;
            let state = states.get(&shard).copied();
            let answered = if lost.contains(&shard)
                || state.is_some_and(|state| life != 0 && state.life != life)
            {
                Answered::Lost
            } else if failed.contains(&shard) || (life != 0 && state.is_none()) {
                // An old gateway that does not know of lives may have renewed another life.
                Answered::Failed
            } else {
                let ttl_ms = state.map_or(0, |state| state.ttl_ms);
                let ttl = (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms.into()));
                let broken_count = state.map_or(0, |state| state.broken_count);
                Answered::Renewed { ttl, broken_count }
            };
            match &answered {
                Answered::Lost => self.lost(named),
                Answered::Failed => {}
                Answered::Renewed { ttl: said, .. } => {
                    if let Some(cell) = &named.cell {
                        cell.renewed(sent, ttl.min(said.unwrap_or(ttl)));
                    }
                    if let Some(state) = state {
                        self.heard_of_breaks(state);
                    }
                }
            }
            answered
        });
        each.collect()
    }

    /// Whether heartbeats have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends all leases, because nothing is held any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.shards.values().for_each(|life| life.lease.lose(LostReason::Released));
    }

    fn lost(&mut self, named: &Named) {
        let why = "does not know the session any more";
        if let Some(cell) = &named.cell {
            cell.lose(fenced(named.lease.shard, why));
        }
        // A life that was begun anew meanwhile stays.
        if self.shards.get(&named.lease.shard).is_some_and(|life| life.id == named.lease.life) {
            self.end(named.lease.shard, why);
        }
    }

    /// Ends the life on one shard, with all its locks.
    fn end(&mut self, shard: u32, why: &str) {
        if let Some(life) = self.shards.remove(&shard) {
            life.lease.lose(fenced(shard, why));
            // Some locks may hang on older leases.
            for kept in life.locks.into_values() {
                if let Some(cell) = kept.cell.upgrade() {
                    cell.lose(fenced(shard, why));
                }
            }
        }
    }

    /// Loses one lock, of which a watch says that it has ended. `life` is 0 if the watch does not
    /// tell it.
    pub(super) fn heard_of_end(&mut self, shard: u32, life: u64, token: u64, why: String) {
        let known = self.shards.get_mut(&shard);
        let known = known.filter(|known| life == 0 || known.id == 0 || known.id == life);
        let kept = known.and_then(|known| known.locks.remove(&token));
        match kept.map(|kept| kept.cell.upgrade()) {
            Some(Some(cell)) => cell.lose(LostReason::Fenced(why)),
            Some(None) => {}
            None if self.acquiring > 0 => drop(self.early.insert((shard, token))),
            None => {}
        }
        if self.early.len() > EARLY_MAX {
            self.early.clear();
            self.doubts += 1;
        }
    }

    /// Takes in all tokens that the session holds on a shard, as a watch tells them. If a lock of
    /// the shard is not among them, the next heartbeat is due at once, and its answer decides.
    pub(super) fn heard_of_state(&mut self, shard: u32, tokens: &BTreeSet<u64>) {
        if self.acquiring > 0 {
            // The grant of an acquire in flight may have ended before this state was read.
            self.doubts += 1;
        }
        let Some(life) = self.shards.get(&shard) else { return };
        let is_held =
            |kept: &Kept| kept.cell.upgrade().is_some_and(|cell| cell.lost_now().is_none());
        if life.locks.iter().any(|(token, kept)| !tokens.contains(token) && is_held(kept)) {
            life.lease.doubt();
        }
    }

    fn heard_of_breaks(&mut self, state: &SessionLeaseState) {
        let mut life = self.shards.get_mut(&state.shard).filter(|life| life.id == state.life);
        if let Some(life) = &mut life {
            life.broken_seen = life.broken_seen.max(state.broken_count);
        }
        for token in &state.broken_tokens {
            let kept = life.as_mut().and_then(|life| life.locks.remove(token));
            match kept.map(|kept| kept.cell.upgrade()) {
                Some(Some(cell)) => cell.lose(LostReason::Fenced(
                    "it was broken, or released without this session: see its history".into(),
                )),
                Some(None) => {}
                None if self.acquiring > 0 => drop(self.early.insert((state.shard, *token))),
                None => {}
            }
        }
        if state.broken_overflow {
            let why = "others ended more locks of this session than the server remembers, and this may be one";
            let cells = life
                .iter()
                .flat_map(|life| life.locks.values())
                .filter_map(|kept| kept.cell.upgrade());
            cells.for_each(|cell| cell.lose(LostReason::InDoubt(why.into())));
        }
        if state.broken_overflow || self.early.len() > EARLY_MAX {
            self.early.clear();
            self.doubts += 1;
        }
    }
}

fn fenced(shard: u32, why: &str) -> LostReason {
    LostReason::Fenced(format!("shard {shard} {why}"))
}

/// Locks the books of a session.
pub(super) fn lock(lives: &Mutex<Lives>) -> MutexGuard<'_, Lives> {
    lives.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session's hold on locks that are to be released. Its heartbeats keep them alive until then.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Weak<Mutex<Lives>>);

impl Keeper {
    pub(super) fn of(lives: &Arc<Mutex<Lives>>) -> Keeper {
        Keeper(Arc::downgrade(lives))
    }

    /// Whether the session may still be alive.
    pub(crate) fn keeps(&self) -> bool {
        self.0.upgrade().is_some_and(|lives| !lock(&lives).is_closed())
    }

    /// Drops a lock that the server no longer holds.
    pub(crate) fn forget(&self, name: &str, token: u64) {
        if let Some(lives) = self.0.upgrade() {
            lock(&lives).forget(name, token);
        }
    }
}
