//! One log entry: many commands under one stamp and one checksum.
//!
//! Layout: version, CRC-32C of the rest (4 bytes, little-endian), wall and shard time (8 bytes each), count (4 bytes), then
//! each command with its length as a varint. It knows nothing of what a command is, beyond handing its bytes on.

use crate::codec::{Reader, put_varint};
use crate::command::{Command, DecodeError};
use crate::types::Stamp;

/// Longest batch, in bytes. A longer one is refused before it is looked at.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

const VERSION: u8 = 1;
const CRC_AT: usize = 1;
const BODY_AT: usize = CRC_AT + 4;
const COUNT_AT: usize = BODY_AT + 16;
const COMMANDS_AT: usize = COUNT_AT + 4;

/// Builds the bytes of one log entry out of encoded commands.
///
/// - Never grows past [`BATCH_BYTES_MAX`]: an entry that no replica could decode must not reach the log.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl BatchBuilder {
    /// Starts an entry.
    pub fn new(stamp: Stamp) -> Self {
        let mut bytes = vec![0; COMMANDS_AT];
        bytes[0] = VERSION;
        bytes[BODY_AT..BODY_AT + 8].copy_from_slice(&stamp.wall_ms.to_le_bytes());
        bytes[BODY_AT + 8..COUNT_AT].copy_from_slice(&stamp.shard_ms.to_le_bytes());
        BatchBuilder { bytes, count: 0 }
    }

    /// Adds one command, as encoded by [`Command::encode`].
    ///
    /// # Panics
    /// If the batch would exceed [`BATCH_BYTES_MAX`]: ask [`has_room`](Self::has_room) first.
    pub fn push(&mut self, encoded: &[u8]) {
        assert!(
            self.has_room(encoded.len()),
            "a command of {} bytes does not fit a batch of {} bytes (at most {BATCH_BYTES_MAX})",
            encoded.len(),
            self.bytes.len()
        );
        put_varint(&mut self.bytes, encoded.len() as u64);
        self.bytes.extend_from_slice(encoded);
        self.count += 1;
    }

    /// Whether a command of so many bytes still fits.
    pub fn has_room(&self, encoded_len: usize) -> bool {
        const LENGTH_BYTES_MAX: usize = 4;
        encoded_len < BATCH_BYTES_MAX && self.bytes.len() + LENGTH_BYTES_MAX + encoded_len <= BATCH_BYTES_MAX
    }

    /// How many so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// None so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes so far.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The entry's bytes: version, CRC-32C, stamp, count, commands each with its length.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[COUNT_AT..COMMANDS_AT].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[BODY_AT..]);
        self.bytes[CRC_AT..BODY_AT].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(Stamp::default())
    }
}

/// One decoded log entry.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// When it was proposed.
    pub stamp: Stamp,
    /// In order.
    pub commands: Vec<Command<'a>>,
}

impl<'a> Batch<'a> {
    /// Length cap, then CRC, then the fields. Never panics, never allocates more than the input's size warrants.
    ///
    /// # Errors
    /// What is wrong with the bytes; nothing of them may be applied.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, DecodeError> {
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(DecodeError("a batch over 1 MiB"));
        }
        let mut r = Reader::new(bytes);
        r.version(VERSION)?;
        let crc = u32::from_le_bytes(r.fixed()?);
        if crc != crc32c::crc32c(&bytes[BODY_AT..]) {
            return Err(DecodeError("a batch whose checksum does not match"));
        }
        let stamp = Stamp { wall_ms: u64::from_le_bytes(r.fixed()?), shard_ms: u64::from_le_bytes(r.fixed()?) };
        let count = u32::from_le_bytes(r.fixed()?) as usize;
        // A count is only a claim; typical commands take far more than 16 bytes, and the vector grows if they do not.
        let mut commands = Vec::with_capacity(count.min(r.remaining() / 16));
        for _ in 0..count {
            commands.push(Command::decode(r.bytes()?)?);
        }
        r.end()?;
        Ok(Batch { stamp, commands })
    }
}
