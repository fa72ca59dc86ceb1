//! The check that an operation is for a shard that owns its name.

use crate::refusal::{Refused, invalid, refused};
use routing::{META, MapVersion, ShardId, ShardMap, Slot};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as OpResult;
use wire::internal::v1::{Operation, StaleRoute};
use wire::v1::Error;

/// The shard that the operation names, if `map` says that this shard owns the operation's name.
/// Whether this node hosts the shard is another question.
///
/// # Errors
/// A stale route if the sender's map is old; INVALID_ARGUMENT if the operation contradicts itself.
pub(crate) fn route(map: &ShardMap, operation: &Operation) -> Result<ShardId, Refused> {
    let Some(route) = &operation.route else {
        return Err(invalid("an operation for a node needs a route: send it through a gateway"));
    };
    let shard = ShardId(route.shard);
    let theirs = MapVersion(route.map_version);
    if theirs > map.version() {
        let message = format!(
            "this node's shard map (version {}) is older than the route's: try again",
            map.version()
        );
        return Err(refused(Error::busy(message, 200)));
    }
    let owned = match operation.op.as_ref().and_then(Op::name) {
        Some(name) => {
            let slot = Slot::of(name);
            if theirs == map.version() && u32::from(slot.index()) != route.slot {
                return Err(invalid(format!(
                    "the name belongs to slot {}, not {}",
                    slot.index(),
                    route.slot
                )));
            }
            map.owner(slot) == shard
        }
        // Every shard that the sender knows is asked for sessions, lists and status, and META for its
        // status only.
        None if shard == META => matches!(operation.op, Some(Op::ReadStatus(_))),
        None => map.replicas(shard).is_some(),
    };
    if owned { Ok(shard) } else { Err(stale_route(map, shard)) }
}

/// The refusal for a shard that this node does not serve (any more).
pub fn stale_route(map: &ShardMap, shard: ShardId) -> Refused {
    let message = format!(
        "shard {shard} does not serve this here by map version {}: fetch the newer map",
        map.version()
    );
    Box::new(OpResult::StaleRoute(StaleRoute { message, map_version: map.version().0 }))
}
