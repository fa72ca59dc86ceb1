//! The one hash of this crate: rapidhash v3 with a fixed seed, equal on every machine and version.
//!
//! It must never change, because hashes of names are part of persisted records, and replicas
//! compare hashes of records. It knows nothing of the meaning of its input.

use crate::types::RequestId;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// The seed. Frozen, because persisted records depend on it.
const SECRETS: RapidSecrets = RapidSecrets::seed_cpp(0x70_61_6c_69_73_61_64_65);

pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    rapidhash_v3_seeded(bytes, &SECRETS)
}

pub(crate) fn hash_str(text: &str) -> u64 {
    hash_bytes(text.as_bytes())
}

/// The hash of an identity, 0 for none.
pub(crate) fn hash_principal(principal: &str) -> u64 {
    if principal.is_empty() { 0 } else { hash_str(principal).max(1) }
}

pub(crate) fn hash_number(number: u64) -> u64 {
    hash_bytes(&number.to_le_bytes())
}

pub(crate) fn hash_request(request: RequestId) -> u64 {
    hash_bytes(&request.0.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_name_never_changes() {
        assert_eq!(hash_str("orders/42"), PINNED_SHORT);
        assert_eq!(hash_str(&"x".repeat(300)), PINNED_LONG);
    }

    const PINNED_SHORT: u64 = 0x7212_e9ef_f698_f167;
    const PINNED_LONG: u64 = 0xa523_c80c_a674_e889;
}
