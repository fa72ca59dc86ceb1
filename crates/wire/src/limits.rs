//! The limits of the public protocol, in one place: sizes, TTLs, defaults.
//!
//! Many are the lock table's own limits (crate `locks`), repeated for crates that may not depend on
//! it. The crate `node` uses both, and does not compile if they differ.

use crate::v1::ListRequest;

/// Shortest and longest TTL, in milliseconds: 100 ms and 24 h. A TTL outside is refused, not
/// clamped.
pub const TTL_MS: std::ops::RangeInclusive<u32> = 100..=86_400_000;
/// TTL of an acquire or session that names none, in milliseconds.
pub const DEFAULT_TTL_MS: u32 = 30_000;
/// Shortest and longest claim TTL, in milliseconds: 100 ms and 60 s. It is the first lease of a
/// grant that must be claimed.
pub const CLAIM_TTL_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Longest wait of an acquire, in milliseconds: 24 h.
pub const WAIT_MS_MAX: u32 = 86_400_000;
/// Time for an operation that names no timeout, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u32 = 5_000;
/// Longest timeout of an operation, in milliseconds. A wait comes on top.
pub const TIMEOUT_MS_MAX: u32 = 60_000;
/// Longest resource name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest owner, in bytes.
pub const OWNER_BYTES_MAX: usize = 256;
/// Longest session id, in bytes.
pub const SESSION_BYTES_MAX: usize = 64;
/// Longest metadata, break reason or breaker, in bytes.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Upper bound for fencing tokens, which stay below it so that JSON keeps them exact.
pub const TOKEN_END: u64 = 1 << 53;
/// Size of a request id, in bytes.
pub const REQUEST_ID_BYTES: usize = 16;
/// Most shards that one heartbeat or close may name.
pub const SESSION_SHARDS_MAX: usize = 4_096;
/// Most tenures in one history answer, grants in one list, and holders in one check.
pub const ROWS_MAX: u32 = 1_000;
/// Most waiters of one name in a list that shows them.
pub const LIST_WAITERS_OF_NAME: u32 = 10;
/// Most grants in a page of such a list, so that the page fits a frame with the waiters of all.
pub const LIST_WAITING_ROWS_MAX: u32 = 200;
/// Tenures in a history answer that names no limit.
pub const HISTORY_ROWS_DEFAULT: u32 = 20;
/// Grants in a list that names no limit.
pub const LIST_ROWS_DEFAULT: u32 = 100;
/// Most kinds of events in the filter of a watch, repeats included.
pub const WATCH_KINDS_MAX: usize = 16;

/// Most grants in a page of this list. A page may have fewer than asked for.
pub fn list_rows(list: &ListRequest) -> u32 {
    let most = if list.waiting { LIST_WAITING_ROWS_MAX } else { ROWS_MAX };
    list.limit.min(most)
}

/// Longest `traceparent` of an operation. That of version 00 of W3C Trace Context has 55 bytes.
pub const TRACEPARENT_BYTES_MAX: usize = 256;

/// Most waiting acquires of one gateway, over all its clients. A node takes as many on one stream,
/// so that it never refuses a wait that a gateway accepted.
pub const GATEWAY_WAITS_MAX: usize = 65_536;
/// Most legs of the watches of one gateway, over all its clients. A watch has one leg for each shard
/// that it asks. A node takes as many on one call, so that it has room for all legs of a gateway if
/// the other nodes are down.
pub const GATEWAY_WATCH_LEGS_MAX: usize = 262_144;
/// Largest single operation, encoded, in bytes.
pub const OPERATION_BYTES_MAX: usize = 64 << 10;
/// Largest frame of operations, encoded, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Largest frame of results, encoded, in bytes. A list of [`ROWS_MAX`] grants of the largest size
/// fits.
pub const RESULT_FRAME_BYTES_MAX: usize = 8 << 20;

/// Largest HTTP/2 frame that is accepted. A frame of this size holds a whole message, which is then
/// read at once. The default of 16 KiB takes several reads.
pub const HTTP2_FRAME_BYTES_MAX: u32 = 256 << 10;
