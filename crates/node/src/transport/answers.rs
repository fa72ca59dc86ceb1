//! The answer of a peer to a node that lost its data directory, on its way. What follows from the
//! answers of all, [`shard::lost_directory`] says.

use routing::{NodeId, ShardId};
use shard::lost_directory::{Group, Present, Told, Wish};
use shard::{Member, Status};
use wire::internal::v1 as wire;

/// What a peer has told.
pub(super) fn told_of(told: wire::GreetResponse) -> Told {
    let group = |group: wire::GroupTold| {
        let member = |member: wire::GroupMember| Member {
            node: NodeId(member.node),
            incarnation: member.birth,
            learner: member.learner,
        };
        let wish = |wish: wire::GroupWish| Wish {
            version: wish.version,
            nodes: wish.nodes.into_iter().map(NodeId).collect(),
        };
        let known = Group {
            birth: group.birth,
            members: group.members.into_iter().map(member).collect(),
            conf_index: group.conf_index,
            wish: group.wish.map(wish),
        };
        (ShardId(group.shard), known)
    };
    Told {
        highest: told.incarnation,
        stands_by: told.stands_by,
        present: present(&told),
        groups: told.groups.into_iter().map(group).collect(),
    }
}

/// The nodes that the speaker knows by a topology.
fn present(told: &wire::GreetResponse) -> Option<Present> {
    let speaker = told.hello.as_ref().filter(|speaker| speaker.topology_version > 0)?;
    let others = told.nodes.iter().map(|node| NodeId(node.node));
    Some(Present {
        order: (speaker.topology_generation, speaker.topology_version),
        nodes: others.chain([NodeId(speaker.node)]).collect(),
    })
}

/// What a replica with this status tells of its group.
pub(super) fn group_of(status: &Status) -> wire::GroupTold {
    let Group { birth, members, conf_index, wish } = Group::of(status);
    let member = |member: Member| wire::GroupMember {
        node: member.node.0,
        birth: member.incarnation,
        learner: member.learner,
    };
    let wish = wish.map(|Wish { version, nodes }| wire::GroupWish {
        version,
        nodes: nodes.into_iter().map(|node| node.0).collect(),
    });
    let members = members.into_iter().map(member).collect();
    wire::GroupTold { shard: status.shard.0, birth, members, conf_index, wish }
}
