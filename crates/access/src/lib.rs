//! Identities, permissions and rates, as pure decisions.

#![forbid(unsafe_code)]
