//! The bytes of an entry, while it is filled with operations.
//!
//! A shard of locks has batches of commands ([`BatchBuilder`]). The topology has entries of another
//! kind, with proposals:
//!
//! ```text
//! +------+---------------------------------------+
//! | kind | n × (length: 4 bytes LE, proposal)    |
//! +------+---------------------------------------+
//! ```
//!
//! Each proposal has a checksum of its own, and a changed length makes one not match. The first byte
//! tells an entry of proposals from a batch of commands, which begins with 1, and from a wish for
//! members, which begins with 2 (`parts/group.rs`).

use locks::BatchBuilder;
use topology::{DecodeError, Proposal};

/// The first byte of an entry with proposals.
const KIND: u8 = 3;
const LENGTH_BYTES: usize = 4;

/// An entry that takes encoded operations.
pub(crate) trait EntryBuilder {
    fn is_empty(&self) -> bool;
    /// The size of the entry so far.
    fn size_bytes(&self) -> usize;
    fn push(&mut self, operation: &[u8]);
    /// The bytes of the entry.
    fn finish(self) -> Vec<u8>;
}

impl EntryBuilder for BatchBuilder {
    fn is_empty(&self) -> bool {
        BatchBuilder::is_empty(self)
    }

    fn size_bytes(&self) -> usize {
        BatchBuilder::size_bytes(self)
    }

    fn push(&mut self, operation: &[u8]) {
        BatchBuilder::push(self, operation);
    }

    fn finish(self) -> Vec<u8> {
        BatchBuilder::finish(self)
    }
}

/// Builds an entry of proposals.
pub(crate) struct ProposalsEntry(Vec<u8>);

impl ProposalsEntry {
    pub(crate) fn new() -> ProposalsEntry {
        ProposalsEntry(vec![KIND])
    }

    /// The proposals of an entry, in order.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub(crate) fn decode(entry: &[u8]) -> Result<Vec<Proposal>, DecodeError> {
        let cut_off = DecodeError("cut short");
        let (kind, mut rest) = entry.split_first().ok_or(cut_off)?;
        if *kind != KIND {
            return Err(DecodeError("not an entry of proposals"));
        }
        let mut proposals = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(cut_off)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (proposal, after) = after.split_at_checked(length).ok_or(cut_off)?;
            proposals.push(Proposal::decode(proposal)?);
            rest = after;
        }
        Ok(proposals)
    }
}

impl EntryBuilder for ProposalsEntry {
    fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, operation: &[u8]) {
        let length = u32::try_from(operation.len()).expect("a proposal is far below 4 GiB");
        self.0.extend(length.to_le_bytes());
        self.0.extend_from_slice(operation);
    }

    fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::{Command, JobId};

    #[test]
    fn an_entry_is_read_as_it_was_written_and_any_changed_byte_is_found() {
        let proposals = [1, 2].map(|job| Proposal::new(job, Command::Cancel { job: JobId(job) }));
        let mut entry = ProposalsEntry::new();
        assert!(entry.is_empty());
        proposals.iter().for_each(|proposal| entry.push(&proposal.encode()));
        let bytes = entry.finish();
        assert_eq!(ProposalsEntry::decode(&bytes).expect("own bytes"), proposals);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(ProposalsEntry::decode(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        let one = 1 + LENGTH_BYTES + proposals[0].encode().len();
        for cut in 0..bytes.len() {
            let is_whole = cut == 1 || cut == one;
            assert_eq!(ProposalsEntry::decode(&bytes[..cut]).is_ok(), is_whole, "cut at {cut}");
        }
    }
}
