//! The ways into a gateway. Each door translates its protocol into operations with a caller, and
//! answers back. What an operation means, it leaves to the core.

pub(crate) mod grpc;
pub(crate) mod probes;
