//! Grants and waiters of a table: the queue of a name in the order of turns, and pictures of many
//! names, page by page.
//!
//! A watch begins with a picture. Events come between its pages, so each page says how far the
//! picture is told ([`PicturePlace`]). The told part changes by events only. The rest is on a later
//! page as it is then. This module knows nothing of events.

use super::LockTable;
use super::index::Ref;
use super::merge::{Chains, Walked};
use super::pages::Paused;
use super::rows::{GrantRow, WaiterRow};
use super::slab::NONE;
use crate::hash::hash_str;
use crate::types::*;
use std::cell::RefCell;

/// The rows of a picture. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PictureOf {
    /// This name only. `None`: all names of `prefix`.
    pub name: Option<String>,
    /// Names that begin with this.
    pub prefix: String,
    /// Only grants and waits of sessions with this id. Empty: any, also those without a session.
    pub session: String,
    /// Only grants and waits of this owner. Empty: any.
    pub owner: String,
}

/// How far a picture is told.
///
/// - A picture of a session is told in two parts: its grants by token, then its waiters by number.
///   Any other is told name by name, and each name in the same two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PicturePlace {
    /// All names before this one are told. `None` in a picture of a session.
    pub name: Option<String>,
    /// Of this name or session, the grants up to this token are told.
    pub token: Token,
    /// Likewise, the waiters up to this number.
    pub waiter: u64,
    /// Where the walk goes on within the name or the session.
    behind: Vec<u32>,
}

/// A page of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PicturePage {
    /// Grants, by name and then token; of a session by token.
    pub held: Vec<Grant>,
    /// Waiters, by name and then place in the queue; of a session by number.
    pub queued: Vec<Waiter>,
    /// The next page begins after this place. `None` if this page is the last.
    pub next: Option<PicturePlace>,
}

/// A page in the making, with the rest of its bounds.
struct Making<'a> {
    of: &'a PictureOf,
    at: Stamp,
    room: usize,
    rows: &'a mut usize,
    page: PicturePage,
}

impl PictureOf {
    /// Whether it is told name by name, so that the names have to be in order.
    pub fn is_by_name(&self) -> bool {
        self.session.is_empty() && self.name.is_none()
    }

    fn has_name(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|only| only == name) && name.starts_with(&self.prefix)
    }

    fn has_owner(&self, owner: &str) -> bool {
        self.owner.is_empty() || self.owner == owner
    }
}

impl PicturePlace {
    /// The place before everything of a name, or of a session.
    fn before(name: Option<&str>) -> Self {
        let name = name.map(str::to_owned);
        PicturePlace { name, token: Token(0), waiter: 0, behind: Vec::new() }
    }

    /// The place after all grants and waiters of a name.
    pub fn after(name: &str) -> Self {
        let all = PicturePlace::before(Some(name));
        PicturePlace { token: Token(TOKEN_MAX), waiter: u64::MAX, ..all }
    }

    /// Whether the grant of this name and token would have been told by now.
    pub fn covers_grant(&self, name: &str, token: Token) -> bool {
        self.covers(name, token <= self.token)
    }

    /// Whether the waiter of this name and number would have been told by now.
    pub fn covers_waiter(&self, name: &str, number: u64) -> bool {
        self.covers(name, number <= self.waiter)
    }

    fn covers(&self, name: &str, here: bool) -> bool {
        match &self.name {
            Some(told) => name < &**told || name == told && here,
            None => here,
        }
    }
}

impl Making<'_> {
    fn is_full(&self) -> bool {
        self.room == 0 || *self.rows == 0
    }

    /// Lowers the budget by rows that were visited.
    fn pay(&mut self, visited: usize) {
        *self.rows = self.rows.saturating_sub(visited);
    }
}

impl LockTable {
    /// The first waiters of a name in the order of their turns, at most `limit`. `at` is the
    /// present moment, by which the beginning of a wait is told.
    ///
    /// ```
    /// use palisade_locks::{Command, Effects, LockTable, Mode, RequestId, Stamp};
    ///
    /// let (mut table, mut effects) = (LockTable::new(), Effects::default());
    /// for (id, owner) in [(1, "ann"), (2, "bob"), (3, "eve")] {
    ///     let acquire = Command::Acquire {
    ///         request_id: RequestId(id),
    ///         name: "orders/42",
    ///         owner,
    ///         ttl_ms: 30_000,
    ///         mode: Mode::Exclusive,
    ///         wait: true,
    ///         session: "",
    ///         metadata: "",
    ///         claim_ttl_ms: 0,
    ///     };
    ///     table.apply(Stamp { wall_ms: 5_000, shard_ms: 0 }, &acquire, &mut effects);
    /// }
    ///
    /// let later = Stamp { wall_ms: 6_000, shard_ms: 1_000 };
    /// let queue = table.waiters_of("orders/42", 10, later);
    /// let told = |n: usize| (queue[n].place, &*queue[n].owner, queue[n].queued_wall_ms);
    /// assert_eq!((told(0), told(1)), ((1, "bob", 5_000), (2, "eve", 5_000)));
    /// ```
    pub fn waiters_of(&self, name: &str, limit: usize, at: Stamp) -> Vec<Waiter> {
        let Some(lock) = self.find_lock(name) else { return Vec::new() };
        let queue = self.locks[lock].queue.walk(&self.waiters, |waiter| waiter.links);
        let place = |(before, waiter)| self.show_waiter(waiter, before as u32 + 1, at);
        queue.take(limit).enumerate().map(place).collect()
    }

    /// A page of the grants and waiters of `of` after the place `after`, at most `limit` rows. `at`
    /// gives the present moment.
    ///
    /// `rows` is the budget: it is lowered by the number of rows touched, and a page may end early
    /// and even be empty when it is used up. Only the walk of one queue may exceed it. Many names
    /// are put in order first, as for [`list_page`](Self::list_page).
    ///
    /// # Errors
    /// [`Paused`] if `rows` did not suffice to put the names in order.
    pub fn picture_page(
        &mut self,
        of: &PictureOf,
        after: Option<&PicturePlace>,
        limit: usize,
        at: Stamp,
        rows: &mut usize,
    ) -> Result<PicturePage, Paused> {
        if of.is_by_name() && !self.is_in_order(rows) {
            return Err(Paused::default());
        }
        *rows = (*rows).max(1);
        let mut making = Making { of, at, room: limit.max(1), rows, page: PicturePage::default() };
        making.page.next = match (&*of.session, &of.name) {
            ("", None) => self.picture_names(after, &mut making),
            ("", Some(name)) => self.picture_name(name, after, &mut making),
            (session, _) => self.picture_session(session, after, &mut making),
        };
        Ok(making.page)
    }

    /// Describes a waiter. `place` is 0 if it is not known.
    pub(super) fn show_waiter(&self, waiter: u32, place: u32, at: Stamp) -> Waiter {
        self.describe(&self.waiters[waiter], place, at)
    }

    /// Describes a waiter, in its queue or just taken out of it.
    pub(super) fn describe(&self, row: &WaiterRow, place: u32, at: Stamp) -> Waiter {
        let session = self.sessions.get(row.session).map_or("", |session| &*session.id);
        let waited_ms = at.shard_ms.saturating_sub(row.since_ms);
        Waiter {
            name: self.locks[row.lock].name.to_string(),
            owner: row.terms.owner().to_owned(),
            principal: row.terms.principal().to_owned(),
            number: row.number,
            place,
            mode: row.mode,
            session: session.to_owned(),
            metadata: row.terms.metadata().to_owned(),
            queued_wall_ms: at.wall_ms.saturating_sub(waited_ms),
        }
    }

    fn picture_names(
        &self,
        after: Option<&PicturePlace>,
        making: &mut Making<'_>,
    ) -> Option<PicturePlace> {
        let of = making.of;
        let told = after.and_then(|place| place.name.as_deref()).unwrap_or_default();
        let order = self.order.as_deref().expect("the names are in order");
        for lock in order.from(told.max(&of.prefix), &self.locks) {
            let name = &*self.locks[lock].name;
            if !name.starts_with(&of.prefix) {
                break;
            }
            let start = after.filter(|place| place.name.as_deref() == Some(name));
            let next = self.picture_name(name, start, making);
            if next.is_some() {
                return next;
            }
            making.pay(1);
            if making.is_full() {
                return Some(PicturePlace::after(name));
            }
        }
        None
    }

    /// Adds the rows of one name. Returns the place where the page is full, if that is within the
    /// name.
    fn picture_name(
        &self,
        name: &str,
        after: Option<&PicturePlace>,
        making: &mut Making<'_>,
    ) -> Option<PicturePlace> {
        let lock = self.find_lock(name)?;
        let mut place = after.cloned().unwrap_or_else(|| PicturePlace::before(Some(name)));
        let held = Chains {
            rows: &self.grants,
            chains: &[(lock, self.locks[lock].grants)],
            owner: |grant| grant.lock,
            links: |grant| grant.links,
        };
        let is_told =
            self.add_grants(&held, &mut place, making) && self.add_queue(lock, &mut place, making);
        (!is_told).then_some(place)
    }

    fn picture_session(
        &self,
        id: &str,
        after: Option<&PicturePlace>,
        making: &mut Making<'_>,
    ) -> Option<PicturePlace> {
        let mut place = after.cloned().unwrap_or_else(|| PicturePlace::before(None));
        // Identities may have sessions of one id. Their rows come by number all the same.
        let sessions = self.sessions_of_id(id);
        let row = |session: &u32| (*session, &self.sessions[*session]);
        let grants: Vec<_> = sessions.iter().map(row).map(|(at, row)| (at, row.grants)).collect();
        let waits: Vec<_> = sessions.iter().map(row).map(|(at, row)| (at, row.waiters)).collect();
        let held = Chains {
            rows: &self.grants,
            chains: &grants,
            owner: |grant| grant.session().unwrap_or(NONE),
            links: |grant| grant.session_links(),
        };
        let queued = Chains {
            rows: &self.waiters,
            chains: &waits,
            owner: |waiter| waiter.session,
            links: |waiter| waiter.session_links,
        };
        let is_told = self.add_grants(&held, &mut place, making)
            && self.add_waiters(&queued, &mut place, making);
        (!is_told).then_some(place)
    }

    /// Adds grants until the page is full. Returns whether all of them were told, and moves the
    /// place past the told ones.
    fn add_grants(
        &self,
        grants: &Chains<'_, GrantRow>,
        place: &mut PicturePlace,
        making: &mut Making<'_>,
    ) -> bool {
        if place.token.0 >= TOKEN_MAX {
            return true;
        }
        let mut walked =
            Walked { number: place.token.0, behind: std::mem::take(&mut place.behind) };
        let is_shown = |row: &GrantRow| self.is_grant_of(row, making.of);
        let (found, is_all) = grants.take(&mut walked, making.room, making.rows, is_shown);
        making.room -= found.len();
        making.page.held.extend(found.into_iter().map(|at| self.show(at, making.at)));
        if is_all {
            place.token = Token(TOKEN_MAX);
        } else {
            (place.token, place.behind) = (Token(walked.number), walked.behind);
        }
        is_all
    }

    /// The same for the waiters of a session.
    fn add_waiters(
        &self,
        waiters: &Chains<'_, WaiterRow>,
        place: &mut PicturePlace,
        making: &mut Making<'_>,
    ) -> bool {
        let mut walked = Walked { number: place.waiter, behind: std::mem::take(&mut place.behind) };
        let is_shown = |row: &WaiterRow| self.is_waiter_of(row, making.of);
        let (found, is_all) = waiters.take(&mut walked, making.room, making.rows, is_shown);
        making.room -= found.len();
        making.page.queued.extend(found.into_iter().map(|at| self.show_waiter(at, 0, making.at)));
        (place.waiter, place.behind) = (walked.number, walked.behind);
        is_all
    }

    /// The same for the queue of a name. The place of a waiter is known only by a walk from the
    /// first one, which [`WAITERS_PER_NAME_MAX`] bounds. The budget pays for the walk, but a page
    /// is not cut short by it: otherwise a long queue would take as many walks as it has waiters.
    fn add_queue(&self, lock: u32, place: &mut PicturePlace, making: &mut Making<'_>) -> bool {
        if place.waiter == u64::MAX {
            return true;
        }
        let mut visited = 0;
        for (at, nth) in self.locks[lock].queue.walk(&self.waiters, |row| row.links).zip(1..) {
            let row = &self.waiters[at];
            visited += 1;
            if row.number <= place.waiter {
                continue;
            }
            if making.is_full() {
                making.pay(visited);
                return false;
            }
            if self.is_waiter_of(row, making.of) {
                making.page.queued.push(self.show_waiter(at, nth, making.at));
                making.room -= 1;
            }
            place.waiter = row.number;
        }
        making.pay(visited);
        place.waiter = u64::MAX;
        true
    }

    fn is_grant_of(&self, row: &GrantRow, of: &PictureOf) -> bool {
        let (_, _, _, terms, _) = self.lease_of(row);
        of.has_name(&self.locks[row.lock].name) && of.has_owner(terms.owner())
    }

    fn is_waiter_of(&self, row: &WaiterRow, of: &PictureOf) -> bool {
        of.has_name(&self.locks[row.lock].name) && of.has_owner(row.terms.owner())
    }

    /// The sessions of this id, of any identity.
    fn sessions_of_id(&self, id: &str) -> Vec<u32> {
        let found = RefCell::new(Vec::new());
        self.session_ids.get(hash_str(id), |entry| {
            if let Ref::Live(session) = Ref::unpack(entry)
                && &*self.sessions[session].id == id
            {
                found.borrow_mut().push(session);
            }
            false // go on: there may be more
        });
        found.into_inner()
    }
}
