//! Answers that come in pages: all pages together, or a note about the rows that are not shown.

use crate::failure::Failure;
use crate::shown::grouped;
use client::{Checked, Client, Consistency, Listing};
use std::collections::BTreeSet;
use wire::v1::{ListRequest, Waiter};

/// Rows of a page: the maximum that the service allows.
const PAGE_ROWS: u32 = 1_000;

/// Adds to an answer the holders that it leaves out. The pages are read one after another, so a
/// holder that comes or goes meanwhile may be missing. A lasting holder is always in the result.
///
/// # Errors
/// If a page cannot be read.
pub async fn all_holders(
    client: &Client,
    name: &str,
    consistency: Consistency,
    answer: &mut Checked,
) -> Result<(), Failure> {
    while answer.more {
        let Some(last) = answer.holders.last() else { break };
        let page = client.check_page(name, consistency, last.fencing_token, PAGE_ROWS).await?;
        let mut holders = std::mem::take(&mut answer.holders);
        holders.extend(page.holders.iter().cloned());
        let queue = std::mem::take(&mut answer.queue);
        *answer = Checked { holders, queue, ..page };
    }
    Ok(())
}

/// The grants that a request asks for, as one listing: as many as it asks for, or `all`. The
/// service may answer fewer at a time.
///
/// # Errors
/// If a page cannot be read.
pub async fn list(client: &Client, request: ListRequest, all: bool) -> Result<Listing, Failure> {
    let mut listing = Listing::default();
    let (mut missing, mut waiters) = (BTreeSet::new(), BTreeSet::new());
    let mut next = request.clone();
    loop {
        let left = (request.limit as usize).saturating_sub(listing.grants.len()) as u32;
        next.limit = if all { PAGE_ROWS } else { left };
        let page = client.list_matching(next.clone()).await?;
        listing.grants.extend(page.grants);
        // The waiters of a name with many holders come with each of its pages.
        let new = |one: &Waiter| waiters.insert((one.shard, one.waiter));
        listing.waiters.extend(page.waiters.into_iter().filter(new));
        missing.extend(page.missing_shards);
        next.cursor.clone_from(&page.next_cursor);
        let is_full = !all && listing.grants.len() >= request.limit as usize;
        if page.next_cursor.is_empty() || is_full {
            (listing.more, listing.next_cursor) = (page.more, page.next_cursor);
            listing.missing_shards = missing.into_iter().collect();
            return Ok(listing);
        }
    }
}

/// The note under an answer that has more holders than it shows.
pub fn holders_left_out(answer: &Checked) -> String {
    let shown = answer.holders.len();
    format!(
        "showing {} of {} holders, the oldest: --all shows them all",
        grouped(shown as u64),
        grouped(answer.holder_count.into())
    )
}

/// The note under a listing that has more locks than it shows.
pub fn locks_left_out(listing: &Listing) -> String {
    if listing.next_cursor.is_empty() {
        return "… and more: name a longer prefix".into();
    }
    format!("… and more: --all shows them all, --cursor {} the next page", listing.next_cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_with_how_to_see_it() {
        let answer = Checked {
            holders: vec![Default::default(); 1_000],
            holder_count: 1_234_567,
            ..Default::default()
        };
        assert_eq!(
            holders_left_out(&answer),
            "showing 1,000 of 1,234,567 holders, the oldest: --all shows them all"
        );
        let listing = Listing { next_cursor: "a07".into(), ..Default::default() };
        assert_eq!(
            locks_left_out(&listing),
            "… and more: --all shows them all, --cursor a07 the next page"
        );
    }
}
