//! Snapshot messages taken apart for the road, and put together again.

use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;

/// Takes the snapshot data out of an encoded snapshot message, so that the two can be sent apart. Returns the message
/// without its data, the data, and the log index that the snapshot stands at.
///
/// # Errors
/// A description if the bytes are no snapshot message.
pub fn split_snapshot(message: &[u8]) -> Result<(Vec<u8>, Vec<u8>, u64), String> {
    let mut message = decode(message)?;
    let snapshot = message.snapshot.as_mut().ok_or("the message has no snapshot")?;
    let index = snapshot.get_metadata().index;
    let data = std::mem::take(&mut snapshot.data);
    Ok((message.encode_to_vec(), data, index))
}

/// Puts the data back. The inverse of [`split_snapshot`].
///
/// # Errors
/// A description if the bytes are no snapshot message.
pub fn join_snapshot(message: &[u8], data: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut message = decode(message)?;
    message.snapshot.as_mut().ok_or("the message has no snapshot")?.data = data;
    Ok(message.encode_to_vec())
}

fn decode(bytes: &[u8]) -> Result<Message, String> {
    let message = Message::decode(bytes).map_err(|e| format!("not a Raft message: {e}"))?;
    if message.msg_type() != MessageType::MsgSnapshot {
        return Err(format!("a {:?} is no snapshot message", message.msg_type()));
    }
    Ok(message)
}
