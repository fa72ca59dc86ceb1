//! The write with which a founder begins META, the group of the topology.
//!
//! Other groups begin empty, with the members of the cluster file. META's members are chosen later
//! (`parts/founding.rs`), so they must be on disk before its replica opens.

use crate::parts::applied::encode_applied;
use crate::parts::founding::Founders;
use crate::parts::group::Wanted;
use crate::parts::kept::Kept;
use crate::raft::peer_id::peer_id;
use raft::eraftpb::{ConfState, HardState, SnapshotMetadata};
use raft_prost::Message as _;
use routing::META;
use storage::ShardWrite;

/// The index at which META's log begins, and its term. Index 0 would be that of an empty replica:
/// such a one, which came by a wish, would be sent the log from the first entry on, and would have
/// to know the founders. Now it is sent a snapshot, which has the members.
const FIRST: u64 = 1;

/// The write that a founder's node does before anything else of META. It must be on disk before the
/// replica of the founder opens.
///
/// Every founder begins with the same members, at the same index and term, and has not voted. It
/// begins with the wish for these members, too, because those of the cluster file may be others.
/// The wish has version 0, below that of any topology.
///
/// ```
/// use palisade_shard::{Founders, first_write};
/// use routing::{META, NodeId};
///
/// // Node 2 was re-seeded before META began.
/// let founders = Founders::new(17, [(NodeId(1), 0), (NodeId(2), 1), (NodeId(3), 0)]).unwrap();
/// let write = first_write(&founders);
/// assert_eq!((write.shard, write.reset), (META, true));
/// ```
pub fn first_write(founders: &Founders) -> ShardWrite {
    let lives = founders.lives().iter().map(|(node, birth)| (*node, *birth));
    let mut voters: Vec<u64> = lives.clone().map(|(node, birth)| peer_id(node, birth)).collect();
    voters.sort_unstable();
    let conf_state = Some(ConfState { voters, ..ConfState::default() });
    let position = SnapshotMetadata { conf_state, index: FIRST, term: FIRST };
    let wanted = Some(Wanted::new(0, lives).expect("founders are members that can be"));
    let hard_state = HardState { term: FIRST, commit: FIRST, ..HardState::default() };
    ShardWrite {
        shard: META,
        // A plain write of the applied record could be taken back by a crash.
        reset: true,
        hard_state: Some(hard_state.encode_to_vec()),
        applied: Some(encode_applied(&position, &Kept { wanted, ..Kept::default() })),
        ..ShardWrite::default()
    }
}
