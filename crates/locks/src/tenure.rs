//! The bytes of a tenure in history. Name and token are its key there, so they are not repeated.
//!
//! The bytes stay readable for as long as history is kept: a version byte is never reused. They
//! carry no checksum, because the storage that holds them has one.

use crate::codec::{DecodeError, Reader, put_end, put_mode, put_request, put_str, put_varint};
use crate::types::*;

const VERSION: u8 = 1;
/// Version 1 and two texts more, the principals of holder and breaker. A tenure without any keeps
/// version 1, so that it costs nothing.
const WITH_PRINCIPALS: u8 = 2;
/// Upper bound for the bytes of all fields that are not text, so that encoding allocates once.
const FIXED_BYTES_MAX: usize = 112;

/// How a grant ends. All texts are empty unless it is broken.
pub(crate) struct End<'a> {
    pub(crate) kind: EndKind,
    /// The breaker, as the caller names it.
    pub(crate) broken_by: &'a str,
    pub(crate) reason: &'a str,
    /// The identity of the breaker.
    pub(crate) principal: &'a str,
    /// Whether the grant ends because its session does. History does not tell that.
    pub(crate) with_session: bool,
}

impl<'a> End<'a> {
    pub(crate) fn of(kind: EndKind) -> Self {
        End { kind, broken_by: "", reason: "", principal: "", with_session: false }
    }

    pub(crate) fn broken(broken_by: &'a str, reason: &'a str, principal: &'a str) -> Self {
        End { broken_by, reason, principal, ..End::of(EndKind::Broken) }
    }
}

/// The parts of a tenure that are not in the key of its history record.
pub(crate) struct Parts<'a> {
    pub(crate) end: EndKind,
    pub(crate) mode: Mode,
    pub(crate) request: RequestId,
    pub(crate) lease: LeaseId,
    pub(crate) ttl_ms: u32,
    pub(crate) acquired_wall_ms: u64,
    pub(crate) expires_wall_ms: u64,
    pub(crate) ended_wall_ms: u64,
    pub(crate) renewals: u64,
    pub(crate) waited_ms: u64,
    /// Owner, session, metadata, breaker, reason: in this order.
    pub(crate) texts: [&'a str; 5],
    /// The principals of holder and breaker.
    pub(crate) principals: [&'a str; 2],
}

impl Parts<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let bytes = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>();
        let principals_bytes = bytes(&self.principals);
        let mut into = Vec::with_capacity(FIXED_BYTES_MAX + bytes(&self.texts) + principals_bytes);
        into.push(if principals_bytes > 0 { WITH_PRINCIPALS } else { VERSION });
        put_end(&mut into, self.end);
        put_mode(&mut into, self.mode);
        put_request(&mut into, self.request);
        for number in [
            self.lease.0,
            self.ttl_ms.into(),
            self.acquired_wall_ms,
            self.expires_wall_ms,
            self.ended_wall_ms,
            self.renewals,
            self.waited_ms,
        ] {
            put_varint(&mut into, number);
        }
        for text in self.texts {
            put_str(&mut into, text);
        }
        if principals_bytes > 0 {
            for principal in self.principals {
                put_str(&mut into, principal);
            }
        }
        into
    }
}

impl Ended {
    /// Encodes a tenure. [`tenure`](Self::tenure) is the inverse.
    pub fn of(tenure: &Tenure) -> Ended {
        let grant = &tenure.grant;
        let parts = Parts {
            end: tenure.end,
            mode: grant.mode,
            request: grant.request_id,
            lease: grant.lease,
            ttl_ms: grant.ttl_ms,
            acquired_wall_ms: grant.acquired_wall_ms,
            expires_wall_ms: grant.expires_wall_ms,
            ended_wall_ms: tenure.ended_wall_ms,
            renewals: grant.renewals,
            waited_ms: grant.waited_ms,
            texts: [
                &grant.owner,
                &grant.session,
                &grant.metadata,
                &tenure.broken_by,
                &tenure.break_reason,
            ],
            principals: [&grant.principal, &tenure.broken_by_principal],
        };
        Ended {
            name: grant.name.clone(),
            token: grant.token,
            ended_wall_ms: tenure.ended_wall_ms,
            held_ms: tenure.ended_wall_ms.saturating_sub(grant.acquired_wall_ms),
            end: tenure.end,
            record: parts.encode(),
        }
    }

    /// Decodes the tenure in full.
    ///
    /// # Errors
    /// If `record` was not made by [`of`](Self::of) or by the table.
    pub fn tenure(&self) -> Result<Tenure, DecodeError> {
        Tenure::decode(&self.name, self.token, &self.record)
    }
}

impl Tenure {
    /// Decodes the tenure of this name and token from its [record](Ended::record). Never panics.
    ///
    /// # Errors
    /// If the bytes are malformed or of an unknown version.
    pub fn decode(name: &str, token: Token, bytes: &[u8]) -> Result<Tenure, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.byte()?;
        if !(VERSION..=WITH_PRINCIPALS).contains(&version) {
            return Err(DecodeError("of an unknown version"));
        }
        let end = r.end_kind()?;
        let mode = r.mode()?;
        let request_id = r.request()?;
        let lease = LeaseId(r.varint()?);
        let ttl_ms = r.varint_u32()?;
        let acquired_wall_ms = r.varint()?;
        let expires_wall_ms = r.varint()?;
        let ended_wall_ms = r.varint()?;
        let renewals = r.varint()?;
        let waited_ms = r.varint()?;
        let mut text = || r.str().map(str::to_owned);
        let (owner, session, metadata) = (text()?, text()?, text()?);
        let (broken_by, break_reason) = (text()?, text()?);
        let (principal, broken_by_principal) = match version {
            VERSION => Default::default(),
            _ => (text()?, text()?),
        };
        r.end()?;
        let grant = Grant {
            name: name.to_owned(),
            owner,
            principal,
            token,
            mode,
            session,
            metadata,
            ttl_ms,
            claim_within_ms: 0,
            acquired_wall_ms,
            rest_ms: 0,
            expires_wall_ms,
            renewals,
            waited_ms,
            request_id,
            lease,
        };
        Ok(Tenure { grant, ended_wall_ms, end, broken_by, break_reason, broken_by_principal })
    }
}
