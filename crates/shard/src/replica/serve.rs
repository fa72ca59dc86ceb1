//! Answers to reads, as many rows in a step as leave its writes and ticks their time.
//!
//! A shard has one thread for all that it does. A read of a whole table, or fifty reads of a name with as many thousand holders,
//! would make its followers believe that their leader is gone. So a step touches a bounded number of rows for each line of reads; what
//! is left goes on in the next step, which comes at once.

use super::Replica;
use crate::api::{Answer, Query, Reply};
use crate::parts::reads::{Read, Scope};
use locks::{Grant, Paused, Tenure, Token};
use std::cmp::Reverse;

/// Rows that one line's reads touch in a step, about: the last one begins with as many of its own, so that its page is not cut
/// short by those before it, and may show a page or hash what changed since the last checkpoint. A row takes a quarter to half
/// a microsecond.
const ROWS_PER_STEP: usize = 4_096;
/// What an answer takes, whatever it shows, in rows.
const ROWS_PER_ANSWER: usize = 2;
/// Records of history in memory that are looked through in the time of a row that is shown.
const RECORDS_PER_ROW: usize = 16;
/// Names are kept in order for so long after the last listing, in milliseconds: each new name costs more meanwhile.
const ORDER_KEEP_MS: u64 = 15_000;

impl Replica {
    /// Answers reads that may be answered at this applied index, as far as a step may go.
    pub(super) fn serve_reads(&mut self) {
        self.reads.confirm(self.applied_index);
        for scope in Scope::ALL {
            let mut rows = ROWS_PER_STEP;
            while (rows > 0 || self.next_is_hashed(scope))
                && let Some((since, mut read)) = self.reads.take_ready(scope)
            {
                let mut own = ROWS_PER_STEP;
                let answer = self.answer(&read.query, read.paused, &mut own);
                let touched = ROWS_PER_ANSWER + ROWS_PER_STEP - own;
                self.out.rows_read += touched;
                rows = rows.saturating_sub(touched);
                match answer {
                    Ok(answer) => self.reply_read(&read, answer),
                    Err(paused) => {
                        read.paused = paused;
                        self.reads.put_back(since, read);
                        break;
                    }
                }
            }
        }
        if self.table.is_ordered() && self.read_cache.since_listing_ms(self.now.mono_ms) >= ORDER_KEEP_MS {
            self.table.forget_order();
        }
    }

    /// When reads that are left over go on: at once, after what has come meanwhile.
    pub(super) fn reads_wake_at_ms(&self) -> Option<u64> {
        self.reads.any_ready().then_some(self.now.mono_ms)
    }

    /// The next of the line needs a hash that is there already.
    fn next_is_hashed(&self, scope: Scope) -> bool {
        let hashed = self.read_cache.hash_at(self.applied_index).is_some();
        hashed && self.reads.next_ready(scope).is_some_and(|read| read.query == Query::Status)
    }

    fn reply_read(&mut self, read: &Read, answer: Answer) {
        let stale_by_ms = if read.linearizable { 0 } else { self.stale_by_ms() };
        let reply = Reply::Read { answer, applied_index: self.applied_index, stale_by_ms };
        self.out.replies.push((read.ticket, reply));
    }

    /// Lowers `rows` by what it touches. Where they do not suffice, the query goes on later from where it stopped.
    fn answer(&mut self, query: &Query, paused: Paused, rows: &mut usize) -> Result<Answer, Paused> {
        let at = self.observation.stamp(self.now);
        Ok(match query {
            Query::Check { name, after, limit } => {
                let page = self.table.holders_page(name, *after, paused, *limit, at, rows)?;
                Answer::Check {
                    holders: page.holders,
                    holder_count: page.count,
                    more: page.more,
                    waiters: self.table.queue_len(name),
                    last_token: self.table.last_token().0,
                }
            }
            Query::List { prefix, after, limit } => {
                self.read_cache.note_listing(self.now.mono_ms);
                let after = after.as_ref().map(|(name, token)| (name.as_str(), *token));
                let page = self.table.list_page(prefix, after, paused, *limit, at, rows)?;
                Answer::List { grants: page.grants, next: page.next }
            }
            Query::History { name, limit } => {
                let ended = self.newest_ended(name, *limit);
                let current: Vec<Grant> = self.table.newest_holders(name, *limit, at);
                let looked_through = self.checkpointing.history.len() / RECORDS_PER_ROW;
                self.touched(looked_through + ended.len() + current.len(), rows);
                Answer::History { ended, current }
            }
            Query::Status => {
                let mut status = self.status();
                status.state_hash = self.state_hash(rows);
                Answer::Status(Box::new(status))
            }
        })
    }

    /// So many rows at once, which may be more than there were to touch.
    fn touched(&mut self, touched: usize, rows: &mut usize) {
        self.out.rows_read += touched.saturating_sub(*rows);
        *rows = rows.saturating_sub(touched);
    }

    fn state_hash(&mut self, rows: &mut usize) -> u64 {
        if let Some(hash) = self.read_cache.hash_at(self.applied_index) {
            return hash;
        }
        self.touched(self.table.state_hash_rows(), rows);
        let hash = self.table.state_hash();
        self.read_cache.keep_hash(self.applied_index, hash);
        hash
    }

    /// Of those that no checkpoint has taken yet.
    fn newest_ended(&self, name: &str, limit: usize) -> Vec<Tenure> {
        let mut records: Vec<_> = self.checkpointing.history.iter().filter(|record| record.name == name).collect();
        if records.len() > limit {
            records.select_nth_unstable_by_key(limit, |record| Reverse(record.token));
            records.truncate(limit);
        }
        let decode =
            |record: &storage::HistoryRecord| Tenure::decode(&record.name, Token(record.token), &record.tenure).ok();
        records.into_iter().filter_map(decode).collect()
    }
}
