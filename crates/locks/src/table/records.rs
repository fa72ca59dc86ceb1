//! The records that a table consists of, and their bytes.
//!
//! Records are canonical: equal tables have equal records, regardless of their history. So places
//! in slabs and other accidents of memory layout have no part in them.
//!
//! A record has a key and a value. The key is a kind byte and a number that is never reused. The
//! value begins with a version. Kinds, and versions of a kind, may be retired but are never reused.
//!
//! Reading never panics, and refuses records that no table can have written. This module knows
//! nothing of which records are written, and when.

use super::header::{Header, VERSION, WITH_PRINCIPAL, counter};
use super::index::Ref;
use super::principals::Principals;
use super::rows::{EndedByOthers, GrantRow, Lease, RenewalState, Terms, WaiterRow};
use super::slab::NONE;
use super::tokens::Tokens;
use super::{LockTable, chain::Links};
use crate::codec::{DecodeError, Reader, Result, put_mode, put_request, put_str, put_varint};
use crate::hash::{hash_number, hash_principal, hash_request};
use crate::limits::{
    InvalidInput, validate_claim_ttl, validate_metadata, validate_mode, validate_name,
    validate_owner, validate_principal, validate_session, validate_ttl,
};
use crate::planted_bugs;
use crate::types::*;
use std::num::NonZeroU64;

/// The first byte of each key. Records are read by rising key, so a record may refer to kinds
/// before its own.
pub(super) mod kind {
    pub(in super::super) const HEADER: u8 = 1;
    pub(in super::super) const SESSION: u8 = 2;
    pub(in super::super) const GRANT: u8 = 3;
    pub(in super::super) const WAITER: u8 = 4;
    pub(in super::super) const ENDED_GRANTS: u8 = 5;
    pub(in super::super) const ENDED_SESSIONS: u8 = 6;
}

const PRIVATE: u8 = 0;
const OF_SESSION: u8 = 1;
pub(super) type Key = [u8; 9];

pub(super) fn key(kind: u8, number: u64) -> Key {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

impl LockTable {
    pub(super) fn header(&self) -> Header {
        Header {
            last_token: self.last_token,
            last_waiter: self.last_waiter,
            shard_ms: self.shard_ms,
            ended_grants: self.ended_grants.span(),
            ended_sessions: self.ended_sessions.span(),
        }
    }

    pub(super) fn encode_session(&self, session: u32, into: &mut Vec<u8>) {
        let row = &self.sessions[session];
        into.push(version_of(&row.terms));
        put_str(into, &row.id);
        put_lease(into, &row.state, &row.terms);
        put_varint(into, row.ended_by_others.as_ref().map_or(0, |broken| broken.count));
        let tokens = row.ended_by_others.iter().flat_map(|broken| &broken.tokens);
        tokens.for_each(|token| put_varint(into, *token));
    }

    pub(super) fn encode_grant(&self, grant: u32, into: &mut Vec<u8>) {
        let row = &self.grants[grant];
        into.push(match &row.lease {
            Lease::Private { terms, .. } => version_of(terms),
            // Its session's record has the principal.
            Lease::Session { .. } => VERSION,
        });
        put_str(into, &self.locks[row.lock].name);
        put_request(into, row.request());
        put_mode(into, row.mode);
        put_varint(into, row.acquired_wall_ms);
        put_varint(into, row.waited_ms.into());
        match &row.lease {
            Lease::Private { state, terms } => {
                into.push(PRIVATE);
                put_lease(into, state, terms);
            }
            Lease::Session { session, renewals_before, .. } => {
                into.push(OF_SESSION);
                let lease =
                    self.sessions[*session].lease_id().expect("a session with grants has a lease");
                put_varint(into, lease.0);
                put_varint(into, *renewals_before);
            }
        }
    }

    pub(super) fn encode_waiter(&self, waiter: u32, into: &mut Vec<u8>) {
        let row = &self.waiters[waiter];
        into.push(version_of(&row.terms));
        put_str(into, &self.locks[row.lock].name);
        put_request(into, row.request);
        put_mode(into, row.mode);
        put_varint(into, row.terms.ttl_ms().into());
        put_varint(into, row.terms.claim_ms().into());
        put_varint(into, row.since_ms);
        put_str(into, if row.session == NONE { "" } else { &self.sessions[row.session].id });
        put_texts(into, &row.terms);
    }
}

/// Builds a table from its records, which come by rising key.
pub(super) struct Loader {
    table: LockTable,
    header: Option<Header>,
    last_key: Option<Key>,
    /// Version of the record that is being read.
    version: u8,
}

impl Loader {
    pub(super) fn new() -> Self {
        Loader { table: LockTable::new(), header: None, last_key: None, version: VERSION }
    }

    pub(super) fn add(&mut self, bytes: &[u8], value: &[u8]) -> Result<()> {
        let key =
            Key::try_from(bytes).map_err(|_| DecodeError("a record key of the wrong length"))?;
        if self.last_key.is_some_and(|last| last >= key) {
            return Err(DecodeError("records out of order"));
        }
        self.last_key = Some(key);
        let [kind, number @ ..] = key;
        let number = u64::from_be_bytes(number);
        let mut r = Reader::new(value);
        self.version = r.byte()?;
        if !(1..=WITH_PRINCIPAL).contains(&self.version) {
            return Err(DecodeError("of an unknown version"));
        }
        match kind {
            kind::HEADER if number == 0 => self.add_header(&mut r)?,
            _ if self.header.is_none() => return Err(DecodeError("records without a header")),
            kind::SESSION => self.add_session(number, &mut r)?,
            kind::GRANT => self.add_grant(number, &mut r)?,
            kind::WAITER => self.add_waiter(number, &mut r)?,
            kind::ENDED_GRANTS => self.add_ended_grants(number, &mut r)?,
            kind::ENDED_SESSIONS => self.add_ended_sessions(number, &mut r)?,
            _ => return Err(DecodeError("an unknown kind of record")),
        }
        r.end()
    }

    /// Returns the table. All of it counts as changed since the last checkpoint. No records at all
    /// make an empty table.
    pub(super) fn finish(self) -> Result<LockTable> {
        let expected = self.header.unwrap_or_else(|| LockTable::new().header());
        if self.table.header() != expected {
            return Err(DecodeError("recent memory is incomplete"));
        }
        let mut table = self.table;
        planted_bugs::forget_counts(|| table.principals = Principals::new());
        Ok(table)
    }

    fn add_header(&mut self, r: &mut Reader<'_>) -> Result<()> {
        let header = Header::decode(r)?;
        let table = &mut self.table;
        (table.last_token, table.last_waiter, table.shard_ms) =
            (header.last_token, header.last_waiter, header.shard_ms);
        table.tokens = Tokens::new(header.last_token);
        table.ended_grants.load(header.ended_grants.clone(), REQUEST_MEMORY_MAX)?;
        table.ended_sessions.load(header.ended_sessions.clone(), REQUEST_MEMORY_MAX)?;
        self.header = Some(header);
        Ok(())
    }

    fn add_session(&mut self, lease: u64, r: &mut Reader<'_>) -> Result<()> {
        let lease = self.token(lease)?;
        let id = r.str()?;
        check(validate_session(id))?;
        let (state, terms) = self.lease(r)?;
        let ended_by_others = self.ended_by_others(r)?;
        let principal = terms.principal();
        if self.table.find_live_session(id, |owner| owner == principal).is_some() {
            return Err(DecodeError("two sessions of one id and identity"));
        }
        let session = self.table.unknown_session(id, terms);
        let row = &mut self.table.sessions[session];
        (row.state, row.ended_by_others) = (state, ended_by_others);
        self.table.begin_session(session, lease);
        Ok(())
    }

    fn add_grant(&mut self, token: u64, r: &mut Reader<'_>) -> Result<()> {
        let token = self.token(token)?;
        let name = r.str()?;
        check(validate_name(name))?;
        let request = self.request(r)?;
        let mode = r.mode()?;
        check(validate_mode(mode))?;
        let acquired_wall_ms = r.varint()?;
        let waited_ms = r.varint_u32()?;
        let session_of = |lease: u64| {
            let is_it =
                |session: u32| self.table.sessions[session].lease_id() == Some(LeaseId(lease));
            self.table.session_leases.get(hash_number(lease), is_it)
        };
        let lease = match r.byte()? {
            PRIVATE if session_of(token.get()).is_none() => {
                let (state, terms) = self.lease(r)?;
                Lease::Private { state, terms }
            }
            OF_SESSION => {
                let session =
                    session_of(r.varint()?).ok_or(DecodeError("a grant of an unknown session"))?;
                let renewals_before = r.varint()?;
                if renewals_before > self.table.sessions[session].state.renewal_seq {
                    return Err(DecodeError("a grant that is ahead of its lease"));
                }
                Lease::Session { session, links: Links::LOOSE, renewals_before }
            }
            _ => return Err(DecodeError("a grant on an impossible lease")),
        };
        let lock = self.lock(name);
        if !self.table.fits(lock, mode) {
            return Err(DecodeError("grants of one name that exclude each other"));
        }
        let mut row = GrantRow::new(token, request, lock, mode, lease);
        (row.acquired_wall_ms, row.waited_ms) = (acquired_wall_ms, waited_ms);
        self.table.link_grant(row);
        Ok(())
    }

    fn add_waiter(&mut self, number: u64, r: &mut Reader<'_>) -> Result<()> {
        if number == 0 || number > self.table.last_waiter {
            return Err(DecodeError("a waiter past the waiter counter"));
        }
        let name = r.str()?;
        check(validate_name(name))?;
        let request = self.request(r)?;
        let mode = r.mode()?;
        check(validate_mode(mode))?;
        let ttl_ms = r.varint_u32()?;
        check(validate_ttl(ttl_ms))?;
        let claim_ttl_ms = self.claim_ttl(r)?;
        let since_ms = r.varint()?;
        let id = r.str()?;
        let terms = self.terms(ttl_ms, claim_ttl_ms, r)?;
        let principal = terms.principal();
        let session = match (id, self.table.find_live_session(id, |owner| owner == principal)) {
            ("", _) => NONE,
            (_, Some(session)) => session,
            (id, None) => {
                check(validate_session(id))?;
                self.table.unknown_session(id, terms.clone())
            }
        };
        let lock = self.lock(name);
        self.table.enqueue(WaiterRow {
            number,
            request,
            since_ms,
            terms,
            mode,
            lock,
            links: Links::LOOSE,
            session,
            session_links: Links::LOOSE,
            changed_at: NONE,
        });
        Ok(())
    }

    fn add_ended_grants(&mut self, block: u64, r: &mut Reader<'_>) -> Result<()> {
        for name in self.table.ended_grants.load_block(block, self.version, r)? {
            let Ref::Ended(at) = name else { continue };
            let ended = self.table.ended_grants.get(at);
            let (token, request, is_tombstone) =
                (ended.token, ended.request(), ended.is_tombstone());
            let principal = ended.principal;
            if is_tombstone && self.version == 1 {
                return Err(DecodeError("an ended grant without a token"));
            }
            if !is_tombstone {
                self.token(token)?;
            }
            // A request id may have been used again after it was forgotten, but a token is unique
            // for ever.
            let known = |entry| match Ref::unpack(entry) {
                Ref::Live(grant) => self.table.grants[grant].token.get() == token,
                Ref::Ended(other) => self.table.ended_grants.get(other).token == token,
                other => unreachable!("{other:?} is no grant"),
            };
            if !is_tombstone && self.table.tokens.get(token, known).is_some() {
                return Err(DecodeError("two grants of one token"));
            }
            if self.table.remembers(self.table.ended_grants.get(at).ended_ms)
                && self.table.is_used_by(request, principal)
            {
                return Err(DecodeError("a request id in two uses"));
            }
            if is_tombstone {
                self.table.requests.insert(hash_request(request), name.pack());
            } else {
                self.table.index_grant(token, name);
            }
        }
        Ok(())
    }

    fn add_ended_sessions(&mut self, block: u64, r: &mut Reader<'_>) -> Result<()> {
        for name in self.table.ended_sessions.load_block(block, self.version, r)? {
            let Ref::Ended(at) = name else { continue };
            let (id, principal, ended_ms) = {
                let ended = self.table.ended_sessions.get(at);
                (ended.id.clone(), ended.principal, ended.ended_ms)
            };
            check(validate_session(&id))?;
            let is_its = |owner: u64| owner == principal;
            let live = self.table.find_live_session(&id, |owner| is_its(hash_principal(owner)));
            if self.table.remembers(ended_ms)
                && (live.is_some() || self.table.has_ended_session(&id, is_its))
            {
                return Err(DecodeError("a session that is known and ended"));
            }
            self.table.index_session(&id, name);
        }
        Ok(())
    }

    fn token(&self, token: u64) -> Result<NonZeroU64> {
        NonZeroU64::new(token)
            .filter(|token| token.get() <= self.table.last_token)
            .ok_or(DecodeError("a token past the token counter"))
    }

    fn request(&self, r: &mut Reader<'_>) -> Result<RequestId> {
        let request = r.request()?;
        match self.table.find_request(request, "") {
            Some(_) => Err(DecodeError("a request id in two uses")),
            None => Ok(request),
        }
    }

    fn lease(&mut self, r: &mut Reader<'_>) -> Result<(RenewalState, Terms)> {
        let ttl_ms = r.varint_u32()?;
        check(validate_ttl(ttl_ms))?;
        let claim_ttl_ms = self.claim_ttl(r)?;
        let (renewal_seq, renewed_ms) = (counter(r)?, r.varint()?);
        let renewed_ms = match self.version {
            // Version 1 kept a wall time here. Such a lease starts anew, so that nothing ends
            // early. Checkpoints of other replicas are at other indexes, so their leases may
            // differ, and with them the state hashes, until each of these leases is renewed or
            // ends.
            1 => self.table.shard_ms,
            _ if renewed_ms > self.table.shard_ms => {
                return Err(DecodeError("a lease that is ahead of its table"));
            }
            _ => renewed_ms,
        };
        Ok((RenewalState { renewal_seq, renewed_ms }, self.terms(ttl_ms, claim_ttl_ms, r)?))
    }

    fn claim_ttl(&self, r: &mut Reader<'_>) -> Result<u32> {
        if self.version == 1 {
            return Ok(0);
        }
        let claim_ttl_ms = r.varint_u32()?;
        check(validate_claim_ttl(claim_ttl_ms))?;
        Ok(claim_ttl_ms)
    }

    fn ended_by_others(&self, r: &mut Reader<'_>) -> Result<Option<Box<EndedByOthers>>> {
        let count = if self.version == 1 { 0 } else { counter(r)? };
        if count == 0 {
            return Ok(None);
        }
        let remembered = count.min(BROKEN_MEMORY_MAX as u64);
        let tokens = (0..remembered).map(|_| r.varint()).collect::<Result<_>>()?;
        Ok(Some(Box::new(EndedByOthers { count, tokens })))
    }

    fn terms(&mut self, ttl_ms: u32, claim_ttl_ms: u32, r: &mut Reader<'_>) -> Result<Terms> {
        let (owner, metadata) = (r.str()?, r.str()?);
        let principal = if self.version == WITH_PRINCIPAL { r.str()? } else { "" };
        check(validate_principal(principal))?;
        check(validate_owner(owner))?;
        check(validate_metadata(metadata))?;
        if claim_ttl_ms >= ttl_ms {
            return Err(DecodeError("a claim that is no shorter than its lease"));
        }
        Ok(self.table.terms(ttl_ms, &[principal, owner, metadata]).with_claim(claim_ttl_ms))
    }

    fn lock(&mut self, name: &str) -> u32 {
        self.table.find_lock(name).unwrap_or_else(|| self.table.new_lock(name))
    }
}

fn put_lease(into: &mut Vec<u8>, state: &RenewalState, terms: &Terms) {
    put_varint(into, terms.ttl_ms().into());
    put_varint(into, terms.claim_ms().into());
    put_varint(into, state.renewal_seq);
    put_varint(into, state.renewed_ms);
    put_texts(into, terms);
}

fn put_texts(into: &mut Vec<u8>, terms: &Terms) {
    put_str(into, terms.owner());
    put_str(into, terms.metadata());
    if version_of(terms) == WITH_PRINCIPAL {
        put_str(into, terms.principal());
    }
}

/// The version of a record with these terms.
fn version_of(terms: &Terms) -> u8 {
    if terms.principal().is_empty() { VERSION } else { WITH_PRINCIPAL }
}

fn check(valid: std::result::Result<(), InvalidInput>) -> Result<()> {
    valid.map_err(InvalidInput::in_log)
}
