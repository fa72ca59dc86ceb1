//! The bytes of a tenure in history, where name and token are its key.
//!
//! They promise to stay readable for as long as history is kept: the version byte is never reused. No checksum of their
//! own: they live inside checked storage.

use crate::codec::{Reader, put_end, put_mode, put_request, put_str, put_varint};
use crate::command::DecodeError;
use crate::types::*;

const VERSION: u8 = 1;
/// Of what is not text, in any tenure that can come to be: so that its bytes are allocated once.
const FIXED_BYTES_MAX: usize = 112;

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
    /// Owner, session, metadata, broken by, reason.
    pub(crate) texts: [&'a str; 5],
}

impl Parts<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut into = Vec::with_capacity(FIXED_BYTES_MAX + self.texts.iter().map(|text| text.len()).sum::<usize>());
        into.push(VERSION);
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
        into
    }
}

impl Ended {
    /// What [`tenure`](Self::tenure) turns back.
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
            texts: [&grant.owner, &grant.session, &grant.metadata, &tenure.broken_by, &tenure.break_reason],
        };
        Ended {
            name: grant.name.clone(),
            token: grant.token,
            ended_wall_ms: tenure.ended_wall_ms,
            end: tenure.end,
            record: parts.encode(),
        }
    }

    /// In full.
    ///
    /// # Errors
    /// If `record` is not what the table made.
    pub fn tenure(&self) -> Result<Tenure, DecodeError> {
        Tenure::decode(&self.name, self.token, &self.record)
    }
}

impl Tenure {
    /// The tenure of this name and token, from its [record](Ended::record); never panics.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(name: &str, token: Token, bytes: &[u8]) -> Result<Tenure, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version(VERSION)?;
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
        r.end()?;
        let grant = Grant {
            name: name.to_owned(),
            owner,
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
        Ok(Tenure { grant, ended_wall_ms, end, broken_by, break_reason })
    }
}
