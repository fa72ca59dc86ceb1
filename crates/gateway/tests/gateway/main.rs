//! Tests of a gateway in front of nodes that the tests script.

mod canary;
mod clients;
mod edges;
mod fake;
mod fan_outs;
mod http;
mod http_identities;
mod identified;
mod identities;
mod raw;
mod recorded;
mod regressions;
mod routing;
mod waits_denied;
mod watches;
mod watches_denied;
