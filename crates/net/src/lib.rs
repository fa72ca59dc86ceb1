//! How connections are taken, made and secured.

#![forbid(unsafe_code)]

pub mod certificate;
pub mod reload;
