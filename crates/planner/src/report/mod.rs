//! Reports of a plan: text for people, JSON for programs, a picture of load over growth.
//!
//! Reports only show. All three take every number from the plan.

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
