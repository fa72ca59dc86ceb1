//! Reads: queued, confirmed by a round, and answered.
//!
//! A shard has one thread for all that it does. A read of a whole table, or fifty reads of a name
//! with as many thousand holders, would hold up its heartbeats until its followers elect another
//! leader. So a step touches a bounded number of rows for each scope of reads. The rest goes on in
//! the next step, which comes at once.

use super::Replica;
use crate::api::{Answer, Outputs, Query, Reply, Status, Ticket};
use crate::machine::Machine;
use crate::parts::reads::{Read, Scope};
use crate::planted_bugs;
use locks::{Grant, LockTable, Paused, Stamp, Tenure, Token, Waiter};
use std::cmp::Reverse;
use storage::HistoryRecord;

/// Rows that the reads of one scope touch in a step, about. A row takes a quarter to half a
/// microsecond.
///
/// The last read of a step begins with as many rows of its own, so that its page is not cut short
/// by the reads before it. A hash may read more: the rows that changed since the last checkpoint.
const ROWS_PER_STEP: usize = 4_096;
/// The cost of any answer, in rows.
const ROWS_PER_ANSWER: usize = 2;
/// Records of history in memory that can be searched in the time that one row takes.
const RECORDS_PER_ROW: usize = 16;
/// After the last listing, names are kept in order for this long, in milliseconds. Each new name
/// costs more meanwhile.
const ORDER_KEEP_MS: u64 = 15_000;

impl Replica {
    /// Queues a read: for the next round, or at once if it needs none.
    pub(super) fn queue_read(&mut self, ticket: Ticket, query: Query, linearizable: bool) {
        let needs_round = planted_bugs::needs_round(linearizable, self.leader_state.is_some());
        if needs_round && (self.leadership.leader.is_none() || self.disk.hangs()) {
            self.out.replies.push((ticket, Reply::NoLeader));
            return;
        }
        let read = Read { ticket, query, linearizable: needs_round, paused: Paused::default() };
        let taken = if needs_round { self.reads.push(read) } else { self.reads.push_ready(read) };
        if !taken {
            self.out.replies.push((ticket, Reply::Busy));
        }
    }

    /// Tries the current round again if the leader has changed, and starts the next one if it is
    /// due.
    pub(super) fn start_read_rounds(&mut self) {
        if std::mem::take(&mut self.retry_reads)
            && let Some(context) = self.reads.retry()
        {
            self.raw.read_index(context);
        }
        if let Some(context) = self.reads.start_round() {
            self.raw.read_index(context);
        }
    }

    /// Answers the reads that this applied index allows, as far as a step may go.
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
        if let Machine::Locks(table) = &mut self.machine
            && table.is_ordered()
            && self.read_cache.since_listing_ms(self.now.mono_ms) >= ORDER_KEEP_MS
        {
            table.forget_order();
        }
    }

    /// The moment when the reads that are left over go on: at once, after inputs that have come
    /// meanwhile.
    pub(super) fn reads_wake_at_ms(&self) -> Option<u64> {
        self.reads.any_ready().then_some(self.now.mono_ms)
    }

    /// Whether the next read of the scope needs nothing but a hash that is known already.
    fn next_is_hashed(&self, scope: Scope) -> bool {
        let hashed = self.read_cache.hash_at(self.applied_index).is_some();
        hashed && self.reads.next_ready(scope).is_some_and(|read| read.query == Query::Status)
    }

    fn reply_read(&mut self, read: &Read, answer: Answer) {
        let stale_by_ms = if read.linearizable { 0 } else { self.stale_by_ms() };
        let reply = Reply::Read { answer, applied_index: self.applied_index, stale_by_ms };
        self.out.replies.push((read.ticket, reply));
    }

    /// The answer to a query. Lowers `rows` by the rows that it touches.
    ///
    /// # Errors
    /// [`Paused`] if the rows did not suffice: the query goes on from there later.
    fn answer(
        &mut self,
        query: &Query,
        paused: Paused,
        rows: &mut usize,
    ) -> Result<Answer, Paused> {
        let at = self.observation.stamp(self.now);
        let table = match &mut self.machine {
            Machine::Locks(table) => table,
            Machine::Topology(_) => return Ok(self.answer_of_meta(query, rows)),
        };
        Ok(match query {
            Query::Check { name, after, limit, waiters } => {
                let page = table.holders_page(name, *after, paused, *limit, at, rows)?;
                let queue = table.waiters_of(name, *waiters, at);
                touched(&mut self.out, queue.len(), rows);
                Answer::Check {
                    holders: page.holders,
                    holder_count: page.count,
                    more: page.more,
                    waiters: table.queue_len(name),
                    last_token: table.last_token().0,
                    queue,
                }
            }
            Query::List { of, after, limit, waiters_of_name } => {
                self.read_cache.note_listing(self.now.mono_ms);
                let after = after.as_ref().map(|(name, token)| (name.as_str(), *token));
                let page = table.list_page_of(of, after, paused, *limit, at, rows)?;
                let most = if of.waiting { *waiters_of_name } else { 0 };
                let waiters = waiters_of_all(table, &page.grants, most, at);
                touched(&mut self.out, waiters.len(), rows);
                Answer::List { grants: page.grants, next: page.next, waiters }
            }
            Query::Picture { of, after, limit } => {
                if of.is_by_name() {
                    self.read_cache.note_listing(self.now.mono_ms);
                }
                Answer::Picture(table.picture_page(of, after.as_ref(), *limit, at, rows)?)
            }
            Query::History { name, limit } => {
                let history = &self.checkpointing.history;
                let ended = newest_ended(history, name, *limit);
                let current: Vec<Grant> = table.newest_holders(name, *limit, at);
                let looked_through = history.len() / RECORDS_PER_ROW;
                touched(&mut self.out, looked_through + ended.len() + current.len(), rows);
                Answer::History { ended, current }
            }
            Query::Position => Answer::Position,
            Query::Status => Answer::Status(Box::new(self.hashed_status(rows))),
            Query::Topology { .. } => Answer::Unsuited,
        })
    }

    /// The status with its state hash. Lowers `rows` by the rows that it touches.
    pub(super) fn hashed_status(&mut self, rows: &mut usize) -> Status {
        let state_hash = match self.read_cache.hash_at(self.applied_index) {
            Some(hash) => hash,
            None => {
                touched(&mut self.out, self.machine.state_hash_rows(), rows);
                let hash = self.machine.state_hash();
                self.read_cache.keep_hash(self.applied_index, hash);
                hash
            }
        };
        Status { state_hash, ..self.status() }
    }
}

/// Counts rows that are touched at once, which may be more than `rows` has left.
pub(super) fn touched(out: &mut Outputs, touched: usize, rows: &mut usize) {
    out.rows_read += touched.saturating_sub(*rows);
    *rows = rows.saturating_sub(touched);
}

/// The first waiters of the names of these grants, which stand in order: at most `most` of each.
fn waiters_of_all(table: &LockTable, grants: &[Grant], most: usize, at: Stamp) -> Vec<Waiter> {
    let mut waiters = Vec::new();
    if most == 0 {
        return waiters;
    }
    for names in grants.chunk_by(|one, next| one.name == next.name) {
        waiters.extend(table.waiters_of(&names[0].name, most, at));
    }
    waiters
}

/// The newest ended tenures of a name, among those that no write has taken yet.
fn newest_ended(history: &[HistoryRecord], name: &str, limit: usize) -> Vec<Tenure> {
    let mut records: Vec<_> = history.iter().filter(|record| record.name == name).collect();
    if records.len() > limit {
        records.select_nth_unstable_by_key(limit, |record| Reverse(record.token));
        records.truncate(limit);
    }
    let decode = |record: &HistoryRecord| {
        Tenure::decode(&record.name, Token(record.token), &record.tenure).ok()
    };
    records.into_iter().filter_map(decode).collect()
}
