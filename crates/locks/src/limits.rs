//! What a command's fields may be, and what to tell whoever sent something else.
//!
//! The same rules hold at the edge (node and gateway call [`validate`] before anything is proposed) and in the log
//! ([`Command::decode`] calls it again). It knows nothing of the table: these are the refusals that no state can change.

use crate::command::{Command, DecodeError};
use crate::types::*;

/// A command that will never succeed as it is. The message says how to fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// No name.
    #[error("the resource name is empty: give a name of 1 to {NAME_BYTES_MAX} bytes")]
    NameEmpty,
    /// Over [`NAME_BYTES_MAX`].
    #[error("the resource name is {bytes} bytes long: shorten it to at most {NAME_BYTES_MAX} bytes")]
    NameTooLong {
        /// As sent.
        bytes: usize,
    },
    /// A control character in a name.
    #[error("the resource name has the control character U+{code:04X} at byte {at}: remove or encode it")]
    NameControl {
        /// Byte offset.
        at: usize,
        /// Code point.
        code: u32,
    },
    /// Over [`OWNER_BYTES_MAX`].
    #[error("the owner is {bytes} bytes long: shorten it to at most {OWNER_BYTES_MAX} bytes")]
    OwnerTooLong {
        /// As sent.
        bytes: usize,
    },
    /// No session id where one is needed.
    #[error("the session id is empty: give the id of an open session")]
    SessionEmpty,
    /// Over [`SESSION_BYTES_MAX`].
    #[error("the session id is {bytes} bytes long: use the id you were given, at most {SESSION_BYTES_MAX} bytes")]
    SessionTooLong {
        /// As sent.
        bytes: usize,
    },
    /// Over [`METADATA_BYTES_MAX`].
    #[error("the metadata is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes")]
    MetadataTooLong {
        /// As sent.
        bytes: usize,
    },
    /// A break without a reason.
    #[error("no reason was given: say why the lock is to be broken")]
    ReasonEmpty,
    /// Over [`METADATA_BYTES_MAX`].
    #[error("the reason is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes")]
    ReasonTooLong {
        /// As sent.
        bytes: usize,
    },
    /// Over [`METADATA_BYTES_MAX`].
    #[error("the name of who breaks the lock is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes")]
    BreakerTooLong {
        /// As sent.
        bytes: usize,
    },
    /// Outside [`TTL_MS`].
    #[error("a TTL of {ttl_ms} ms is out of range: choose 100 ms to 24 h (86400000 ms)")]
    TtlOutOfRange {
        /// As sent.
        ttl_ms: u32,
    },
    /// Outside [`CLAIM_TTL_MS`].
    #[error("a claim TTL of {claim_ttl_ms} ms is out of range: choose 100 ms to 60 s, or 0 for none")]
    ClaimTtlOutOfRange {
        /// As sent.
        claim_ttl_ms: u32,
    },
    /// At or over 2^53.
    #[error(
        "{token} cannot be a fencing token, all are below 2^53: use the token that came with the grant, as an integer"
    )]
    TokenOutOfRange {
        /// As sent.
        token: u64,
    },
    /// Not 1..=limit.
    #[error(
        "{count} of {limit} permits cannot be taken: ask for 1 to as many as the semaphore's limit, which is at least 1"
    )]
    PermitsOutOfRange {
        /// As sent.
        count: u32,
        /// As sent.
        limit: u32,
    },
}

impl InvalidInput {
    /// Without values, for bytes that come from a log.
    pub(crate) fn in_log(self) -> DecodeError {
        DecodeError(match self {
            Self::NameEmpty => "an empty name",
            Self::NameTooLong { .. } => "a name over its limit",
            Self::NameControl { .. } => "a name with a control character",
            Self::OwnerTooLong { .. } => "an owner over its limit",
            Self::SessionEmpty => "an empty session id",
            Self::SessionTooLong { .. } => "a session id over its limit",
            Self::MetadataTooLong { .. } => "metadata over its limit",
            Self::ReasonEmpty => "a break without a reason",
            Self::ReasonTooLong { .. } => "a reason over its limit",
            Self::BreakerTooLong { .. } => "a breaker over its limit",
            Self::TtlOutOfRange { .. } => "a TTL out of range",
            Self::ClaimTtlOutOfRange { .. } => "a claim TTL out of range",
            Self::TokenOutOfRange { .. } => "a token of 2^53 or more",
            Self::PermitsOutOfRange { .. } => "permits outside 1..=limit",
        })
    }
}

/// Whether `command` is within all limits. Call it before encoding what came from outside.
///
/// # Errors
/// The first limit that it breaks.
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
        Command::Renew { name, token } | Command::Release { name, token } => {
            validate_name(name)?;
            validate_token(token)
        }
        Command::Heartbeat { session, .. } | Command::CloseSession { session } => validate_session(session),
        Command::CancelWait { name, .. } => validate_name(name),
        // Made by leaders, from numbers that the table gave them.
        Command::ExpireLease { .. } => Ok(()),
        Command::Break { name, token, by, reason } => {
            validate_name(name)?;
            validate_token(token)?;
            let bytes = by.len();
            if bytes > METADATA_BYTES_MAX {
                return Err(InvalidInput::BreakerTooLong { bytes });
            }
            match reason.len() {
                0 => Err(InvalidInput::ReasonEmpty),
                bytes if bytes > METADATA_BYTES_MAX => Err(InvalidInput::ReasonTooLong { bytes }),
                _ => Ok(()),
            }
        }
    }
}

/// 1 to [`NAME_BYTES_MAX`] bytes without control characters.
///
/// # Errors
/// What is wrong with it.
pub fn validate_name(name: &str) -> Result<(), InvalidInput> {
    let bytes = name.len();
    if bytes == 0 {
        return Err(InvalidInput::NameEmpty);
    }
    if bytes > NAME_BYTES_MAX {
        return Err(InvalidInput::NameTooLong { bytes });
    }
    // Control characters are C0 and DEL (one byte), or C1 (0xC2 0x80..=0x9F); only the latter needs decoding.
    // Without an early end the compiler looks at many bytes at once; names are validated on every replica.
    if name.bytes().fold(true, |plain, byte| plain & (byte >= 0x20) & (byte != 0x7f) & (byte != 0xc2)) {
        return Ok(());
    }
    match name.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, c)) => Err(InvalidInput::NameControl { at, code: c.into() }),
        None => Ok(()),
    }
}

/// At most [`OWNER_BYTES_MAX`] bytes.
///
/// # Errors
/// It is longer.
pub fn validate_owner(owner: &str) -> Result<(), InvalidInput> {
    let bytes = owner.len();
    if bytes > OWNER_BYTES_MAX { Err(InvalidInput::OwnerTooLong { bytes }) } else { Ok(()) }
}

/// 1 to [`SESSION_BYTES_MAX`] bytes.
///
/// # Errors
/// It is empty or longer.
pub fn validate_session(session: &str) -> Result<(), InvalidInput> {
    match session.len() {
        0 => Err(InvalidInput::SessionEmpty),
        bytes if bytes > SESSION_BYTES_MAX => Err(InvalidInput::SessionTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Within [`TTL_MS`].
///
/// # Errors
/// It is not.
pub fn validate_ttl(ttl_ms: u32) -> Result<(), InvalidInput> {
    if TTL_MS.contains(&ttl_ms) { Ok(()) } else { Err(InvalidInput::TtlOutOfRange { ttl_ms }) }
}

/// 0, or within [`CLAIM_TTL_MS`].
pub(crate) fn validate_claim_ttl(claim_ttl_ms: u32) -> Result<(), InvalidInput> {
    if claim_ttl_ms == 0 || CLAIM_TTL_MS.contains(&claim_ttl_ms) {
        Ok(())
    } else {
        Err(InvalidInput::ClaimTtlOutOfRange { claim_ttl_ms })
    }
}

/// Below 2^53. (0 is never issued, but asking with it is only answered by "not the owner".)
///
/// # Errors
/// It is not.
pub fn validate_token(token: Token) -> Result<(), InvalidInput> {
    if token.0 < 1 << 53 { Ok(()) } else { Err(InvalidInput::TokenOutOfRange { token: token.0 }) }
}

/// Permits are 1 to their limit.
///
/// # Errors
/// They are not.
pub fn validate_mode(mode: Mode) -> Result<(), InvalidInput> {
    match mode {
        Mode::Permits { count, limit } if count == 0 || count > limit => {
            Err(InvalidInput::PermitsOutOfRange { count, limit })
        }
        _ => Ok(()),
    }
}

pub(crate) fn validate_metadata(metadata: &str) -> Result<(), InvalidInput> {
    let bytes = metadata.len();
    if bytes > METADATA_BYTES_MAX { Err(InvalidInput::MetadataTooLong { bytes }) } else { Ok(()) }
}
