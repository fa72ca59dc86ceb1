//! Reports of a plan: text for people, JSON for programs, a picture of load over growth.
//!
//! Reports only show. All three take every number from the plan.

mod build;
mod json;
mod steps;
mod svg;
pub mod table;
mod text;

pub use json::{json, rounded};
pub use svg::svg;
pub use text::text;
