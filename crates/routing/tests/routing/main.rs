//! Tests of slots, placement and cluster files.

mod config;
mod examples;
mod placement;
mod route_table;
mod slots;
