//! The audit log: JSON lines in a file of its own.

#![forbid(unsafe_code)]
