//! What log entries and messages say of members, for judges of simulated runs. No replica uses it.

use crate::parts::group::{self, Wanted};
use crate::raft::conf_state::members;
use crate::raft::peer_id::{incarnation_of, node_of};
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message};
use raft_prost::Message as _;
use routing::NodeId;

/// A log entry that concerns the members of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// What it changes.
    pub change: GroupChange,
}

/// What an entry changes in its group. A replica is named by its node and its birth there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// The members that the group shall have, unless it knows of a later wish.
    Wish(Wanted),
    /// The replica gets the log, and has no vote.
    Learns(NodeId, u32),
    /// The replica has a vote.
    Votes(NodeId, u32),
    /// The replica is no member.
    Leaves(NodeId, u32),
}

/// Reads a log entry as it stands on disk. `None`: the entry does not concern the members, or the
/// bytes are no entry.
pub fn group_entry(bytes: &[u8]) -> Option<GroupEntry> {
    let entry = Entry::decode(bytes).ok()?;
    let change = match entry.entry_type() {
        EntryType::EntryNormal if entry.data.first() == Some(&group::KIND) => {
            GroupChange::Wish(Wanted::decode(&entry.data).ok()?)
        }
        EntryType::EntryConfChange => {
            let change = ConfChange::decode(entry.data.as_ref()).ok()?;
            let (node, birth) = (node_of(change.node_id), incarnation_of(change.node_id));
            match change.change_type() {
                ConfChangeType::AddLearnerNode => GroupChange::Learns(node, birth),
                ConfChangeType::AddNode => GroupChange::Votes(node, birth),
                ConfChangeType::RemoveNode => GroupChange::Leaves(node, birth),
            }
        }
        EntryType::EntryNormal | EntryType::EntryConfChangeV2 => return None,
    };
    Some(GroupEntry { term: entry.term, change })
}

/// The replica that a message says it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Its node.
    pub node: NodeId,
    /// Its birth there.
    pub birth: u32,
    /// The term that it speaks in.
    pub term: u64,
}

/// The replica that says this encoded message. `None`: the bytes are no message.
pub fn speaker(message: &[u8]) -> Option<Speaker> {
    let Message { from, term, .. } = Message::decode(message).ok()?;
    Some(Speaker { node: node_of(from), birth: incarnation_of(from), term })
}

/// Whether the snapshot that an encoded message begins has the receiver among its members.
/// Otherwise the receiver does not take it. `None`: the message has no snapshot.
pub fn snapshot_has_receiver(message: &[u8]) -> Option<bool> {
    let Message { to, snapshot, .. } = Message::decode(message).ok()?;
    let metadata = snapshot?.metadata?;
    Some(members(metadata.get_conf_state()).any(|id| id == to))
}
