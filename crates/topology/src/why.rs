//! The reasons why a job or a repair does not go on, for people and programs.
//!
//! A reason says what stands in the way, and what to do. The module knows nothing of plans.

use crate::codec::{record, tagged};
use routing::{NodeId, ShardId};

/// The reason why a step is not planned now. Plans try again by themselves, so most reasons pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Its present voters cannot decide anything.
    #[error(
        "of the {voters} voters of shard {shard} only {heard} are heard of, and it needs a majority: \
         start the nodes that are down"
    )]
    NoQuorum {
        /// The shard.
        shard: ShardId,
        /// How many of its voters are on nodes that report.
        heard: u32,
        /// How many voters it has.
        voters: u32,
    },
    /// A step on the way would leave fewer heard-of voters than a quorum.
    #[error(
        "shard {shard} would have {voters} voters on the way, of which only {heard} are heard of: \
         start the nodes that are down, or choose another node"
    )]
    LosesQuorum {
        /// The shard.
        shard: ShardId,
        /// How many of its voters would be on nodes that report.
        heard: u32,
        /// How many voters it would have.
        voters: u32,
    },
    /// A node that has to take part does not report.
    #[error(
        "node {node} is not heard of: start it, or cancel the job that waits for it and start that \
         job again with another node"
    )]
    Silent {
        /// The node.
        node: NodeId,
    },
    /// A node that has to take a replica is not serving.
    #[error(
        "node {node} is being drained or removed: take it back with `undrain`, or choose another"
    )]
    NotServing {
        /// The node.
        node: NodeId,
    },
    /// No node can take the replica.
    #[error(
        "no node can take another replica of shard {shard}: add a node, take one back with \
         `undrain`, or lower the replica count"
    )]
    NoRoom {
        /// The shard.
        shard: ShardId,
    },
    /// No node reports that it leads the shard.
    #[error("shard {shard} has no leader that reports: see `palisade cluster status`")]
    NoLeader {
        /// The shard.
        shard: ShardId,
    },
    /// The group of the shard is still on its way to the members that are wanted already.
    #[error("shard {shard} is changing its members already: wait until node {node} has caught up")]
    Changing {
        /// The shard.
        shard: ShardId,
        /// A node that comes or goes.
        node: NodeId,
    },
    /// A node has so many replicas on their way to it that this one waits.
    #[error("shard {shard} waits its turn: node {node} is taking other replicas")]
    Turn {
        /// The shard.
        shard: ShardId,
        /// The busy node.
        node: NodeId,
    },
    /// A node still leads the shard.
    #[error("node {node} still leads shard {shard}: wait, or see whether another member is level")]
    Leads {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// Without a node, too few level voters would be left to a shard. Below level 2, the log says so in
    /// place of [`Why::Unready`].
    #[error(
        "stopping node {node} now would leave shard {shard} without a quorum, because node {other} \
         is down or lags: wait for node {other}, or drain another node"
    )]
    Needed {
        /// The shard.
        shard: ShardId,
        /// The node that is to stop.
        node: NodeId,
        /// A member that is down or lags.
        other: NodeId,
    },
    /// A shard has so few voters that no node of it can stop.
    #[error(
        "shard {shard} has {voters} voters and no quorum without node {node}: raise its replica count"
    )]
    TooFew {
        /// The shard.
        shard: ShardId,
        /// The node that is to stop.
        node: NodeId,
        /// How many voters it has.
        voters: u32,
    },
    /// Without a node, too few level voters would be left to a shard.
    #[error(
        "stopping node {node} now would leave shard {shard} without a quorum: {}; wait for {}, or \
         choose another node", in_words(.others), if .others.len() == 1 { "it" } else { "them" }
    )]
    Unready {
        /// The shard.
        shard: ShardId,
        /// The node that is to stop.
        node: NodeId,
        /// The other voters that are not level.
        others: Vec<Unready>,
    },
    /// No node is repaired, because many are silent.
    #[error(
        "{silent} of {nodes} nodes are not heard of, and that is rather the network than so many dead \
         nodes: none is replaced by itself, so start them, or replace one with `palisade cluster \
         replace-node`"
    )]
    ManySilent {
        /// How many nodes are not heard of.
        silent: u32,
        /// How many nodes there are.
        nodes: u32,
    },
    /// One node is repaired at a time.
    #[error(
        "node {node} is silent for long, and its replicas are replaced after those that are on their \
         way for node {other}"
    )]
    OneAtATime {
        /// The node that waits.
        node: NodeId,
        /// A node that comes or goes before.
        other: NodeId,
    },
}

/// A voter that could not take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unready {
    /// Its node.
    pub node: NodeId,
    /// What it lacks.
    pub lack: Lack,
}

/// What a voter lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its node does not report.
    Down,
    /// Its node reports, and without this replica.
    Replica,
    /// It lags.
    Entries {
        /// By so many entries.
        entries: u64,
    },
}

impl std::fmt::Display for Unready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = self.node;
        match self.lack {
            Lack::Down => write!(f, "node {node} is down"),
            Lack::Replica => write!(f, "node {node} has no replica of it now"),
            Lack::Entries { entries } => {
                write!(f, "node {node} lags by {} entries", grouped(entries))
            }
        }
    }
}

fn in_words(others: &[Unready]) -> String {
    others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number with its digits in groups, as in 40,211.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

record!(Unready { node, lack });
tagged!(Lack { 1 => Down, 2 => Replica, 3 => Entries { entries } });

impl Why {
    /// The reason in the form that every build of a level can read. The log of the topology has no
    /// other one.
    pub(crate) fn at_level(self, level: u32) -> Why {
        match self {
            Why::Unready { shard, node, others } if level < 2 => match others.first() {
                Some(other) => Why::Needed { shard, node, other: other.node },
                None => Why::NoLeader { shard },
            },
            why => why,
        }
    }
}

tagged!(Why {
    1 => NoQuorum { shard, heard, voters },
    2 => LosesQuorum { shard, heard, voters },
    3 => Silent { node },
    4 => NoRoom { shard },
    5 => NoLeader { shard },
    6 => Changing { shard, node },
    7 => Turn { shard, node },
    8 => Leads { shard, node },
    9 => Needed { shard, node, other },
    10 => TooFew { shard, node, voters },
    11 => NotServing { node },
    12 => ManySilent { silent, nodes },
    13 => OneAtATime { node, other },
    16 => Unready { shard, node, others },
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needed_node_is_told_with_what_the_others_lack() {
        let of = |node, lack| Unready { node: NodeId(node), lack };
        let why = Why::Unready {
            shard: ShardId(17),
            node: NodeId(4),
            others: vec![of(2, Lack::Down), of(5, Lack::Entries { entries: 40_211 })],
        };
        assert_eq!(
            why.to_string(),
            "stopping node 4 now would leave shard 17 without a quorum: node 2 is down, node 5 lags \
             by 40,211 entries; wait for them, or choose another node"
        );
        let other = NodeId(2);
        let needed = Why::Needed { shard: ShardId(17), node: NodeId(4), other };
        assert_eq!((why.clone().at_level(1), why.clone().at_level(2)), (needed, why));
        let shown: Vec<String> = [0, 999, 1_000, 1_234_567].map(grouped).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
