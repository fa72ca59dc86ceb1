//! The bytes of a tenure in history.
//!
//! They promise to stay readable for as long as history is kept: the version byte is never reused. No checksum of their
//! own: they live inside checked storage.

use crate::codec::{Reader, put_end, put_mode, put_request, put_str, put_varint};
use crate::command::DecodeError;
use crate::types::*;

const VERSION: u8 = 1;

impl Tenure {
    /// The bytes kept in history.
    pub fn encode(&self) -> Vec<u8> {
        let grant = &self.grant;
        let texts = [&grant.name, &grant.owner, &grant.session, &grant.metadata, &self.broken_by, &self.break_reason];
        let mut into = Vec::with_capacity(80 + texts.iter().map(|text| text.len()).sum::<usize>());
        into.push(VERSION);
        put_end(&mut into, self.end);
        put_mode(&mut into, grant.mode);
        put_request(&mut into, grant.request_id);
        for number in [
            grant.token.0,
            grant.lease.0,
            grant.ttl_ms.into(),
            grant.acquired_wall_ms,
            grant.expires_wall_ms,
            self.ended_wall_ms,
            grant.renewals,
            grant.waited_ms,
        ] {
            put_varint(&mut into, number);
        }
        for text in texts {
            put_str(&mut into, text);
        }
        into
    }

    /// Back from [`encode`](Self::encode); never panics.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Tenure, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version(VERSION)?;
        let end = r.end_kind()?;
        let mode = r.mode()?;
        let request_id = r.request()?;
        let token = Token(r.varint()?);
        let lease = LeaseId(r.varint()?);
        let ttl_ms = r.varint_u32()?;
        let acquired_wall_ms = r.varint()?;
        let expires_wall_ms = r.varint()?;
        let ended_wall_ms = r.varint()?;
        let renewals = r.varint()?;
        let waited_ms = r.varint()?;
        let mut text = || r.str().map(str::to_owned);
        let (name, owner, session, metadata) = (text()?, text()?, text()?, text()?);
        let (broken_by, break_reason) = (text()?, text()?);
        r.end()?;
        let grant = Grant {
            name,
            owner,
            token,
            mode,
            session,
            metadata,
            ttl_ms,
            acquired_wall_ms,
            expires_wall_ms,
            renewals,
            waited_ms,
            request_id,
            lease,
        };
        Ok(Tenure { grant, ended_wall_ms, end, broken_by, break_reason })
    }
}
