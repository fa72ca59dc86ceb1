//! The SDK: sessions, guards, retries, multiplexed streams.
