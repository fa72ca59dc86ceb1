//! The slots of names. These answers may never change, because stored locks are found by them.

use palisade_routing::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn slot(name: &str) -> u16 {
    Slot::of(name).index()
}

#[test]
fn known_answers() {
    // The check value of CRC-32 (IEEE) for these digits is 0xCBF43926.
    assert_eq!(slot("123456789"), (0xCBF4_3926_u32 % 16_384) as u16);
    assert_eq!(slot("123456789"), 0x3926);
    // CRC-32 of the empty text is 0, and of "a" 0xE8B7BE43.
    assert_eq!(slot(""), 0);
    assert_eq!(slot("a"), (0xE8B7_BE43_u32 % 16_384) as u16);
}

#[test]
fn the_text_in_the_first_braces_is_hashed_alone() {
    assert_eq!(slot("{user1000}.following"), slot("user1000"));
    assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
    assert_eq!(slot("prefix{123456789}suffix"), 0x3926);
    // The key reaches from the first opening brace to the next closing one.
    assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
    assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
    assert_eq!(slot("}{123456789}"), 0x3926);
}

#[test]
fn without_braces_or_with_nothing_between_them_the_whole_name_is_hashed() {
    // If the tag counted, both sides would hash the same bytes.
    assert_ne!(slot("foo{}{123456789}"), slot("123456789"));
    assert_ne!(slot("{123456789"), slot("123456789"));
    assert_ne!(slot("123456789}"), slot("123456789"));
    assert_eq!(slot("{}"), (crc32fast::hash(b"{}") % 16_384) as u16);
    assert_eq!(slot("foo{}{bar}"), (crc32fast::hash(b"foo{}{bar}") % 16_384) as u16);
}

#[test]
fn slot_numbers_are_bounded() {
    assert_eq!(Slot::new(SLOTS - 1).map(Slot::index), Some(SLOTS - 1));
    assert_eq!(Slot::new(SLOTS), None);
}

proptest! {
    #[test]
    fn a_map_owns_every_slot_evenly_and_in_ranges(shards in 1..=SHARDS_MAX) {
        let replicas = |_| Replicas { nodes: vec![NodeId(1)], preferred_leader: NodeId(1) };
        let map = ShardMap::even(MapVersion(3), (0..shards).map(ShardId).map(|id| (id, replicas(id))).collect());
        let mut owned: BTreeMap<ShardId, u32> = BTreeMap::new();
        let mut last = ShardId(0);
        for index in 0..SLOTS {
            let owner = map.owner(Slot::new(index).expect("below SLOTS"));
            prop_assert!(map.replicas(owner).is_some());
            prop_assert!(owner >= last, "ranges");
            last = owner;
            *owned.entry(owner).or_default() += 1;
        }
        prop_assert_eq!(owned.len(), shards as usize, "every shard owns slots");
        let (least, most) = (owned.values().min().copied(), owned.values().max().copied());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn a_name_goes_where_its_slot_is_owned(name in ".{0,40}", shards in 1..50u32) {
        let replicas = Replicas { nodes: vec![NodeId(1)], preferred_leader: NodeId(1) };
        let map = ShardMap::even(MapVersion(7), (0..shards).map(|id| (ShardId(id), replicas.clone())).collect());
        let route = map.route(&name);
        prop_assert!(route.slot.index() < SLOTS);
        prop_assert_eq!((route.shard, route.version), (map.owner(route.slot), MapVersion(7)));
    }
}
