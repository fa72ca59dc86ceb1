//! The messages that raft-rs can take from a peer. It believes any message, and panics on some that
//! cannot be.

use super::log_store::LogStore;
use super::peer_id::node_of;
use crate::planted_bugs;
use raft::Raft;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// The reason that raft-rs does not get a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The message makes no sense. It is dropped, because Raft tolerates loss.
    Malformed(&'static str),
    /// The message shows that this replica, or its leader, lost entries that it had acknowledged.
    /// This replica must stop, or its votes could cost others the same entries.
    DataLost(String),
}

/// Whether raft-rs can take this message.
///
/// Two messages show that entries were lost, and raft-rs does not notice them:
///
/// * A heartbeat with a commit index above the end of this log. A leader sends none above the last
///   entry that this replica acknowledged, so entries were lost here.
/// * An append that contradicts an entry committed here. A leader has every entry that was
///   committed before its term, so this one goes on from an older copy of a data directory. raft-rs
///   would answer it with its own commit index, and be counted for entries that it does not have.
///
/// # Errors
/// [`Rejection`], with the reason.
pub(crate) fn check_peer_message(
    message: &mut Message,
    raft: &Raft<LogStore>,
) -> Result<(), Rejection> {
    planted_bugs::checked_message(check(message, raft)).map_err(Rejection::Malformed)?;
    let last = raft.raft_log.last_index();
    if message.msg_type() == MessageType::MsgHeartbeat
        && message.term >= raft.term
        && message.commit > last
    {
        let data_lost = Rejection::DataLost(format!(
            "the leader, node {}, counts on log entries up to {} that this replica acknowledged, \
             and its log ends at {last}: its data directory was damaged or replaced. Re-seed it: \
             see `palisade node --help`",
            node_of(message.from),
            message.commit
        ));
        return planted_bugs::refused_heartbeat(Err(data_lost), message);
    }
    if message.msg_type() == MessageType::MsgAppend
        && message.term >= raft.term
        && let Some(index) = planted_bugs::contradicted(contradicted(message, raft))
    {
        return Err(Rejection::DataLost(format!(
            "the leader, node {}, lacks log entry {index} of this replica, which was committed: \
             older copies of data directories were put back. Stop the nodes and bring the newest \
             directories back; or re-seed this node, to go on with what the others have: see \
             `palisade node --help`",
            node_of(message.from)
        )));
    }
    Ok(())
}

/// The index of the first entry of an append that contradicts an entry committed here.
fn contradicted(append: &Message, raft: &Raft<LogStore>) -> Option<u64> {
    let log = &raft.raft_log;
    let before = std::iter::once((append.index, append.log_term));
    let known = before.chain(append.entries.iter().map(|entry| (entry.index, entry.term)));
    let mut committed = known.take_while(|(index, _)| *index <= log.committed);
    // Term 0: the entry has been cut off.
    committed
        .find(|(index, term)| log.term(*index).is_ok_and(|own| own != 0 && own != *term))
        .map(|(index, _)| index)
}

fn check(message: &Message, raft: &Raft<LogStore>) -> Result<(), &'static str> {
    let Some(kind) = MessageType::from_i32(message.msg_type) else {
        return Err("of an unknown kind");
    };
    match kind {
        // A gateway asks the leader itself, so followers forward neither proposals nor transfers.
        MessageType::MsgPropose => return Err("followers do not forward proposals"),
        MessageType::MsgTransferLeader => return Err("followers do not forward transfers"),
        MessageType::MsgReadIndex if message.term != 0 => return Err("a read with a term"),
        MessageType::MsgReadIndex => {}
        _ if message.term == 0 => return Err("without a term"),
        _ => {}
    }
    let last = raft.raft_log.last_index();
    match kind {
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            Err("a read without its context")
        }
        // raft-rs gives entries past its log the term 0, so it would believe that it has the entry
        // before these.
        MessageType::MsgAppend if (message.index == 0) != (message.log_term == 0) => {
            Err("an entry without a term")
        }
        MessageType::MsgAppend => {
            let mut before = (message.index, message.log_term);
            for entry in &message.entries {
                if before.0.checked_add(1) != Some(entry.index)
                    || entry.term < before.1
                    || entry.term > message.term
                {
                    return Err("entries that do not follow each other");
                }
                before = (entry.index, entry.term);
            }
            Ok(())
        }
        MessageType::MsgAppendResponse
            if raft.state == StateRole::Leader
                && message.term == raft.term
                && !message.reject
                && message.index > last =>
        {
            Err("an acknowledgement of entries that there are not")
        }
        _ => Ok(()),
    }
}
