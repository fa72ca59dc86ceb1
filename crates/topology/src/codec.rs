//! The primitives of all bytes of this crate, and the frame around them.
//!
//! ```text
//! +---------+--------+---------------+------+
//! | version | kind   | CRC-32C       | body |
//! | 1 byte  | 1 byte | 4 bytes, LE   |      |      the CRC is that of kind and body
//! +---------+--------+---------------+------+
//! ```
//!
//! A body is its fields in a fixed order: numbers as LEB128 varints, texts and lists after their
//! length, and maps in the order of their keys. Each value has exactly one encoding, and no other
//! bytes are accepted for it. So equal values give equal bytes, and equal bytes equal values.
//! Reading never panics and never allocates more than the input warrants. This module knows nothing
//! of the meaning of fields.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that do not decode as a proposal, a state or a delta of a known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid topology bytes: {0}")]
pub struct DecodeError(pub &'static str);

pub(crate) type Result<T> = std::result::Result<T, DecodeError>;

/// The version of all encodings of this crate.
const VERSION: u8 = 1;
const CRC_AT: usize = 2;
const BODY_AT: usize = CRC_AT + 4;

/// A value with one encoding.
pub(crate) trait Record: Sized {
    /// Appends the value.
    fn put(&self, into: &mut Vec<u8>);
    /// Takes the value off the front.
    fn take(from: &mut Reader<'_>) -> Result<Self>;
}

/// The bytes of a value, with their frame.
pub(crate) fn to_frame(kind: u8, value: &impl Record) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind, 0, 0, 0, 0];
    value.put(&mut bytes);
    let crc = checksum(kind, &bytes[BODY_AT..]);
    bytes[CRC_AT..BODY_AT].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The value in a frame. It takes up all of the bytes.
pub(crate) fn of_frame<T: Record>(kind: u8, bytes: &[u8]) -> Result<T> {
    let (head, body) = bytes.split_first_chunk::<BODY_AT>().ok_or(DecodeError("cut short"))?;
    let [version, found, crc @ ..] = *head;
    if version != VERSION {
        return Err(DecodeError("of an unknown version"));
    }
    if u32::from_le_bytes(crc) != checksum(found, body) {
        return Err(DecodeError("the checksum does not match"));
    }
    if found != kind {
        return Err(DecodeError("of another kind"));
    }
    let mut reader = Reader { rest: body };
    let value = T::take(&mut reader)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(DecodeError("bytes left over at the end")) }
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), body)
}

/// Takes fields off the front of a byte string.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError("cut short"))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        let (head, rest) = self.rest.split_first().ok_or(DecodeError("cut short"))?;
        self.rest = rest;
        Ok(*head)
    }
}

impl Record for u64 {
    fn put(&self, into: &mut Vec<u8>) {
        let mut value = *self;
        while value >= 0x80 {
            into.push(value as u8 | 0x80);
            value >>= 7;
        }
        into.push(value as u8);
    }

    fn take(from: &mut Reader<'_>) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = from.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte == 0 && shift > 0 {
                return Err(DecodeError("a number with more bytes than it needs"));
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError("a number past 64 bits"))
    }
}

impl Record for u32 {
    fn put(&self, into: &mut Vec<u8>) {
        u64::from(*self).put(into);
    }

    fn take(from: &mut Reader<'_>) -> Result<u32> {
        u32::try_from(u64::take(from)?).map_err(|_| DecodeError("a number past 32 bits"))
    }
}

impl Record for bool {
    fn put(&self, into: &mut Vec<u8>) {
        into.push(u8::from(*self));
    }

    fn take(from: &mut Reader<'_>) -> Result<bool> {
        match from.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError("a flag that is neither 0 nor 1")),
        }
    }
}

impl<const N: usize> Record for [u8; N] {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self);
    }

    fn take(from: &mut Reader<'_>) -> Result<[u8; N]> {
        from.bytes(N)?.try_into().map_err(|_| DecodeError("cut short"))
    }
}

impl Record for u128 {
    fn put(&self, into: &mut Vec<u8>) {
        self.to_le_bytes().put(into);
    }

    fn take(from: &mut Reader<'_>) -> Result<u128> {
        Ok(u128::from_le_bytes(Record::take(from)?))
    }
}

impl Record for String {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        into.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<String> {
        let len = usize::try_from(u64::take(from)?).map_err(|_| DecodeError("cut short"))?;
        let text = std::str::from_utf8(from.bytes(len)?);
        text.map(str::to_owned).map_err(|_| DecodeError("text that is not UTF-8"))
    }
}

impl Record for Cow<'static, str> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        into.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<Cow<'static, str>> {
        String::take(from).map(Cow::Owned)
    }
}

impl<T: Record> Record for Box<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (**self).put(into);
    }

    fn take(from: &mut Reader<'_>) -> Result<Box<T>> {
        Ok(Box::new(T::take(from)?))
    }
}

impl<T: Record> Record for Option<T> {
    fn put(&self, into: &mut Vec<u8>) {
        self.is_some().put(into);
        self.iter().for_each(|value| value.put(into));
    }

    fn take(from: &mut Reader<'_>) -> Result<Option<T>> {
        if bool::take(from)? { Ok(Some(T::take(from)?)) } else { Ok(None) }
    }
}

impl<T: Record> Record for Vec<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        self.iter().for_each(|value| value.put(into));
    }

    fn take(from: &mut Reader<'_>) -> Result<Vec<T>> {
        // The length is unchecked, so it does not size the list. Every element takes a byte or
        // more, so a length that is too large ends with the bytes.
        (0..u64::take(from)?).map(|_| T::take(from)).collect()
    }
}

impl<K: Record + Ord, V: Record> Record for BTreeMap<K, V> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        for (key, value) in self {
            key.put(into);
            value.put(into);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<BTreeMap<K, V>> {
        let mut map = BTreeMap::new();
        for _ in 0..u64::take(from)? {
            let key = K::take(from)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError("keys that do not rise"));
            }
            map.insert(key, V::take(from)?);
        }
        Ok(map)
    }
}

impl<T: Record + Ord> Record for BTreeSet<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        self.iter().for_each(|value| value.put(into));
    }

    fn take(from: &mut Reader<'_>) -> Result<BTreeSet<T>> {
        let mut set = BTreeSet::new();
        for _ in 0..u64::take(from)? {
            let value = T::take(from)?;
            if set.last().is_some_and(|last| *last >= value) {
                return Err(DecodeError("values that do not rise"));
            }
            set.insert(value);
        }
        Ok(set)
    }
}

impl<A: Record, B: Record> Record for (A, B) {
    fn put(&self, into: &mut Vec<u8>) {
        self.0.put(into);
        self.1.put(into);
    }

    fn take(from: &mut Reader<'_>) -> Result<(A, B)> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

/// Makes a struct a [`Record`] of its fields, in the order given here.
macro_rules! record {
    ($type:ident { $($field:tt),* }) => {
        impl $crate::codec::Record for $type {
            fn put(&self, into: &mut Vec<u8>) {
                $($crate::codec::Record::put(&self.$field, into);)*
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> $crate::codec::Result<$type> {
                Ok($type { $($field: $crate::codec::Record::take(from)?),* })
            }
        }
    };
}

/// Makes an enum a [`Record`]: a tag of one byte, and the fields of the variant, which have names, or
/// places with names given here. A tag may be retired but never reused, because old logs hold it.
macro_rules! tagged {
    ($type:ident { $(
        $tag:literal => $variant:ident $({ $($field:ident),* })? $(( $($place:ident),* ))?
    ),* $(,)? }) => {
        impl $crate::codec::Record for $type {
            fn put(&self, into: &mut Vec<u8>) {
                match self {
                    $($type::$variant $({ $($field),* })? $(( $($place),* ))? => {
                        into.push($tag);
                        $($($crate::codec::Record::put($field, into);)*)?
                        $($($crate::codec::Record::put($place, into);)*)?
                    })*
                }
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> $crate::codec::Result<$type> {
                match from.byte()? {
                    $($tag => {
                        $($(let $place = $crate::codec::Record::take(from)?;)*)?
                        Ok($type::$variant
                            $({ $($field: $crate::codec::Record::take(from)?),* })?
                            $(( $($place),* ))?)
                    })*
                    _ => Err($crate::codec::DecodeError(concat!("an unknown tag of ", stringify!($type)))),
                }
            }
        }
    };
}

pub(crate) use {record, tagged};
