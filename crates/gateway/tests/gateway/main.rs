//! Tests of a gateway in front of nodes that the tests script.

mod canary;
mod clients;
mod cluster_changes;
mod console;
mod edges;
mod fake;
mod fan_outs;
mod http;
mod http_identities;
mod http_waits;
mod identified;
mod identities;
mod probes;
mod raw;
mod recorded;
mod regressions;
mod routing;
mod terraform;
mod waits_denied;
mod watches;
mod watches_denied;
