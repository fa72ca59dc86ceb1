//! Answers of many rows, a page at a time.
//!
//! A table may hold a million names, and a name fifty thousand holders; a read that took them all in one go would stop the shard for
//! as long. So each read says how many rows it may still touch, and goes on from where it stopped. It knows nothing of who asks, nor
//! of when a read goes on.

use super::LockTable;
use super::order::Order;
use super::slab::NONE;
use crate::types::*;

/// What to take a name into the order of names costs, in rows that are shown: some twenty names are compared.
const SCAN_ROWS: usize = 4;

/// All rows that a read may touch are touched, and it has not found where its page begins. It is to be asked again, with this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// Holders up to this token are before the page.
    pub seen: Token,
}

/// Holders of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldersPage {
    /// By token.
    pub holders: Vec<Grant>,
    /// Of the name, on this page or not.
    pub count: u32,
    /// There are holders with higher tokens than the last on this page.
    pub more: bool,
}

/// Grants of names with one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// By name, then token.
    pub grants: Vec<Grant>,
    /// The next page begins after this name and token; `None`: this is the last.
    pub next: Option<(String, Token)>,
}

impl LockTable {
    /// Holders with tokens above `after`, oldest first, at most `limit`, as of `at`.
    ///
    /// `rows` is lowered by the rows touched; more than that are touched only by what is shown.
    ///
    /// # Errors
    /// [`Paused`] where `after` has ended, so that the page's begin is to be looked for, and `rows` did not suffice for that. Each time
    /// it gets further, as long as the holder that it names goes on to hold.
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

    /// The newest holders, newest first, at most `limit`, as of `at`.
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

    /// Grants of names that start with `prefix`, by name then token, after the name and token of `after`, at most `limit`,
    /// as of `at`.
    ///
    /// The first listing puts all names in order, a part with each call; the order is kept until
    /// [`forget_order`](Self::forget_order). A grant that is in force from the first page to the last is on exactly one of them.
    ///
    /// # Errors
    /// [`Paused`] where `rows`, which is lowered by the rows touched, did not suffice to find where the page begins.
    pub fn list_page(
        &mut self,
        prefix: &str,
        after: Option<(&str, Token)>,
        paused: Paused,
        limit: usize,
        at: Stamp,
        rows: &mut usize,
    ) -> Result<ListPage, Paused> {
        // A page has at least half of the rows for itself, or it would be cut short for the sake of the order.
        let least = *rows / 2;
        self.order_some(rows);
        let order = self.order.as_deref().filter(|order| order.is_complete() && *rows >= least);
        let Some(order) = order else { return Err(paused) };
        let begin = after.map_or(prefix, |(name, _)| name.max(prefix));
        let mut grants: Vec<Grant> = Vec::new();
        for lock in order.from(begin, &self.locks) {
            let row = &self.locks[lock];
            if !row.name.starts_with(prefix) {
                break;
            }
            let mut grant = match after {
                // The first one, so nothing is on the page yet if this pauses.
                Some((name, token)) if *name == *row.name => self.grant_after(lock, token, paused, rows)?,
                _ => row.grants.first,
            };
            while grant != NONE {
                if grants.len() >= limit.max(1) {
                    let next = grants.last().map(|last| (last.name.clone(), last.token));
                    return Ok(ListPage { grants, next });
                }
                grants.push(self.show(grant, at));
                *rows = rows.saturating_sub(1);
                grant = self.grants[grant].links.after;
            }
            *rows = rows.saturating_sub(1);
            if *rows == 0 {
                // A short page: whoever asks goes on after it.
                return Ok(ListPage { grants, next: Some((row.name.to_string(), Token(TOKEN_MAX))) });
            }
        }
        Ok(ListPage { grants, next: None })
    }

    /// Whether names are kept in order.
    pub fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Names are not kept in order any more. Costs nothing if they were not.
    pub fn forget_order(&mut self) {
        self.order = None;
    }

    fn order_some(&mut self, rows: &mut usize) {
        let order = self.order.get_or_insert_with(|| Box::new(Order::new()));
        while !order.is_complete() && *rows > 0 {
            order.scan_one(&self.locks);
            *rows = rows.saturating_sub(SCAN_ROWS);
        }
    }

    /// The place of the lock's first grant with a token above `after`; [`NONE`]: it has none.
    fn grant_after(&self, lock: u32, after: Token, paused: Paused, rows: &mut usize) -> Result<u32, Paused> {
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
        // It has ended: only a walk tells which are the next.
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
