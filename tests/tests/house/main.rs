//! Tests of the sources themselves: what depends on what, and what documents say.

mod architecture;
mod dependencies;
mod documents;
mod imports;
mod observability;
