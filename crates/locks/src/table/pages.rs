//! Answers of many rows, a page at a time.
//!
//! A table may hold a million names, and a name fifty thousand holders. A read of all of them in
//! one go would stop the shard for that long. So each read comes with a budget of rows that it may
//! touch, and continues later from where it stopped.
//!
//! This module knows nothing of the callers of reads, nor of when a read continues.

use super::LockTable;
use super::order::Order;
use super::rows::GrantRow;
use super::slab::NONE;
use crate::types::*;

/// Cost of taking one name into the order, in rows shown: about twenty names are compared.
const SCAN_ROWS: usize = 4;

/// The answer of a read that used up its budget before it found the beginning of its page. Pass it
/// to the next call, which continues from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// Holders up to this token are before the page.
    pub seen: Token,
}

/// A page of the holders of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldersPage {
    /// The holders on this page, by token.
    pub holders: Vec<Grant>,
    /// Number of all holders of the name, on this page or not.
    pub count: u32,
    /// Whether there are holders with higher tokens than the last on this page.
    pub more: bool,
}

/// A page of the grants with names that start with one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The grants on this page, by name and then token.
    pub grants: Vec<Grant>,
    /// The next page begins after this name and token. `None` if this page is the last.
    pub next: Option<(String, Token)>,
}

/// The grants of a listing. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOf {
    /// The beginning of their names.
    pub prefix: String,
    /// Their owner. Empty: any.
    pub owner: String,
    /// The least age of the hold by the wall clock, in milliseconds.
    pub older_than_ms: u64,
    /// Whether their name has a queue.
    pub waiting: bool,
}

impl LockTable {
    /// The holders with tokens above `after`, oldest first, at most `limit`. `at` gives the shard
    /// time by which the rest of each lease is computed.
    ///
    /// `rows` is the budget, and is lowered by the number of rows touched. Only rows that are shown
    /// may exceed it.
    ///
    /// ```
    /// use palisade_locks::{Command, Effects, LockTable, Mode, Paused, RequestId, Stamp, Token};
    ///
    /// let (mut table, mut effects, at) = (LockTable::new(), Effects::default(), Stamp::default());
    /// for id in 1..=5 {
    ///     let acquire = Command::Acquire {
    ///         request_id: RequestId(id),
    ///         name: "orders/42",
    ///         owner: "ann",
    ///         ttl_ms: 30_000,
    ///         mode: Mode::Shared,
    ///         wait: false,
    ///         session: "",
    ///         metadata: "",
    ///         claim_ttl_ms: 0,
    ///     };
    ///     table.apply(at, &acquire, &mut effects);
    /// }
    ///
    /// let (start, mut rows) = (Paused::default(), 100);
    /// let first = table.holders_page("orders/42", Token(0), start, 3, at, &mut rows).unwrap();
    /// assert_eq!((first.holders.len(), first.count, first.more, rows), (3, 5, true, 97));
    ///
    /// let last = first.holders[2].token;
    /// let second = table.holders_page("orders/42", last, start, 3, at, &mut rows).unwrap();
    /// assert_eq!((second.holders.len(), second.more), (2, false));
    /// ```
    ///
    /// # Errors
    /// [`Paused`] if the grant of `after` has ended, so that the beginning of the page must be
    /// searched, and `rows` did not suffice for the search. Each further call gets further, as long
    /// as the holder that [`Paused`] names is still a holder.
    pub fn holders_page(
        &self,
        name: &str,
        after: Token,
        paused: Paused,
        limit: usize,
        at: Stamp,
        rows: &mut usize,
    ) -> Result<HoldersPage, Paused> {
        let Some(lock) = self.find_lock(name) else { return Ok(HoldersPage::default()) };
        let mut grant = self.grant_after(lock, after, paused, rows)?;
        let mut holders = Vec::new();
        while grant != NONE && holders.len() < limit {
            holders.push(self.show(grant, at));
            grant = self.grants[grant].links.after;
        }
        *rows = rows.saturating_sub(holders.len());
        Ok(HoldersPage { holders, count: self.locks[lock].holders, more: grant != NONE })
    }

    /// The newest holders, newest first, at most `limit`. `at` gives the shard time by which the
    /// rest of each lease is computed.
    pub fn newest_holders(&self, name: &str, limit: usize, at: Stamp) -> Vec<Grant> {
        let Some(lock) = self.find_lock(name) else { return Vec::new() };
        let mut grant = self.locks[lock].grants.last;
        let mut holders = Vec::new();
        while grant != NONE && holders.len() < limit {
            holders.push(self.show(grant, at));
            grant = self.grants[grant].links.before;
        }
        holders
    }

    /// The grants of names that start with `prefix`, as [`list_page_of`](Self::list_page_of) with
    /// no other condition.
    ///
    /// # Errors
    /// As of [`list_page_of`](Self::list_page_of).
    pub fn list_page(
        &mut self,
        prefix: &str,
        after: Option<(&str, Token)>,
        paused: Paused,
        limit: usize,
        at: Stamp,
        rows: &mut usize,
    ) -> Result<ListPage, Paused> {
        let of = ListOf { prefix: prefix.to_owned(), ..ListOf::default() };
        self.list_page_of(&of, after, paused, limit, at, rows)
    }

    /// The grants that `of` asks for, by name and then token, after the name and token of `after`,
    /// at most `limit`. `at` gives the shard time by which the rest of each lease is computed, and
    /// the wall clock by which the age of a hold is.
    ///
    /// The first listing sorts all names, a part of them with each call. The order is kept until
    /// [`forget_order`](Self::forget_order). A grant that is in force, and asked for, from the
    /// first page to the last is on exactly one of them. A page that looks through many grants that
    /// are not asked for ends early, and may be empty before the last one.
    ///
    /// # Errors
    /// [`Paused`] if `rows`, which is lowered by the number of rows touched, did not suffice to
    /// find the beginning of the page.
    pub fn list_page_of(
        &mut self,
        of: &ListOf,
        after: Option<(&str, Token)>,
        paused: Paused,
        limit: usize,
        at: Stamp,
        rows: &mut usize,
    ) -> Result<ListPage, Paused> {
        if !self.is_in_order(rows) {
            return Err(paused);
        }
        let order = self.order.as_deref().expect("the names are in order");
        let begin = after.map_or(&*of.prefix, |(name, _)| name.max(&of.prefix));
        let mut grants: Vec<Grant> = Vec::new();
        for lock in order.from(begin, &self.locks) {
            let row = &self.locks[lock];
            if !row.name.starts_with(&of.prefix) {
                break;
            }
            let mut grant = match after {
                _ if of.waiting && row.queue_len == 0 => NONE,
                // This is the first name of the page, so the page is still empty if the search
                // pauses.
                Some((name, token)) if *name == *row.name => {
                    self.grant_after(lock, token, paused, rows)?
                }
                _ => row.grants.first,
            };
            while grant != NONE {
                if grants.len() >= limit.max(1) {
                    let next = grants.last().map(|last| (last.name.clone(), last.token));
                    return Ok(ListPage { grants, next });
                }
                let here = &self.grants[grant];
                *rows = rows.saturating_sub(1);
                if self.is_asked_for(here, of, at) {
                    grants.push(self.show(grant, at));
                } else if *rows == 0 {
                    let next = Some((row.name.to_string(), Token(here.token.get())));
                    return Ok(ListPage { grants, next });
                }
                grant = here.links.after;
            }
            *rows = rows.saturating_sub(1);
            if *rows == 0 {
                // The page is short, and the caller continues after it.
                return Ok(ListPage {
                    grants,
                    next: Some((row.name.to_string(), Token(TOKEN_MAX))),
                });
            }
        }
        Ok(ListPage { grants, next: None })
    }

    fn is_asked_for(&self, row: &GrantRow, of: &ListOf, at: Stamp) -> bool {
        if at.wall_ms.saturating_sub(row.acquired_wall_ms) < of.older_than_ms {
            return false;
        }
        of.owner.is_empty() || self.lease_of(row).3.owner() == of.owner
    }

    /// Whether names are kept in order.
    pub fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Drops the order of names. Costs nothing if there is none.
    pub fn forget_order(&mut self) {
        self.order = None;
    }

    /// Puts names in order as far as the budget goes. Whether all are, and a page can begin.
    pub(super) fn is_in_order(&mut self, rows: &mut usize) -> bool {
        // At least half of the budget is for the page. Otherwise sorting names would cut the page
        // short.
        let least = *rows / 2;
        let order = self.order.get_or_insert_with(|| Box::new(Order::new()));
        while !order.is_complete() && *rows > 0 {
            order.scan_one(&self.locks);
            *rows = rows.saturating_sub(SCAN_ROWS);
        }
        order.is_complete() && *rows >= least
    }

    /// The place of the lock's first grant with a token above `after`; [`NONE`] if there is none.
    fn grant_after(
        &self,
        lock: u32,
        after: Token,
        paused: Paused,
        rows: &mut usize,
    ) -> Result<u32, Paused> {
        let ends = self.locks[lock].grants;
        if after == Token(0) {
            return Ok(ends.first);
        }
        if let Some(at) = self.grant_on(lock, after) {
            return Ok(self.grants[at].links.after);
        }
        if self.grants.get(ends.last).is_none_or(|last| last.token.get() <= after.0) {
            return Ok(NONE);
        }
        // The grant of `after` has ended, so only a walk finds the next one.
        let mut at = self.grant_on(lock, paused.seen).unwrap_or(ends.first);
        while let Some(row) = self.grants.get(at) {
            if row.token.get() > after.0 {
                break;
            }
            if *rows == 0 {
                return Err(Paused { seen: Token(row.token.get()) });
            }
            *rows -= 1;
            at = row.links.after;
        }
        Ok(at)
    }

    /// The lock's grant of this token, if it is in force.
    fn grant_on(&self, lock: u32, token: Token) -> Option<u32> {
        match self.find_token(token.0)? {
            super::index::Ref::Live(grant) => (self.grants[grant].lock == lock).then_some(grant),
            _ => None,
        }
    }
}
