//! The JSON documents of the public surface: the answers of the protocol, as programs read them.
//!
//! `palisade … --json` prints these documents. They belong to the protocol and not to the command
//! line, so that every door that speaks JSON uses the same field names.
//!
//! * Field names are never changed or removed; fields are only added.
//! * Enums are words in the protocol's spelling without its prefixes: `ACQUIRED`, `exclusive`.
//! * Numbers that can exceed 2^53 are strings in hex, because JSON readers round them.
//!
//! This module converts. It knows nothing of connections, terminals and exit codes.
//!
//! ```
//! use palisade_wire::{json, v1};
//!
//! let answer = v1::CheckResponse { shard: 3, ..Default::default() };
//! let document = json::Check::new("orders:42", &answer);
//! assert_eq!((document.state, document.fencing_token), ("FREE", None));
//! ```

mod change;
mod cluster;
mod lists;
mod probes;
mod rebuild;
mod topology;
mod upgrade;
mod waiter;
mod watch;
mod words;

pub use change::{ChangePlan, Changed, JobStarted, Jobs, LeaderPlan, MemberStep, ShardPlan};
pub use cluster::{ClusterStatus, Member, Node, Replica, Shard, TopologyGroup, votes};
pub use lists::{Listing, Locks};
pub use probes::{Liveness, Missing, Readiness};
pub use rebuild::Rebuilt;
pub use topology::{Group, Job, Planned, Settings, Topology};
pub use upgrade::{Build, GroupLevel, Upgrade};
pub use waiter::Waiter;
pub use watch::{Event, WatchState, Watched, event_kind, event_word};
pub use words::{mode_name, state_name};

use crate::v1::{
    CheckResponse, GrantState, HeartbeatResponse, OpenSessionResponse, ReleaseResponse,
    RenewResponse, SessionLeaseState,
};
use serde::Serialize;

/// A hold of a lock.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Grant {
    /// The name of the lock.
    pub resource_name: String,
    /// The owner that the acquire named; empty if it named none.
    pub owner_id: String,
    /// The token that storage compares.
    pub fencing_token: u64,
    /// Unix milliseconds by the leader's wall clock, for display.
    pub acquired_at_ms: u64,
    /// Unix milliseconds by the answering node's wall clock, for display.
    pub expires_at_ms: u64,
    /// The rest of the lease as the answering replica counts it: 0 if it is due.
    pub remaining_ms: u32,
    /// The lease's full length.
    pub ttl_ms: u32,
    /// Renewals since the grant.
    pub renewal_count: u64,
    /// `ACQUIRED`, or how the hold ended.
    pub state: &'static str,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// `exclusive`, `shared` or `semaphore`.
    pub mode: &'static str,
    /// Time in the queue before the grant.
    pub waited_ms: u64,
    /// The session that keeps the grant alive; empty for a lease of its own.
    pub session_id: String,
    /// The life of that session on the shard, for its heartbeats. 0 without a session.
    pub session_life: u64,
    /// Free text of the acquire.
    pub metadata: String,
    /// The identity that holds the lock; empty where identities are off.
    pub principal: String,
}

impl From<&crate::v1::Grant> for Grant {
    fn from(grant: &crate::v1::Grant) -> Grant {
        Grant {
            resource_name: grant.resource_name.clone(),
            owner_id: grant.owner_id.clone(),
            fencing_token: grant.fencing_token,
            acquired_at_ms: grant.acquired_at_ms,
            expires_at_ms: grant.expires_at_ms,
            remaining_ms: grant.remaining_ms,
            ttl_ms: grant.ttl_ms,
            renewal_count: grant.renewal_count,
            state: state_name(grant.state()),
            shard: grant.shard,
            mode: mode_name(grant.mode()),
            waited_ms: grant.waited_ms,
            session_id: grant.session_id.clone(),
            session_life: grant.session_life,
            metadata: grant.metadata.clone(),
            principal: grant.principal.clone(),
        }
    }
}

/// One grant from its start to its end.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tenure {
    /// The name of the lock.
    pub resource_name: String,
    /// The owner that the acquire named.
    pub owner_id: String,
    /// The token of the grant.
    pub fencing_token: u64,
    /// Start of the tenure, in Unix milliseconds.
    pub acquired_at_ms: u64,
    /// Unix milliseconds; `null` while the lock is held.
    pub ended_at_ms: Option<u64>,
    /// `ACQUIRED`, `EXPIRED`, `RELEASED` or `BROKEN`.
    pub state: &'static str,
    /// Renewals during the tenure.
    pub renewal_count: u64,
    /// Time in the queue before the grant.
    pub waited_ms: u64,
    /// The session that kept the grant alive; empty for a lease of its own.
    pub session_id: String,
    /// `exclusive`, `shared` or `semaphore`.
    pub mode: &'static str,
    /// The name that the break gave; empty unless `BROKEN`.
    pub broken_by: String,
    /// The reason that the break gave; empty unless `BROKEN`.
    pub break_reason: String,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// The identity that held the lock; empty where identities are off.
    pub principal: String,
    /// The identity that broke the lock; empty unless `BROKEN`, and where identities are off.
    pub broken_by_principal: String,
}

impl From<&crate::v1::Tenure> for Tenure {
    fn from(tenure: &crate::v1::Tenure) -> Tenure {
        Tenure {
            resource_name: tenure.resource_name.clone(),
            owner_id: tenure.owner_id.clone(),
            fencing_token: tenure.fencing_token,
            acquired_at_ms: tenure.acquired_at_ms,
            ended_at_ms: (tenure.ended_at_ms != 0).then_some(tenure.ended_at_ms),
            state: state_name(tenure.state()),
            renewal_count: tenure.renewal_count,
            waited_ms: tenure.waited_ms,
            session_id: tenure.session_id.clone(),
            mode: mode_name(tenure.mode()),
            broken_by: tenure.broken_by.clone(),
            break_reason: tenure.break_reason.clone(),
            shard: tenure.shard,
            principal: tenure.principal.clone(),
            broken_by_principal: tenure.broken_by_principal.clone(),
        }
    }
}

/// The holders of a name. The oldest holder's fields stand at the top, so that the common,
/// exclusive case needs no list.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// The name of the lock.
    pub resource_name: String,
    /// The state of the name: `ACQUIRED` or `FREE`.
    pub state: &'static str,
    /// The oldest holder's owner, or `null` if the name is free. The five fields below are the
    /// oldest holder's too.
    pub owner_id: Option<String>,
    /// The oldest holder's [`Grant::fencing_token`].
    pub fencing_token: Option<u64>,
    /// The oldest holder's [`Grant::acquired_at_ms`].
    pub acquired_at_ms: Option<u64>,
    /// The oldest holder's [`Grant::expires_at_ms`].
    pub expires_at_ms: Option<u64>,
    /// The oldest holder's [`Grant::ttl_ms`].
    pub ttl_ms: Option<u32>,
    /// The oldest holder's [`Grant::renewal_count`].
    pub renewal_count: Option<u64>,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// Acquires in the queue.
    pub waiters: u32,
    /// The highest token that the shard has issued.
    pub last_token: u64,
    /// The node that answered.
    pub answered_by: u64,
    /// The answering replica's position in the log.
    pub applied_index: u64,
    /// How old a stale answer may be. 0 for a linearizable answer.
    pub stale_by_ms: u64,
    /// The holders of this page, oldest first.
    pub holders: Vec<Grant>,
    /// The number of all holders of the name, on this page or not.
    pub holder_count: u32,
    /// Whether there are holders after the last of this page.
    pub more: bool,
    /// The first acquires in the queue, in the order of their turns. Empty unless it was asked for.
    pub queue: Vec<Waiter>,
}

impl Check {
    /// The document for an answer about `name`.
    pub fn new(name: &str, answer: &CheckResponse) -> Check {
        let first = answer.holders.first();
        Check {
            resource_name: name.to_owned(),
            state: if first.is_some() { "ACQUIRED" } else { "FREE" },
            owner_id: first.map(|grant| grant.owner_id.clone()),
            fencing_token: first.map(|grant| grant.fencing_token),
            acquired_at_ms: first.map(|grant| grant.acquired_at_ms),
            expires_at_ms: first.map(|grant| grant.expires_at_ms),
            ttl_ms: first.map(|grant| grant.ttl_ms),
            renewal_count: first.map(|grant| grant.renewal_count),
            shard: answer.shard,
            waiters: answer.waiters,
            last_token: answer.last_token,
            answered_by: answer.answered_by,
            applied_index: answer.applied_index,
            stale_by_ms: answer.stale_by_ms,
            holders: answer.holders.iter().map(Grant::from).collect(),
            holder_count: answer.holder_count,
            more: answer.more,
            queue: answer.queue.iter().map(Waiter::from).collect(),
        }
    }
}

/// A lease that was renewed.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Renewed {
    /// Unix milliseconds by the answering node's wall clock, for display.
    pub expires_at_ms: u64,
    /// The token of the request.
    pub fencing_token: u64,
    /// Renewals since the grant, this one included.
    pub renewal_count: u64,
    /// The name of the lock.
    pub resource_name: String,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// Always `ACQUIRED`, because a renewal that did not keep the lock is an error.
    pub state: &'static str,
    /// The lease's full length, from now.
    pub ttl_ms: u32,
}

impl Renewed {
    /// The document for a renewal of `name` with `fencing_token`.
    pub fn new(name: &str, fencing_token: u64, answer: &RenewResponse) -> Renewed {
        Renewed {
            expires_at_ms: answer.expires_at_ms,
            fencing_token,
            renewal_count: answer.renewal_count,
            resource_name: name.to_owned(),
            shard: answer.shard,
            state: state_name(GrantState::Acquired),
            ttl_ms: answer.ttl_ms,
        }
    }
}

/// A lock that was released.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Released {
    /// Whether the token had been released before, so that this was a retry.
    pub already_released: bool,
    /// The token of the request.
    pub fencing_token: u64,
    /// The name of the lock.
    pub resource_name: String,
    /// The shard that the name belongs to.
    pub shard: u32,
    /// Always `RELEASED`, also for a retry.
    pub state: &'static str,
}

impl Released {
    /// The document for a release of `name` with `fencing_token`.
    pub fn new(name: &str, fencing_token: u64, answer: &ReleaseResponse) -> Released {
        Released {
            already_released: answer.already_released,
            fencing_token,
            resource_name: name.to_owned(),
            shard: answer.shard,
            state: state_name(GrantState::Released),
        }
    }
}

/// The tenures of a name.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct History {
    /// The name of the lock.
    pub resource_name: String,
    /// The tenures, newest first.
    pub tenures: Vec<Tenure>,
}

impl History {
    /// The document for the tenures of `name`.
    pub fn new(name: &str, tenures: &[crate::v1::Tenure]) -> History {
        let tenures = tenures.iter().map(Tenure::from).collect();
        History { resource_name: name.to_owned(), tenures }
    }
}

/// A session that was opened.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionOpened {
    /// The id of the new session.
    pub session_id: String,
    /// The TTL of the session's lease on each shard.
    pub ttl_ms: u32,
}

impl From<&OpenSessionResponse> for SessionOpened {
    fn from(answer: &OpenSessionResponse) -> SessionOpened {
        SessionOpened { session_id: answer.session_id.clone(), ttl_ms: answer.ttl_ms }
    }
}

/// A heartbeat of a session.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionRenewed {
    /// Shards that could not be asked: nothing was renewed there.
    pub failed_shards: Vec<u32>,
    /// Shards on which the session is lost, with all that it held there.
    pub lost_shards: Vec<u32>,
    /// The number of shards on which the session lives on.
    pub renewed_shards: u32,
    /// The session of the request.
    pub session_id: String,
    /// What the session has on each shard on which it lives on.
    pub leases: Vec<SessionLease>,
}

/// A session on one shard.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionLease {
    /// The number of the shard.
    pub shard: u32,
    /// The life of the session there. What it held in another life is lost.
    pub life: u64,
    /// The TTL of the session there.
    pub ttl_ms: u32,
    /// How many locks of this life others have ended so far, by a break or a release. The next
    /// heartbeat gives it as `broken_seen`.
    pub broken_count: u64,
    /// The tokens of the locks that others have ended after `broken_seen` of the request.
    pub broken_tokens: Vec<u64>,
    /// Whether some of these tokens are not remembered. Every lock there is in doubt then.
    pub broken_overflow: bool,
}

impl From<&SessionLeaseState> for SessionLease {
    fn from(lease: &SessionLeaseState) -> SessionLease {
        SessionLease {
            shard: lease.shard,
            life: lease.life,
            ttl_ms: lease.ttl_ms,
            broken_count: lease.broken_count,
            broken_tokens: lease.broken_tokens.clone(),
            broken_overflow: lease.broken_overflow,
        }
    }
}

impl SessionRenewed {
    /// The document for a heartbeat of `session_id`.
    pub fn new(session_id: &str, answer: &HeartbeatResponse) -> SessionRenewed {
        SessionRenewed {
            failed_shards: answer.failed_shards.clone(),
            lost_shards: answer.lost_shards.clone(),
            renewed_shards: answer.renewed_shards,
            session_id: session_id.to_owned(),
            leases: answer.leases.iter().map(SessionLease::from).collect(),
        }
    }
}

/// A session that was closed.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionClosed {
    /// The number of locks that ended with it.
    pub released: u32,
    /// The session of the request.
    pub session_id: String,
}

/// A request that failed: the whole document is `{"error": {…}}`.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failed {
    /// The code and the words of the error.
    pub error: Failure,
}

/// An error, and the way on.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// A name of [`ErrorCode`](crate::v1::ErrorCode), or one of the program that answers.
    pub code: String,
    /// The token that holds the name now, if the error says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_token: Option<u64>,
    /// The owner that holds the name now, if the error says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The error in words.
    pub message: String,
    /// What to do next, in words.
    pub next: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ListResponse;

    /// The names of a document's fields, in alphabetical order.
    fn fields(document: impl Serialize) -> String {
        let document = serde_json::to_value(document).expect("JSON");
        let mut names: Vec<&str> =
            document.as_object().expect("an object").keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    }

    #[test]
    fn a_free_lock_says_so_and_names_no_holder() {
        let json = serde_json::to_value(Check::new(
            "a",
            &CheckResponse { shard: 3, ..Default::default() },
        ))
        .unwrap();
        assert_eq!(json["state"], "FREE");
        assert_eq!(json["fencing_token"], serde_json::Value::Null);
        assert_eq!(json["shard"], 3);
    }

    #[test]
    fn documents_have_the_agreed_field_names() {
        for (document, expected) in [
            (
                fields(Grant::from(&crate::v1::Grant::default())),
                "acquired_at_ms expires_at_ms fencing_token metadata mode owner_id principal \
                 remaining_ms renewal_count resource_name session_id session_life shard state ttl_ms waited_ms",
            ),
            (
                fields(Tenure::from(&crate::v1::Tenure::default())),
                "acquired_at_ms break_reason broken_by broken_by_principal ended_at_ms fencing_token \
                 mode owner_id principal renewal_count resource_name session_id shard state waited_ms",
            ),
            (
                fields(Check::new("a", &CheckResponse::default())),
                "acquired_at_ms answered_by applied_index expires_at_ms fencing_token holder_count \
                 holders last_token more owner_id queue renewal_count resource_name shard stale_by_ms \
                 state ttl_ms waiters",
            ),
            (
                fields(Renewed::new("a", 1, &RenewResponse::default())),
                "expires_at_ms fencing_token renewal_count resource_name shard state ttl_ms",
            ),
            (
                fields(Released::new("a", 1, &ReleaseResponse::default())),
                "already_released fencing_token resource_name shard state",
            ),
            (fields(History::new("a", &[])), "resource_name tenures"),
            (
                fields(Listing::from(&ListResponse::default())),
                "grants missing_shards more next_cursor waiters",
            ),
            (
                fields(Locks::from(&ListResponse::default())),
                "locks missing_shards next_cursor waiters",
            ),
            (
                fields(Waiter::from(&crate::v1::Waiter::default())),
                "metadata mode owner_id permit_limit permits place principal queued_at_ms \
                 resource_name session_id shard waiter",
            ),
            (
                fields(SessionLease::from(&SessionLeaseState::default())),
                "broken_count broken_overflow broken_tokens life shard ttl_ms",
            ),
            (fields(SessionOpened::from(&OpenSessionResponse::default())), "session_id ttl_ms"),
            (
                fields(SessionRenewed::new("s", &HeartbeatResponse::default())),
                "failed_shards leases lost_shards renewed_shards session_id",
            ),
        ] {
            assert_eq!(document, expected);
        }
    }
}
