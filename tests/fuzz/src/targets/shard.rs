//! The messages of peers to a running replica, and the data that a replica starts from.

use super::wire::decode;
use crate::group::{Group, SITUATIONS, Told};
use crate::sections::sections;
use ::routing::ShardId;
use ::shard::{Fatal, Input, Now, Query, Replica};
use ::storage::Recovered;
use ::wire::internal::v1::install_snapshot_request::Part;
use ::wire::internal::v1::{DeliverRequest, InstallSnapshotRequest};

/// The number of ticks after which every timeout has run out.
const TICKS: u64 = 40;

/// Sends a frame of peers' messages to a replica that leads, follows, asks for votes, or has just
/// started. The first byte chooses the replica, and whether its disk keeps up. The replica may drop
/// the messages, or stop for good with a reason, but it must not panic.
pub(super) fn peer_frame(bytes: &[u8]) -> bool {
    let Some((first, frame)) = bytes.split_first() else { return false };
    let Some(frame) = decode::<DeliverRequest>(frame) else { return false };
    let situation = &SITUATIONS[usize::from(first & 0x7f) % SITUATIONS.len()];
    let disk_keeps_up = first & 0x80 == 0;
    let (mut replica, now) = situation.replica();
    let taken = !frame.messages.is_empty();
    let mut numbers = Vec::new();
    for message in frame.messages {
        let inputs = if disk_keeps_up { std::mem::take(&mut numbers) } else { Vec::new() };
        let inputs = inputs.into_iter().map(|number| Input::Persisted { number });
        match replica.step(now, inputs.chain([Input::Peer(message.raft.into())])) {
            Ok(outputs) => numbers.extend(outputs.write.map(|write| write.number)),
            Err(_) => return taken,
        }
    }
    let _: Result<(), Fatal> = carry_on(&mut replica, now, numbers);
    taken
}

/// Decodes one chunk of a snapshot, and loads the data with it if the chunk is a header.
pub(super) fn snapshot_chunk(bytes: &[u8]) -> bool {
    let sections = sections(bytes);
    let [chunk, data] = sections[..] else { return false };
    let Some(InstallSnapshotRequest { part: Some(part) }) = decode::<InstallSnapshotRequest>(chunk)
    else {
        return false;
    };
    let Part::Header(header) = part else { return true };
    let Ok(message) = ::shard::join_snapshot(&header.raft, data) else { return false };
    // Data within the header is ignored, so joining again gives the same message.
    let again = ::shard::join_snapshot(&message, data).expect("a message that was just joined");
    assert_eq!(again, message, "does not come back the same");
    let shard = ShardId(header.shard);
    let loaded =
        [&header.raft, &message].map(|header| ::shard::load_snapshot(shard, header, data).is_ok());
    assert_eq!(loaded[0], loaded[1], "the data within the header was looked at");
    true
}

/// The data that a replica finds at its start: hard state, applied record, the first entry's index
/// and the number of entries, the entries, then the table's keys and values in turn. The replica
/// either refuses to start, or it runs.
pub(super) fn recovered(bytes: &[u8]) -> bool {
    let sections = sections(bytes);
    let [hard_state, applied, span, ref rest @ ..] = sections[..] else { return false };
    let Some((count, first)) = span.split_first() else { return false };
    let mut first_bytes = [0; 8];
    first_bytes[..first.len().min(8)].copy_from_slice(&first[..first.len().min(8)]);
    let first = u64::from_le_bytes(first_bytes);
    let (entries, table) = rest.split_at(usize::from(*count).min(rest.len()));
    // The engine returns entries with consecutive indexes.
    let Some(entries) = entries
        .iter()
        .zip(0..)
        .map(|(bytes, nth)| Some((first.checked_add(nth)?, bytes.to_vec())))
        .collect()
    else {
        return false;
    };
    let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| bytes.to_vec());
    let table = table.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())).collect();
    let recovered =
        Recovered { entries, hard_state: some(hard_state), applied: some(applied), table };
    let now = Group::START;
    let Ok(mut replica) = Replica::open(Group::config(1), recovered, now) else { return false };
    let _: Result<(), Fatal> = carry_on(&mut replica, now, Vec::new());
    true
}

/// Goes on until every timeout has run out, with a working disk, and makes a request at the end.
fn carry_on(replica: &mut Replica, mut now: Now, mut numbers: Vec<u64>) -> Result<(), Fatal> {
    for tick in 0..TICKS {
        now.mono_ms += Group::TICK_MS;
        let persisted = numbers.drain(..).map(|number| Input::Persisted { number });
        let mut inputs: Told = persisted.chain([Input::Tick]).collect();
        if tick % 10 == 5 {
            inputs.push(Group::acquire(tick, "after", 1_000));
            inputs.push(Input::Read {
                ticket: 1_000 + tick,
                query: Query::Status,
                linearizable: tick % 20 == 5,
            });
        }
        numbers.extend(replica.step(now, inputs)?.write.map(|write| write.number));
    }
    Ok(())
}
