//! Reports of a plan: text for people, JSON for programs, rows for pages, a picture of load over
//! growth.
//!
//! Reports only show. All take every number from the plan.

mod build;
mod data;
mod json;
mod steps;
mod svg;
pub mod table;
mod text;

pub use data::{Step, steps};
pub use json::{json, rounded};
pub use steps::{Cell, Row};
pub use svg::svg;
pub use text::text;
