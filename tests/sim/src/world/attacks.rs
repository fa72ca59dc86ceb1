//! Attacks with the tokens, requests and sessions of other identities, and the judgement of quotas on
//! every replica.
//!
//! An attack is a usual operation by a client that may not do it, so servers cannot tell it apart.

use super::ask::{Ask, What};
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::client::Purpose;
use crate::checker::{Invariant, Violation};
use routing::ShardId;

impl World {
    /// Judges the table of a replica that has just applied something.
    pub(crate) fn judge_quotas(&mut self, node: u64, shard: ShardId) {
        let Some(replica) = self.nodes[&node].replicas.get(&shard) else { return };
        let names = self.names.iter().filter(|name| name.shard == shard);
        let names = names.map(|name| name.name.as_str());
        for (identity, has) in self.identities.exceeded(replica.table(), names) {
            let index = replica.status().applied_index;
            self.violations.push(Violation {
                invariant: Invariant::Quota,
                what: format!(
                    "shard {shard} on node {node} at index {index}: {identity:?} has {has:?}"
                ),
                operations: Vec::new(),
            });
        }
    }

    /// Tries to end, extend or learn something of another identity, which holds this token by this
    /// request.
    pub(crate) fn attack(&mut self, id: u32, name: usize, token: u64, request: u64) {
        if !self.identities.is_barred_from(id, request) {
            return;
        }
        let shard = self.names[name].shard;
        let sessions: Vec<(u64, u64)> = (self.clients.iter())
            .filter(|(owner, _)| self.identities.is_barred(id, **owner))
            .filter_map(|(_, client)| client.session.as_ref())
            .map(|session| (session.id, session.shards.get(&shard).map_or(0, |life| life.life)))
            .collect();
        let what = match self.rng.below(5) {
            0 => What::Release { token, life: 0 },
            1 => What::Renew { token },
            2 => What::CancelWait { request },
            by if !sessions.is_empty() => {
                let (session, life) = *self.rng.pick(&sessions);
                match by {
                    3 => What::Heartbeat { session, life, broken_seen: 0 },
                    _ => What::CloseSession { session },
                }
            }
            _ => return,
        };
        self.faults.add(FaultKind::Attacked);
        let name = match what {
            What::Heartbeat { .. } | What::CloseSession { .. } => String::new(),
            _ => self.names[name].name.clone(),
        };
        self.ask(id, Ask { name, shard, what }, Purpose::Attack);
    }
}
