//! The replica.

use crate::api::*;
use storage::Recovered;

/// One replica of one shard.
pub struct Replica {}

impl Replica {
    /// Takes up where the last run stopped, or starts empty if there was none.
    ///
    /// # Errors
    /// [`Fatal`] if what was recovered cannot be this shard's.
    pub fn open(_config: ReplicaConfig, _recovered: Recovered, _now: Now) -> Result<Replica, Fatal> {
        todo!()
    }

    /// Takes `inputs` in order and returns everything that follows from them.
    ///
    /// # Errors
    /// [`Fatal`]: stop the process without answering anything more.
    pub fn step(&mut self, _now: Now, _inputs: impl IntoIterator<Item = Input>) -> Result<Outputs, Fatal> {
        todo!()
    }

    /// The state without its hash (cheap).
    pub fn status(&self) -> Status {
        todo!()
    }
}

/// Takes the snapshot data out of an encoded snapshot message, so that the two can be sent apart. The third is the
/// log index that the snapshot stands at.
///
/// # Errors
/// [`Fatal`]-free: a description if the bytes are no snapshot message.
pub fn split_snapshot(_message: &[u8]) -> Result<(Vec<u8>, Vec<u8>, u64), String> {
    todo!()
}

/// Puts the data back. The inverse of [`split_snapshot`].
///
/// # Errors
/// A description if the bytes are no snapshot message.
pub fn join_snapshot(_message: &[u8], _data: Vec<u8>) -> Result<Vec<u8>, String> {
    todo!()
}
