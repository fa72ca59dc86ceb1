//! Tests of slots, placement and cluster files.

mod config;
mod examples;
mod placement;
mod slots;
mod topology;
