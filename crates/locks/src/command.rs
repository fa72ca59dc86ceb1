//! Commands and their bytes in the log.
//!
//! A command is a tag byte and its fields in a fixed order. A tag is never reused. Before the
//! command stands its [`Caller`], if it has one:
//!
//! ```text
//! [tag, fields]                                      identities are off, or a leader asks
//! [AS, principal] [tag, fields]                      an identity asks
//! [AS_WITHIN, principal, quota] [tag, fields]        an identity with a quota asks
//! [BY, number] [tag, fields]                         a caller asks that the entry has named before
//! ```
//!
//! So an entry costs nothing more where identities are off. A command that stands alone names its
//! caller in full. [`callers`](crate::callers) puts the number in its place where commands share an
//! entry. Decoding borrows from the entry, and the result is always within the limits of
//! [`validate`]. This module knows nothing of batches or of the table.

use crate::codec::{DecodeError, Reader, put_mode, put_request, put_str, put_varint};
use crate::limits::*;
use crate::types::*;

/// The first byte of each command. A tag may be retired but never reused, because old logs hold it.
mod tag {
    pub(super) const ACQUIRE: u8 = 1;
    pub(super) const RENEW: u8 = 2;
    pub(super) const RELEASE: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const CLOSE_SESSION: u8 = 5;
    pub(super) const CANCEL_WAIT: u8 = 6;
    pub(super) const EXPIRE_LEASE: u8 = 7;
    pub(super) const BREAK: u8 = 8;
    /// A [`HEARTBEAT`] that names one life of its session.
    pub(super) const HEARTBEAT_OF_LIFE: u8 = 9;
    /// An [`ACQUIRE`] with a grant that must be claimed within a first, shorter TTL.
    pub(super) const ACQUIRE_TO_CLAIM: u8 = 10;
    /// A [`CANCEL_WAIT`] of an acquire that its caller has given up for good.
    pub(super) const GIVE_UP: u8 = 11;
    /// A [`RELEASE`] that says which life of a session asks for it.
    pub(super) const RELEASE_BY: u8 = 12;
    /// No command: the principal of the command that follows.
    pub(super) const AS: u8 = 13;
    /// No command: the principal and the quota of the command that follows.
    pub(super) const AS_WITHIN: u8 = 14;
    /// No command: the number of the caller of the command that follows, among the callers that
    /// its entry has named before.
    pub(super) const BY: u8 = 15;
}

/// The identity that asks for a command.
///
/// ```
/// use palisade_locks::{Caller, Command, Token};
///
/// let (ann, renew) = (Caller::of("ann"), Command::Renew { name: "orders/42", token: Token(7) });
/// let mut bytes = Vec::new();
/// renew.encode_as(ann, &mut bytes);
/// assert_eq!(Command::decode_as(&bytes), Ok((ann, renew)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The identity, as a gateway proved it. Empty if identities are off, or if a leader asks. Then
    /// the command may touch grants, waiters and sessions of any identity.
    pub principal: &'a str,
    /// The quota of the identity. Only an acquire is compared with it. It means nothing without a
    /// principal.
    pub quota: Quota,
}

impl<'a> Caller<'a> {
    /// A caller without a quota.
    pub fn of(principal: &'a str) -> Caller<'a> {
        Caller { principal, quota: Quota::default() }
    }

    /// Appends the caller as it stands before each of its commands. Nothing if it has no principal.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Caller { principal, quota } = *self;
        if principal.is_empty() {
            return;
        }
        into.push(if quota == Quota::default() { tag::AS } else { tag::AS_WITHIN });
        put_str(into, principal);
        if quota != Quota::default() {
            for bound in [quota.locks, quota.sessions, quota.waits] {
                put_varint(into, bound.into());
            }
        }
    }

    /// Takes the caller off the front of a command that stands alone. Returns the rest too.
    #[inline(always)]
    pub(crate) fn split(bytes: &'a [u8]) -> Result<(Caller<'a>, &'a [u8]), DecodeError> {
        match Prefix::of(bytes)? {
            (Prefix::Nobody, rest) => Ok((Caller::default(), rest)),
            (Prefix::Named(encoded), rest) => Ok((Caller::decode(encoded)?, rest)),
            (Prefix::Numbered(_), _) => Err(DecodeError("the number of a caller outside an entry")),
        }
    }

    /// Decodes a caller and checks it. It must take up all of `encoded`.
    pub(crate) fn decode(encoded: &'a [u8]) -> Result<Caller<'a>, DecodeError> {
        let caller = Caller::read(encoded)?;
        validate_principal(caller.principal).map_err(InvalidInput::in_log)?;
        Ok(caller)
    }

    /// Reads a caller that was checked when it was encoded, a moment ago.
    pub(crate) fn read(encoded: &'a [u8]) -> Result<Caller<'a>, DecodeError> {
        let mut r = Reader::new(encoded);
        let tag = r.byte()?;
        let principal = r.str()?;
        if principal.is_empty() {
            return Err(DecodeError("a caller without a principal"));
        }
        let mut quota = Quota::default();
        if tag == tag::AS_WITHIN {
            let mut bound = || r.varint_u32();
            quota = Quota { locks: bound()?, sessions: bound()?, waits: bound()? };
            if quota == Quota::default() {
                return Err(DecodeError("a quota without a bound"));
            }
        }
        r.end()?;
        Ok(Caller { principal, quota })
    }
}

/// What stands before an encoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix<'a> {
    Nobody,
    /// A caller in full, as [`Caller::decode`] reads it.
    Named(&'a [u8]),
    /// The number of a caller that the entry has named before.
    Numbered(u32),
}

impl<'a> Prefix<'a> {
    /// Takes the prefix off an encoded command. Returns the rest too. A caller in full is only
    /// measured.
    #[inline(always)]
    pub(crate) fn of(bytes: &'a [u8]) -> Result<(Prefix<'a>, &'a [u8]), DecodeError> {
        match bytes.first() {
            Some(&(tag::AS | tag::AS_WITHIN | tag::BY)) => Prefix::read(bytes),
            _ => Ok((Prefix::Nobody, bytes)),
        }
    }

    fn read(bytes: &'a [u8]) -> Result<(Prefix<'a>, &'a [u8]), DecodeError> {
        let mut r = Reader::new(bytes);
        let tag = r.byte()?;
        if tag == tag::BY {
            let number = r.varint_u32()?;
            return Ok((Prefix::Numbered(number), r.rest()));
        }
        r.bytes()?;
        if tag == tag::AS_WITHIN {
            for _bound in 0..3 {
                r.skip_varint()?;
            }
        }
        let (caller, command) = bytes.split_at(bytes.len() - r.remaining());
        Ok((Prefix::Named(caller), command))
    }
}

/// Appends the number of a caller, in the place of the caller in full.
pub(crate) fn put_number(into: &mut Vec<u8>, number: u32) {
    into.push(tag::BY);
    put_varint(into, number.into());
}

/// Most bytes of an encoded caller beside its principal: a tag, a length and three bounds.
const CALLER_FIXED_MAX: usize = 18;
/// Most bytes of an encoded command beside its texts: a tag, a request id, numbers and lengths.
const COMMAND_FIXED_MAX: usize = 64;

/// An operation on the table. It borrows from the entry that it was decoded from.
///
/// ```
/// use palisade_locks::{Command, Token};
///
/// let renew = Command::Renew { name: "orders/42", token: Token(7) };
/// let mut bytes = Vec::new();
/// renew.encode(&mut bytes);
/// assert_eq!(Command::decode(&bytes), Ok(renew));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Takes a lock: now, or with `wait` after the waiters ahead in its queue.
    Acquire {
        /// Identifies the acquire. Every retry carries the same id, so that it gets the same
        /// answer.
        request_id: RequestId,
        /// Name of the resource to lock.
        name: &'a str,
        /// Shown to people and kept in history. It is not an identity: two holders may share it.
        owner: &'a str,
        /// TTL of the private lease; or of the session's lease, if this grant begins it on this
        /// shard.
        ttl_ms: u32,
        /// Mode in which the lock is to be held.
        mode: Mode,
        /// Whether to queue if the lock cannot be granted at once.
        wait: bool,
        /// Id of the session that the grant hangs on. Empty for a private lease.
        session: &'a str,
        /// Free text, shown with the grant and kept in history.
        metadata: &'a str,
        /// Unless 0: the TTL of a grant out of the queue until its holder renews it for the first
        /// time. It is ignored if it is not shorter than `ttl_ms`.
        ///
        /// Without it, a waiter that died in the queue is granted the lock and blocks it for a full
        /// `ttl_ms`. A holder that is alive claims the grant by renewing, and from then on has
        /// `ttl_ms`.
        claim_ttl_ms: u32,
    },
    /// Extends the lease behind a grant by another TTL.
    Renew {
        /// Name of the locked resource.
        name: &'a str,
        /// Token of the grant.
        token: Token,
    },
    /// Ends a grant at its holder's wish.
    Release {
        /// Name of the locked resource.
        name: &'a str,
        /// Token of the grant.
        token: Token,
        /// The life of the session that asks for it, or 0 for no session. If the grant hangs on
        /// another life, that session hears of the release with its next heartbeat. `None` is an
        /// entry of an earlier version: no session hears of it.
        by: Option<LeaseId>,
    },
    /// Extends the lease of everything that a session holds on this shard by another TTL.
    Heartbeat {
        /// Id of the session.
        session: &'a str,
        /// The life of the session to renew, or 0 for any life.
        life: LeaseId,
        /// Number of broken grants of that life that the caller already knows of.
        broken_seen: u64,
    },
    /// Releases everything that a session holds on this shard and drops its waiters.
    CloseSession {
        /// Id of the session.
        session: &'a str,
    },
    /// Takes a waiter out of its queue.
    CancelWait {
        /// Name of the resource that it waits for.
        name: &'a str,
        /// Request id of its acquire.
        request_id: RequestId,
        /// Whether the caller has given the acquire up for good. If so, no copy of it that arrives
        /// later is granted. If not, a retry may queue again.
        given_up: bool,
    },
    /// Ends a lease after its deadline has passed on the leader. It does nothing if the lease was
    /// renewed since the leader set that deadline.
    ExpireLease {
        /// The lease that is due.
        lease: LeaseId,
        /// The renewal that the leader timed. A lease with a later one lives on.
        renewal_seq: u64,
    },
    /// Ends a grant by force and records the breaker in its tenure.
    Break {
        /// Name of the locked resource.
        name: &'a str,
        /// Token of the grant to end.
        token: Token,
        /// The person or program that breaks the lock, for history.
        by: &'a str,
        /// The reason for the break, for history. Not empty.
        reason: &'a str,
    },
}

impl<'a> Command<'a> {
    /// Appends the caller and the command to `into`. The quota of a caller without a principal is
    /// left out.
    #[inline]
    pub fn encode_as(&self, caller: Caller<'_>, into: &mut Vec<u8>) {
        if !caller.principal.is_empty() {
            into.reserve(CALLER_FIXED_MAX + caller.principal.len() + self.bytes_max());
            caller.encode(into);
        }
        self.encode(into);
    }

    /// An upper bound of the encoded length without the caller.
    pub fn bytes_max(&self) -> usize {
        let texts = match self {
            Command::Acquire { name, owner, session, metadata, .. } => {
                name.len() + owner.len() + session.len() + metadata.len()
            }
            Command::Renew { name, .. }
            | Command::Release { name, .. }
            | Command::CancelWait { name, .. } => name.len(),
            Command::Heartbeat { session, .. } | Command::CloseSession { session } => session.len(),
            Command::Break { name, by, reason, .. } => name.len() + by.len() + reason.len(),
            Command::ExpireLease { .. } => 0,
        };
        COMMAND_FIXED_MAX + texts
    }

    /// Decodes one command with its caller. They must take up all of `bytes`.
    ///
    /// # Errors
    /// If the bytes are malformed or a field is outside its limits.
    #[inline(always)]
    pub fn decode_as(bytes: &'a [u8]) -> Result<(Caller<'a>, Command<'a>), DecodeError> {
        let (caller, rest) = Caller::split(bytes)?;
        Ok((caller, Command::decode(rest)?))
    }

    /// Whether these bytes, if they encode a command, may leave a mark in the memory of ended
    /// requests and sessions without a grant that ends.
    pub(crate) fn may_leave_mark(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(&(tag::GIVE_UP | tag::CLOSE_SESSION)))
    }

    /// Whether these bytes, if they encode a command, are compared with the quota of its caller.
    pub(crate) fn has_quota(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(&(tag::ACQUIRE | tag::ACQUIRE_TO_CLAIM)))
    }

    /// Appends the command's tag and fields to `into`.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.reserve(self.bytes_max());
        match *self {
            Command::Acquire {
                request_id,
                name,
                owner,
                ttl_ms,
                mode,
                wait,
                session,
                metadata,
                claim_ttl_ms,
            } => {
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
            Command::Release { name, token, by: None } => {
                put_named(into, tag::RELEASE, name, token)
            }
            Command::Release { name, token, by: Some(life) } => {
                put_named(into, tag::RELEASE_BY, name, token);
                put_varint(into, life.0);
            }
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

    /// Decodes one command without a caller, which must take up all of `bytes`, and checks it by
    /// [`validate`].
    ///
    /// # Errors
    /// If the bytes are malformed or a field is outside its limits.
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
            tag @ (tag::RELEASE | tag::RELEASE_BY) => Command::Release {
                token: Token(r.varint()?),
                name: r.str()?,
                by: if tag == tag::RELEASE { None } else { Some(LeaseId(r.varint()?)) },
            },
            tag::HEARTBEAT => {
                Command::Heartbeat { session: r.str()?, life: LeaseId(0), broken_seen: 0 }
            }
            tag::HEARTBEAT_OF_LIFE => Command::Heartbeat {
                session: r.str()?,
                life: LeaseId(r.varint()?),
                broken_seen: r.varint()?,
            },
            tag::CLOSE_SESSION => Command::CloseSession { session: r.str()? },
            tag @ (tag::CANCEL_WAIT | tag::GIVE_UP) => {
                let given_up = tag == tag::GIVE_UP;
                Command::CancelWait { request_id: r.request()?, name: r.str()?, given_up }
            }
            tag::EXPIRE_LEASE => {
                Command::ExpireLease { lease: LeaseId(r.varint()?), renewal_seq: r.varint()? }
            }
            tag::BREAK => Command::Break {
                token: Token(r.varint()?),
                name: r.str()?,
                by: r.str()?,
                reason: r.str()?,
            },
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

/// Checks `command` against all limits. Call it before encoding a command that came from outside.
///
/// ```
/// use palisade_locks::{Command, InvalidInput, Token, validate};
///
/// let renew = Command::Renew { name: "", token: Token(7) };
/// assert_eq!(validate(&renew), Err(InvalidInput::NameEmpty));
/// ```
///
/// # Errors
/// The first limit that the command exceeds.
pub fn validate(command: &Command<'_>) -> Result<(), InvalidInput> {
    match *command {
        Command::Acquire { name, owner, ttl_ms, mode, session, metadata, claim_ttl_ms, .. } => {
            validate_name(name)?;
            validate_owner(owner)?;
            validate_ttl(ttl_ms)?;
            validate_claim_ttl(claim_ttl_ms)?;
            validate_mode(mode)?;
            if !session.is_empty() {
                validate_session(session)?;
            }
            validate_metadata(metadata)
        }
        Command::Renew { name, token } | Command::Release { name, token, .. } => {
            validate_name(name)?;
            validate_token(token)
        }
        Command::Heartbeat { session, .. } | Command::CloseSession { session } => {
            validate_session(session)
        }
        Command::CancelWait { name, .. } => validate_name(name),
        // Leaders make this command, from numbers that the table gave them.
        Command::ExpireLease { .. } => Ok(()),
        Command::Break { name, token, by, reason } => {
            validate_name(name)?;
            validate_token(token)?;
            validate_breaker(by)?;
            validate_reason(reason)
        }
    }
}
