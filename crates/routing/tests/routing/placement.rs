//! Placement: balance over nodes, spread over zones, leaders, on random clusters.

use palisade_routing::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A cluster with `zone_sizes` nodes in its zones. Ids are mixed over the zones.
fn cluster(shards: u32, replicas: u32, zone_sizes: &[u32]) -> ClusterConfig {
    let nodes: u32 = zone_sizes.iter().sum();
    let mut config = ClusterConfig::generate(
        "placed",
        shards,
        replicas,
        NodeLayout::Shared(nodes),
        0,
        1,
        &Addresses::Hosts { domain: "palisade.example".into(), port: 7400 },
    )
    .expect("valid");
    let mut left = zone_sizes.to_vec();
    let mut zone = 0;
    for node in &mut config.nodes {
        while left[zone % left.len()] == 0 {
            zone += 1;
        }
        left[zone % zone_sizes.len()] -= 1;
        node.zone = Some(format!("z{}", zone % zone_sizes.len()));
        zone += 1;
    }
    config
}

fn spread_of(counts: impl IntoIterator<Item = usize>) -> usize {
    let counts: Vec<usize> = counts.into_iter().collect();
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

fn replicas_per_node(config: &ClusterConfig) -> Vec<usize> {
    let map = config.shard_map();
    config.nodes.iter().map(|node| map.hosted_by(node.id).count()).collect()
}

fn leads_per_node(config: &ClusterConfig) -> Vec<usize> {
    let map = config.shard_map();
    let leads = |id| map.shards().filter(|(_, replicas)| replicas.preferred_leader == id).count();
    config.nodes.iter().map(|node| leads(node.id)).collect()
}

/// For each shard, the number of replicas in each zone, zero included.
fn zones_of_shards(config: &ClusterConfig) -> Vec<Vec<usize>> {
    let none: BTreeMap<_, usize> = config.nodes.iter().map(|node| (node.zone.clone(), 0)).collect();
    let map = config.shard_map();
    let count = |replicas: &Replicas| {
        let mut counts = none.clone();
        for node in &replicas.nodes {
            *counts
                .entry(config.node(*node).expect("placed on a node").zone.clone())
                .or_default() += 1;
        }
        counts.into_values().collect()
    };
    map.shards().map(|(_, replicas)| count(replicas)).collect()
}

#[test]
fn with_as_many_nodes_as_replicas_every_node_hosts_every_shard() {
    let config = ClusterConfig::dev(7, 5, 7400).expect("valid");
    assert_eq!(replicas_per_node(&config), [7; 5]);
    assert!(spread_of(leads_per_node(&config)) <= 1);
}

#[test]
fn dedicated_nodes_serve_one_shard_each_over_all_zones() {
    let addresses = Addresses::Hosts { domain: "palisade.example".into(), port: 7400 };
    let config = ClusterConfig::generate("d", 40, 5, NodeLayout::Dedicated, 5, 0, &addresses)
        .expect("valid");
    assert_eq!(config.nodes.len(), 200);
    assert_eq!(replicas_per_node(&config), [1; 200]);
    assert!(zones_of_shards(&config).iter().all(|zones| *zones == [1; 5]));
}

#[test]
fn a_large_zone_is_not_left_over_for_the_last_shards() {
    // Of each shard's five replicas, the zones' shares are 2.5, 1.5 and 1.
    for zones in zones_of_shards(&cluster(20, 5, &[50, 30, 20])) {
        assert!(zones.iter().all(|count| *count <= 3) && !zones.contains(&0), "{zones:?}");
    }
}

#[test]
fn nodes_without_a_zone_are_each_their_own() {
    let config = ClusterConfig::dev(3, 3, 7400).expect("valid");
    assert_eq!(config.validate().expect("valid"), [""; 0]);
}

#[test]
fn the_most_shards_on_many_nodes_are_placed() {
    let config = cluster(SHARDS_MAX, 5, &[40, 40, 40]);
    assert!(spread_of(replicas_per_node(&config)) <= 1);
    assert!(spread_of(leads_per_node(&config)) <= 1);
}

prop_compose! {
    fn sizes()(zones in prop::collection::vec(1..6u32, 1..6))
        (replicas in 1..=zones.iter().sum::<u32>().min(7), shards in 1..30u32, zones in Just(zones)) -> (u32, u32, Vec<u32>) {
        (shards, replicas, zones)
    }
}

prop_compose! {
    fn equal_sizes()(zones in 1..6usize, nodes in 1..6u32)
        (replicas in 1..=(zones as u32 * nodes).min(7), shards in 1..30u32, zones in Just(vec![nodes; zones])) -> (u32, u32, Vec<u32>) {
        (shards, replicas, zones)
    }
}

proptest! {
    #[test]
    fn replicas_are_distinct_complete_and_balanced((shards, replicas, zones) in sizes()) {
        let config = cluster(shards, replicas, &zones);
        let map = config.shard_map();
        prop_assert_eq!(map.version(), MapVersion(1));
        prop_assert_eq!(map.shards().count(), shards as usize);
        for (shard, placed) in map.shards() {
            let mut nodes = placed.nodes.clone();
            nodes.dedup();
            prop_assert_eq!(nodes.len(), replicas as usize, "shard {} on {:?}", shard, placed.nodes);
            prop_assert!(placed.nodes.is_sorted());
            prop_assert!(placed.nodes.contains(&placed.preferred_leader));
        }
        prop_assert!(spread_of(replicas_per_node(&config)) <= 1, "{:?}", replicas_per_node(&config));
    }

    #[test]
    fn zones_of_one_size_share_each_shard_evenly((shards, replicas, zones) in equal_sizes()) {
        for counts in zones_of_shards(&cluster(shards, replicas, &zones)) {
            prop_assert!(spread_of(counts.iter().copied()) <= 1, "{:?}", counts);
        }
    }

    /// All nodes host equally many shards or one less. So leaders can be within one of each other
    /// too, once each node hosts a shard.
    #[test]
    fn leaders_are_balanced((shards, replicas, zones) in sizes()) {
        let config = cluster(shards, replicas, &zones);
        let most = leads_per_node(&config).into_iter().max().unwrap_or(0);
        prop_assert!(most <= (shards as usize).div_ceil(config.nodes.len().min(shards as usize * replicas as usize)).max(1),
            "{:?}", leads_per_node(&config));
    }

    #[test]
    fn the_order_of_nodes_in_the_file_does_not_matter((shards, replicas, zones) in sizes(), rotate in 0..20usize) {
        let config = cluster(shards, replicas, &zones);
        let mut other = config.clone();
        let nodes = other.nodes.len();
        other.nodes.rotate_left(rotate % nodes);
        prop_assert_eq!(config.shard_map(), other.shard_map());
    }
}
