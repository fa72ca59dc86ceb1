//! Tests of what the engines keep through damage and kills.

mod damage;
mod every_byte;
mod kill;
mod lives;
mod merging;
mod one_engine;
mod resets;
mod room;
