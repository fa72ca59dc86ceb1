//! Merging route tables: the order of reports does not matter, and no version falls.

use palisade_routing::*;
use proptest::prelude::*;

/// A node's address in a start: the version decides it.
fn address(node: NodeId, version: AddressVersion) -> String {
    format!("n{node}-{}-{}.example:7400", version.incarnation, version.starts)
}

/// The map of a version and of the topology: `n` has the nodes `n` to `n + 4`, because a removed node
/// never comes back. The two shards exchange their slots with each other version of the slots.
fn map(topology: u64) -> ShardMap {
    let version = 1 + topology / 2;
    let replicas = |preferred: u64| Replicas {
        nodes: (topology..topology + 5).map(NodeId).collect(),
        preferred_leader: NodeId(preferred),
    };
    let (low, high) = (ShardId((version % 2) as u32), ShardId((version + 1) as u32 % 2));
    ShardMap::of_runs(
        MapVersion(version),
        [(4_096, low), (12_288, high)],
        [(ShardId(0), replicas(topology)), (ShardId(1), replicas(topology + 1))],
    )
    .and_then(|map| {
        let shards = map.shards().map(|(shard, replicas)| (shard, replicas.clone()));
        let shards: Vec<_> = shards.collect();
        map.placed(topology, shards)
    })
    .expect("a map")
}

/// What a process may know: a map of some version, and for each node some start.
fn known() -> impl Strategy<Value = RouteTable> {
    (1u64..4, prop::collection::vec((0u64..3, 0u64..4), 5)).prop_map(|(version, starts)| {
        let member = |(node, (incarnation, starts)): (u64, (u64, u64))| {
            let address_version = AddressVersion { incarnation, starts };
            let zone = Some(format!("z{}", (node + version) % 3));
            let address = address(NodeId(node), address_version);
            (NodeId(node), Member { address, address_version, zone })
        };
        RouteTable::new(map(version), (version..).zip(starts).map(member)).expect("a route table")
    })
}

fn join(one: &RouteTable, other: &RouteTable) -> RouteTable {
    one.merged(other).unwrap_or_else(|| one.clone())
}

/// Whether `later` has no older part than `earlier`.
fn is_no_older(later: &RouteTable, earlier: &RouteTable) -> bool {
    later.map().edition() >= earlier.map().edition()
        && later.map().version() >= earlier.map().version()
        && later.members().all(|(node, member)| {
            let known = earlier.members().find(|(other, _)| *other == node);
            known.is_none_or(|(_, known)| member.address_version >= known.address_version)
        })
}

/// Whether the laws of a merge hold for three route tables.
fn check(one: &RouteTable, two: &RouteTable, three: &RouteTable) -> Result<(), TestCaseError> {
    prop_assert_eq!(one.merged(one), None);
    prop_assert_eq!(join(one, two), join(two, one));
    prop_assert_eq!(join(&join(one, two), three), join(one, &join(two, three)));
    let both = join(one, two);
    prop_assert_eq!(both.merged(one), None, "nothing of it is newer");
    prop_assert_eq!(both.merged(two), None, "nothing of it is newer");
    prop_assert!(is_no_older(&both, one) && is_no_older(&both, two));
    prop_assert_eq!(one.merged(two).is_some(), both != *one, "a merge that changes nothing");
    Ok(())
}

proptest! {
    #[test]
    fn the_order_of_reports_does_not_matter(one in known(), two in known(), three in known()) {
        check(&one, &two, &three)?;
    }

    #[test]
    fn all_orders_of_many_reports_end_alike(reports in prop::collection::vec(known(), 1..8), seed in any::<u64>()) {
        let mut shuffled: Vec<&RouteTable> = reports.iter().collect();
        let mut seed = seed;
        for at in (1..shuffled.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let first = reports[0].clone();
        let in_order = reports.iter().fold(first.clone(), |known, news| join(&known, news));
        let in_disorder = shuffled.into_iter().fold(first, |known, news| join(&known, news));
        prop_assert_eq!(in_order, in_disorder);
    }

    #[test]
    fn an_announced_address_merges_like_a_report(one in known(), node in 1u64..8, incarnation in 0u64..3, starts in 0u64..4) {
        let (node, version) = (NodeId(node), AddressVersion { incarnation, starts });
        let known = one.members().find(|(other, _)| *other == node).map(|(_, member)| member.address_version);
        match one.with_address(node, &address(node, version), version) {
            Some(with) => {
                prop_assert!(known.is_some_and(|known| known < version));
                let announced = address(node, version);
                prop_assert_eq!(with.address(node), Some(announced.as_str()));
                prop_assert_eq!(one.merged(&with), Some(with.clone()));
                prop_assert_eq!(with.merged(&one), None);
            }
            None => prop_assert!(known.is_none_or(|known| known >= version)),
        }
    }

    #[test]
    fn a_map_comes_back_from_its_runs(version in 1u64..4) {
        let map = map(version);
        let shards: Vec<_> =
            map.shards().map(|(shard, replicas)| (shard, replicas.clone())).collect();
        let again = ShardMap::of_runs(map.version(), map.runs(), shards.clone());
        prop_assert_eq!(again.unwrap().placed(version, shards), Ok(map.clone()));
    }
}

/// The laws can fail: they do with the planted bug.
#[cfg(feature = "planted-bugs")]
#[test]
fn the_planted_bug_breaks_the_laws() {
    use proptest::test_runner::{Config, TestRunner};
    planted::choose(Some(planted::Bug::OlderRoutesTaken));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let broken =
        runner.run(&(known(), known(), known()), |(one, two, three)| check(&one, &two, &three));
    planted::choose(None);
    assert!(broken.is_err(), "an older routes was taken, and no law noticed");
}

fn dev() -> RouteTable {
    RouteTable::of(&ClusterConfig::dev(2, 3, 20_000).expect("valid"))
}

#[test]
fn a_cluster_file_is_older_than_any_start() {
    let (file, first) = (dev(), AddressVersion { incarnation: 0, starts: 1 });
    let moved = file.with_address(NodeId(1), "a.example:1", first).expect("newer");
    assert_eq!(moved.merged(&file), None);
    assert_eq!(file.merged(&moved), Some(moved));
}

/// Two cluster files may have two addresses for one node, and neither is known to be newer.
#[test]
fn the_file_of_another_process_changes_nothing() {
    let mut config = ClusterConfig::dev(2, 3, 20_000).expect("valid");
    config.nodes[0].address = "other.example:1".into();
    assert_eq!(dev().merged(&RouteTable::of(&config)), None);
}

#[test]
fn a_reseeded_node_that_counts_its_starts_again_is_newer() {
    let version = |incarnation, starts| AddressVersion { incarnation, starts };
    let before = dev().with_address(NodeId(1), "old.example:1", version(0, 900)).expect("newer");
    let after = before.with_address(NodeId(1), "new.example:1", version(1, 1)).expect("newer");
    assert_eq!(after.with_address(NodeId(1), "old.example:1", version(0, 901)), None);
}

#[test]
fn an_address_that_nobody_can_dial_is_not_taken() {
    let version = AddressVersion { incarnation: 0, starts: 1 };
    let long = format!("{}:1", "h".repeat(300));
    for bad in
        ["", "host", ":1", "host:", "host:99999", "a b:1", "a\n:1", "0.0.0.0:1", "[::]:1", &long]
    {
        assert_eq!(dev().with_address(NodeId(1), bad, version), None, "{bad}");
        let member = Member { address: bad.into(), address_version: version, zone: None };
        let members =
            dev().members().map(|(node, member)| (node, member.clone())).collect::<Vec<_>>();
        let with_bad = members.into_iter().map(|(node, kept)| {
            if node == NodeId(1) { (node, member.clone()) } else { (node, kept) }
        });
        assert_eq!(
            RouteTable::new(dev().map().clone(), with_bad),
            Err(RouteTableError::Address(NodeId(1))),
            "{bad}"
        );
    }
    assert_eq!(dev().with_address(NodeId(9), "stranger.example:1", version), None, "no member");
}

/// Replicas move by the topology, and the slots stay where they are.
#[test]
fn a_topology_moves_replicas_and_nodes_and_no_slot() {
    let file = dev();
    let nodes = |ids: &[u64]| {
        ids.iter()
            .map(|id| {
                let version = AddressVersion { incarnation: 0, starts: 1 };
                let (address, zone) = (address(NodeId(*id), version), None);
                (NodeId(*id), Member { address, address_version: version, zone })
            })
            .collect::<Vec<_>>()
    };
    let replicas = |ids: &[u64]| Replicas {
        nodes: ids.iter().copied().map(NodeId).collect(),
        preferred_leader: NodeId(ids[0]),
    };
    let shards = || [(ShardId(0), replicas(&[2, 3])), (ShardId(1), replicas(&[4]))];
    let moved_at = AddressVersion { incarnation: 0, starts: 5 };
    let known = file.with_address(NodeId(2), "moved.example:1", moved_at).expect("newer");
    let next = known.as_of(7, shards(), nodes(&[2, 3, 4])).expect("it fits").expect("later");
    assert_eq!(next.map().runs(), file.map().runs());
    assert_eq!(next.map().edition(), Edition { topology: 7, map: file.map().version() });
    assert_eq!(next.address(NodeId(2)), Some("moved.example:1"), "what it announced later stays");
    assert_eq!((next.address(NodeId(1)), next.address(NodeId(4)).is_some()), (None, true));
    assert_eq!(next.as_of(8, shards(), nodes(&[2, 3, 4])), Ok(None), "nothing has moved");
    let earlier = next.as_of(6, shards(), nodes(&[2, 3, 4, 5])).unwrap();
    assert_eq!(earlier, None, "an earlier one");
    assert_eq!(file.merged(&next), Some(next.clone()));
    assert_eq!(next.merged(&known), None);
    let lacks = RouteTableError::UnknownNode { shard: ShardId(1), node: NodeId(4) };
    assert_eq!(known.as_of(8, shards(), nodes(&[2, 3])), Err(lacks));
    let no_owner = known.as_of(8, [(ShardId(0), replicas(&[2]))], nodes(&[2]));
    assert_eq!(no_owner, Err(MapError::UnknownShard(ShardId(1)).into()));
}

/// A node may be known before a map names it. It announces its address like any other then.
#[test]
fn a_node_that_comes_without_a_map_is_a_member_and_changes_no_other_one() {
    let known = RouteTable::of(&ClusterConfig::dev(1, 3, 7400).expect("valid"));
    let fourth = NodeId(4);
    let first = AddressVersion { incarnation: 0, starts: 1 };
    assert!(known.with_address(fourth, "four.example:7400", first).is_none());
    let member = |address: &str| Member {
        address: address.to_owned(),
        address_version: AddressVersion::default(),
        zone: None,
    };
    let with = known.clone().with_nodes([
        (fourth, member("listed.example:7400")),
        (NodeId(3), member("other.example:7400")),
    ]);
    assert_eq!(with.address(NodeId(3)), known.address(NodeId(3)));
    assert_eq!(with.map(), known.map());
    let moved = with.with_address(fourth, "four.example:7400", first).expect("it is a member");
    assert_eq!(moved.address(fourth), Some("four.example:7400"));
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let one = || Replicas { nodes: vec![NodeId(1)], preferred_leader: NodeId(1) };
    let of = |runs: &[(u32, u32)], shards: Vec<(u32, Replicas)>| {
        let runs = runs.iter().map(|(slots, shard)| (*slots, ShardId(*shard)));
        let shards = shards.into_iter().map(|(shard, replicas)| (ShardId(shard), replicas));
        ShardMap::of_runs(MapVersion(2), runs, shards)
    };
    let all = u32::from(SLOTS);
    assert!(of(&[(all, 0)], vec![(0, one())]).is_ok());
    assert!(of(&[(0, 0), (all, 0)], vec![(0, one()), (7, one())]).is_ok(), "a shard without slots");
    for (runs, shards, error) in [
        (&[][..], vec![], MapError::Shards(0)),
        (&[], vec![(0, one())], MapError::Slots(0)),
        (&[(all - 1, 0)], vec![(0, one())], MapError::Slots(u64::from(all) - 1)),
        (&[(all, 0), (1, 0)], vec![(0, one())], MapError::Slots(u64::from(all) + 1)),
        (&[(u32::MAX, 0)], vec![(0, one())], MapError::Slots(u32::MAX.into())),
        (&[(all, 1)], vec![(0, one())], MapError::UnknownShard(ShardId(1))),
        (&[(all, 0)], vec![(0, one()), (0, one())], MapError::TwoShards(ShardId(0))),
    ] {
        assert_eq!(of(runs, shards), Err(error));
    }
    for (nodes, preferred) in [(&[][..], 1), (&[1, 1], 1), (&[1, 2], 3)] {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        let replicas = Replicas { nodes, preferred_leader: NodeId(preferred) };
        assert_eq!(of(&[(all, 0)], vec![(0, replicas)]), Err(MapError::Replicas(ShardId(0))));
    }
    let shards = (0..=SHARDS_MAX).map(|shard| (shard, one())).collect();
    assert_eq!(of(&[(all, 0)], shards), Err(MapError::Shards(SHARDS_MAX as usize + 1)));

    let member = |node: u64| {
        let address = address(NodeId(node), AddressVersion::default());
        (NodeId(node), Member { address, address_version: AddressVersion::default(), zone: None })
    };
    let map = of(&[(all, 0)], vec![(0, one())]).expect("a map");
    let routes =
        |members: &[u64]| RouteTable::new(map.clone(), members.iter().map(|node| member(*node)));
    assert!(routes(&[1, 2]).is_ok());
    assert_eq!(
        routes(&[2]),
        Err(RouteTableError::UnknownNode { shard: ShardId(0), node: NodeId(1) })
    );
    assert_eq!(routes(&[1, 1]), Err(RouteTableError::TwoMembers(NodeId(1))));
    assert_eq!(routes(&[1, 0]), Err(RouteTableError::NodeId(NodeId(0))));
    assert_eq!(routes(&[1, 1 << 32]), Err(RouteTableError::NodeId(NodeId(1 << 32))));
}
