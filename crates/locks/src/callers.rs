//! The callers of one entry. The first command of a caller names it in full, and later commands
//! name it by its number.
//!
//! Callers are numbered from 0 in the order in which the entry names them:
//!
//! ```text
//! [AS, "ann"] [RENEW, …]   caller 0
//! [AS, "bob"] [RENEW, …]   caller 1
//! [BY, 0] [RELEASE, …]     ann again
//! [EXPIRE_LEASE, …]        no caller
//! ```
//!
//! So a replica decodes and checks each identity once per entry. A busy entry has hundreds of
//! commands of a few identities, and a principal can be longer than the rest of a command. An
//! entry that names a caller in full more than once, as earlier versions wrote it, is read alike.
//! This module knows nothing of the commands behind the callers.

use crate::codec::DecodeError;
use crate::command::{Caller, Command, Prefix};
use crate::hash::hash_bytes;
use hashbrown::HashTable;
use std::ops::Range;

/// The callers that an entry has named so far, for its writer.
///
/// - Each caller is there once, as the place of its bytes in the entry.
/// - Where identities are off, it is empty and allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Named {
    places: Vec<Range<usize>>,
    numbers: HashTable<u32>,
    last: u32,
}

impl Named {
    /// The number of a caller, if the entry has named it.
    pub(crate) fn number_of(&mut self, caller: &[u8], entry: &[u8]) -> Option<u32> {
        let Named { places, numbers, last } = self;
        let is_it = |number: &u32| {
            places.get(*number as usize).is_some_and(|place| entry[place.clone()] == *caller)
        };
        // Clients send many operations at once, so the same caller comes again and again.
        if !is_it(last) {
            *last = *numbers.find(hash_bytes(caller), is_it)?;
        }
        Some(*last)
    }

    /// Numbers a caller that the entry names here for the first time.
    pub(crate) fn add(&mut self, place: Range<usize>, entry: &[u8]) {
        self.last = self.places.len() as u32;
        let hash = hash_bytes(&entry[place.clone()]);
        self.places.push(place);
        let places = &self.places;
        let rehash = |number: &u32| hash_bytes(&entry[places[*number as usize].clone()]);
        self.numbers.insert_unique(hash, self.last, rehash);
    }
}

/// The callers that an entry has named so far, for its reader.
#[derive(Debug, Default)]
pub(crate) struct Callers<'a> {
    named: Vec<Caller<'a>>,
}

impl<'a> Callers<'a> {
    /// Decodes the next command of the entry with its caller. They must take up all of `bytes`.
    ///
    /// # Errors
    /// If the bytes are malformed, a field is outside its limits, or the entry has not named the
    /// caller.
    #[inline(always)]
    pub(crate) fn decode(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<(Caller<'a>, Command<'a>), DecodeError> {
        let (prefix, command) = Prefix::of(bytes)?;
        let caller = match prefix {
            Prefix::Nobody => Caller::default(),
            Prefix::Numbered(number) => *self
                .named
                .get(number as usize)
                .ok_or(DecodeError("a caller that the entry has not named"))?,
            Prefix::Named(encoded) => {
                let caller = Caller::decode(encoded)?;
                self.named.push(caller);
                caller
            }
        };
        Ok((caller, Command::decode(command)?))
    }
}
