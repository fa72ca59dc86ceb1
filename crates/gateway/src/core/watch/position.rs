//! Where a watch is, as an opaque text that any gateway of the cluster takes up.
//!
//! ```text
//! form ─ binding to cluster and filter ─ places, by shard ─ checksum        in base64url
//! ```
//!
//! * A text belongs to one cluster and one filter. Another filter sees other events, so its places
//!   would be a gap.
//! * A shard has no place until its state was told completely. Without a place, it begins anew.
//! * Each position has one spelling, and a text that was changed is none.

use access::Digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use routing::SHARDS_MAX;
use std::collections::BTreeMap;
use wire::internal::v1::WatchPlace;
use wire::v1::{Event, WatchFilter};

/// The form of a text. A new form gets a new number.
const FORM: u8 = 1;
const BINDING_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// Most bytes of one place: its shard, index and ordinals.
const PLACE_BYTES_MAX: usize = 5 + 10 + 5;

/// The cluster and the filter that a position belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding([u8; BINDING_BYTES]);

impl Binding {
    /// The binding to this filter, on the cluster with this fingerprint. The order of kinds makes
    /// no difference.
    pub fn of(fingerprint: &[u8], filter: &WatchFilter) -> Binding {
        let WatchFilter { name, prefix, session_id, owner, kinds } = filter;
        let mut bytes = Vec::new();
        for part in [fingerprint, name.as_bytes(), prefix.as_bytes()]
            .into_iter()
            .chain([session_id.as_bytes(), owner.as_bytes()])
        {
            // Without the length, different parts could give the same bytes in one piece.
            push(&mut bytes, part.len() as u64);
            bytes.extend(part);
        }
        let mut kinds = kinds.clone();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.iter().for_each(|kind| push(&mut bytes, u64::from(kind.unsigned_abs())));
        Binding(first(&Digest::of(&bytes)))
    }
}

/// Why a text is no position of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPosition {
    /// No watch has told this text.
    #[error(
        "the position is not one that a watch told: hand back the last one as it is, or begin \
         without one"
    )]
    Unknown,
    /// It is of another filter, or of another cluster.
    #[error(
        "the position is of a watch with another filter, or of another cluster: give the filter \
         of that watch, or begin without a position"
    )]
    OtherFilter,
}

/// How far a watch was told, on each shard with a completely told state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(BTreeMap<u32, WatchPlace>);

impl Position {
    /// The place on a shard, if it has one.
    pub fn place(&self, shard: u32) -> Option<WatchPlace> {
        self.0.get(&shard).copied()
    }

    /// Sets the place on a shard, or takes it out.
    pub fn set(&mut self, shard: u32, place: Option<WatchPlace>) {
        match place {
            Some(place) => drop(self.0.insert(shard, place)),
            None => drop(self.0.remove(&shard)),
        }
    }

    /// Goes past one event, if the state of its shard was told completely.
    pub fn pass(&mut self, event: &Event) {
        if let Some(place) = self.0.get_mut(&event.shard) {
            *place = WatchPlace { index: event.index, ordinals: event.ordinal.saturating_add(1) };
        }
    }

    /// The text of the position.
    pub fn encode(&self, binding: &Binding) -> String {
        let mut bytes = vec![FORM];
        bytes.extend(binding.0);
        let mut former = 0;
        for (shard, place) in &self.0 {
            push(&mut bytes, u64::from(shard - former));
            push(&mut bytes, place.index);
            push(&mut bytes, place.ordinals.into());
            former = *shard;
        }
        let checksum: [u8; CHECKSUM_BYTES] = first(&Digest::of(&bytes));
        bytes.extend(checksum);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text. An empty one is the start.
    ///
    /// # Errors
    /// [`NoPosition`] if it is none of a watch with this binding.
    pub fn decode(text: &str, binding: &Binding) -> Result<Position, NoPosition> {
        if text.is_empty() {
            return Ok(Position::default());
        }
        let bytes_max = 1 + BINDING_BYTES + CHECKSUM_BYTES + SHARDS_MAX as usize * PLACE_BYTES_MAX;
        if text.len() > bytes_max * 4 / 3 + 4 {
            return Err(NoPosition::Unknown);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NoPosition::Unknown)?;
        let (bytes, checksum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(NoPosition::Unknown)?;
        if first::<CHECKSUM_BYTES>(&Digest::of(bytes)) != *checksum {
            return Err(NoPosition::Unknown);
        }
        let rest = bytes.strip_prefix(&[FORM]).ok_or(NoPosition::Unknown)?;
        let (of, mut rest) =
            rest.split_first_chunk::<BINDING_BYTES>().ok_or(NoPosition::Unknown)?;
        if *of != binding.0 {
            return Err(NoPosition::OtherFilter);
        }
        let (mut position, mut former) = (Position::default(), 0u32);
        while !rest.is_empty() {
            let place = read_place(&mut rest, former).ok_or(NoPosition::Unknown)?;
            former = place.0;
            position.0.insert(place.0, place.1);
        }
        // Only the one spelling counts.
        match position.encode(binding) == text {
            true => Ok(position),
            false => Err(NoPosition::Unknown),
        }
    }
}

/// Reads one shard and its place. `former` is the shard before.
fn read_place(rest: &mut &[u8], former: u32) -> Option<(u32, WatchPlace)> {
    let step = u32::try_from(take(rest)?).ok()?;
    let shard = former.checked_add(step).filter(|shard| *shard < SHARDS_MAX)?;
    let (index, ordinals) = (take(rest)?, u32::try_from(take(rest)?).ok()?);
    Some((shard, WatchPlace { index, ordinals }))
}

fn first<const N: usize>(digest: &Digest) -> [u8; N] {
    std::array::from_fn(|at| digest.0[at])
}

/// Writes a number in groups of seven bits, the lowest first.
fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads such a number. `None` if there is none.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(name: &str) -> WatchFilter {
        WatchFilter { name: name.into(), kinds: vec![5, 3], ..Default::default() }
    }

    fn binding() -> Binding {
        Binding::of(b"cluster", &filter("a"))
    }

    fn position(places: &BTreeMap<u32, (u64, u32)>) -> Position {
        let mut position = Position::default();
        for (shard, (index, ordinals)) in places {
            position.set(*shard, Some(WatchPlace { index: *index, ordinals: *ordinals }));
        }
        position
    }

    #[test]
    fn a_position_belongs_to_one_filter_and_one_cluster() {
        let text = position(&[(3, (7, 1))].into()).encode(&binding());
        let sorted = WatchFilter { kinds: vec![3, 5, 5], ..filter("a") };
        assert_eq!(Binding::of(b"cluster", &sorted), binding(), "the same filter");
        let others = [
            Binding::of(b"other", &filter("a")),
            Binding::of(b"cluster", &filter("b")),
            Binding::of(b"cluster", &WatchFilter { kinds: vec![5], ..filter("a") }),
            Binding::of(
                b"cluster",
                &WatchFilter { name: String::new(), prefix: "a".into(), ..filter("") },
            ),
        ];
        for other in others {
            assert_eq!(Position::decode(&text, &other), Err(NoPosition::OtherFilter));
        }
    }

    #[test]
    fn a_few_shards_make_a_short_text() {
        let places = (0..16).map(|shard| (shard, (1_000_000, 3))).collect();
        assert!(position(&places).encode(&binding()).len() < 130);
        assert_eq!(Position::decode("", &binding()), Ok(Position::default()));
    }

    #[test]
    fn an_event_moves_only_a_shard_that_has_a_place() {
        let mut at = position(&[(3, (7, 1))].into());
        at.pass(&Event { shard: 3, index: 9, ordinal: 0, ..Default::default() });
        at.pass(&Event { shard: 4, index: 9, ordinal: 0, ..Default::default() });
        assert_eq!(at, position(&[(3, (9, 1))].into()));
    }

    proptest! {
        #[test]
        fn a_position_comes_back_from_its_text(
            places in proptest::collection::btree_map(
                0..SHARDS_MAX, (any::<u64>(), any::<u32>()), 0..40,
            ),
        ) {
            let position = position(&places);
            let text = position.encode(&binding());
            prop_assert_eq!(Position::decode(&text, &binding()), Ok(position));
        }

        #[test]
        fn a_text_that_was_changed_is_none(
            places in proptest::collection::btree_map(
                0..SHARDS_MAX, (any::<u64>(), any::<u32>()), 0..8,
            ),
            at in any::<proptest::sample::Index>(),
            with in "[A-Za-z0-9_=+-]",
        ) {
            let text = position(&places).encode(&binding());
            let at = at.index(text.len());
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            if changed != text {
                prop_assert_eq!(
                    Position::decode(&changed, &binding()), Err(NoPosition::Unknown)
                );
            }
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,60}") {
            let _ = Position::decode(&text, &binding());
        }
    }
}
