//! What a peer may say. raft-rs believes whatever it is told, and panics where that cannot be.

use crate::log_store::LogStore;
use locks::planted::{self, Bug};
use raft::Raft;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// Whether raft-rs can take this message; if not, why it is dropped: Raft tolerates loss.
///
/// A commit index beyond this replica's log is taken out of a heartbeat, and the rest of it stays: the leader counts on
/// entries that are gone, because this replica was started again without its data. It is sent them again once it says
/// so in its answers.
pub(crate) fn check_peer_message(message: &mut Message, raft: &Raft<LogStore>) -> Result<(), &'static str> {
    if planted::is(Bug::AppendsBatchedByRaft) {
        return Ok(()); // planted, with what makes such messages: whatever comes is taken, as once it was
    }
    let kind = message.msg_type();
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
        MessageType::MsgHeartbeat if message.commit > last => {
            let (node, from, commit) = (raft.id, message.from, message.commit);
            tracing::warn!(node, from, commit, last, "the leader counts on entries that this replica does not have");
            message.commit = 0;
            Ok(())
        }
        _ => Ok(()),
    }
}
