//! The counters of a table, which are one record. This module knows nothing of rows.

use crate::codec::{DecodeError, Reader, Result, put_varint};
use crate::types::TOKEN_MAX;
use std::ops::Range;

/// Version of all kinds of records. Version 1 can still be read. Version 2 changed this:
///
/// - A lease has the shard time of its last renewal instead of the wall time.
/// - A lease has its claim TTL, and a session the grants that others ended.
/// - A remembered request without a token is a tombstone.
pub(super) const VERSION: u8 = 2;
/// Version 2 with a principal. A record that belongs to no identity keeps version 2, so that it
/// costs nothing where identities are off.
pub(super) const WITH_PRINCIPAL: u8 = 3;
/// Highest believable counter. A record with a higher one is refused, so that counting on cannot
/// overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// The counters of a table. They are one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) last_token: u64,
    pub(super) last_waiter: u64,
    pub(super) shard_ms: u64,
    pub(super) ended_grants: Range<u64>,
    pub(super) ended_sessions: Range<u64>,
}

impl Header {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.push(VERSION);
        let (grants, sessions) = (&self.ended_grants, &self.ended_sessions);
        for number in [self.last_token, self.last_waiter, self.shard_ms, grants.start, grants.end] {
            put_varint(into, number);
        }
        put_varint(into, sessions.start);
        put_varint(into, sessions.end);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Header> {
        let header = Header {
            last_token: counter(r)?,
            last_waiter: counter(r)?,
            shard_ms: r.varint()?,
            ended_grants: counter(r)?..counter(r)?,
            ended_sessions: counter(r)?..counter(r)?,
        };
        if header.last_token > TOKEN_MAX {
            return Err(DecodeError("a token counter past 2^53"));
        }
        Ok(header)
    }
}

/// Reads a counter.
pub(super) fn counter(r: &mut Reader<'_>) -> Result<u64> {
    match r.varint()? {
        count if count <= COUNTER_MAX => Ok(count),
        _ => Err(DecodeError("an impossible counter")),
    }
}
