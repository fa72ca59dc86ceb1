//! The end of a run: faults stop, clients fall silent with their locks, and the cluster must
//! recover by itself.
//!
//! Then an auditor acquires every name in turn, with a wait. Within a bound, silent holders must
//! expire, forgotten waiters must give up, and every shard must serve. At last the replicas' states
//! are compared and the service's history is read.

use super::ask::{Ask, Done, What};
use super::clock::SECOND_US;
use super::node::OWN_TICKETS;
use super::state::chaos::FaultKind;
use super::state::client::{Purpose, Settled};
use super::state::event::Event;
use super::state::members::MovedBy;
use super::state::node::Node;
use super::state::{AUDITOR, Name, World};
use crate::checker::{End, Invariant, TenureRecord, Violation};
use locks::EndKind;
use routing::{NodeId, ShardId};
use shard::{Answer as Read, Input, Query, Reply};
use std::collections::{BTreeMap, BTreeSet};
use storage::Engine;

/// The time from the last fault until every shard serves again.
const SERVES_WITHIN_US: u64 = 45 * SECOND_US;
/// The further time until all jobs of the topology are done.
const JOBS_WITHIN_US: u64 = 90 * SECOND_US;
/// The time after which a silent client's requests have been answered.
const SETTLED_US: u64 = 9 * SECOND_US;
/// The time after that in which every lease ends: the longest TTL, the cost of moves of leadership,
/// and an election.
const ABANDONED_WITHIN_US: u64 = (6 + 8) * SECOND_US;
/// The TTL that a dead client asks for in the queue. It is far longer than the end waits, unless
/// the grant must be claimed.
const DEAD_TTL_MS: u32 = 240_000;
const DEAD_CLAIM_MS: u32 = 700;
/// The time from the last question until the replicas stand level. The last leases end meanwhile.
const CONVERGES_WITHIN_US: u64 = 10 * SECOND_US;

/// Stages beside the numbered ones.
const RESTLESS: u32 = 10;
const ABANDONED: u32 = 11;
/// The stages from here on release the name with the number that is added.
const RELEASE: u32 = 100;

impl World {
    pub(crate) fn begin_ending(&mut self) {
        self.trace.line(self.now_us, || "----      faults stop, clients fall silent".to_owned());
        self.ending.silent = true;
        self.all_come_back();
        self.ending.open = (0..self.names.len()).collect();
        if self.rng.percent(60) {
            self.ending.restless_until_us = self.now_us + SETTLED_US + ABANDONED_WITHIN_US;
            self.ending.terms = self.terms();
            self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: RESTLESS });
            self.agenda.push(self.now_us + SETTLED_US, Event::Ending { stage: ABANDONED });
            return;
        }
        self.begin_audit();
    }

    fn begin_audit(&mut self) {
        self.ending.until_us = self.now_us + self.serves_within_us();
        self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 0 });
        self.agenda.push(self.ending.until_us, Event::Ending { stage: 1 });
    }

    // ---- leadership that moves more often than any TTL passes -----------------------------------

    fn terms(&self) -> BTreeMap<ShardId, u64> {
        let term = |shard: ShardId| {
            let of =
                |node: &Node| node.replicas.get(&shard).map_or(0, |replica| replica.status().term);
            self.nodes.values().map(of).max().unwrap_or(0)
        };
        self.map.shards().map(|(shard, _)| (shard, term(shard))).collect()
    }

    /// Each shard's leader is to hand over to another node that is up. It does so only if that one
    /// may lead.
    fn move_on(&mut self) {
        let shards: Vec<ShardId> = self.map.shards().map(|(shard, _)| shard).collect();
        for shard in shards {
            let up: Vec<u64> =
                self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
            let Some(leader) = up.iter().copied().find(|id| self.nodes[id].leads(shard)) else {
                continue;
            };
            let others: Vec<u64> = up.into_iter().filter(|id| *id != leader).collect();
            if !others.is_empty() {
                let to = NodeId(*self.rng.pick(&others));
                self.tell(leader, shard, Input::Transfer { to });
            }
        }
    }

    /// Checks that locks are gone that clients abandoned a while ago, although leadership moved all
    /// the time.
    fn judge_abandoned(&mut self) {
        let moves = self
            .terms()
            .iter()
            .map(|(shard, term)| term - self.ending.terms[shard])
            .min()
            .unwrap_or(0);
        // If elections kept failing, there was no leader to end a lease.
        if moves < 8 {
            return;
        }
        self.faults.add(FaultKind::LeadersRestless);
        for at in 0..self.names.len() {
            let (name, shard) = (self.names[at].name.clone(), self.names[at].shard);
            let Some(leader) =
                self.nodes.values().find(|node| node.leads(shard)).map(|node| node.id)
            else {
                continue;
            };
            let holders = self.holders_at(leader, shard, &name);
            if let Some(token) =
                holders.into_iter().find(|token| *token <= self.ending.abandoned[&shard])
            {
                let what = format!(
                    "{name:?}: token {token} was abandoned {} s ago, and is held: leadership moved {moves} times meanwhile",
                    ABANDONED_WITHIN_US / SECOND_US
                );
                let violation = Violation {
                    invariant: Invariant::BoundedLateExpiry,
                    what,
                    operations: Vec::new(),
                };
                self.violations.push(violation);
            }
        }
    }

    fn holders_at(&mut self, id: u64, shard: ShardId, name: &str) -> Vec<u64> {
        let found = self.look_at(id, shard, Query::check(name), false);
        match found {
            Some(Read::Check { holders, .. }) => {
                holders.iter().map(|grant| grant.token.0).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The time in which every shard must serve again. Slow clocks make it longer. The auditor
    /// waits even longer, so that the end of a wait does not help.
    fn serves_within_us(&self) -> u64 {
        let jobs_us = match self.members.moved_by {
            MovedBy::Topology => JOBS_WITHIN_US,
            _ => 0,
        };
        ((SERVES_WITHIN_US + jobs_us) as f64 / self.chaos.rate_min) as u64
    }

    pub(crate) fn ending_stage(&mut self, stage: u32) {
        match stage {
            RESTLESS if self.now_us < self.ending.restless_until_us => {
                self.move_on();
                let after_us = self.rng.range(8 * SECOND_US / 10, 15 * SECOND_US / 10);
                self.agenda.push(self.now_us + after_us, Event::Ending { stage });
            }
            RESTLESS => {
                self.judge_abandoned();
                self.begin_audit();
            }
            ABANDONED => {
                let last = |shard: ShardId| {
                    let of = |node: &Node| {
                        node.replicas.get(&shard).map_or(0, |replica| replica.status().last_token)
                    };
                    self.nodes.values().map(of).max().unwrap_or(0)
                };
                self.ending.abandoned =
                    self.map.shards().map(|(shard, _)| (shard, last(shard))).collect();
            }
            RELEASE.. => self.let_go(stage - RELEASE),
            0 => {
                for name in self.ending.open.clone() {
                    self.audit(name);
                }
            }
            // A node that was re-seeded lately may still be on its way in.
            1 if self.now_us < self.ending.until_us && !self.missing_voters().is_empty() => {
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage });
            }
            1 => {
                for (shard, what) in self.missing_voters() {
                    self.violated_in(shard, Invariant::Liveness, what);
                }
                for name in std::mem::take(&mut self.ending.open) {
                    let Name { name, shard, .. } = &self.names[name];
                    let what = format!(
                        "{name:?} on shard {shard} could not be had within the bound after the last fault"
                    );
                    self.violations.push(Violation {
                        invariant: Invariant::Liveness,
                        what,
                        operations: Vec::new(),
                    });
                }
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 2 });
            }
            2 => {
                self.ask_states();
                self.ending.converged_by_us = self.now_us + CONVERGES_WITHIN_US;
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 3 });
            }
            // The history is read from two places, and a checkpoint on its way to the disk is in
            // neither. The node waits for it, too.
            _ if self.nodes.values().any(|node| node.disk.writing.is_some()) => {
                self.agenda.push(self.now_us + SECOND_US / 10, Event::Ending { stage });
            }
            // A lease may have ended a moment ago. A follower hears of this with the next
            // heartbeat.
            _ if self.now_us < self.ending.converged_by_us && self.diverged().next().is_some() => {
                self.agenda.push(self.now_us + SECOND_US / 10, Event::Ending { stage });
            }
            _ => {
                let diverged: Vec<(ShardId, String)> = self.diverged().collect();
                for (shard, what) in diverged {
                    self.violated_in(shard, Invariant::Liveness, what);
                }
                self.judge_last_topologies();
                self.judge_last_levels();
                self.history.tenures = self.read_tenures();
                self.over = true;
            }
        }
    }

    fn audit(&mut self, name: usize) {
        let request = self.number();
        let mode = self.whole(name);
        let what = What::Acquire {
            request,
            mode,
            ttl_ms: 6_000,
            wait_ms: 200_000,
            session: 0,
            claim_ttl_ms: 0,
        };
        let ask = Ask { name: self.names[name].name.clone(), shard: self.names[name].shard, what };
        self.ask(AUDITOR, ask, Purpose::Audit { name });
    }

    /// The mode that takes the whole of a name.
    fn whole(&self, name: usize) -> locks::Mode {
        let mode = locks::Mode::Exclusive;
        if self.names[name].modes.contains(&mode) {
            mode
        } else {
            locks::Mode::Permits { count: 3, limit: 3 }
        }
    }

    /// Queues a client behind the auditor that will be dead when its turn comes.
    fn queue_and_die(&mut self, name: usize, token: u64) {
        self.ending.died.insert(name);
        self.ending.held.insert(name, token);
        let (request, mode) = (self.number(), self.whole(name));
        let (ttl_ms, wait_ms, claim_ttl_ms) = (DEAD_TTL_MS, 30_000, DEAD_CLAIM_MS);
        let what = What::Acquire { request, mode, ttl_ms, wait_ms, session: 0, claim_ttl_ms };
        let ask = Ask { name: self.names[name].name.clone(), shard: self.names[name].shard, what };
        self.ask(AUDITOR, ask, Purpose::DieInQueue);
        self.agenda
            .push(self.now_us + 3 * SECOND_US / 2, Event::Ending { stage: RELEASE + name as u32 });
    }

    fn let_go(&mut self, name: u32) {
        let name = name as usize;
        let Some(token) = self.ending.held.remove(&name) else { return };
        self.ending.once_more.insert(name);
        let ask = Ask {
            name: self.names[name].name.clone(),
            shard: self.names[name].shard,
            what: What::Release { token, life: 0 },
        };
        self.ask(AUDITOR, ask, Purpose::Audit { name });
    }

    pub(crate) fn audited(&mut self, name: usize, settled: &Settled) {
        match (&settled.ask.what, &settled.answer) {
            (What::Acquire { .. }, Ok(Done::Granted { token, .. }))
                if !self.ending.died.contains(&name) =>
            {
                self.queue_and_die(name, *token);
            }
            (What::Acquire { .. }, Ok(Done::Granted { token, .. })) => {
                let what = What::Release { token: *token, life: 0 };
                let ask = Ask { what, ..(*settled.ask).clone() };
                self.ask(AUDITOR, ask, Purpose::Audit { name });
            }
            (What::Release { .. }, Ok(_)) if self.ending.once_more.remove(&name) => {
                self.audit(name)
            }
            (What::Release { .. }, Ok(_)) => {
                let ask =
                    Ask { what: What::Check { linearizable: true }, ..(*settled.ask).clone() };
                self.ask(AUDITOR, ask, Purpose::Audit { name });
            }
            (What::Check { .. }, Ok(_)) => {
                self.ending.open.remove(&name);
                if self.ending.open.is_empty() {
                    self.agenda.push(self.now_us + 2 * SECOND_US, Event::Ending { stage: 1 });
                }
            }
            // The name is audited again after any other answer.
            _ => self.audit(name),
        }
    }

    /// The shards with replicas at different indexes. At rest all must stand at the same index.
    /// Their states at equal indexes are judged with all samples.
    fn diverged(&self) -> impl Iterator<Item = (ShardId, String)> {
        self.groups().into_iter().filter_map(|shard| {
            let index = |node: &Node| {
                node.replicas.get(&shard).map(|replica| replica.status().applied_index)
            };
            let wanted = self.wanted_nodes(shard);
            let hosts = self.nodes.values().filter(|node| wanted.contains(&node.id));
            let last: Vec<_> = hosts.map(|node| (node.id, index(node))).collect();
            let differ = last.windows(2).any(|pair| pair[0].1 != pair[1].1);
            differ.then(|| {
                let what = format!(
                    "shard {shard}: at rest its replicas have applied up to (node, index) {last:?}"
                );
                (shard, what)
            })
        })
    }

    /// Reads the tenures of every name from the leaders: ended grants from the engine and from
    /// memory, and current grants.
    fn read_tenures(&mut self) -> Option<Vec<TenureRecord>> {
        let mut tenures = Vec::new();
        for at in 0..self.names.len() {
            let (name, shard) = (self.names[at].name.clone(), self.names[at].shard);
            let leader = self.nodes.values().find(|node| node.leads(shard)).map(|node| node.id)?;
            tenures.extend(self.tenures_of(leader, shard, &name));
        }
        Some(tenures)
    }

    /// Asks a replica's table directly. With `last` no client dies any more, and outstanding writes
    /// are made at once.
    fn look_at(&mut self, id: u64, shard: ShardId, query: Query, last: bool) -> Option<Read> {
        let ticket = OWN_TICKETS + self.number();
        let node = self.nodes.get_mut(&id).expect("a node");
        let now = node.clock.read(self.now_us);
        node.inbox.entry(shard).or_default().push(Input::Read {
            ticket,
            query,
            linearizable: false,
        });
        let inputs = node.inbox.get_mut(&shard).map(std::mem::take).unwrap_or_default();
        let mut outputs = node.replicas.get_mut(&shard)?.step(now, inputs).ok()?;
        if last && let Some(write) = outputs.write.take() {
            let _ = node.disk.engine.write(&[write.write]);
        }
        let (mine, others) = outputs.replies.into_iter().partition(|(other, _)| *other == ticket);
        let mine: Vec<(u64, Reply)> = mine;
        if let Some(write) = &outputs.write {
            self.judge_of(shard).wrote(id, &write.write);
        }
        self.dispatch(id, shard, shard::Outputs { replies: others, ..outputs });
        self.judge_members(id, shard);
        mine.into_iter().find_map(|(_, reply)| match reply {
            Reply::Read { answer, .. } => Some(answer),
            _ => None,
        })
    }

    fn tenures_of(&mut self, id: u64, shard: ShardId, name: &str) -> Vec<TenureRecord> {
        let query = Query::History { name: name.to_owned(), limit: usize::MAX };
        let mut found = Vec::new();
        if let Some(Read::History { ended, current }) = self.look_at(id, shard, query, true) {
            found.extend(ended.into_iter().map(|tenure| (tenure.grant, Some(tenure.end))));
            found.extend(current.into_iter().map(|grant| (grant, None)));
        }
        let node = &self.nodes[&id];
        let in_memory: BTreeSet<u64> = found.iter().map(|(grant, _)| grant.token.0).collect();
        for record in node.disk.engine.history(shard, name, usize::MAX).expect("memory can be read")
        {
            let tenure =
                locks::Tenure::decode(&record.name, locks::Token(record.token), &record.tenure)
                    .expect("as it was written");
            // The same tenure may be in both places while a checkpoint is on its way. Any other
            // tenure that appears twice is reported.
            if !in_memory.contains(&tenure.grant.token.0) {
                found.push((tenure.grant, Some(tenure.end)));
            }
        }
        found.into_iter().map(|(grant, end)| record(shard, grant, end)).collect()
    }
}

fn record(shard: ShardId, grant: locks::Grant, end: Option<EndKind>) -> TenureRecord {
    TenureRecord {
        shard: shard.0,
        name: grant.name,
        token: grant.token.0,
        request: Some(grant.request_id.0 as u64),
        end: end.map(|end| match end {
            EndKind::Released => End::Released,
            EndKind::Expired => End::Expired,
            EndKind::Broken => End::Broken,
        }),
    }
}
