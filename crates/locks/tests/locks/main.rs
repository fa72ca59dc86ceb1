//! The lock table from outside: each rule by name, its bytes, and random histories against a plain
//! twin.

mod acquire;
mod bytes;
mod driver;
mod durable;
mod ending;
mod events;
mod lease;
mod memory;
mod model;
mod pages;
mod picture;
mod principals;
mod queue;
mod shares;
mod twin;
