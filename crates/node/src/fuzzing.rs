//! What the fuzzer (`tests/fuzz`) reaches of this crate: the way of an operation from a gateway's frame to what is proposed. Not for
//! other use.

use crate::host::Request;
use crate::service::plan;
use routing::ShardMap;
use wire::internal::v1::Operation;
use wire::internal::v1::operation_result::Result as OpResult;

/// Checks an operation as the service does. The command to propose; `None` for a read.
///
/// # Errors
/// As the sender would be told.
pub fn command_of(map: &ShardMap, operation: Operation) -> Result<Option<Vec<u8>>, Box<OpResult>> {
    plan::route(map, &operation)?;
    plan::check(&operation)?;
    match plan::plan(operation)?.request {
        Request::Propose { command, .. } => Ok(Some(command)),
        Request::Read { .. } => Ok(None),
    }
}
