//! Tests of nodes in this process, over loopback.

mod cluster;
mod control;
mod edges;
mod hosting;
mod levels;
mod members;
mod meta;
mod nodes;
mod probes;
mod regressions;
mod routes;
mod watching;
