//! What the fuzzer (`tests/fuzz`) reaches of this crate: the way of an operation from a gateway's frame to what is proposed. Not for
//! other use.

use crate::host::Request;
use crate::service::plan;
use routing::ShardMap;
use wire::v1::{Error, Operation};

/// Checks an operation as the service does. The command to propose; `None` for a read.
///
/// # Errors
/// As the sender would be told.
pub fn command_of(map: &ShardMap, operation: Operation) -> Result<Option<Vec<u8>>, Error> {
    plan::route(map, &operation).map_err(|error| *error)?;
    plan::check(&operation).map_err(|error| *error)?;
    match plan::plan(operation).map_err(|error| *error)?.request {
        Request::Propose { command, .. } => Ok(Some(command)),
        Request::Read { .. } => Ok(None),
    }
}
