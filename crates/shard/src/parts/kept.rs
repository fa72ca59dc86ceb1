//! What a group keeps of itself beside the state of its machine: the wish for its members, on shard
//! 0 the founders of META, and the level that it has reached.
//!
//! ```text
//! +-----------------+---------------------+------------------+
//! | wish, if any    | founders, if any    | level, if any    |
//! +-----------------+---------------------+------------------+
//! |<----- in the layout of group.rs ----->|<- of level.rs -->|
//! ```
//!
//! These bytes stand before the position in an applied record, and in the context of a snapshot's
//! header. Each part says by its first byte what it is, and nothing is written for one that is not
//! there.

use crate::parts::founding::Founders;
use crate::parts::group::{Wanted, WantedError};
use crate::parts::level::Reached;
use topology::{FIRST_LEVEL, KNOWN_LEVELS};

/// What a group keeps of itself, as of an index of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The last wish for members.
    pub wanted: Option<Wanted>,
    /// Of shard 0: the founders of META.
    pub founders: Option<Founders>,
    /// The level. `None`: the first one.
    pub reached: Option<Reached>,
}

impl Kept {
    /// The level of the group.
    pub(crate) fn level(&self) -> u32 {
        self.reached.map_or(FIRST_LEVEL, |reached| reached.level)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.wanted.as_ref().map(Wanted::encode).unwrap_or_default();
        bytes.extend(self.founders.as_ref().map(Founders::encode).unwrap_or_default());
        bytes.extend(self.reached.as_ref().map(Reached::encode).unwrap_or_default());
        bytes
    }

    /// Decodes what stands before other bytes, and returns those bytes.
    ///
    /// # Errors
    /// If any byte of it is wrong, or the level is one that this build does not know.
    pub(crate) fn decode_before(bytes: &[u8]) -> Result<(Kept, &[u8]), WantedError> {
        let (wanted, rest) = Wanted::decode_before(bytes)?;
        let (founders, rest) = Founders::decode_before(rest)?;
        let (reached, rest) = Reached::decode_before(rest)?;
        let kept = Kept { wanted, founders, reached };
        match KNOWN_LEVELS.contains(kept.level()) {
            true => Ok((kept, rest)),
            false => Err(WantedError("a level that this build does not know: start the newer one")),
        }
    }

    /// Decodes it alone.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Kept, WantedError> {
        match Kept::decode_before(bytes)? {
            (kept, []) => Ok(kept),
            _ => Err(WantedError("bytes after what a group keeps")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::NodeId;

    #[test]
    fn each_combination_is_read_as_it_was_written_and_any_changed_byte_is_found() {
        let lives = [(NodeId(1), 0), (NodeId(2), 7)];
        let wanted = Some(Wanted::new(9, lives).expect("a wish that can be"));
        let founders = Some(Founders::new(4, lives).expect("founders that can be"));
        let reached = Some(Reached { level: 2, conf_index: 12 });
        for kept in [
            Kept::default(),
            Kept { wanted: wanted.clone(), ..Kept::default() },
            Kept { founders: founders.clone(), ..Kept::default() },
            Kept { reached, ..Kept::default() },
            Kept { wanted, founders, reached },
        ] {
            let bytes = kept.encode();
            assert_eq!(Kept::decode(&bytes), Ok(kept.clone()));
            let position = [&bytes[..], &[10, 9]].concat();
            assert_eq!(Kept::decode_before(&position), Ok((kept.clone(), &[10, 9][..])));
            assert!(Kept::decode(&position).is_err());
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(Kept::decode(&damaged).is_err(), "bit {bit} of byte {at}");
                }
            }
        }
    }

    /// A build without levels must be able to go on from these bytes.
    #[test]
    fn a_group_of_the_first_level_keeps_the_bytes_of_the_time_before_levels() {
        assert_eq!(Kept::default().encode(), []);
        let lives = [(NodeId(1), 0)];
        let wanted = Wanted::new(9, lives).expect("a wish that can be");
        let kept = Kept { wanted: Some(wanted.clone()), ..Kept::default() };
        assert_eq!(kept.encode(), wanted.encode());
    }

    #[test]
    fn a_level_that_this_build_does_not_know_is_refused_with_what_to_do() {
        let level = KNOWN_LEVELS.max + 1;
        let kept = Kept { reached: Some(Reached { level, conf_index: 1 }), ..Kept::default() };
        let refused = Kept::decode(&kept.encode()).unwrap_err().to_string();
        assert!(refused.ends_with("start the newer one"), "{refused}");
    }
}
