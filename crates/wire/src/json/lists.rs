//! Lists of the locks that are held, for the command line and for HTTP.

use super::{Grant, Waiter};
use crate::v1::ListResponse;
use serde::Serialize;

/// Locks that are held, by a prefix of their names.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listing {
    /// The grants, by name and then by token.
    pub grants: Vec<Grant>,
    /// Shards that could not be asked: their locks are not listed.
    pub missing_shards: Vec<u32>,
    /// Whether there are grants after the last of this page.
    pub more: bool,
    /// The start of the next page. `null` on the last page.
    pub next_cursor: Option<String>,
    /// The first waiters of the names of this page, by name and then by place. Empty unless they
    /// were asked for.
    pub waiters: Vec<Waiter>,
}

impl From<&ListResponse> for Listing {
    fn from(answer: &ListResponse) -> Listing {
        let cursor = &answer.next_cursor;
        Listing {
            grants: answer.grants.iter().map(Grant::from).collect(),
            missing_shards: answer.missing_shards.clone(),
            more: answer.more,
            next_cursor: (!cursor.is_empty()).then(|| cursor.clone()),
            waiters: answer.waiters.iter().map(Waiter::from).collect(),
        }
    }
}

/// A page of the locks that are held, by name and then by token.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Locks {
    /// The locks of this page. A page can have fewer than asked for, or none, before the last one.
    pub locks: Vec<Grant>,
    /// The start of the next page. `null` on the last page.
    pub next_cursor: Option<String>,
    /// The first waiters of the names of this page, by name and then by place. Empty unless they
    /// were asked for.
    pub waiters: Vec<Waiter>,
    /// Shards that could not be asked: their locks are not listed.
    pub missing_shards: Vec<u32>,
}

impl From<&ListResponse> for Locks {
    fn from(answer: &ListResponse) -> Locks {
        let Listing { grants, next_cursor, waiters, missing_shards, .. } = Listing::from(answer);
        Locks { locks: grants, next_cursor, waiters, missing_shards }
    }
}
