//! Tests of plans, in the form that people and programs get.

mod docs;
mod emit;
mod input;
mod interactive;
mod properties;
mod reference;
mod report;
mod support;
