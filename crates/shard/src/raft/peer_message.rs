//! What a peer may say. raft-rs believes whatever it is told, and panics where that cannot be.

use super::log_store::LogStore;
use super::peer_id::node_of;
use locks::planted::{self, Bug};
use raft::Raft;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// Why raft-rs does not get to see a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It is dropped: Raft tolerates loss.
    Malformed(&'static str),
    /// It shows that this replica, or the one that leads, lost what it had acknowledged. This one must stop: what it says next
    /// could cost others the same.
    DataLost(String),
}

/// Whether raft-rs can take this message.
///
/// A heartbeat tells no commit index past what the leader was told that this replica has on disk. If it does, those entries
/// are gone, and the replica is not who it was.
///
/// A leader has every entry that was committed before its term. If it has another one, it goes on from an older copy of a data
/// directory. raft-rs would answer it with its own commit index, and so be counted for entries that it has not.
pub(crate) fn check_peer_message(message: &mut Message, raft: &Raft<LogStore>) -> Result<(), Rejection> {
    check(message, raft).map_err(Rejection::Malformed)?;
    let last = raft.raft_log.last_index();
    if message.msg_type() == MessageType::MsgHeartbeat && message.term >= raft.term && message.commit > last {
        if planted::is(Bug::ReseededUnderOldName) {
            message.commit = 0; // planted, with what shows it: the replica is sent all of it again, and goes on
            return Ok(());
        }
        return Err(Rejection::DataLost(format!(
            "the leader, node {}, counts on log entries up to {} that this replica acknowledged, and its log ends at {last}: \
             its data directory was damaged or replaced. Re-seed it: see `palisade node --help`",
            node_of(message.from),
            message.commit
        )));
    }
    if message.msg_type() == MessageType::MsgAppend
        && message.term >= raft.term
        && let Some(index) = contradicted(message, raft)
        && !planted::is(Bug::ReseededUnderOldName)
    {
        return Err(Rejection::DataLost(format!(
            "the leader, node {}, lacks log entry {index} of this replica, which was committed: older copies of data directories \
             were put back. Stop the nodes and bring the newest directories back; or re-seed this node, to go on with what the \
             others have: see `palisade node --help`",
            node_of(message.from)
        )));
    }
    Ok(())
}

/// The first entry that is committed here and another one there.
fn contradicted(append: &Message, raft: &Raft<LogStore>) -> Option<u64> {
    let log = &raft.raft_log;
    let before = std::iter::once((append.index, append.log_term));
    let known = before.chain(append.entries.iter().map(|entry| (entry.index, entry.term)));
    let mut committed = known.take_while(|(index, _)| *index <= log.committed);
    // Term 0: it has been cut off.
    committed.find(|(index, term)| log.term(*index).is_ok_and(|own| own != 0 && own != *term)).map(|(index, _)| index)
}

fn check(message: &Message, raft: &Raft<LogStore>) -> Result<(), &'static str> {
    if planted::is(Bug::AppendsBatchedByRaft) {
        return Ok(()); // planted, with what makes such messages: whatever comes is taken, as once it was
    }
    let Some(kind) = MessageType::from_i32(message.msg_type) else { return Err("of an unknown kind") };
    match kind {
        // Followers do not forward proposals here: a gateway asks the leader itself. Nor do they forward transfers.
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
        // raft-rs knows entries past its log by term 0, and would take this one's predecessor for one that it has.
        MessageType::MsgAppend if (message.index == 0) != (message.log_term == 0) => Err("an entry without a term"),
        MessageType::MsgAppend => {
            let mut before = (message.index, message.log_term);
            for entry in &message.entries {
                if before.0.checked_add(1) != Some(entry.index) || entry.term < before.1 || entry.term > message.term {
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
