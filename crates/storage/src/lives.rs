//! The lives of replicas on one node, and which of them may begin or end. The same for every
//! engine.
//!
//! A life is one replica of a shard on this node, from its first record to its end. It has a
//! **birth**: a number that no other life on this node has had, and that rises from life to life.
//! Raft knows the replica by it. Without births it goes wrong as follows:
//!
//! 1. A replica votes, and is destroyed because its shard moves to another node.
//! 2. The shard moves back, and the node hosts it again under the same Raft id.
//! 3. The replica has forgotten its vote, and votes again in the same term. Two leaders are
//!    elected.
//!
//! This module knows nothing of the place where the lives are kept.

use routing::ShardId;

/// The lives of one shard on this node.
///
/// - `hosted` is above `destroyed`.
/// - If nothing is hosted and a life was destroyed, the node has no data of the shard.
/// - Both are `None` for a shard that has never been here, and for a replica whose node keeps no
///   births.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// Birth of the life that is hosted.
    pub hosted: Option<u32>,
    /// Birth of the last life that was destroyed: the shard's tombstone.
    pub destroyed: Option<u32>,
}

/// The reason why a life may not begin or end. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifeRefused {
    /// The life, or a later one, was destroyed here.
    #[error(
        "shard {shard}: a replica with birth {birth} cannot begin here, because the one with birth \
         {destroyed} was destroyed on this node and its votes are forgotten: host the shard under \
         a higher birth"
    )]
    Destroyed {
        /// The shard in question.
        shard: ShardId,
        /// Birth of the life that was to begin.
        birth: u32,
        /// Birth of the last life that was destroyed.
        destroyed: u32,
    },
    /// Another life is hosted.
    #[error(
        "shard {shard}: the replica with birth {hosted} is on this node, so none with birth \
         {birth} can begin or end here: drop birth {hosted} first"
    )]
    Hosted {
        /// The shard in question.
        shard: ShardId,
        /// Birth of the life that was to begin or end.
        birth: u32,
        /// Birth of the life that is here.
        hosted: u32,
    },
}

impl Lives {
    /// The lives once this one is hosted. `None` if it is hosted already.
    pub(crate) fn host(self, shard: ShardId, birth: u32) -> Result<Option<Lives>, LifeRefused> {
        match self {
            Lives { hosted: Some(hosted), .. } if hosted == birth => Ok(None),
            Lives { destroyed: Some(destroyed), .. } if destroyed >= birth => {
                Err(LifeRefused::Destroyed { shard, birth, destroyed })
            }
            Lives { hosted: Some(hosted), .. } => Err(LifeRefused::Hosted { shard, birth, hosted }),
            Lives { hosted: None, destroyed } => Ok(Some(Lives { hosted: Some(birth), destroyed })),
        }
    }

    /// The lives once this one is destroyed. `None` if it cannot be here any more, because it or a
    /// later one was destroyed, or a later one is hosted.
    pub(crate) fn destroy(self, shard: ShardId, birth: u32) -> Result<Option<Lives>, LifeRefused> {
        match self {
            Lives { hosted: Some(hosted), .. } if hosted < birth => {
                Err(LifeRefused::Hosted { shard, birth, hosted })
            }
            Lives { hosted: Some(hosted), .. } if hosted > birth => Ok(None),
            Lives { hosted: None, destroyed: Some(destroyed) } if destroyed >= birth => Ok(None),
            _ => Ok(Some(Lives { hosted: None, destroyed: Some(birth) })),
        }
    }

    /// Panics on a write to a shard whose life has ended here, because the next life would take
    /// what was written for its own.
    pub(crate) fn assert_writable(self, shard: ShardId) {
        assert!(
            self.hosted.is_some() || self.destroyed.is_none(),
            "shard {shard} was written after its replica with birth {} was destroyed",
            self.destroyed.unwrap_or_default()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    /// All lives of small numbers: what is refused is exactly what could bring a destroyed life
    /// back, or mix two.
    #[test]
    fn births_only_rise_and_one_life_is_here_at_a_time() {
        let numbers = || [None].into_iter().chain((0..5).map(Some));
        let all = numbers()
            .flat_map(|hosted| numbers().map(move |destroyed| Lives { hosted, destroyed }));
        for lives in all.filter(|lives| lives.hosted.is_none() || lives.hosted > lives.destroyed) {
            for birth in 0..5 {
                let hosted = lives.host(SHARD, birth);
                let may = lives.hosted.is_none_or(|hosted| hosted == birth)
                    && lives.destroyed.is_none_or(|destroyed| destroyed < birth);
                assert_eq!(hosted.is_ok(), may, "{lives:?} hosts {birth}");
                if let Ok(after) = hosted {
                    let after = after.unwrap_or(lives);
                    assert_eq!(after, Lives { hosted: Some(birth), ..lives });
                    assert!(after.hosted > after.destroyed);
                }
                let destroyed = lives.destroy(SHARD, birth);
                let may = lives.hosted.is_none_or(|hosted| hosted >= birth);
                assert_eq!(destroyed.is_ok(), may, "{lives:?} destroys {birth}");
                if let Ok(after) = destroyed {
                    let after = after.unwrap_or(lives);
                    assert!(after.host(SHARD, birth).is_err(), "{lives:?}: {birth} comes back");
                    let ends = lives.hosted.is_none_or(|hosted| hosted == birth)
                        && lives.destroyed < Some(birth);
                    let expected = Lives { hosted: None, destroyed: Some(birth) };
                    assert_eq!(after, if ends { expected } else { lives });
                }
            }
        }
    }
}
