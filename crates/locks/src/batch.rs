//! One log entry: many commands under one stamp and one checksum.
//!
//! ```text
//! +---------+------------+----------+-----------+---------+------------------------------+
//! | version | CRC-32C    | wall ms  | shard ms  | count   | count × (varint len, command)|
//! | 1 byte  | 4 bytes LE | 8 bytes  | 8 bytes   | 4 bytes |                              |
//! +---------+------------+----------+-----------+---------+------------------------------+
//!                        |<----------------- covered by the CRC ----------------------->|
//! ```
//!
//! All integers are little-endian. A command names its caller in full or by a number, as
//! [`callers`](crate::callers) says. This module knows nothing else of a command's bytes.

use crate::callers::{Callers, Named};
use crate::codec::{DecodeError, Reader, put_varint, varint_bytes};
use crate::command::{Caller, Command, Prefix, put_number};
use crate::types::Stamp;

/// Longest batch, in bytes. A longer one is refused before any of it is read.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

const VERSION: u8 = 1;
const CRC_AT: usize = 1;
const BODY_AT: usize = CRC_AT + 4;
const COUNT_AT: usize = BODY_AT + 16;
const COMMANDS_AT: usize = COUNT_AT + 4;

/// Builds the bytes of one log entry out of encoded commands.
///
/// - The batch never grows past [`BATCH_BYTES_MAX`], because an entry that no replica can decode
///   must not reach the log.
///
/// ```
/// use palisade_locks::{Batch, BatchBuilder, Caller, Command, Stamp, Token};
///
/// let command = Command::Renew { name: "orders/42", token: Token(7) };
/// let mut bytes = Vec::new();
/// command.encode(&mut bytes);
///
/// let mut batch = BatchBuilder::new(Stamp { wall_ms: 1_700_000_000_000, shard_ms: 12 });
/// assert!(batch.has_room(bytes.len()));
/// batch.push(&bytes);
///
/// let entry = batch.finish();
/// assert_eq!(Batch::decode(&entry).unwrap().commands, [(Caller::default(), command)]);
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    count: u32,
    callers: Named,
}

impl BatchBuilder {
    /// Starts an empty batch with this stamp.
    pub fn new(stamp: Stamp) -> Self {
        let mut bytes = vec![0; COMMANDS_AT];
        bytes[0] = VERSION;
        bytes[BODY_AT..BODY_AT + 8].copy_from_slice(&stamp.wall_ms.to_le_bytes());
        bytes[BODY_AT + 8..COUNT_AT].copy_from_slice(&stamp.shard_ms.to_le_bytes());
        BatchBuilder { bytes, count: 0, callers: Named::default() }
    }

    /// Adds one command, as encoded by [`Command::encode_as`]. A caller that the batch has named
    /// before is named by its number.
    ///
    /// # Panics
    /// If the batch would exceed [`BATCH_BYTES_MAX`]. Ask [`has_room`](Self::has_room) first.
    pub fn push(&mut self, encoded: &[u8]) {
        assert!(
            self.has_room(encoded.len()),
            "a command of {} bytes does not fit a batch of {} bytes (at most {BATCH_BYTES_MAX})",
            encoded.len(),
            self.bytes.len()
        );
        self.count += 1;
        match Prefix::of(encoded) {
            Ok((Prefix::Named(caller), command)) => self.push_named(encoded, caller, command),
            _ => self.put(encoded),
        }
    }

    fn put(&mut self, encoded: &[u8]) {
        put_varint(&mut self.bytes, encoded.len() as u64);
        self.bytes.extend_from_slice(encoded);
    }

    fn push_named(&mut self, encoded: &[u8], caller: &[u8], command: &[u8]) {
        if let Some(number) = self.callers.number_of(caller, &self.bytes) {
            let prefix_bytes = 1 + varint_bytes(number.into());
            put_varint(&mut self.bytes, (prefix_bytes + command.len()) as u64);
            put_number(&mut self.bytes, number);
            self.bytes.extend_from_slice(command);
        } else {
            self.put(encoded);
            let at = self.bytes.len() - encoded.len();
            self.callers.add(at..at + caller.len(), &self.bytes);
        }
    }

    /// Whether a command of `encoded_len` bytes still fits, with its caller in full.
    pub fn has_room(&self, encoded_len: usize) -> bool {
        // Three for the length. A number of three bytes and its tag are one longer than the
        // shortest caller, and no batch has so many callers that a number is longer.
        const EXCESS_BYTES_MAX: usize = 4;
        encoded_len < BATCH_BYTES_MAX
            && self.bytes.len() + EXCESS_BYTES_MAX + encoded_len <= BATCH_BYTES_MAX
    }

    /// Number of commands pushed so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no command was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the batch so far, in bytes, header included.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Fills in count and checksum and returns the entry's bytes, in the module's layout.
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

/// One decoded log entry. Its commands borrow from the entry's bytes.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// When the leader proposed the entry.
    pub stamp: Stamp,
    /// The commands with their callers, in the order in which they apply.
    pub commands: Vec<(Caller<'a>, Command<'a>)>,
}

impl<'a> Batch<'a> {
    /// Decodes an entry. It checks the length first, then the CRC, then each field.
    ///
    /// It never panics, and it never allocates more than the length of the input warrants.
    ///
    /// # Errors
    /// If any byte is wrong. No command of such an entry may be applied.
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
        let stamp = Stamp {
            wall_ms: u64::from_le_bytes(r.fixed()?),
            shard_ms: u64::from_le_bytes(r.fixed()?),
        };
        let count = u32::from_le_bytes(r.fixed()?) as usize;
        // The count is unchecked input, so it may not size the vector alone. Commands are usually
        // far longer than 16 bytes; if they are shorter, the vector grows.
        let mut commands = Vec::with_capacity(count.min(r.remaining() / 16));
        let mut callers = Callers::default();
        for _ in 0..count {
            commands.push(callers.decode(r.bytes()?)?);
        }
        r.end()?;
        Ok(Batch { stamp, commands })
    }
}
