//! Commands and their bytes in the log.

use crate::types::*;

/// What can be asked of the table. Borrows from the entry that it was decoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Take a lock, now or (with `wait`) after those ahead in its queue.
    Acquire {
        /// Same for all retries.
        request_id: RequestId,
        /// Of the resource.
        name: &'a str,
        /// For people and history; not an identity.
        owner: &'a str,
        /// Of the private lease, or of the session's if this creates its record here.
        ttl_ms: u32,
        /// How.
        mode: Mode,
        /// Queue if it cannot be granted at once.
        wait: bool,
        /// Empty: a private lease.
        session: &'a str,
        /// Free text.
        metadata: &'a str,
    },
    /// Another TTL for the lease behind a grant.
    Renew {
        /// Of the resource.
        name: &'a str,
        /// Of the grant.
        token: Token,
    },
    /// Let go.
    Release {
        /// Of the resource.
        name: &'a str,
        /// Of the grant.
        token: Token,
    },
    /// Another TTL for everything that a session holds here.
    Heartbeat {
        /// Which.
        session: &'a str,
    },
    /// Release everything that a session holds here and drop its waiters.
    CloseSession {
        /// Which.
        session: &'a str,
    },
    /// Take a waiter out of its queue.
    CancelWait {
        /// Of the resource.
        name: &'a str,
        /// Of its acquire.
        request_id: RequestId,
    },
    /// End a lease whose deadline passed on the leader. Does nothing if it was renewed since.
    ExpireLease {
        /// Which.
        lease: LeaseId,
        /// Which of its lives.
        renewal_seq: u64,
    },
    /// Force-release, recorded.
    Break {
        /// Of the resource.
        name: &'a str,
        /// Whose hold.
        token: Token,
        /// Who breaks.
        by: &'a str,
        /// Why.
        reason: &'a str,
    },
}

/// Bytes that are not a batch or command of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid batch of lock commands: {0}")]
pub struct DecodeError(pub &'static str);

impl<'a> Command<'a> {
    /// Appends this command's bytes (tag, then fields; lengths are bounded by the limits of the crate).
    pub fn encode(&self, _into: &mut Vec<u8>) {
        todo!()
    }

    /// Reads one command that takes up all of `bytes`. Checks the limits of names, TTLs and sizes.
    pub fn decode(_bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        todo!()
    }
}

/// Builds the bytes of one log entry out of encoded commands.
#[derive(Debug, Default)]
pub struct BatchBuilder {}

impl BatchBuilder {
    /// Starts an entry.
    pub fn new(_stamp: Stamp) -> Self {
        todo!()
    }
    /// Adds one command, as encoded by [`Command::encode`].
    pub fn push(&mut self, _encoded: &[u8]) {
        todo!()
    }
    /// How many so far.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// None so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes so far.
    pub fn size_bytes(&self) -> usize {
        todo!()
    }
    /// The entry's bytes: version, CRC-32C, stamp, count, commands each with its length.
    pub fn finish(self) -> Vec<u8> {
        todo!()
    }
}

/// One decoded log entry.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// When it was proposed.
    pub stamp: Stamp,
    /// In order.
    pub commands: Vec<Command<'a>>,
}

impl<'a> Batch<'a> {
    /// Length cap, then CRC, then the fields. Never panics, never allocates more than the input's size warrants.
    pub fn decode(_bytes: &'a [u8]) -> Result<Batch<'a>, DecodeError> {
        todo!()
    }
}
