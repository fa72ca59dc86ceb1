//! The topology as a message, and back.
//!
//! Decoding checks everything that a [`Topology`] promises, so that bytes from outside never make
//! one that breaks a promise.

use crate::internal::v1::{Member, ShardReplicas, SlotRun, Topology as Message};
use routing::{AddressVersion, MapVersion, NodeId, ShardId, ShardMap, Topology, TopologyError};

impl From<&Topology> for Message {
    fn from(topology: &Topology) -> Message {
        let map = topology.map();
        let run = |(slots, shard): (u32, ShardId)| SlotRun { slots, shard: shard.0 };
        let shards = map.shards().map(|(shard, replicas)| ShardReplicas {
            shard: shard.0,
            nodes: replicas.nodes.iter().map(|node| node.0).collect(),
            preferred_leader: replicas.preferred_leader.0,
        });
        Message {
            map_version: map.version().0,
            slots: map.runs().into_iter().map(run).collect(),
            shards: shards.collect(),
            members: topology.members().map(Member::from).collect(),
        }
    }
}

impl TryFrom<&Message> for Topology {
    type Error = TopologyError;

    fn try_from(message: &Message) -> Result<Topology, TopologyError> {
        let runs = message.slots.iter().map(|run| (run.slots, ShardId(run.shard)));
        let shards = message.shards.iter().map(|shard| {
            let replicas = routing::Replicas {
                nodes: shard.nodes.iter().map(|node| NodeId(*node)).collect(),
                preferred_leader: NodeId(shard.preferred_leader),
            };
            (ShardId(shard.shard), replicas)
        });
        let map = ShardMap::of_runs(MapVersion(message.map_version), runs, shards)?;
        Topology::new(map, message.members.iter().map(Member::parts))
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

    fn topology() -> Topology {
        let mut config = ClusterConfig::dev(4, 3, 20_000).expect("valid");
        config.nodes[1].zone = Some("z".into());
        let moved = AddressVersion { incarnation: 2, starts: 7 };
        Topology::of(&config).with_address(NodeId(3), "moved.example:1", moved).expect("newer")
    }

    #[test]
    fn it_comes_back_the_same() {
        let bytes = Message::from(&topology()).encode_to_vec();
        let message = Message::decode(bytes.as_slice()).expect("a message");
        assert_eq!(Topology::try_from(&message), Ok(topology()));
        assert_eq!(message.slots.len(), 4, "slots are told as runs");
    }

    #[test]
    fn a_message_that_breaks_a_promise_is_refused() {
        let broken = |change: fn(&mut Message)| {
            let mut message = Message::from(&topology());
            change(&mut message);
            Topology::try_from(&message).expect_err("it breaks a promise")
        };
        let map = |error: MapError| TopologyError::Map(error);
        assert_eq!(broken(|m| m.slots.clear()), map(MapError::Slots(0)));
        assert_eq!(broken(|m| m.slots[0].slots += 1), map(MapError::Slots(16_385)));
        assert_eq!(broken(|m| m.slots[0].shard = 9), map(MapError::UnknownShard(ShardId(9))));
        assert_eq!(broken(|m| m.shards.clear()), map(MapError::Shards(0)));
        assert_eq!(broken(|m| m.shards[1].shard = 0), map(MapError::TwoShards(ShardId(0))));
        assert_eq!(broken(|m| m.shards[1].nodes.clear()), map(MapError::Replicas(ShardId(1))));
        let unknown = TopologyError::UnknownNode { shard: ShardId(2), node: NodeId(9) };
        assert_eq!(broken(|m| m.shards[2].nodes.push(9)), unknown);
        assert_eq!(broken(|m| m.members[1].node = 1), TopologyError::TwoMembers(NodeId(1)));
        assert_eq!(broken(|m| m.members[1].node = 0), TopologyError::NodeId(NodeId(0)));
        assert_eq!(broken(|m| m.members[1].address.clear()), TopologyError::Address(NodeId(2)));
    }
}
