//! The route table as a message, and back.
//!
//! Decoding checks everything that a [`RouteTable`] promises, so that bytes from outside never make
//! one that breaks a promise.

use crate::internal::v1::{Member, RouteTable as Message, ShardReplicas, SlotRun};
use routing::{AddressVersion, MapVersion, NodeId, RouteTable, RouteTableError, ShardId, ShardMap};

impl From<&RouteTable> for Message {
    fn from(routes: &RouteTable) -> Message {
        let map = routes.map();
        let run = |(slots, shard): (u32, ShardId)| SlotRun { slots, shard: shard.0 };
        let shards = map.shards().map(|(shard, replicas)| ShardReplicas {
            shard: shard.0,
            nodes: replicas.nodes.iter().map(|node| node.0).collect(),
            preferred_leader: replicas.preferred_leader.0,
        });
        Message {
            map_version: map.version().0,
            topology_version: map.edition().topology,
            slots: map.runs().into_iter().map(run).collect(),
            shards: shards.collect(),
            members: routes.members().map(Member::from).collect(),
        }
    }
}

impl TryFrom<&Message> for RouteTable {
    type Error = RouteTableError;

    fn try_from(message: &Message) -> Result<RouteTable, RouteTableError> {
        let runs = message.slots.iter().map(|run| (run.slots, ShardId(run.shard)));
        let listed = || {
            message.shards.iter().map(|shard| {
                let replicas = routing::Replicas {
                    nodes: shard.nodes.iter().map(|node| NodeId(*node)).collect(),
                    preferred_leader: NodeId(shard.preferred_leader),
                };
                (ShardId(shard.shard), replicas)
            })
        };
        let map = ShardMap::of_runs(MapVersion(message.map_version), runs, listed())?
            .placed(message.topology_version, listed())?;
        RouteTable::new(map, message.members.iter().map(Member::parts))
    }
}

impl From<(NodeId, &routing::Member)> for Member {
    fn from((node, member): (NodeId, &routing::Member)) -> Member {
        Member {
            node: node.0,
            address: member.address.clone(),
            incarnation: member.address_version.incarnation,
            starts: member.address_version.starts,
            zone: member.zone.clone(),
        }
    }
}

impl Member {
    fn parts(&self) -> (NodeId, routing::Member) {
        let member = routing::Member {
            address: self.address.clone(),
            address_version: self.address_version(),
            zone: self.zone.clone(),
        };
        (NodeId(self.node), member)
    }

    /// The version of the address.
    pub fn address_version(&self) -> AddressVersion {
        AddressVersion { incarnation: self.incarnation, starts: self.starts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use routing::{ClusterConfig, MapError};

    fn routes() -> RouteTable {
        let mut config = ClusterConfig::dev(4, 3, 20_000).expect("valid");
        config.nodes[1].zone = Some("z".into());
        let moved = AddressVersion { incarnation: 2, starts: 7 };
        RouteTable::of(&config).with_address(NodeId(3), "moved.example:1", moved).expect("newer")
    }

    #[test]
    fn it_comes_back_the_same() {
        let bytes = Message::from(&routes()).encode_to_vec();
        let message = Message::decode(bytes.as_slice()).expect("a message");
        assert_eq!(RouteTable::try_from(&message), Ok(routes()));
        assert_eq!(message.slots.len(), 4, "slots are told as runs");
    }

    #[test]
    fn a_message_that_breaks_a_promise_is_refused() {
        let broken = |change: fn(&mut Message)| {
            let mut message = Message::from(&routes());
            change(&mut message);
            RouteTable::try_from(&message).expect_err("it breaks a promise")
        };
        let map = |error: MapError| RouteTableError::Map(error);
        assert_eq!(broken(|m| m.slots.clear()), map(MapError::Slots(0)));
        assert_eq!(broken(|m| m.slots[0].slots += 1), map(MapError::Slots(16_385)));
        assert_eq!(broken(|m| m.slots[0].shard = 9), map(MapError::UnknownShard(ShardId(9))));
        assert_eq!(broken(|m| m.shards.clear()), map(MapError::Shards(0)));
        assert_eq!(broken(|m| m.shards[1].shard = 0), map(MapError::TwoShards(ShardId(0))));
        assert_eq!(broken(|m| m.shards[1].nodes.clear()), map(MapError::Replicas(ShardId(1))));
        let unknown = RouteTableError::UnknownNode { shard: ShardId(2), node: NodeId(9) };
        assert_eq!(broken(|m| m.shards[2].nodes.push(9)), unknown);
        assert_eq!(broken(|m| m.members[1].node = 1), RouteTableError::TwoMembers(NodeId(1)));
        assert_eq!(broken(|m| m.members[1].node = 0), RouteTableError::NodeId(NodeId(0)));
        assert_eq!(broken(|m| m.members[1].address.clear()), RouteTableError::Address(NodeId(2)));
    }
}
