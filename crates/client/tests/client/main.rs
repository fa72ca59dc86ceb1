//! Tests of the SDK against a gateway that the tests script.

mod ends;
mod fake;
mod holding;
mod letting_go;
mod lives;
mod operations;
mod regressions;
mod watches;
