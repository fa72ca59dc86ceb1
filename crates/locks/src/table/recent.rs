//! Grants and sessions that ended a short time ago, in the order of their ends.
//!
//! A [`Ring`] numbers its items one by one, keeps them in blocks, and drops them from the front.
//! Its durable form is one record per block. So a shard that ends grants all the time writes few
//! records, and none for items that came and went between two checkpoints.
//!
//! This module knows nothing of when an item is to be forgotten, nor of the indexes that refer to
//! it.

use super::header::{VERSION, WITH_PRINCIPAL};
use super::index::Ref;
use super::shares::Shares;
use crate::codec::{DecodeError, Reader, Result, put_end, put_request, put_str, put_varint};
use crate::hash::{hash_bytes, hash_str};
use crate::types::{EndKind, REQUEST_MEMORY_MAX, REQUEST_MEMORY_SHARE, RequestId};
use std::collections::VecDeque;

/// Items per block, and so per durable record. Frozen, because records depend on it.
const BLOCK: u64 = 128;

/// An item that ended. The default value fills places that are never read.
pub(super) trait RingItem: Default {
    fn encode(&self, into: &mut Vec<u8>);
    fn decode(r: &mut Reader<'_>) -> Result<Self>;
    /// The hash of the item under its number. It covers all encoded fields but the principal, in a
    /// form that is faster to make than the encoding.
    fn hash(&self, number: u64) -> u64;
    /// The hash of the item's principal: see [`hash_principal`](crate::hash::hash_principal). A block
    /// encodes it after the item, if any of its items has one.
    fn principal(&self) -> u64;
    fn set_principal(&mut self, principal: u64);
    /// Whether an identity can leave such an item without having held anything. It then leaves a
    /// bounded number of them.
    fn is_mark(&self) -> bool;
    /// Shard time of the end.
    fn ended_ms(&self) -> u64;
}

/// A grant that ended; or, without a token, the tombstone of a request that was given up before it
/// was granted.
#[derive(Debug)]
pub(super) struct EndedGrant {
    pub(super) token: u64,
    pub(super) ended_ms: u64,
    /// Hash of the resource name. A hash is enough, because the token or request id has matched
    /// already and is unique.
    pub(super) name_hash: u64,
    /// Hash of the identity that it belonged to, 0 for none. A hash is enough here too: it decides
    /// only which identity is reminded of what has ended.
    pub(super) principal: u64,
    request: [u64; 2],
    pub(super) end: EndKind,
}

impl EndedGrant {
    pub(super) fn new(
        request: RequestId,
        token: u64,
        name_hash: u64,
        end: EndKind,
        ended_ms: u64,
    ) -> Self {
        EndedGrant {
            token,
            ended_ms,
            name_hash,
            principal: 0,
            request: [request.0 as u64, (request.0 >> 64) as u64],
            end,
        }
    }

    /// The mark of a request that was given up. No copy of it may be granted any more.
    pub(super) fn tombstone(request: RequestId, name_hash: u64, ended_ms: u64) -> Self {
        EndedGrant::new(request, 0, name_hash, EndKind::Released, ended_ms)
    }

    /// The same for an identity, given by its hash.
    pub(super) fn of(self, principal: u64) -> Self {
        EndedGrant { principal, ..self }
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.token == 0
    }

    pub(super) fn request(&self) -> RequestId {
        RequestId(u128::from(self.request[0]) | u128::from(self.request[1]) << 64)
    }
}

impl Default for EndedGrant {
    fn default() -> Self {
        EndedGrant::new(RequestId(0), 0, 0, EndKind::Released, 0)
    }
}

impl RingItem for EndedGrant {
    fn encode(&self, into: &mut Vec<u8>) {
        put_request(into, self.request());
        put_varint(into, self.token);
        into.extend_from_slice(&self.name_hash.to_le_bytes());
        put_end(into, self.end);
        put_varint(into, self.ended_ms);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let request = r.request()?;
        let token = r.varint()?;
        let name_hash = u64::from_le_bytes(r.fixed()?);
        let end = r.end_kind()?;
        Ok(EndedGrant::new(request, token, name_hash, end, r.varint()?))
    }

    fn hash(&self, number: u64) -> u64 {
        let end = match self.end {
            EndKind::Released => 1,
            EndKind::Expired => 2,
            EndKind::Broken => 3,
        };
        let [low, high] = self.request;
        hash_numbers([number, self.token, self.ended_ms, self.name_hash, low, high, end])
    }

    fn principal(&self) -> u64 {
        self.principal
    }

    fn set_principal(&mut self, principal: u64) {
        self.principal = principal;
    }

    fn is_mark(&self) -> bool {
        self.is_tombstone()
    }

    fn ended_ms(&self) -> u64 {
        self.ended_ms
    }
}

/// A session that was closed, or ended because its lease ran out.
#[derive(Debug, Default)]
pub(super) struct EndedSession {
    pub(super) id: Box<str>,
    /// Hash of the identity that it belonged to, 0 for none.
    pub(super) principal: u64,
    pub(super) ended_ms: u64,
}

impl RingItem for EndedSession {
    fn encode(&self, into: &mut Vec<u8>) {
        put_str(into, &self.id);
        put_varint(into, self.ended_ms);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        Ok(EndedSession { id: r.str()?.into(), principal: 0, ended_ms: r.varint()? })
    }

    fn hash(&self, number: u64) -> u64 {
        hash_numbers([number, self.ended_ms, hash_str(&self.id)])
    }

    fn principal(&self) -> u64 {
        self.principal
    }

    fn set_principal(&mut self, principal: u64) {
        self.principal = principal;
    }

    /// The end of a session that never began looks like any other.
    fn is_mark(&self) -> bool {
        true
    }

    fn ended_ms(&self) -> u64 {
        self.ended_ms
    }
}

/// The hash of an item with its principal.
pub(super) fn hash_item(number: u64, item: &impl RingItem) -> u64 {
    match item.principal() {
        0 => item.hash(number),
        principal => hash_numbers([item.hash(number), principal]),
    }
}

/// Items numbered from 0 in the order of their arrival.
///
/// - The items are `first..next`. Item `n` is in block `n / BLOCK` at `n % BLOCK`.
/// - `blocks` is consecutive, and its front block holds `first`. It may be empty if there are no
///   items.
/// - Durable records hold the blocks of `saved`, complete up to the end of `saved`.
/// - `sums` holds the sum of item hashes for each of the first blocks, all of them full. `total` is
///   the sum of `sums`.
/// - A full block never changes, so it is hashed once, however many of its items were dropped
///   since.
/// - `shares` counts the items by their identity.
///
/// ```text
///  block 4                block 5               block 6
/// [ x x x a b c ... ]    [ ... full ... ]      [ d e f
///         ^ first                                    ^ next
///   sums[0] counts the dropped x as well        no sum yet: hashed when it is full
/// ```
#[derive(Debug)]
pub(super) struct Ring<T> {
    blocks: VecDeque<Vec<T>>,
    first: u64,
    next: u64,
    saved: std::ops::Range<u64>,
    sums: VecDeque<u64>,
    total: u64,
    shares: Shares,
}

impl<T: RingItem> Ring<T> {
    pub(super) const fn new() -> Self {
        Ring {
            blocks: VecDeque::new(),
            first: 0,
            next: 0,
            saved: 0..0,
            sums: VecDeque::new(),
            total: 0,
            shares: Shares::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// The numbers of the items.
    pub(super) fn span(&self) -> std::ops::Range<u64> {
        self.first..self.next
    }

    /// Whether the ring may forget its oldest item for one more of an identity, if it is full.
    ///
    /// An identity that has its share pushes out nothing of an identity that has less.
    pub(super) fn takes(&self, principal: u64) -> bool {
        let has_share = |principal| self.shares.of(principal).0 >= REQUEST_MEMORY_SHARE;
        self.len() < REQUEST_MEMORY_MAX
            || !has_share(principal)
            || self.oldest().is_some_and(|(_, oldest)| has_share(oldest.principal()))
    }

    /// Whether an identity may leave one more [mark](RingItem::is_mark).
    pub(super) fn takes_mark(&self, principal: u64) -> bool {
        self.shares.of(principal).1 < REQUEST_MEMORY_SHARE && self.takes(principal)
    }

    /// Adds an item. Returns its short name, for [`get`](Self::get).
    pub(super) fn push(&mut self, item: T) -> Ref {
        self.shares.add(item.principal(), item.is_mark());
        if self.next.is_multiple_of(BLOCK) {
            self.blocks.push_back(Vec::new());
        } else if self.blocks.is_empty() {
            // The front of the first block was forgotten before the table was loaded, but its
            // places stay.
            self.blocks.push_back(
                std::iter::repeat_with(T::default).take((self.next % BLOCK) as usize).collect(),
            );
        }
        let name = short(self.next);
        self.blocks.back_mut().expect("there is a block").push(item);
        self.next += 1;
        name
    }

    /// The oldest item and its short name.
    pub(super) fn oldest(&self) -> Option<(Ref, &T)> {
        (self.first < self.next).then(|| (short(self.first), self.at(self.first)))
    }

    /// Drops the oldest item.
    pub(super) fn pop(&mut self) {
        assert!(self.first < self.next, "nothing to forget");
        if !self.shares.is_empty() {
            let oldest = self.at(self.first);
            let (principal, is_mark) = (oldest.principal(), oldest.is_mark());
            self.shares.remove(principal, is_mark);
        }
        self.first += 1;
        if self.first.is_multiple_of(BLOCK) {
            self.blocks.pop_front();
            self.total = self.total.wrapping_sub(self.sums.pop_front().unwrap_or(0));
        }
    }

    /// The sum of all items' hashes. It reads at most [`unhashed`](Self::unhashed) items.
    pub(super) fn sum(&self) -> u64 {
        let hash = |number: u64| hash_item(number, self.at(number));
        let sum = |numbers: std::ops::Range<u64>| numbers.map(hash).fold(0, u64::wrapping_add);
        // The sum of the first block includes items that were dropped since. They stay in place
        // until their whole block goes.
        let dropped =
            if self.sums.is_empty() { 0 } else { sum(self.first / BLOCK * BLOCK..self.first) };
        self.total
            .wrapping_sub(dropped)
            .wrapping_add(sum(self.hashed_to().max(self.first)..self.next))
    }

    /// Number of items that [`sum`](Self::sum) has to read, approximately.
    pub(super) fn unhashed(&self) -> usize {
        (self.next.saturating_sub(self.hashed_to().max(self.first)) + BLOCK) as usize
    }

    /// The number after the last block with a sum.
    fn hashed_to(&self) -> u64 {
        (self.first / BLOCK + self.sums.len() as u64) * BLOCK
    }

    /// Hashes the blocks that became full since the last call.
    pub(super) fn hash_blocks(&mut self) {
        while self.hashed_to() + BLOCK <= self.next {
            let from = self.hashed_to();
            let block = &self.blocks[self.sums.len()];
            let sum = (from..)
                .zip(block)
                .map(|(number, item)| hash_item(number, item))
                .fold(0, u64::wrapping_add);
            self.sums.push_back(sum);
            self.total = self.total.wrapping_add(sum);
        }
    }

    /// The item with this short name.
    pub(super) fn get(&self, name: u32) -> &T {
        self.at(self.number(name))
    }

    /// The number of the item with this short name.
    pub(super) fn number(&self, name: u32) -> u64 {
        let offset = name.wrapping_sub(self.first as u32) & Ref::MASK;
        self.first + u64::from(offset)
    }

    fn at(&self, number: u64) -> &T {
        let block = number / BLOCK - self.first / BLOCK;
        &self.blocks[block as usize][(number % BLOCK) as usize]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.span().map(|number| (number, self.at(number)))
    }

    /// The numbers of the blocks that hold items.
    pub(super) fn block_span(&self) -> std::ops::Range<u64> {
        blocks_with(&self.span())
    }

    /// Encodes the record of one block: the number of its first item, the count, and the items, each
    /// with the hash of its principal if any item has one.
    pub(super) fn encode_block(&self, block: u64, into: &mut Vec<u8>) {
        let items = (block * BLOCK).max(self.first)..((block + 1) * BLOCK).min(self.next);
        let has_principals = items.clone().any(|number| self.at(number).principal() != 0);
        into.push(if has_principals { WITH_PRINCIPAL } else { VERSION });
        put_varint(into, items.start);
        put_varint(into, items.end - items.start);
        for number in items {
            let item = self.at(number);
            item.encode(into);
            if has_principals {
                into.extend_from_slice(&item.principal().to_le_bytes());
            }
        }
    }

    /// Number of records that [`take_changes`](Self::take_changes) will name.
    pub(super) fn changes(&self) -> usize {
        let (gone, changed) = self.differences();
        (gone.end.saturating_sub(gone.start) + changed.end.saturating_sub(changed.start)) as usize
    }

    /// The block records to delete and those to write. All of them count as saved from now on.
    pub(super) fn take_changes(&mut self) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        let differences = self.differences();
        self.saved = self.span();
        self.hash_blocks();
        differences
    }

    fn differences(&self) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        // A block without items keeps its record until the next block begins.
        let saved = self.saved.start / BLOCK..self.saved.end.div_ceil(BLOCK);
        let gone = saved.start..saved.end.min(self.first / BLOCK).max(saved.start);
        // Items since the last checkpoint start at `saved.end`. The items before them in the same
        // block are written again.
        let new = self.saved.end.max(self.first)..self.next;
        (gone, blocks_with(&new))
    }

    /// Starts an empty ring at the span from a header. [`load_block`](Self::load_block) fills it.
    ///
    /// `max` bounds the number of items, because the header is unchecked input.
    pub(super) fn load(&mut self, span: std::ops::Range<u64>, max: usize) -> Result<()> {
        if span.start > span.end || span.end - span.start > max as u64 {
            return Err(DecodeError("an impossible span of recent memory"));
        }
        (self.first, self.next) = (span.start, span.start);
        Ok(())
    }

    /// Decodes one record and returns the short names of its items. Items below `first` were
    /// forgotten since the record was written, and are skipped. `version` of the record was read
    /// before.
    pub(super) fn load_block(
        &mut self,
        block: u64,
        version: u8,
        r: &mut Reader<'_>,
    ) -> Result<Vec<Ref>> {
        let (start, count) = (r.varint()?, r.varint()?);
        let end =
            start.checked_add(count).ok_or(DecodeError("an impossible block of recent memory"))?;
        if count == 0 || start / BLOCK != block || (end - 1) / BLOCK != block {
            return Err(DecodeError("an impossible block of recent memory"));
        }
        let mut names = Vec::new();
        for number in start..end {
            let mut item = T::decode(r)?;
            if version == WITH_PRINCIPAL {
                item.set_principal(u64::from_le_bytes(r.fixed()?));
            }
            if number < self.first {
                continue;
            }
            if number != self.next {
                return Err(DecodeError("a gap in recent memory"));
            }
            names.push(self.push(item));
        }
        Ok(names)
    }

    /// Notes that durable records hold all loaded items.
    pub(super) fn mark_saved(&mut self) {
        self.saved = self.span();
        self.hash_blocks();
    }
}

fn hash_numbers<const N: usize>(numbers: [u64; N]) -> u64 {
    let mut bytes = [[0; 8]; N];
    for (bytes, number) in bytes.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    hash_bytes(bytes.as_flattened())
}

fn short(number: u64) -> Ref {
    Ref::Ended(number as u32 & Ref::MASK)
}

/// The numbers of the blocks that hold these items.
fn blocks_with(items: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    if items.is_empty() { 0..0 } else { items.start / BLOCK..items.end.div_ceil(BLOCK) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(ring: &Ring<EndedGrant>) -> [(usize, usize); 3] {
        [0, 7, 8].map(|principal| ring.shares.of(principal))
    }

    fn counted(ring: &Ring<EndedGrant>) -> [(usize, usize); 3] {
        let of = |principal| {
            let items =
                || ring.iter().map(|(_, item)| item).filter(move |i| i.principal == principal);
            (items().count(), items().filter(|item| item.is_mark()).count())
        };
        [(0, 0), of(7), of(8)]
    }

    proptest! {
        /// Items come and go, and the ring is saved and loaded.
        #[test]
        fn shares_are_of_the_items_that_a_ring_holds(
            steps in prop::collection::vec((0..3usize, 0..2u64, 0..3u8), 0..600),
        ) {
            let mut ring = Ring::new();
            for (owner, token, how) in steps {
                if how == 0 && ring.len() > 0 {
                    ring.pop();
                } else {
                    let item = EndedGrant::new(RequestId(1), token, 2, EndKind::Expired, 3);
                    ring.push(item.of([0, 7, 8][owner]));
                }
            }
            prop_assert_eq!(shares(&ring), counted(&ring));
            let mut loaded = Ring::new();
            loaded.load(ring.span(), REQUEST_MEMORY_MAX).unwrap();
            for block in ring.block_span() {
                let mut record = Vec::new();
                ring.encode_block(block, &mut record);
                let mut r = Reader::new(&record);
                let version = r.byte().unwrap();
                loaded.load_block(block, version, &mut r).unwrap();
            }
            prop_assert_eq!(shares(&loaded), shares(&ring));
            while ring.len() > 0 {
                ring.pop();
            }
            prop_assert!(ring.shares.is_empty(), "something is left of an identity");
        }
    }

    #[test]
    fn memory_of_what_ended_stays_small() {
        assert!(size_of::<EndedGrant>() <= 56, "{}", size_of::<EndedGrant>());
        assert!(size_of::<EndedSession>() <= 32, "{}", size_of::<EndedSession>());
    }
}
