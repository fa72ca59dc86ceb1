//! Going on from a copy of a data directory, while other replicas go on from copies of other
//! moments.
//!
//! Raft knows an entry by index and term, because one term has one leader. Copies of different
//! moments break that. How it goes wrong:
//!
//! 1. Nodes 1 and 2 are copied in term 7. Then node 1 leads in term 8, and node 3 is copied with an
//!    entry 50 of term 8.
//! 2. All copies are put back. Node 2 is elected by node 1, again in term 8, and writes another
//!    entry 50 of term 8.
//! 3. Node 3 takes that for the entry 50 that it has. Its table differs from there on, and nothing
//!    says so.
//!
//! So every replica goes on in a term that no copy can have. An entry that contradicts one of such
//! a term is found (`raft/peer_message.rs`).

use crate::Fatal;
use raft::eraftpb::HardState;
use raft_prost::Message as _;
use routing::ShardId;
use storage::ShardWrite;

/// A cluster does not get through this many terms between two copies.
const TERMS: u64 = 1 << 20;

/// The write that must be on disk before a replica opens that goes on from a copy: its hard state
/// with a term above those of all copies, in which it has not voted.
///
/// `hard_state` is the copy's. `random` keeps apart the terms of two times of putting back.
///
/// # Errors
/// [`Fatal`] if `hard_state` cannot be decoded, or if no term is left above its own.
pub fn in_a_new_term(shard: ShardId, hard_state: &[u8], random: u32) -> Result<ShardWrite, Fatal> {
    let fatal = |what: String| Fatal { shard, what };
    let mut state =
        HardState::decode(hard_state).map_err(|error| fatal(format!("the hard state: {error}")))?;
    let term = state.term.checked_add(TERMS + u64::from(random));
    state.term = term.ok_or_else(|| fatal(format!("no term is left above {}", state.term)))?;
    state.vote = 0;
    Ok(ShardWrite { shard, hard_state: Some(state.encode_to_vec()), ..ShardWrite::default() })
}
