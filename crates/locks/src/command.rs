//! Commands and their bytes in the log.
//!
//! A command is a tag byte, never reused, and its fields in a fixed order. Decoding borrows from the entry, and promises
//! that what it returns is within the limits of [`validate`]. It knows nothing of batches or of the table.

use crate::codec::{Reader, put_mode, put_request, put_str, put_varint};
use crate::limits::validate;
use crate::types::*;

/// The first byte of each command. Retired, never reused.
mod tag {
    pub(super) const ACQUIRE: u8 = 1;
    pub(super) const RENEW: u8 = 2;
    pub(super) const RELEASE: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const CLOSE_SESSION: u8 = 5;
    pub(super) const CANCEL_WAIT: u8 = 6;
    pub(super) const EXPIRE_LEASE: u8 = 7;
    pub(super) const BREAK: u8 = 8;
    /// [`HEARTBEAT`] of one life.
    pub(super) const HEARTBEAT_OF_LIFE: u8 = 9;
    /// [`ACQUIRE`] that asks for a first lease to be claimed.
    pub(super) const ACQUIRE_TO_CLAIM: u8 = 10;
    /// [`CANCEL_WAIT`] of an acquire that its caller has given up.
    pub(super) const GIVE_UP: u8 = 11;
}

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
        /// Not 0: a grant out of the queue begins with this TTL, if it is the shorter, until it is claimed.
        claim_ttl_ms: u32,
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
        /// Which life of it; 0: any.
        life: LeaseId,
        /// How many broken grants of that life the caller knows of.
        broken_seen: u64,
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
        /// The caller has given the acquire up: no copy of it that comes later is granted. Without, a retry may come
        /// and queue again.
        given_up: bool,
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

/// Bytes that are not what they should be (command, batch, tenure, record, snapshot), or not of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid bytes of the lock table: {0}")]
pub struct DecodeError(pub &'static str);

impl<'a> Command<'a> {
    /// Appends this command's bytes (tag, then fields; lengths are bounded by the limits of the crate).
    pub fn encode(&self, into: &mut Vec<u8>) {
        match *self {
            Command::Acquire { request_id, name, owner, ttl_ms, mode, wait, session, metadata, claim_ttl_ms } => {
                into.reserve(48 + name.len() + owner.len() + session.len() + metadata.len());
                into.push(if claim_ttl_ms == 0 { tag::ACQUIRE } else { tag::ACQUIRE_TO_CLAIM });
                put_request(into, request_id);
                put_str(into, name);
                put_str(into, owner);
                put_varint(into, ttl_ms.into());
                put_mode(into, mode);
                into.push(wait.into());
                put_str(into, session);
                put_str(into, metadata);
                if claim_ttl_ms != 0 {
                    put_varint(into, claim_ttl_ms.into());
                }
            }
            Command::Renew { name, token } => put_named(into, tag::RENEW, name, token),
            Command::Release { name, token } => put_named(into, tag::RELEASE, name, token),
            Command::Heartbeat { session, life: LeaseId(0), broken_seen: 0 } => {
                into.push(tag::HEARTBEAT);
                put_str(into, session);
            }
            Command::Heartbeat { session, life, broken_seen } => {
                into.push(tag::HEARTBEAT_OF_LIFE);
                put_str(into, session);
                put_varint(into, life.0);
                put_varint(into, broken_seen);
            }
            Command::CloseSession { session } => {
                into.push(tag::CLOSE_SESSION);
                put_str(into, session);
            }
            Command::CancelWait { name, request_id, given_up } => {
                into.push(if given_up { tag::GIVE_UP } else { tag::CANCEL_WAIT });
                put_request(into, request_id);
                put_str(into, name);
            }
            Command::ExpireLease { lease, renewal_seq } => {
                into.push(tag::EXPIRE_LEASE);
                put_varint(into, lease.0);
                put_varint(into, renewal_seq);
            }
            Command::Break { name, token, by, reason } => {
                put_named(into, tag::BREAK, name, token);
                put_str(into, by);
                put_str(into, reason);
            }
        }
    }

    /// Reads one command that takes up all of `bytes`. Checks the limits of names, TTLs and sizes.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let mut r = Reader::new(bytes);
        let command = match r.byte()? {
            tag @ (tag::ACQUIRE | tag::ACQUIRE_TO_CLAIM) => Command::Acquire {
                request_id: r.request()?,
                name: r.str()?,
                owner: r.str()?,
                ttl_ms: r.varint_u32()?,
                mode: r.mode()?,
                wait: r.flag()?,
                session: r.str()?,
                metadata: r.str()?,
                claim_ttl_ms: if tag == tag::ACQUIRE { 0 } else { r.varint_u32()? },
            },
            tag::RENEW => Command::Renew { token: Token(r.varint()?), name: r.str()? },
            tag::RELEASE => Command::Release { token: Token(r.varint()?), name: r.str()? },
            tag::HEARTBEAT => Command::Heartbeat { session: r.str()?, life: LeaseId(0), broken_seen: 0 },
            tag::HEARTBEAT_OF_LIFE => {
                Command::Heartbeat { session: r.str()?, life: LeaseId(r.varint()?), broken_seen: r.varint()? }
            }
            tag::CLOSE_SESSION => Command::CloseSession { session: r.str()? },
            tag @ (tag::CANCEL_WAIT | tag::GIVE_UP) => {
                let given_up = tag == tag::GIVE_UP;
                Command::CancelWait { request_id: r.request()?, name: r.str()?, given_up }
            }
            tag::EXPIRE_LEASE => Command::ExpireLease { lease: LeaseId(r.varint()?), renewal_seq: r.varint()? },
            tag::BREAK => Command::Break { token: Token(r.varint()?), name: r.str()?, by: r.str()?, reason: r.str()? },
            _ => return Err(DecodeError("an unknown command")),
        };
        r.end()?;
        validate(&command).map_err(|invalid| invalid.in_log())?;
        Ok(command)
    }
}

fn put_named(into: &mut Vec<u8>, tag: u8, name: &str, token: Token) {
    into.push(tag);
    put_varint(into, token.0);
    put_str(into, name);
}
