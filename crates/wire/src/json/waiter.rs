//! An acquire in a queue.

use super::words::mode_name;
use crate::v1;
use serde::Serialize;

/// An acquire in a queue.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Waiter {
    /// The name of the lock.
    pub resource_name: String,
    /// The owner that the acquire named; empty if it named none.
    pub owner_id: String,
    /// The number of the waiter: unique on its shard, and rising.
    pub waiter: u64,
    /// The place in the queue, from 1. 0: not told.
    pub place: u32,
    /// Unix milliseconds by the leader's wall clock, for display.
    pub queued_at_ms: u64,
    /// `exclusive`, `shared` or `semaphore`.
    pub mode: &'static str,
    /// Of a semaphore: the permits to take.
    pub permits: u32,
    /// Of a semaphore: the permits that there are.
    pub permit_limit: u32,
    /// The session of the acquire; empty for a lease of its own.
    pub session_id: String,
    /// Free text of the acquire.
    pub metadata: String,
    /// The identity that waits; empty where identities are off.
    pub principal: String,
    /// The shard that the name belongs to.
    pub shard: u32,
}

impl From<&v1::Waiter> for Waiter {
    fn from(waiter: &v1::Waiter) -> Waiter {
        Waiter {
            resource_name: waiter.resource_name.clone(),
            owner_id: waiter.owner_id.clone(),
            waiter: waiter.waiter,
            place: waiter.place,
            queued_at_ms: waiter.queued_at_ms,
            mode: mode_name(waiter.mode()),
            permits: waiter.permits,
            permit_limit: waiter.permit_limit,
            session_id: waiter.session_id.clone(),
            metadata: waiter.metadata.clone(),
            principal: waiter.principal.clone(),
            shard: waiter.shard,
        }
    }
}
