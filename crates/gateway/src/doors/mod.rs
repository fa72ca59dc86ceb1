//! The ways into a gateway. Each door translates its protocol into operations with a caller, and
//! answers back. The meaning of an operation is left to the core.
//!
//! Clients come to one socket (`server`), past the table of permissions (`doorman`), to one of two
//! doors: `grpc` or `http`. The pages of `console` stand beside these and show what `http` answers. The steps of both around a call are in `single`. The treatment of large
//! answers that are not read is in `taken`, and calls about the topology are in `clusters`.

mod clusters;
mod console;
mod doorman;
pub(crate) mod grpc;
mod http;
pub(crate) mod probes;
pub(crate) mod server;
pub(crate) mod single;
mod taken;
