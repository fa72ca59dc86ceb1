//! Commands of each kind, and the states and deltas that follow from them.

use routing::{AddressVersion, ClusterConfig, NodeId, ShardId};
use topology::*;

const NOW_S: u64 = 1_700_000_000;

fn told(node: u64, incarnation: u64) -> NodeTold {
    NodeTold {
        node: NodeId(node),
        address: format!("10.0.0.{node}:7400"),
        zone: node.is_multiple_of(2).then(|| "zone-ü".to_owned()),
        store: StoreId([node as u8; 16]),
        start: AddressVersion { incarnation, starts: 3 },
        levels: Levels { min: 1, max: 2 },
        binary: "0.2.0".to_owned(),
    }
}

fn life(node: u64, birth: u32) -> Life {
    Life { node: NodeId(node), birth: Birth(birth) }
}

fn commands() -> Vec<Command> {
    let (shard, job) = (ShardId(0), JobId(1));
    let seed = Seed::of(&ClusterConfig::dev(4, 5, 20_000).expect("valid"));
    let request = |id: u128| RequestId(id << 64 | id);
    let new_job = |id, kind| Command::Job { request: request(id), kind };
    let is = |conf_index, voters: &[Life], learners: &[Life]| Command::Is {
        shard,
        members: Members {
            conf_index,
            taken: Version(1),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
        },
    };
    let mut all = vec![Command::Bootstrap { seed }];
    all.extend((1..=6).map(|node| Command::NodeIs { told: told(node, 0) }));
    all.extend([
        Command::Want { shard, members: [1, 2, 3, 6].map(NodeId).into() },
        is(7, &[life(1, 0), life(2, 0), life(3, 0)], &[life(6, NOW_S as u32)]),
        is(9, &[life(1, 0), life(2, 0), life(6, NOW_S as u32)], &[]),
        Command::Prefer { shard, node: NodeId(2) },
        Command::NodeIs { told: told(2, 700) },
        Command::SetNodeState { node: NodeId(5), state: NodeState::Draining },
        new_job(1, JobKind::Replicas { count: 5, shard: Some(shard) }),
        new_job(2, JobKind::ReplaceNode { old: NodeId(4), new: NodeId(6) }),
        new_job(3, JobKind::Rebalance { what: Balance::Leaders }),
        Command::JobProgress {
            job,
            progress: Progress { done: 1, total: 300 },
            why: Some(Why::NoQuorum { shard, heard: 1, voters: 3 }),
            is_done: false,
        },
        Command::Cancel { job },
        Command::Set { setting: Setting::RepairAfter { seconds: Some(1_800) } },
        Command::Set { setting: Setting::Paused { paused: true } },
        Command::ActivateLevel { level: 1 },
    ]);
    all
}

pub(super) fn proposals() -> Vec<Vec<u8>> {
    let planned = |(nth, command): (u64, Command)| Proposal {
        wall_s: NOW_S + nth,
        planned_at: nth.is_multiple_of(4).then_some(Version(nth)),
        command,
    };
    (0..).zip(commands()).map(planned).map(|proposal| proposal.encode()).collect()
}

/// The states and the deltas along the way.
pub(super) fn states_and_deltas() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut topology = Topology::default();
    let (mut states, mut deltas) = (vec![topology.encode()], Vec::new());
    for command in commands() {
        if let Ok(Some(delta)) = topology.apply(&Proposal::new(NOW_S, command)) {
            states.push(topology.encode());
            deltas.push(delta.encode());
        }
    }
    (states, deltas)
}
