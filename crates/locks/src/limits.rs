//! The limits of a command's fields, and the message for a caller that exceeds them.
//!
//! The same rules hold in two places: for a command that is about to be proposed, and again for the
//! entries of a log. This module knows nothing of the table: it makes only the refusals that no
//! state can change.

use crate::codec::DecodeError;
use crate::types::*;

/// A command that can never succeed as it is. The message says how to fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// The resource name is empty.
    #[error("the resource name is empty: give a name of 1 to {NAME_BYTES_MAX} bytes")]
    NameEmpty,
    /// The resource name is over [`NAME_BYTES_MAX`].
    #[error(
        "the resource name is {bytes} bytes long: shorten it to at most {NAME_BYTES_MAX} bytes"
    )]
    NameTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The resource name has a control character.
    #[error(
        "the resource name has the control character U+{code:04X} at byte {at}: remove or encode it"
    )]
    NameControl {
        /// Byte offset of the character in the name.
        at: usize,
        /// Unicode code point of the character.
        code: u32,
    },
    /// The owner is over [`OWNER_BYTES_MAX`].
    #[error("the owner is {bytes} bytes long: shorten it to at most {OWNER_BYTES_MAX} bytes")]
    OwnerTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The command needs a session id, and it is empty.
    #[error("the session id is empty: give the id of an open session")]
    SessionEmpty,
    /// The session id is over [`SESSION_BYTES_MAX`].
    #[error(
        "the session id is {bytes} bytes long: use the id you were given, at most \
         {SESSION_BYTES_MAX} bytes"
    )]
    SessionTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The metadata is over [`METADATA_BYTES_MAX`].
    #[error("the metadata is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes")]
    MetadataTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The break has no reason.
    #[error("no reason was given: say why the lock is to be broken")]
    ReasonEmpty,
    /// The reason is over [`METADATA_BYTES_MAX`].
    #[error("the reason is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes")]
    ReasonTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The breaker's name is over [`METADATA_BYTES_MAX`].
    #[error(
        "the breaker's name is {bytes} bytes long: shorten it to at most {METADATA_BYTES_MAX} bytes"
    )]
    BreakerTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The principal is over [`PRINCIPAL_BYTES_MAX`].
    #[error(
        "the principal is {bytes} bytes long: use identities of at most {PRINCIPAL_BYTES_MAX} bytes"
    )]
    PrincipalTooLong {
        /// Length as sent.
        bytes: usize,
    },
    /// The principal has a control character.
    #[error(
        "the principal has the control character U+{code:04X} at byte {at}: use an identity without \
         it"
    )]
    PrincipalControl {
        /// Byte offset of the character in the principal.
        at: usize,
        /// Unicode code point of the character.
        code: u32,
    },
    /// The TTL is outside [`TTL_MS`].
    #[error("a TTL of {ttl_ms} ms is out of range: choose 100 ms to 24 h (86400000 ms)")]
    TtlOutOfRange {
        /// TTL as sent.
        ttl_ms: u32,
    },
    /// The claim TTL is outside [`CLAIM_TTL_MS`].
    #[error(
        "a claim TTL of {claim_ttl_ms} ms is out of range: choose 100 ms to 60 s, or 0 for none"
    )]
    ClaimTtlOutOfRange {
        /// Claim TTL as sent.
        claim_ttl_ms: u32,
    },
    /// The token is at or over 2^53.
    #[error(
        "{token} is not a fencing token: tokens are below 2^53; use the one that came with the grant, as an integer"
    )]
    TokenOutOfRange {
        /// Token as sent.
        token: u64,
    },
    /// The count of permits is not 1 to the limit.
    #[error(
        "{count} of {limit} permits cannot be taken: ask for 1 permit up to the semaphore's limit, \
         which is at least 1"
    )]
    PermitsOutOfRange {
        /// Permits as sent.
        count: u32,
        /// Limit as sent.
        limit: u32,
    },
}

impl InvalidInput {
    /// The same refusal for bytes that come from a log: a constant text, without the values.
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
            Self::PrincipalTooLong { .. } => "a principal over its limit",
            Self::PrincipalControl { .. } => "a principal with a control character",
            Self::TtlOutOfRange { .. } => "a TTL out of range",
            Self::ClaimTtlOutOfRange { .. } => "a claim TTL out of range",
            Self::TokenOutOfRange { .. } => "a token of 2^53 or more",
            Self::PermitsOutOfRange { .. } => "permits outside 1..=limit",
        })
    }
}

/// Checks that a name has 1 to [`NAME_BYTES_MAX`] bytes and no control characters.
///
/// # Errors
/// The first rule that the name breaks.
pub fn validate_name(name: &str) -> Result<(), InvalidInput> {
    let bytes = name.len();
    if bytes == 0 {
        return Err(InvalidInput::NameEmpty);
    }
    if bytes > NAME_BYTES_MAX {
        return Err(InvalidInput::NameTooLong { bytes });
    }
    match control_character(name) {
        Some((at, code)) => Err(InvalidInput::NameControl { at, code }),
        None => Ok(()),
    }
}

/// The first control character of a text: its byte offset and its code point.
fn control_character(text: &str) -> Option<(usize, u32)> {
    // A control character is C0 or DEL (one byte), or C1 (0xC2 0x80..=0x9F). Only C1 needs
    // decoding, so texts without these bytes are done here. The fold has no early exit, so that the
    // compiler can vectorize it: every replica validates every name.
    if text
        .bytes()
        .fold(true, |plain, byte| plain & (byte >= 0x20) & (byte != 0x7f) & (byte != 0xc2))
    {
        return None;
    }
    text.char_indices().find(|(_, c)| c.is_control()).map(|(at, c)| (at, c.into()))
}

/// Checks that a principal has at most [`PRINCIPAL_BYTES_MAX`] bytes and no control characters. An
/// empty one passes: it says that identities are off.
///
/// # Errors
/// The first rule that the principal breaks.
pub fn validate_principal(principal: &str) -> Result<(), InvalidInput> {
    let bytes = principal.len();
    if bytes > PRINCIPAL_BYTES_MAX {
        return Err(InvalidInput::PrincipalTooLong { bytes });
    }
    match control_character(principal) {
        Some((at, code)) => Err(InvalidInput::PrincipalControl { at, code }),
        None => Ok(()),
    }
}

/// Checks that an owner has at most [`OWNER_BYTES_MAX`] bytes.
///
/// # Errors
/// If it is longer.
pub fn validate_owner(owner: &str) -> Result<(), InvalidInput> {
    let bytes = owner.len();
    if bytes > OWNER_BYTES_MAX { Err(InvalidInput::OwnerTooLong { bytes }) } else { Ok(()) }
}

/// Checks that a session id has 1 to [`SESSION_BYTES_MAX`] bytes.
///
/// # Errors
/// If it is empty or longer.
pub fn validate_session(session: &str) -> Result<(), InvalidInput> {
    match session.len() {
        0 => Err(InvalidInput::SessionEmpty),
        bytes if bytes > SESSION_BYTES_MAX => Err(InvalidInput::SessionTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Checks that a TTL is within [`TTL_MS`].
///
/// # Errors
/// If it is outside.
pub fn validate_ttl(ttl_ms: u32) -> Result<(), InvalidInput> {
    if TTL_MS.contains(&ttl_ms) { Ok(()) } else { Err(InvalidInput::TtlOutOfRange { ttl_ms }) }
}

/// Checks that a claim TTL is 0 or within [`CLAIM_TTL_MS`].
pub(crate) fn validate_claim_ttl(claim_ttl_ms: u32) -> Result<(), InvalidInput> {
    if claim_ttl_ms == 0 || CLAIM_TTL_MS.contains(&claim_ttl_ms) {
        Ok(())
    } else {
        Err(InvalidInput::ClaimTtlOutOfRange { claim_ttl_ms })
    }
}

/// Checks that a token is below 2^53.
///
/// Token 0 passes, although it is never issued: a command with it gets "not the owner" as its
/// answer.
///
/// # Errors
/// If it is 2^53 or more.
pub fn validate_token(token: Token) -> Result<(), InvalidInput> {
    if token.0 < 1 << 53 { Ok(()) } else { Err(InvalidInput::TokenOutOfRange { token: token.0 }) }
}

/// Checks that permits are 1 to their limit.
///
/// # Errors
/// If they are not.
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

pub(crate) fn validate_breaker(breaker: &str) -> Result<(), InvalidInput> {
    let bytes = breaker.len();
    if bytes > METADATA_BYTES_MAX { Err(InvalidInput::BreakerTooLong { bytes }) } else { Ok(()) }
}

pub(crate) fn validate_reason(reason: &str) -> Result<(), InvalidInput> {
    match reason.len() {
        0 => Err(InvalidInput::ReasonEmpty),
        bytes if bytes > METADATA_BYTES_MAX => Err(InvalidInput::ReasonTooLong { bytes }),
        _ => Ok(()),
    }
}
