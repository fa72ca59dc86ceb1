//! Attacks with the tokens, requests and sessions of other identities, and the judgement of quotas on
//! every replica.
//!
//! An attack is a usual operation by a client that may not do it, so servers cannot tell it apart.

use super::ask::{Ask, What};
use super::state::World;
use super::state::chaos::FaultKind;
use super::state::client::Purpose;
use crate::checker::{Invariant, Outcome, Violation};
use routing::ShardId;

/// So many of the last operations are searched for tokens and requests to steal.
pub(crate) const RECENT: usize = 300;

impl World {
    /// Judges the table of a replica that has just applied something.
    pub(crate) fn judge_quotas(&mut self, node: u64, shard: ShardId) {
        let Some(replica) = self.nodes[&node].replicas.get(&shard) else { return };
        let Some(table) = replica.table() else { return };
        let names = self.names.iter().filter(|name| name.shard == shard);
        let names = names.map(|name| name.name.as_str());
        for (identity, has) in self.identities.exceeded(table, names) {
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
    /// request; or of others that wait for this name, or held it.
    pub(crate) fn attack(&mut self, id: u32, name: usize, token: u64, request: u64) {
        let shard = self.names[name].shard;
        let holds = self.identities.is_barred_from(id, request);
        let what = match self.rng.below(8) {
            0 if holds => Some(What::Release { token, life: 0 }),
            1 if holds => Some(What::Renew { token }),
            2 if holds => Some(What::CancelWait { request }),
            3 | 4 => self.waiting(id, name).map(|request| What::CancelWait { request }),
            5 => self.token_of_old(id, name).map(|token| match self.rng.percent(50) {
                true => What::Release { token, life: 0 },
                false => What::Renew { token },
            }),
            by => self.session_to_steal(id, shard).map(|(session, life)| match by {
                6 => What::Heartbeat { session, life, broken_seen: 0 },
                _ => What::CloseSession { session },
            }),
        };
        let Some(what) = what else { return };
        self.faults.add(FaultKind::Attacked);
        let name = match what {
            What::Heartbeat { .. } | What::CloseSession { .. } => String::new(),
            _ => self.names[name].name.clone(),
        };
        self.ask(id, Ask { name, shard, what }, Purpose::Attack);
    }

    /// The request of another identity that waits for this name, most likely.
    fn waiting(&mut self, id: u32, name: usize) -> Option<u64> {
        let name = &self.names[name].name;
        let calls = (self.clients.iter())
            .filter(|(owner, _)| self.identities.is_barred(id, **owner))
            .flat_map(|(_, client)| client.calls.values());
        let requests: Vec<u64> = calls
            .filter(|call| call.ask.name == *name && call.ask.wait_ms() > 0)
            .filter_map(|call| match call.ask.what {
                What::Acquire { request, .. } => Some(request),
                _ => None,
            })
            .collect();
        (!requests.is_empty()).then(|| *self.rng.pick(&requests))
    }

    /// A token of another identity that held this name, and may hold it yet.
    fn token_of_old(&mut self, id: u32, name: usize) -> Option<u64> {
        let name = &self.names[name].name;
        let asked = self.history.operations.iter().rev().take(RECENT);
        let tokens: Vec<u64> = asked
            .filter(|asked| asked.name == *name && self.identities.is_barred(id, asked.client))
            .filter_map(|asked| match asked.result {
                Outcome::Granted { token, .. } => Some(token),
                _ => None,
            })
            .collect();
        (!tokens.is_empty()).then(|| *self.rng.pick(&tokens))
    }

    /// A session of another identity, and its life on this shard. 0 stands for any life.
    fn session_to_steal(&mut self, id: u32, shard: ShardId) -> Option<(u64, u64)> {
        let sessions: Vec<(u64, u64)> = (self.clients.iter())
            .filter(|(owner, _)| self.identities.is_barred(id, **owner))
            .filter_map(|(_, client)| client.session.as_ref())
            .map(|session| (session.id, session.shards.get(&shard).map_or(0, |life| life.life)))
            .collect();
        (!sessions.is_empty()).then(|| *self.rng.pick(&sessions))
    }
}
