//! The bytes of the lock table: commands, log entries, tenures, snapshots, records.
//!
//! Bytes under a checksum are tried twice: as they are, and with a corrected checksum, so that the
//! code behind the checksum is reached.

use crate::sections::sections;
use ::locks::{
    Batch, BatchBuilder, Command, Effects, Ended, LiveLease, LockTable, Mode, Paused, RequestId,
    Stamp, Tenure, Token,
};

pub(super) fn command(bytes: &[u8]) -> bool {
    let Ok((caller, command)) = Command::decode_as(bytes) else { return false };
    let mut encoded = Vec::new();
    command.encode_as(caller, &mut encoded);
    let again = Command::decode_as(&encoded);
    assert_eq!(again, Ok((caller, command)), "does not come back the same");
    true
}

pub(super) fn tenure(bytes: &[u8]) -> bool {
    let Ok(tenure) = Tenure::decode("a", Token(1), bytes) else { return false };
    assert_eq!(Ended::of(&tenure).tenure(), Ok(tenure), "does not come back the same");
    true
}

/// A readable entry can be applied, and every table applies it in the same way.
pub(super) fn log_entry(bytes: &[u8]) -> bool {
    let is_taken = |bytes: &[u8]| {
        let Ok(batch) = Batch::decode(bytes) else { return false };
        let mut builder = BatchBuilder::new(batch.stamp);
        for (caller, command) in &batch.commands {
            let mut encoded = Vec::new();
            command.encode_as(*caller, &mut encoded);
            builder.push(&encoded);
        }
        let again = builder.finish();
        let again = Batch::decode(&again).expect("what was read can be read again");
        assert_eq!(
            (again.stamp, &again.commands),
            (batch.stamp, &batch.commands),
            "does not come back the same"
        );
        let mut table = LockTable::new();
        for (caller, command) in &batch.commands {
            table.apply_as(batch.stamp, *caller, command, &mut Effects::default());
        }
        use_table(table, batch.stamp);
        true
    };
    is_taken(bytes) | is_taken(&with_checksum(bytes))
}

pub(super) fn table_snapshot(bytes: &[u8]) -> bool {
    let is_taken = |bytes: &[u8]| match LockTable::restore(bytes) {
        Ok(table) => {
            use_table(table, Stamp { wall_ms: 1, shard_ms: 1 << 40 });
            true
        }
        Err(_) => false,
    };
    is_taken(bytes) | is_taken(&with_checksum(bytes))
}

/// A checkpoint as it is read from the disk: keys and values in turn.
pub(super) fn table_records(bytes: &[u8]) -> bool {
    let sections = sections(bytes);
    let records = sections.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
    let Ok(table) = LockTable::load(records) else { return false };
    use_table(table, Stamp { wall_ms: 1, shard_ms: 1 << 40 });
    true
}

/// An accepted table works: it comes back from its own bytes, answers queries, and goes on until no
/// lock is held.
fn use_table(mut table: LockTable, stamp: Stamp) {
    let restored = LockTable::restore(&table.snapshot()).expect("a table's own snapshot");
    assert_eq!(
        restored.state_hash(),
        table.state_hash(),
        "another table comes back from the snapshot"
    );
    let mut saved = restored;
    let records =
        saved.checkpoint().into_iter().filter_map(|change| Some((change.key, change.value?)));
    let loaded = LockTable::load(records).expect("a table's own checkpoint");
    assert_eq!(
        loaded.state_hash(),
        table.state_hash(),
        "another table comes back from the checkpoint"
    );

    let listed =
        table.list_page("", None, Paused::default(), usize::MAX, stamp, &mut usize::MAX.clone());
    let grants = listed.expect("in one go").grants;
    let mut effects = Effects::default();
    for grant in &grants {
        assert!(table.holders(&grant.name, stamp).iter().any(|holder| holder.token == grant.token));
        table.apply(stamp, &Command::Renew { name: &grant.name, token: grant.token }, &mut effects);
        let (name, request_id) =
            (grant.name.as_str(), RequestId(u128::MAX - u128::from(grant.token.0)));
        let acquire = Command::Acquire {
            request_id,
            name,
            owner: "fuzz",
            ttl_ms: 1_000,
            mode: Mode::Exclusive,
            wait: true,
            session: "",
            metadata: "",
            claim_ttl_ms: 0,
        };
        table.apply(stamp, &acquire, &mut effects);
        table.apply(stamp, &Command::CancelWait { name, request_id, given_up: true }, &mut effects);
        table.apply(stamp, &Command::Release { name, token: grant.token, by: None }, &mut effects);
    }
    let waiters: Vec<(String, RequestId)> =
        table.waiters().map(|(name, id)| (name.to_owned(), id)).collect();
    for (name, request_id) in waiters.iter().step_by(2) {
        table.apply(
            stamp,
            &Command::CancelWait { name, request_id: *request_id, given_up: false },
            &mut effects,
        );
    }
    // When a lease ends, a waiter is granted and has a lease then. Each round ends at least one
    // lease.
    for _ in 0..=grants.len() + waiters.len() {
        let leases: Vec<LiveLease> = table.leases().collect();
        for LiveLease { lease, renewal_seq, .. } in leases {
            table.apply(stamp, &Command::ExpireLease { lease, renewal_seq }, &mut effects);
        }
    }
    let counts = table.counts();
    assert_eq!((counts.grants, counts.sessions), (0, 0), "held without a lease");
    let restored = LockTable::restore(&table.snapshot()).expect("a table's own snapshot");
    assert_eq!(
        restored.state_hash(),
        table.state_hash(),
        "another table comes back from the last snapshot"
    );
}

/// Replaces the version and the checksum at the start of entries and snapshots by correct ones.
pub(crate) fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((head, body)) = bytes.split_first_chunk_mut::<5>() {
        head[0] = 1;
        head[1..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
    bytes
}
