//! Something that its caller does not hold any more, and that the server may still hold.

use crate::Grant;
use crate::options::RequestId;

/// Something to be released.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unwanted {
    /// A grant, with its `session_life`.
    Lock { name: String, token: u64, session_life: u64 },
    /// An acquire that may be queued, granted, or on its way.
    Wait { name: String, request_id: RequestId },
    /// A session on these shards.
    Session { id: String, shards: Vec<u32> },
}

impl Unwanted {
    pub(crate) fn lock(grant: &Grant) -> Unwanted {
        let (name, token, session_life) =
            (grant.resource_name.clone(), grant.fencing_token, grant.session_life);
        Unwanted::Lock { name, token, session_life }
    }
}
