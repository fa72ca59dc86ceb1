//! What a group keeps of itself beside the state of its machine: the wish for its members, and on
//! shard 0 the founders of META.
//!
//! ```text
//! +-----------------+---------------------+
//! | wish, if any    | founders, if any    |     both in the layout of `parts/group.rs`
//! +-----------------+---------------------+
//! ```
//!
//! These bytes stand before the position in an applied record, and in the context of a snapshot's
//! header. Both lists say by their first byte what they are, and nothing is written for one that is
//! not there.

use crate::parts::founding::Founders;
use crate::parts::group::{Wanted, WantedError};

/// What a group keeps of itself, as of an index of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The last wish for members.
    pub wanted: Option<Wanted>,
    /// Of shard 0: the founders of META.
    pub founders: Option<Founders>,
}

impl Kept {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.wanted.as_ref().map(Wanted::encode).unwrap_or_default();
        bytes.extend(self.founders.as_ref().map(Founders::encode).unwrap_or_default());
        bytes
    }

    /// Decodes what stands before other bytes, and returns those bytes.
    ///
    /// # Errors
    /// If any byte of it is wrong.
    pub(crate) fn decode_before(bytes: &[u8]) -> Result<(Kept, &[u8]), WantedError> {
        let (wanted, rest) = Wanted::decode_before(bytes)?;
        let (founders, rest) = Founders::decode_before(rest)?;
        Ok((Kept { wanted, founders }, rest))
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
        for kept in [
            Kept::default(),
            Kept { wanted: wanted.clone(), founders: None },
            Kept { wanted: None, founders: founders.clone() },
            Kept { wanted, founders },
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
}
