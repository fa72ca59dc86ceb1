//! The primitives of all bytes of this crate: LEB128 varints and length-prefixed strings.
//!
//! Reading never panics, never reads past the end and never allocates. This module knows nothing of
//! the meaning of fields, except for the codes of modes and ends, because several records share
//! them.

use crate::types::{EndKind, Mode, RequestId};

/// Bytes that do not decode, as a command, batch, tenure, record or snapshot of a known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid lock table bytes: {0}")]
pub struct DecodeError(pub &'static str);

pub(crate) type Result<T> = std::result::Result<T, DecodeError>;

pub(crate) fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// The number of bytes that [`put_varint`] appends.
pub(crate) fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

pub(crate) fn put_str(into: &mut Vec<u8>, text: &str) {
    put_bytes(into, text.as_bytes());
}

pub(crate) fn put_request(into: &mut Vec<u8>, request: RequestId) {
    into.extend_from_slice(&request.0.to_le_bytes());
}

pub(crate) fn put_mode(into: &mut Vec<u8>, mode: Mode) {
    match mode {
        Mode::Exclusive => into.push(0),
        Mode::Shared => into.push(1),
        Mode::Permits { count, limit } => {
            into.push(2);
            put_varint(into, count.into());
            put_varint(into, limit.into());
        }
    }
}

pub(crate) fn put_end(into: &mut Vec<u8>, end: EndKind) {
    into.push(match end {
        EndKind::Released => 1,
        EndKind::Expired => 2,
        EndKind::Broken => 3,
    });
}

/// Takes fields off the front of a byte string.
///
/// A malformed field ends the decoding: the caller drops the reader with the error.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// All bytes that were not read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Checks that every byte was read.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError("bytes left over at the end")) }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError("cut short"))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError("cut short"))?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(crate) fn version(&mut self, known: u8) -> Result<()> {
        if self.byte()? == known { Ok(()) } else { Err(DecodeError("of an unknown version")) }
    }

    pub(crate) fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError("a flag that is neither 0 nor 1")),
        }
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError("a number past 64 bits"))
    }

    /// Passes over a number. A number that is too large is found when it is read.
    pub(crate) fn skip_varint(&mut self) -> Result<()> {
        let last =
            self.rest.iter().position(|byte| *byte < 0x80).ok_or(DecodeError("cut short"))?;
        self.rest = &self.rest[last + 1..];
        Ok(())
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError("a number past 32 bits"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError("cut short"))?;
        self.take(len)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError("text that is not UTF-8"))
    }

    pub(crate) fn request(&mut self) -> Result<RequestId> {
        Ok(RequestId(u128::from_le_bytes(self.fixed()?)))
    }

    pub(crate) fn mode(&mut self) -> Result<Mode> {
        match self.byte()? {
            0 => Ok(Mode::Exclusive),
            1 => Ok(Mode::Shared),
            2 => Ok(Mode::Permits { count: self.varint_u32()?, limit: self.varint_u32()? }),
            _ => Err(DecodeError("an unknown mode")),
        }
    }

    pub(crate) fn end_kind(&mut self) -> Result<EndKind> {
        match self.byte()? {
            1 => Ok(EndKind::Released),
            2 => Ok(EndKind::Expired),
            3 => Ok(EndKind::Broken),
            _ => Err(DecodeError("an unknown end of a grant")),
        }
    }
}
