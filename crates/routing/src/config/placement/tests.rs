//! The placement compared with a simple twin, which looks at all nodes for each replica.

use super::*;
use proptest::prelude::*;

/// Places like [`Placer`], in the words of its criteria. The fingerprint of a cluster without an
/// explicit placement depends on each choice.
fn simple(nodes: &[NodeConfig], shards: u32, replicas: u32) -> Vec<Vec<NodeId>> {
    let zones: BTreeSet<Zone<'_>> = nodes.iter().map(NodeConfig::zone).collect();
    let nodes_of = |zone: &Zone<'_>| nodes.iter().filter(|node| node.zone() == *zone).count();
    let total = i128::from(shards) * i128::from(replicas);
    let all_nodes = nodes.len() as i128;
    let mut load: BTreeMap<NodeId, i128> = nodes.iter().map(|node| (node.id, 0)).collect();
    let mut placed = Vec::new();
    for shard in 0..shards {
        let denominator = all_nodes * i128::from(shards - shard);
        let share = |zone: &Zone<'_>| {
            let held: i128 = nodes.iter().filter(|n| n.zone() == *zone).map(|n| load[&n.id]).sum();
            (total * nodes_of(zone) as i128 - all_nodes * held).max(0)
        };
        let shares: BTreeMap<&Zone<'_>, i128> =
            zones.iter().map(|zone| (zone, share(zone))).collect();
        let mut used: BTreeMap<Zone<'_>, i128> = BTreeMap::new();
        let mut taken: BTreeSet<NodeId> = BTreeSet::new();
        for _ in 0..replicas {
            let free = nodes.iter().filter(|node| !taken.contains(&node.id));
            let best = free.min_by_key(|node| {
                let (zone, share) = (node.zone(), shares[&node.zone()]);
                let used = used.get(&zone).copied().unwrap_or(0);
                (
                    load[&node.id],
                    used >= share / denominator,
                    used,
                    used * denominator - share,
                    node.id,
                )
            });
            let best = best.expect("enough nodes");
            taken.insert(best.id);
            *used.entry(best.zone()).or_default() += 1;
        }
        for node in &taken {
            *load.entry(*node).or_default() += 1;
        }
        placed.push(taken.into_iter().collect());
    }
    placed
}

/// Nodes with ids in any order, some without a zone.
fn nodes() -> impl Strategy<Value = Vec<NodeConfig>> {
    let zone = prop::option::weighted(0.8, 0..5u8);
    prop::collection::btree_map(1..200u64, zone, 1..24).prop_map(|all| {
        let node = |(id, zone): (u64, Option<u8>)| NodeConfig {
            id: NodeId(id),
            address: String::new(),
            metrics: None,
            zone: zone.map(|zone| format!("zone-{zone}")),
        };
        all.into_iter().map(node).collect()
    })
}

proptest! {
    #[test]
    fn replicas_are_placed_as_by_the_simple_twin(
        nodes in nodes(),
        shards in 1..40u32,
        replicas in 1..8u32,
    ) {
        let replicas = replicas.min(nodes.len() as u32);
        let mut placer = Placer::new(&nodes, u64::from(shards) * u64::from(replicas));
        let placed: Vec<Vec<NodeId>> = (0..shards)
            .map(|shard| placer.place(replicas as usize, u64::from(shards - shard)))
            .collect();
        prop_assert_eq!(placed, simple(&nodes, shards, replicas));
    }
}
