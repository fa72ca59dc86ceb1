//! The matrix of faults: the effect of each fault on the cluster, and the result that it must have.
//!
//! A fault inflicts damage and states its expectations, but never heals: [`Cluster::heal`] undoes
//! all faults in the same way. The checker judges the clients' view, whichever fault was inflicted.
//! The expectations here concern processes: some must stop, some must refuse to start, and some
//! must go on serving.

mod cuts;
mod disks;
mod edges;
mod machine;
mod signals;
mod topology;
mod upkeep;

use crate::clients::Clients;
use crate::cluster::{Cluster, NODES};
use crate::error::Error;
use crate::kinds::Kind;
use crate::tools::Tools;
use palisade_sim::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The thread that makes log entries durable, as the kernel names it.
const LOG_WRITER: &str = "log-writer";

/// The objects that a fault can reach.
pub struct Stage<'a> {
    /// The cluster to be hurt.
    pub cluster: &'a mut Cluster,
    /// The client processes to be hurt.
    pub clients: &'a mut Clients,
    /// Decides the targets of a fault.
    pub rng: &'a mut Rng,
    /// The tools that this machine has for faults.
    pub tools: &'a Tools,
    /// The leader of each shard before the first fault.
    pub leaders: BTreeMap<u32, u64>,
    /// The nodes that were hurt already.
    pub hurt: BTreeSet<u64>,
}

/// The damage of a fault, and its expected results.
#[derive(Clone, Debug, Default)]
pub struct Wound {
    /// The time for which the fault lasts.
    pub lasting: Duration,
    /// Whether every shard must serve during the fault.
    pub serves: bool,
    /// The nodes that must end by themselves.
    pub must_end: BTreeSet<u64>,
    /// The nodes that may end by themselves.
    pub may_end: BTreeSet<u64>,
    /// Whether a node's clock runs at another rate.
    pub drifted: bool,
    /// The expectations that failed while the fault was inflicted.
    pub failures: Vec<String>,
    /// Notes on the fault that are worth reading.
    pub notes: Vec<String>,
}

impl Wound {
    fn lasting_s(rng: &mut Rng, from: u64, to: u64) -> Wound {
        Wound {
            lasting: Duration::from_millis(rng.range(from * 1_000, to * 1_000)),
            ..Wound::default()
        }
    }

    fn serves(self) -> Wound {
        Wound { serves: true, ..self }
    }

    /// Notes the error of a step as a failure of the fault, which goes on.
    fn check(&mut self, step: Result<(), Error>) {
        self.failures.extend(step.err().map(|error| error.to_string()));
    }
}

fn leader_to_hurt(leaders: &BTreeMap<u32, u64>, hurt: &BTreeSet<u64>, rng: &mut Rng) -> u64 {
    let sound = |node: &u64| !hurt.contains(node);
    let leading: Vec<u64> = leaders.values().copied().filter(sound).collect();
    let others: Vec<u64> = (1..=NODES).filter(sound).collect();
    let all: Vec<u64> = leaders.values().copied().collect();
    let among = [leading, others, all]
        .into_iter()
        .find(|nodes| !nodes.is_empty())
        .expect("there are nodes");
    *rng.pick(&among)
}

impl Stage<'_> {
    /// Inflicts a fault.
    ///
    /// # Errors
    /// If the fault could not be inflicted at all.
    pub async fn inflict(&mut self, kind: Kind) -> Result<Wound, Error> {
        match kind {
            Kind::Nothing => {
                Ok(Wound { lasting: Duration::from_secs(14), serves: true, ..Wound::default() })
            }
            Kind::KillLeader => Ok(self.kill_leader()),
            Kind::KillFollower => Ok(self.kill_follower()),
            Kind::KillAll => Ok(self.kill_all()),
            Kind::KillGateway => Ok(self.kill_gateway()),
            Kind::PausePastElection => Ok(self.pause_leader(2, 3, false)),
            Kind::PausePastTtl => Ok(self.pause_leader(6, 8, true)),
            Kind::PauseGateway => Ok(self.pause_gateway()),
            Kind::PauseClient => Ok(self.pause_client()),
            Kind::Halves => self.halves(),
            Kind::IsolatedLeader => self.isolate_leader(),
            Kind::Ring => self.ring(),
            Kind::OneWay => self.one_way(),
            Kind::GatewayCut => self.cut_gateway().await,
            Kind::Loss => self.lose_packets(),
            Kind::Delay => self.delay().await,
            Kind::WallClock => self.jump_wall_clock().await,
            Kind::Drift => self.drift().await,
            Kind::FullDisk => self.fill_disk().await,
            Kind::FailedSync => self.fail_syncs().await,
            Kind::FlippedBits => self.flip_bits().await,
            Kind::RollingRestart => Ok(self.rolling_restart().await),
            Kind::OtherSettings => self.other_settings().await,
            Kind::HungDisk => self.hang_disk(None).await,
            Kind::HungWriter => self.hang_disk(Some(LOG_WRITER)).await,
            Kind::OldCopy => self.put_back_a_copy().await,
            Kind::KilledInQueue => self.kill_in_queue().await,
            Kind::MovedLeaders => self.move_leaders().await,
            Kind::SuspendedClient => self.suspend_a_client().await,
            Kind::OldAddresses => self.give_old_address().await,
            Kind::NodeJoined => self.join_a_node().await,
            Kind::NodeReplaced => self.replace_a_node().await,
            Kind::NodeDrained => self.drain_a_node().await,
            Kind::NodeRemoved => self.remove_a_node().await,
            Kind::ReplicaCount => self.change_replica_count().await,
            Kind::MemberReturned => self.move_members_back().await,
            Kind::MetaWithoutQuorum => self.take_meta_its_quorum().await,
            Kind::NodeCount => self.grow_and_shrink().await,
            Kind::AllAddresses => self.move_all_addresses().await,
        }
    }

    /// Picks a leader that has not been hurt yet. If all leaders have been hurt, it picks any
    /// unhurt node. Two faults on one node would hide each other: a paused node cannot end by
    /// itself, as its full disk demands.
    fn some_leader(&mut self) -> u64 {
        let leader = leader_to_hurt(&self.leaders, &self.hurt, self.rng);
        self.hurt.insert(leader);
        leader
    }

    /// Picks an unhurt node that leads no shard, or as few as any other node.
    fn some_follower(&mut self) -> u64 {
        let led = |id: &u64| self.leaders.values().filter(|leader| *leader == id).count();
        let follower = (1..=NODES)
            .min_by_key(|id| (self.hurt.contains(id), led(id)))
            .expect("there are nodes");
        self.hurt.insert(follower);
        follower
    }

    /// All nodes in random order.
    fn shuffled(&mut self) -> Vec<u64> {
        let mut left: Vec<u64> = (1..=NODES).collect();
        let mut nodes = Vec::new();
        while !left.is_empty() {
            nodes.push(left.swap_remove(self.rng.below(left.len() as u64) as usize));
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run ended with "node 5 should have stopped by itself, and runs on": its disk was full, and
    /// it was paused.
    #[test]
    fn a_node_is_hurt_once_also_where_it_leads_everything() {
        let leaders: BTreeMap<u32, u64> = (0..4).map(|shard| (shard, NODES)).collect();
        let mut rng = Rng::new(1);
        for _ in 0..100 {
            assert_ne!(leader_to_hurt(&leaders, &BTreeSet::from([NODES]), &mut rng), NODES);
        }
        assert_eq!(
            leader_to_hurt(&leaders, &BTreeSet::new(), &mut rng),
            NODES,
            "a leader, if it is sound"
        );
        let everybody = (1..=NODES).collect();
        assert_eq!(
            leader_to_hurt(&leaders, &everybody, &mut rng),
            NODES,
            "a leader, if nobody is sound"
        );
    }
}
