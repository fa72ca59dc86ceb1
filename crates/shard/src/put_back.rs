//! What a replica needs to go on from a copy of its data directory while other replicas go on from copies of other moments.
//!
//! Raft knows an entry by index and term, because one term has one leader. Copies of different moments break that. How it goes
//! wrong:
//!
//! 1. Nodes 1 and 2 are copied in term 7. Then node 1 leads in term 8, and node 3 is copied with an entry 50 of term 8.
//! 2. All copies are put back. Node 2 is elected by node 1, again in term 8, and writes another entry 50 of term 8.
//! 3. Node 3 takes that for the entry 50 that it has. Its table differs from there on, and nothing says so.
//!
//! So every replica goes on in a term that no copy can have. What entries of such a term contradict is found
//! (`raft/peer_message.rs`).

use crate::Fatal;
use raft::eraftpb::HardState;
use raft_prost::Message as _;
use routing::ShardId;
use storage::ShardWrite;

/// Terms that a cluster does not get through between two copies.
const TERMS: u64 = 1 << 20;

/// What to write before a replica opens that goes on from a copy: its hard state with a term above those of all copies, in which
/// it has not voted. `hard_state`: what it has. `random`: so that two times of putting back do not come to the same terms.
///
/// # Errors
/// [`Fatal`] if the hard state is none.
pub fn in_a_new_term(shard: ShardId, hard_state: &[u8], random: u32) -> Result<ShardWrite, Fatal> {
    let state = HardState::decode(hard_state);
    let mut state = state.map_err(|error| Fatal { shard, what: format!("the hard state: {error}") })?;
    state.term += TERMS + u64::from(random);
    state.vote = 0;
    Ok(ShardWrite { shard, hard_state: Some(state.encode_to_vec()), ..ShardWrite::default() })
}
