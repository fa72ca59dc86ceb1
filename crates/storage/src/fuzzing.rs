//! Entry points for the fuzzer (`tests/fuzz`): stored keys and values, as they are read back. Not
//! for other use.

use crate::journal::record;
use crate::{Identity, ShardWrite, identity, keys};

/// A value as it would be stored under this key.
pub fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    keys::seal(key, bytes)
}

/// The key of a history record.
pub fn history_key(shard: u32, day: u32, name: &str, token: u64) -> Vec<u8> {
    keys::history(routing::ShardId(shard), day, name, token)
}

/// The key and value of a store's identity record.
pub fn identity_record(identity: &Identity) -> (Vec<u8>, Vec<u8>) {
    let key = keys::identity();
    let value = keys::seal(&key, &identity::encode(identity));
    (key, value)
}

/// The keys and values of a shard's birth and of its tombstone.
pub fn life_records(shard: u32, birth: u32, destroyed: u32) -> [(Vec<u8>, Vec<u8>); 2] {
    let shard = routing::ShardId(shard);
    [(keys::birth(shard), birth), (keys::tombstone(shard), destroyed)].map(|(key, birth)| {
        let value = keys::seal(&key, &birth.to_le_bytes());
        (key, value)
    })
}

/// A record of the journal with the logs of these writes.
pub fn journal_record(number: u64, salt: u32, writes: &[ShardWrite]) -> Vec<u8> {
    let parts: Vec<record::Part<'_>> = writes.iter().map(record::Part::of).collect();
    let mut bytes = Vec::new();
    record::encode(&mut bytes, number, salt, &parts, |_, _, _| ());
    bytes
}

/// Makes a record's length and checksum fit its bytes.
pub fn mend_journal_record(bytes: &mut [u8], salt: u32) {
    record::fix_checksum(bytes, salt);
}

/// Reads a record as the journal does. Returns its number and its count of entries; `None` if it is
/// no record.
pub fn read_journal_record(bytes: &[u8], salt: u32) -> Option<(u64, usize)> {
    let record = record::read(bytes, salt)?;
    let parts = record.parts()?;
    for (_, offset, length) in parts.iter().flat_map(|part| &part.entries) {
        assert!(
            bytes.get(*offset..offset + length).is_some(),
            "an entry lies outside of its record"
        );
    }
    Some((record.number, parts.iter().map(|part| part.entries.len()).sum()))
}

/// Reads a record in every way in which its key may be read. Returns the value without its
/// checksum.
///
/// # Errors
/// The error that opening the store would give.
pub fn read(key: &[u8], value: &[u8], claimant: &Identity) -> Result<Vec<u8>, crate::StorageError> {
    let _ = (keys::log_index(key), keys::table_record(key));
    if let Some(parsed) = keys::parse_history(key)
        && !parsed.name.contains('\0')
    {
        let shard =
            u32::from_be_bytes(key[..4].try_into().expect("a history key begins with its shard"));
        if shard < u32::MAX {
            assert_eq!(
                history_key(shard, parsed.day, parsed.name, parsed.token),
                key,
                "the key does not round-trip"
            );
        }
    }
    let bytes = keys::unseal(key, value, || format!("the record {key:02x?}"))?;
    if key == keys::identity() {
        identity::check(bytes, claimant, "this store")?;
    }
    if keys::life(key).is_some() {
        let _ = keys::birth_number(bytes);
    }
    Ok(bytes.to_vec())
}
