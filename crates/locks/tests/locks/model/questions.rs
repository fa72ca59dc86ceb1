//! The answers of the plain twin to questions, for comparison with a table.

use super::{Hold, Lease, Model};
use palisade_locks::*;

impl Model {
    pub fn holdings(&self, principal: &str) -> Holdings {
        if principal.is_empty() {
            return Holdings::default();
        }
        let is_its = |owner: &String| owner == principal;
        let leases = || self.leases.iter().filter(|lease| is_its(&lease.principal));
        let waiters = || self.waiters.iter().filter(|waiter| is_its(&waiter.principal));
        let sessions = leases().map(|lease| &lease.session);
        let mut sessions: Vec<&String> = sessions
            .chain(waiters().map(|waiter| &waiter.session))
            .filter(|session| !session.is_empty())
            .collect();
        sessions.sort();
        sessions.dedup();
        let owner_of = |hold: &&Hold| is_its(&self.lease(hold.lease).principal);
        Holdings {
            locks: self.holds.iter().filter(owner_of).count() as u32,
            sessions: sessions.len() as u32,
            waits: waiters().count() as u32,
        }
    }

    pub fn holders(&self, name: &str) -> Vec<Grant> {
        self.holds.iter().filter(|hold| hold.name == name).map(|hold| self.show(hold)).collect()
    }

    pub fn queue_len(&self, name: &str) -> u32 {
        self.waiters.iter().filter(|waiter| waiter.name == name).count() as u32
    }

    pub fn list(&self, prefix: &str, limit: usize) -> (Vec<Grant>, bool) {
        let mut grants: Vec<_> = self
            .holds
            .iter()
            .filter(|hold| hold.name.starts_with(prefix))
            .map(|hold| self.show(hold))
            .collect();
        grants.sort_by(|a, b| (&a.name, a.token).cmp(&(&b.name, b.token)));
        let more = grants.len() > limit;
        grants.truncate(limit);
        (grants, more)
    }

    pub fn waiters(&self) -> Vec<(&str, RequestId)> {
        self.waiters.iter().map(|waiter| (waiter.name.as_str(), waiter.request)).collect()
    }

    /// The stamp of the last command.
    pub fn at(&self) -> Stamp {
        Stamp { wall_ms: self.wall_ms, shard_ms: self.shard_ms }
    }

    pub fn leases(&self) -> Vec<LiveLease> {
        let alive = |lease: &Lease| LiveLease {
            lease: LeaseId(lease.id),
            ttl_ms: if lease.claim_ms == 0 { lease.ttl_ms } else { lease.claim_ms },
            renewal_seq: lease.seq,
            renewed_ms: lease.renewed_ms,
        };
        self.leases.iter().map(alive).collect()
    }

    pub fn counts(&self) -> Counts {
        let mut names: Vec<_> = self.holds.iter().map(|hold| &hold.name).collect();
        names.sort();
        names.dedup();
        Counts {
            locks: names.len() as u64,
            grants: self.holds.len() as u64,
            waiters: self.waiters.len() as u64,
            sessions: self.leases.iter().filter(|lease| !lease.session.is_empty()).count() as u64,
        }
    }
}
