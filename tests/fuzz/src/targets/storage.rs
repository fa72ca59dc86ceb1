//! Records as they lie on the disk: a key with a value and its checksum, and a record of the
//! journal.

use super::locks::tenure;
use crate::sections::sections;
use ::storage::{Identity, fuzzing};

pub(crate) const CLAIMANT: Identity = Identity { fingerprint: [5; 16], node: 1 };

/// Reads the record as it is, and with a corrected checksum. Only the sealed bytes may come back,
/// and tenures of the history are read.
pub(super) fn stored_record(bytes: &[u8]) -> bool {
    let sections = sections(bytes);
    let [key, value] = sections[..] else { return false };
    let as_it_is = fuzzing::read(key, value, &CLAIMANT).is_ok();
    let sealed = fuzzing::seal(key, value.get(4..).unwrap_or_default());
    assert!(!as_it_is || sealed == value, "taken with another checksum than its own");
    let Ok(read) = fuzzing::read(key, &sealed, &CLAIMANT) else { return false };
    assert_eq!(read, sealed[4..]);
    if let Some((_index, bytes)) = read.split_first_chunk::<8>() {
        tenure(bytes);
    }
    as_it_is
}

/// Reads a salt and a record: as they are, and with corrected length and checksum, so that the
/// covered bytes are read at all.
pub(super) fn journal_record(bytes: &[u8]) -> bool {
    let Some((salt, record)) = bytes.split_first_chunk::<4>() else { return false };
    let salt = u32::from_le_bytes(*salt);
    let as_it_is = fuzzing::read_journal_record(record, salt);
    let mut mended = record.to_vec();
    mended.truncate(mended.len() / 8 * 8);
    if mended.len() >= 16 {
        fuzzing::mend_journal_record(&mut mended, salt);
        let _ = fuzzing::read_journal_record(&mended, salt);
    }
    as_it_is.is_some()
}
