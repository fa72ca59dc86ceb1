//! A plan, shown: as text for people, as JSON for programs, as a picture of load over growth.
//!
//! It only shows: every number comes out of the plan, and all three take it from there.

mod build;
mod json;
mod simulation;
mod steps;
mod svg;
mod table;
mod text;

pub use json::json;
pub use simulation::{simulation_json, simulation_text};
pub use svg::svg;
pub use text::text;
