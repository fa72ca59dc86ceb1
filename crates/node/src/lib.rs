//! One node: threads, log writer, transport and services for many shards.
