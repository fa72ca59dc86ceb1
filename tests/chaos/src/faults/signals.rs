//! Faults by SIGKILL and SIGSTOP: of nodes, gateways and a client process.

use super::{Stage, Wound};
use crate::cluster::{GATEWAYS, NODES};
use local_cluster::Member;

impl Stage<'_> {
    pub(super) fn kill_leader(&mut self) -> Wound {
        let leader = self.some_leader();
        self.cluster.kill(Member::Node(leader));
        Wound::lasting_s(self.rng, 4, 8).serves()
    }

    pub(super) fn kill_follower(&mut self) -> Wound {
        let follower = self.some_follower();
        self.cluster.kill(Member::Node(follower));
        Wound::lasting_s(self.rng, 4, 8).serves()
    }

    pub(super) fn kill_all(&mut self) -> Wound {
        (1..=NODES).for_each(|id| self.cluster.kill(Member::Node(id)));
        Wound::lasting_s(self.rng, 1, 3)
    }

    pub(super) fn kill_gateway(&mut self) -> Wound {
        let gateway = self.rng.range(1, GATEWAYS);
        self.cluster.kill(Member::Gateway(gateway));
        Wound::lasting_s(self.rng, 4, 6).serves()
    }

    pub(super) fn pause_leader(&mut self, from_s: u64, to_s: u64, serves: bool) -> Wound {
        let leader = self.some_leader();
        self.cluster.processes.pause(Member::Node(leader));
        Wound { serves, ..Wound::lasting_s(self.rng, from_s, to_s) }
    }

    pub(super) fn pause_gateway(&mut self) -> Wound {
        let gateway = self.rng.range(1, GATEWAYS);
        self.cluster.processes.pause(Member::Gateway(gateway));
        Wound::lasting_s(self.rng, 4, 6).serves()
    }

    /// Pauses a client for longer than any TTL that clients ask for. When it wakes up, another
    /// client may hold its locks.
    pub(super) fn pause_client(&mut self) -> Wound {
        self.clients.pause();
        Wound::lasting_s(self.rng, 4, 6).serves()
    }
}
