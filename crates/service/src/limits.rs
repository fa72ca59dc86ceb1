//! The bound on the rows of one result, and the proof that both sides of the translation have the
//! same limits.

use std::ops::RangeInclusive;

/// Rows of one result (holders, grants, tenures) are cut off above this size, so that the result
/// fits any receiver's frame.
pub const ROWS_BYTES_MAX: usize = 3 << 20;

/// The public surface and the lock table have the same limits. Otherwise a gateway would accept an
/// operation that the table refuses, or refuse an operation that the table takes. Neither crate may
/// use the other, so this crate compares them.
const _: () = {
    const fn same(public: &RangeInclusive<u32>, table: &RangeInclusive<u32>) -> bool {
        *public.start() == *table.start() && *public.end() == *table.end()
    }
    assert!(same(&wire::limits::TTL_MS, &locks::TTL_MS));
    assert!(same(&wire::limits::CLAIM_TTL_MS, &locks::CLAIM_TTL_MS));
    assert!(wire::limits::NAME_BYTES_MAX == locks::NAME_BYTES_MAX);
    assert!(wire::limits::OWNER_BYTES_MAX == locks::OWNER_BYTES_MAX);
    assert!(wire::limits::SESSION_BYTES_MAX == locks::SESSION_BYTES_MAX);
    assert!(wire::limits::METADATA_BYTES_MAX == locks::METADATA_BYTES_MAX);
    assert!(wire::limits::TOKEN_END == locks::TOKEN_MAX + 1);
};
