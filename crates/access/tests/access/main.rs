//! Tests of policies and tokens.

mod jwt;
mod policy;
