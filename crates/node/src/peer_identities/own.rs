//! This node's own data directory: its name, its runs, and whether it was copied.

use super::standing::{Beginning, FirstStart, Standing};
use crate::chosen_id::ChosenId;
use crate::error::NodeError;
use crate::lineage::{Claim, RUNS_MAX, Run, StoreId};
use routing::ShardId;
use std::collections::BTreeSet;
use storage::{Engine, StorageError};

/// Key of `incarnation u32 LE | store u64 LE | 1 if confirmed, else 0`.
const OWN: &[u8] = b"own store";
/// Key of the latest runs, oldest first: `boot u64 LE | life u64 LE | opened u64 LE` each.
const RUNS: &[u8] = b"own runs";
/// Key of the time at which the file system made the directory, if it tells: `u128 LE`.
const BORN: &[u8] = b"own birth";
/// Key of the shards of which a replica begins with a re-seeded directory: `shard u32 LE` each.
const BEGINS: &[u8] = b"own re-seed";
const RUN_BYTES: usize = 3 * 8;

/// The name, runs and standing of this node's directory.
pub(super) struct Own {
    pub(super) id: StoreId,
    pub(super) standing: Standing,
    pub(super) forced: bool,
    /// Set at the start that re-seeds.
    begins: Option<BTreeSet<ShardId>>,
    /// The last run is the present one.
    runs: Vec<Run>,
    born: Option<u128>,
    /// The creation time that was found under [`BORN`].
    born_before: Option<u128>,
}

impl Own {
    /// Reads the records of the directory and adds the present run. Writes nothing.
    pub(super) fn open(
        engine: &dyn Engine,
        boot: u64,
        first_start: FirstStart,
        beginning: &Beginning,
        is_alone: bool,
    ) -> Result<Own, NodeError> {
        let found = found(engine)?;
        let begins =
            matches!(first_start, FirstStart::Reseed { .. }).then(|| beginning.shards.clone());
        let (id, mut confirmed) = match (found, first_start) {
            (Some((id, _)), FirstStart::Reseed { .. }) => return Err(not_empty(id)),
            (Some(found), _) => found,
            // A re-seeded node is no member yet, so it need not wait.
            (None, FirstStart::Reseed { .. }) => {
                (StoreId { incarnation: beginning.incarnation, store: rand::random() }, true)
            }
            (None, _) => {
                let chosen = ChosenId::read(engine)?.map(|chosen| chosen.store);
                let store = chosen.unwrap_or_else(rand::random);
                (StoreId { incarnation: 0, store }, false)
            }
        };
        confirmed |= first_start == FirstStart::NewCluster || is_alone;
        let mut runs = match engine.node_record(RUNS)? {
            Some(bytes) => decode_runs(&bytes)?,
            None => Vec::new(),
        };
        runs.push(Run { boot, life: rand::random(), opened: engine.last_record() });
        runs.drain(..runs.len().saturating_sub(RUNS_MAX));
        let (born, born_before) = (
            engine.born(),
            engine.node_record(BORN)?.map(|bytes| decode_birth(&bytes)).transpose()?,
        );
        // A copy is a new file, so its creation time differs.
        let is_copy = matches!((born, born_before), (Some(born), Some(before)) if born != before);
        let standing =
            match (confirmed, is_copy && !matches!(first_start, FirstStart::AcceptCopy { .. })) {
                (false, _) => Standing::New,
                (true, true) => Standing::Copied,
                (true, false) => Standing::Usual,
            };
        let forced = first_start == FirstStart::Reseed { force: true };
        Ok(Own { id, standing, forced, begins, runs, born, born_before })
    }

    /// Writes the records; they are on disk when this returns. A copy stays on record as a copy
    /// until it is confirmed.
    pub(super) fn keep(&self, engine: &dyn Engine) -> Result<(), StorageError> {
        let born = if self.standing == Standing::Copied { self.born_before } else { self.born };
        self.put(engine, self.standing != Standing::New, born)
    }

    pub(super) fn confirm(&self, engine: &dyn Engine) -> Result<(), StorageError> {
        self.put(engine, true, self.born)
    }

    fn put(
        &self,
        engine: &dyn Engine,
        confirmed: bool,
        born: Option<u128>,
    ) -> Result<(), StorageError> {
        let mut records = vec![
            (OWN.to_vec(), encode_own(self.id, confirmed)),
            (RUNS.to_vec(), self.runs.iter().flat_map(encode_run).collect()),
        ];
        records.extend(born.map(|born| (BORN.to_vec(), born.to_le_bytes().to_vec())));
        records.extend(self.begins.iter().map(|shards| (BEGINS.to_vec(), encode_shards(shards))));
        engine.put_node_records(&records)
    }

    pub(super) fn claim(&self, engine: &dyn Engine) -> Claim {
        Claim { id: self.id, runs: self.runs.clone(), record: engine.last_record() }
    }
}

/// Refuses to re-seed a store that is not empty.
///
/// # Errors
/// [`NodeError`] if the store is not empty or cannot be read.
pub(crate) fn check_empty(engine: &dyn Engine) -> Result<(), NodeError> {
    found(engine)?.map_or(Ok(()), |(id, _)| Err(not_empty(id)))
}

/// The shards of which a replica begins with this directory, if it is a re-seeded one. `None`: those
/// of the cluster file.
///
/// # Errors
/// [`StorageError`], also if the record is damaged.
pub(crate) fn begins(engine: &dyn Engine) -> Result<Option<BTreeSet<ShardId>>, StorageError> {
    engine.node_record(BEGINS)?.map(|bytes| decode_shards(&bytes)).transpose()
}

fn found(engine: &dyn Engine) -> Result<Option<(StoreId, bool)>, StorageError> {
    engine.node_record(OWN)?.map(|bytes| decode_own(&bytes)).transpose()
}

fn not_empty(own: StoreId) -> NodeError {
    NodeError::Config(match own.incarnation {
        0 => "this data directory is not empty: it holds what this node has voted for and acknowledged. Start without \
              --reseed; only if the directory is damaged, or the peers refuse it, move it away and start with --reseed once"
            .into(),
        incarnation => {
            format!("this data directory is already re-seeded (as incarnation {incarnation}): start without --reseed")
        }
    })
}

fn encode_own(own: StoreId, confirmed: bool) -> Vec<u8> {
    let mut bytes = own.incarnation.to_le_bytes().to_vec();
    bytes.extend_from_slice(&own.store.to_le_bytes());
    bytes.push(u8::from(confirmed));
    bytes
}

fn decode_own(bytes: &[u8]) -> Result<(StoreId, bool), StorageError> {
    let damaged = || StorageError::Damaged("the record of this node's own store is not one".into());
    let bytes: &[u8; 13] = bytes.try_into().map_err(|_| damaged())?;
    let (incarnation, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (store, confirmed) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let id = StoreId {
        incarnation: u32::from_le_bytes(*incarnation),
        store: u64::from_le_bytes(*store),
    };
    match confirmed {
        [confirmed @ (0 | 1)] => Ok((id, *confirmed == 1)),
        _ => Err(damaged()),
    }
}

fn encode_run(run: &Run) -> Vec<u8> {
    [run.boot, run.life, run.opened].iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn decode_runs(bytes: &[u8]) -> Result<Vec<Run>, StorageError> {
    let (runs, rest) = bytes.as_chunks::<RUN_BYTES>();
    if !rest.is_empty() || runs.len() > RUNS_MAX {
        return Err(StorageError::Damaged(format!(
            "{} bytes are no record of this directory's runs",
            bytes.len()
        )));
    }
    let run = |bytes: &[u8; RUN_BYTES]| {
        let (words, _) = bytes.as_chunks::<8>();
        let [boot, life, opened] = [0, 1, 2].map(|at| u64::from_le_bytes(words[at]));
        Run { boot, life, opened }
    };
    Ok(runs.iter().map(run).collect())
}

fn encode_shards(shards: &BTreeSet<ShardId>) -> Vec<u8> {
    shards.iter().flat_map(|shard| shard.0.to_le_bytes()).collect()
}

fn decode_shards(bytes: &[u8]) -> Result<BTreeSet<ShardId>, StorageError> {
    let (shards, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        let what = format!("{} bytes do not list the shards of a re-seed", bytes.len());
        return Err(StorageError::Damaged(what));
    }
    Ok(shards.iter().map(|shard| ShardId(u32::from_le_bytes(*shard))).collect())
}

fn decode_birth(bytes: &[u8]) -> Result<u128, StorageError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| StorageError::Damaged(format!("{} bytes are no birth", bytes.len())))?;
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_none_are_damage() {
        let id = StoreId { incarnation: 3, store: u64::MAX };
        assert_eq!(decode_own(&encode_own(id, true)).expect("own bytes"), (id, true));
        assert!(
            decode_own(&[0; 12]).is_err()
                && decode_own(&[2; 13]).is_err()
                && decode_own(&[]).is_err()
        );
        let runs =
            [Run { boot: 1, life: 2, opened: 3 }, Run { boot: 4, life: u64::MAX, opened: 6 }];
        let bytes: Vec<u8> = runs.iter().flat_map(encode_run).collect();
        assert_eq!(decode_runs(&bytes).expect("own bytes"), runs);
        assert!(
            decode_runs(&bytes[1..]).is_err()
                && decode_runs(&[0; RUN_BYTES * (RUNS_MAX + 1)]).is_err()
        );
        let shards = [0, 7, u32::MAX - 1].map(ShardId).into();
        assert_eq!(decode_shards(&encode_shards(&shards)).expect("own bytes"), shards);
        assert!(decode_shards(&[0; 7]).is_err());
        assert!(decode_birth(&[0; 15]).is_err() && decode_birth(&[0; 17]).is_err());
    }
}
