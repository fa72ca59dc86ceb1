//! The requests of the door for HTTP: their fields, and the operations that they become.
//!
//! * A field has the name that the same thing has in the answers, or on the command line.
//! * Times are durations such as `"30s"`, or milliseconds in a field that ends in `_ms`.
//! * A field that a request does not have is refused, with the name that was probably meant.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::v1::{
    AcquireRequest, BreakLockRequest, CheckRequest, Consistency, Error, HistoryRequest,
    ListRequest, Mode, OpenSessionRequest, ReleaseRequest, RenewRequest, SessionLease,
};

/// The header with the id of an acquire, which its retries repeat.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Takes a lock.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acquire {
    /// The name of the lock: 1 to 512 bytes.
    #[schemars(length(min = 1, max = 512))]
    pub(super) name: String,
    /// The owner that others see.
    #[serde(default)]
    #[schemars(length(max = 256))]
    owner: String,
    /// The lock ends after this time without a renewal: `"100ms"` to `"24h"`. Default: 30 s.
    ttl: Option<String>,
    /// `ttl` in milliseconds.
    #[schemars(range(min = 100, max = 86_400_000))]
    ttl_ms: Option<u32>,
    /// Waits in the queue for this time if another holds the lock: at most `"24h"`. Default: does
    /// not wait.
    wait: Option<String>,
    /// `wait` in milliseconds.
    #[schemars(range(max = 86_400_000))]
    wait_ms: Option<u32>,
    /// How many may hold the lock at the same time. Default: `exclusive`.
    mode: Option<LockMode>,
    /// Of a semaphore: how many permits to take. Default: 1.
    permits: Option<u32>,
    /// Of a semaphore: how many permits there are.
    permit_limit: Option<u32>,
    /// The session whose heartbeats keep the lock. Without one, the lock has a lease of its own.
    #[serde(default)]
    #[schemars(length(max = 64))]
    session: String,
    /// A note that a check shows: at most 1,024 bytes.
    #[serde(default)]
    #[schemars(length(max = 1_024))]
    metadata: String,
}

/// How many may hold a lock at the same time.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of holders in this mode.
    Shared,
    /// As many as there are permits.
    Semaphore,
}

/// Begins the lease of a lock anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Renew {
    /// The name of the lock.
    #[schemars(length(min = 1, max = 512))]
    pub(super) name: String,
    /// The token that the acquire answered.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub(super) fencing_token: u64,
}

/// Lets a lock go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    /// The name of the lock.
    #[schemars(length(min = 1, max = 512))]
    pub(super) name: String,
    /// The token that the acquire answered.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    pub(super) fencing_token: u64,
}

/// Ends what another holds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Break {
    /// The name of the lock.
    #[schemars(length(min = 1, max = 512))]
    name: String,
    /// The token of the hold to end, so that a retry ends no later one.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991u64))]
    fencing_token: u64,
    /// Why. It is kept in the history of the lock.
    #[schemars(length(min = 1, max = 1_024))]
    reason: String,
    /// Who breaks it. It is kept in the history of the lock.
    #[serde(default)]
    #[schemars(length(max = 1_024))]
    broken_by: String,
}

/// Asks who holds a lock.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    /// The name of the lock.
    #[schemars(length(min = 1, max = 512))]
    pub(super) name: String,
    /// `linearizable`, which is the default, or `stale`: any replica answers.
    consistency: Option<Freshness>,
    /// How many holders to answer: at most 1,000, which is the default.
    #[schemars(range(min = 1, max = 1_000))]
    limit: Option<u32>,
    /// Only holders with higher tokens: the last one of the page before.
    #[schemars(range(max = 9_007_199_254_740_991u64))]
    after_token: Option<u64>,
    /// How many acquires of the queue to answer, from its head: at most 1,000. Default: none.
    #[schemars(range(max = 1_000))]
    waiters: Option<u32>,
}

/// How fresh the answer of a check is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Freshness {
    /// A quorum confirms it.
    Linearizable,
    /// One replica answers from what it has.
    Stale,
}

/// Asks who held a lock.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// The name of the lock.
    #[schemars(length(min = 1, max = 512))]
    pub(super) name: String,
    /// How many tenures to answer, the newest first: at most 1,000. Default: 20.
    #[schemars(range(min = 1, max = 1_000))]
    limit: Option<u32>,
}

/// Asks which locks are held.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// The beginning of the names. Default: all names.
    #[serde(default)]
    #[schemars(length(max = 512))]
    prefix: String,
    /// How many locks a page has at most: 1 to 1,000. Default: 100.
    #[schemars(range(min = 1, max = 1_000))]
    limit: Option<u32>,
    /// `next_cursor` of the page before. The other fields stay the same from page to page.
    #[serde(default)]
    cursor: String,
    /// Only locks of this owner. Default: of any.
    #[serde(default)]
    #[schemars(length(max = 256))]
    owner: String,
    /// Only locks that have been held for at least this time: `"30s"`, `"2h"`.
    older_than: Option<String>,
    /// `true`: only names for which others wait, with the first ten waiters of each.
    #[serde(default)]
    waiting: bool,
}

/// Makes a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenSession {
    /// The owner that others see.
    #[serde(default)]
    #[schemars(length(max = 256))]
    owner: String,
    /// The session ends after this time without a heartbeat: `"100ms"` to `"24h"`. Default: 30 s.
    ttl: Option<String>,
    /// `ttl` in milliseconds.
    #[schemars(range(min = 100, max = 86_400_000))]
    ttl_ms: Option<u32>,
    /// A note: at most 1,024 bytes.
    #[serde(default)]
    #[schemars(length(max = 1_024))]
    metadata: String,
}

/// Keeps a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Heartbeat {
    /// The shards on which the session holds locks, as its grants say.
    #[serde(default)]
    shards: Vec<u32>,
    /// The same with more: the lives of the session, and the breaks that are known. A shard stands
    /// here or in `shards`.
    #[serde(default)]
    leases: Vec<Lease>,
}

/// A session on one shard.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lease {
    /// The number of the shard.
    shard: u32,
    /// `session_life` of its grants there. With another life the shard is lost. Default: any life.
    #[serde(default)]
    life: u64,
    /// `broken_count` of the answer before, so that only the tokens after it are answered.
    #[serde(default)]
    broken_seen: u64,
}

/// The query of a lock for Terraform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Terraform {
    /// The lock ends after this time: `100ms` to `24h`. Default: 24 h. Nothing renews it.
    ttl: Option<String>,
    /// Of UNLOCK: the ID of the lock, if the body does not say it.
    #[serde(rename = "ID")]
    pub(super) id: Option<String>,
}

impl Terraform {
    /// The TTL in milliseconds. `None` if it is not given.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if it is no duration.
    pub(super) fn ttl_ms(&self) -> Result<Option<u32>, Box<Error>> {
        match self.ttl.as_deref() {
            None => Ok(None),
            Some(ttl) => ttl_ms(Some(ttl), None).map(Some),
        }
    }
}

/// The query of a route that has no fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Ends a session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseSession {
    /// The shards on which the session holds locks, with commas between them: `0,3`.
    #[schemars(regex(pattern = r"^\+?[0-9]+(,\+?[0-9]+)*$"))]
    shards: String,
}

impl Acquire {
    /// The operation, with the request id of an idempotency key.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a time is none, or given twice.
    pub(super) fn into_operation(self, request_id: Vec<u8>) -> Result<AcquireRequest, Box<Error>> {
        let mode = self.mode.map_or(Mode::Unspecified, |mode| match mode {
            LockMode::Exclusive => Mode::Exclusive,
            LockMode::Shared => Mode::Shared,
            LockMode::Semaphore => Mode::Semaphore,
        });
        Ok(AcquireRequest {
            ttl_ms: ttl_ms(self.ttl.as_deref(), self.ttl_ms)?,
            wait_ms: milliseconds("wait", self.wait.as_deref(), self.wait_ms)?,
            name: self.name,
            owner: self.owner,
            request_id,
            mode: mode.into(),
            permits: self.permits.unwrap_or(0),
            permit_limit: self.permit_limit.unwrap_or(0),
            session_id: self.session,
            metadata: self.metadata,
            claim_ttl_ms: 0,
        })
    }
}

impl From<&Renew> for RenewRequest {
    fn from(renew: &Renew) -> RenewRequest {
        RenewRequest { name: renew.name.clone(), fencing_token: renew.fencing_token }
    }
}

impl From<&Release> for ReleaseRequest {
    fn from(release: &Release) -> ReleaseRequest {
        let (name, fencing_token) = (release.name.clone(), release.fencing_token);
        ReleaseRequest { name, fencing_token, session_life: 0 }
    }
}

impl From<Break> for BreakLockRequest {
    fn from(asked: Break) -> BreakLockRequest {
        let Break { name, fencing_token, reason, broken_by } = asked;
        BreakLockRequest { name, fencing_token, reason, broken_by }
    }
}

impl Check {
    /// The request of the protocol.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if it asks for no holders.
    pub(super) fn request(&self) -> Result<CheckRequest, Box<Error>> {
        let consistency = match self.consistency {
            None => Consistency::Unspecified,
            Some(Freshness::Linearizable) => Consistency::Linearizable,
            Some(Freshness::Stale) => Consistency::Stale,
        };
        Ok(CheckRequest {
            name: self.name.clone(),
            consistency: consistency.into(),
            after_token: self.after_token.unwrap_or(0),
            limit: rows(self.limit)?,
            waiters_limit: self.waiters.unwrap_or(0),
        })
    }
}

impl History {
    /// The request of the protocol.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if it asks for no tenures.
    pub(super) fn request(&self) -> Result<HistoryRequest, Box<Error>> {
        Ok(HistoryRequest { name: self.name.clone(), limit: rows(self.limit)? })
    }
}

impl List {
    /// The request of the protocol.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the time is none, or it asks for no locks.
    pub(super) fn into_request(self) -> Result<ListRequest, Box<Error>> {
        let List { prefix, limit, cursor, owner, older_than, waiting } = self;
        let older_than_ms = milliseconds_of("older_than", older_than.as_deref())?;
        let limit = rows(limit)?;
        Ok(ListRequest { prefix, limit, cursor, owner, older_than_ms, waiting })
    }
}

impl Heartbeat {
    /// The parts of the session, by shard.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is no shard, or one twice.
    pub(super) fn leases(&self) -> Result<Vec<SessionLease>, Box<Error>> {
        let plain = self.shards.iter().map(|shard| (*shard, SessionLease::default()));
        let told = self.leases.iter().map(|lease| {
            let Lease { shard, life, broken_seen } = *lease;
            (shard, SessionLease { life, broken_seen, ..SessionLease::default() })
        });
        let mut leases = BTreeMap::new();
        for (shard, lease) in plain.chain(told) {
            if leases.insert(shard, SessionLease { shard, ..lease }).is_some() {
                let message = format!("shard {shard} is named twice: name it once");
                return Err(Box::new(Error::invalid(message)));
            }
        }
        if leases.is_empty() {
            let message = "no shard is named: give those of the session's grants, as shards or as \
                leases";
            return Err(Box::new(Error::invalid(message)));
        }
        Ok(leases.into_values().collect())
    }
}

impl OpenSession {
    /// The request of the protocol.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the time is none, or given twice.
    pub(super) fn into_request(self) -> Result<OpenSessionRequest, Box<Error>> {
        let ttl_ms = ttl_ms(self.ttl.as_deref(), self.ttl_ms)?;
        Ok(OpenSessionRequest { owner: self.owner, ttl_ms, metadata: self.metadata })
    }
}

impl CloseSession {
    /// The numbers of the shards.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is none, or one is no number.
    pub(super) fn shards(&self) -> Result<Vec<u32>, Box<Error>> {
        let shards: Result<_, _> = self.shards.split(',').map(str::parse).collect();
        shards.map_err(|_| {
            let message = "shards: give numbers with commas between them, such as shards=0,3";
            Box::new(Error::invalid(message))
        })
    }
}

/// The rows of an answer. 0 stands for the default, which no request asks for by a 0.
fn rows(limit: Option<u32>) -> Result<u32, Box<Error>> {
    match limit {
        Some(0) => {
            let message = "limit is 0: give 1 to 1,000, or leave it out for the default";
            Err(Box::new(Error::invalid(message)))
        }
        limit => Ok(limit.unwrap_or(0)),
    }
}

/// The time of `ttl`, in milliseconds. 0 stands for the default, which no request asks for by a 0.
fn ttl_ms(text: Option<&str>, ms: Option<u32>) -> Result<u32, Box<Error>> {
    match milliseconds("ttl", text, ms)? {
        0 if text.is_some() || ms.is_some() => {
            let message = "ttl is 0: give a time, or leave it out for the default";
            Err(Box::new(Error::invalid(message)))
        }
        ms => Ok(ms),
    }
}

/// The time of a field, in milliseconds. 0 stands for the default.
fn milliseconds(field: &str, text: Option<&str>, ms: Option<u32>) -> Result<u32, Box<Error>> {
    let text = match (text, ms) {
        (Some(_), Some(_)) => {
            let message = format!("{field} and {field}_ms are both given: leave one of them out");
            return Err(Box::new(Error::invalid(message)));
        }
        (None, ms) => return Ok(ms.unwrap_or(0)),
        (Some(text), None) => text,
    };
    duration_ms(text).and_then(|ms| u32::try_from(ms).ok()).ok_or_else(|| {
        let message = format!(
            "{field} is no duration: write it as \"30s\", \"1m30s\" or \"500ms\", or give \
             {field}_ms"
        );
        Box::new(Error::invalid(message))
    })
}

/// The time of a parameter of a query, in milliseconds. 0 if it is not given.
fn milliseconds_of(field: &str, text: Option<&str>) -> Result<u64, Box<Error>> {
    let Some(text) = text else { return Ok(0) };
    duration_ms(text).ok_or_else(|| {
        let message =
            format!("{field} is no duration: write it as 30s, 1m30s or 500ms, such as {field}=30s");
        Box::new(Error::invalid(message))
    })
}

/// The milliseconds of a duration such as `30s`. `None` if it is none, or has a part of one.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let whole = |time: &Duration| time.subsec_nanos().is_multiple_of(1_000_000);
    let time = humantime::parse_duration(text).ok().filter(whole)?;
    u64::try_from(time.as_millis()).ok()
}

/// The request id of an idempotency key: the 16 bytes of a UUID, or of 32 digits of hex. The key may
/// stand in quotes. A word that people choose is refused, because two acquires could share it.
///
/// # Errors
/// INVALID_ARGUMENT if it is neither.
pub(super) fn request_id(key: &[u8]) -> Result<Vec<u8>, Box<Error>> {
    let key = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or(key);
    sixteen_bytes(key).ok_or_else(|| {
        let message = "the header idempotency-key is neither a UUID nor 32 digits of hex: make a \
            random one with uuidgen, or leave it out";
        Box::new(Error::invalid(message))
    })
}

fn sixteen_bytes(key: &[u8]) -> Option<Vec<u8>> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let digits: Vec<u8> = match key.len() {
        32 => key.to_vec(),
        36 if DASHES.iter().all(|at| key[*at] == b'-') => {
            let digits = key.iter().enumerate().filter(|(at, _)| !DASHES.contains(at));
            digits.map(|(_, digit)| *digit).collect()
        }
        _ => return None,
    };
    digits.chunks_exact(2).map(byte).collect()
}

/// The byte of two digits of hex.
fn byte(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    Some(value(digits[0])? << 4 | value(digits[1])?)
}

/// Whether a query is UTF-8 once its escapes are decoded.
pub(super) fn is_utf8(query: &str) -> bool {
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2).and_then(byte)).flatten();
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).is_ok()
}

/// Adds the field that was probably meant to an error about an unknown one.
pub(super) fn with_nearest_field(message: String) -> String {
    // serde: "…unknown field `x`, expected one of `a`, `b` at line 1 column 2"
    let Some((_, rest)) = message.split_once("unknown field `") else { return message };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    // A longer word is a mistake of another kind, and comparing it would cost time.
    if unknown.len() > 64 {
        return message;
    }
    // From here on, every second part was in quotes.
    let known = quoted.skip(1).step_by(2);
    let nearest = known.map(|field| (strsim::levenshtein(unknown, field), field)).min();
    match nearest {
        // A name that is farther away is another word.
        Some((distance, field)) if distance <= unknown.len().max(field.len()) / 2 => {
            format!("{message}: did you mean `{field}`?")
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_becomes_a_request_id() {
        let bytes = vec![0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        let bytes = [bytes.clone(), bytes].concat();
        for key in [
            "0123456789abcdef0123456789ABCDEF",
            "01234567-89ab-cdef-0123-456789abcdef",
            "\"01234567-89ab-cdef-0123-456789abcdef\"",
        ] {
            assert_eq!(request_id(key.as_bytes()).unwrap(), bytes, "{key}");
        }
        for key in [
            "",
            "\"\"",
            "deploy-42",
            // Not quite hex, and not quite a UUID.
            "0123456789abcdef0123456789abcdeg",
            "01234567089ab-cdef-0123-456789abcdef",
        ] {
            let refused = request_id(key.as_bytes()).unwrap_err();
            assert!(refused.message.contains("uuidgen"), "{key}: {refused}");
        }
    }

    #[test]
    fn a_query_is_utf8_after_decoding() {
        for query in ["", "name=a%2Fb+c", "name=%C3%BC", "a=%&b=%4&c=%zz"] {
            assert!(is_utf8(query), "{query}");
        }
        for query in ["name=%FF", "name=%C3", "%C3=a", "name=%C3%C3", "a=%C3&%BC=b"] {
            assert!(!is_utf8(query), "{query}");
        }
    }

    #[test]
    fn a_time_is_a_duration_or_milliseconds_and_not_both() {
        let ms = |text: &str| milliseconds("ttl", Some(text), None).ok();
        assert_eq!((ms("30s"), ms("1m30s"), ms("500ms")), (Some(30_000), Some(90_000), Some(500)));
        assert_eq!(
            (ms(""), ms("30"), ms("1us"), ms("-1s"), ms("60d")),
            (None, None, None, None, None)
        );
        assert_eq!(milliseconds("ttl", None, Some(7)).unwrap(), 7);
        assert_eq!(milliseconds("ttl", None, None).unwrap(), 0);
        assert!(ttl_ms(Some("0s"), None).is_err() && ttl_ms(None, Some(0)).is_err());
        assert_eq!((ttl_ms(None, None).unwrap(), ttl_ms(Some("7ms"), None).unwrap()), (0, 7));
        let both = milliseconds("ttl", Some("1s"), Some(1_000)).unwrap_err();
        assert!(both.message.contains("both"), "{both}");
    }
}
