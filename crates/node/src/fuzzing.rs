//! The parts of this crate that the fuzzer (`tests/fuzz`) reaches: the way of an operation from a
//! gateway's frame to the proposed command. No other code should use this module.

use crate::host::Request;
use crate::service::plan;
use routing::ShardMap;
use wire::internal::v1::Operation;
use wire::internal::v1::operation_result::Result as OpResult;

/// Checks an operation as the service does. Returns the command to propose; `None` for a read.
///
/// # Errors
/// The result that the sender would receive.
pub fn command_of(map: &ShardMap, operation: Operation) -> Result<Option<Vec<u8>>, Box<OpResult>> {
    plan::route(map, &operation)?;
    plan::check(&operation)?;
    match plan::plan(operation)?.request {
        Request::Propose { command, .. } => Ok(Some(command)),
        Request::Read { .. } => Ok(None),
    }
}
