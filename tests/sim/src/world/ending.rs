//! The end of a run: faults stop, clients fall silent with what they hold, and everything has to come right by itself.
//!
//! Then an auditor takes every name in turn, waiting: silent holders must expire, forgotten waiters give up, every shard serve,
//! within a bound. At last the replicas' states are compared and the service's history is read.

use super::ask::{Ask, Done, What};
use super::calls::{Purpose, Settled};
use super::node::{Node, OWN_TICKETS};
use super::{AUDITOR, Event, Name, SECOND_US, World};
use crate::checker::{End, Invariant, TenureRecord, Violation};
use locks::EndKind;
use routing::ShardId;
use shard::{Answer as Read, Input, Query, Reply};
use std::collections::BTreeSet;
use storage::Engine;

/// From the last fault to every shard serving again.
const SERVES_WITHIN_US: u64 = 45 * SECOND_US;
/// From the last question to replicas that stand level: the last leases end meanwhile.
const CONVERGES_WITHIN_US: u64 = 10 * SECOND_US;

#[derive(Default)]
pub(crate) struct Ending {
    /// Clients do nothing new.
    pub silent: bool,
    /// Names not yet had by the auditor.
    open: BTreeSet<usize>,
    /// By then all must be well.
    until_us: u64,
    /// By then the replicas must stand level.
    converged_by_us: u64,
}

impl World {
    pub(crate) fn begin_ending(&mut self) {
        self.trace.line(self.now_us, || "----      faults stop, clients fall silent".to_owned());
        self.ending.silent = true;
        self.ending.open = (0..self.names.len()).collect();
        self.ending.until_us = self.now_us + self.serves_within_us();
        self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 0 });
        self.agenda.push(self.ending.until_us, Event::Ending { stage: 1 });
    }

    /// Slow clocks make everything late. (The auditor waits longer, so that a wait that ends does not help out.)
    fn serves_within_us(&self) -> u64 {
        (SERVES_WITHIN_US as f64 / self.chaos.rate_min) as u64
    }

    pub(crate) fn ending_stage(&mut self, stage: u32) {
        match stage {
            0 => {
                for name in self.ending.open.clone() {
                    self.audit(name);
                }
            }
            // Who was re-seeded lately may still be on its way in.
            1 if self.now_us < self.ending.until_us && !self.missing_voters().is_empty() => {
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage });
            }
            1 => {
                for what in self.missing_voters() {
                    self.violations.push(Violation { invariant: Invariant::Liveness, what, operations: Vec::new() });
                }
                for name in std::mem::take(&mut self.ending.open) {
                    let Name { name, shard, .. } = &self.names[name];
                    let what =
                        format!("{name:?} on shard {shard} could not be had within the bound after the last fault");
                    self.violations.push(Violation { invariant: Invariant::Liveness, what, operations: Vec::new() });
                }
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 2 });
            }
            2 => {
                self.ask_states();
                self.ending.converged_by_us = self.now_us + CONVERGES_WITHIN_US;
                self.agenda.push(self.now_us + SECOND_US, Event::Ending { stage: 3 });
            }
            // A checkpoint on its way to the disk is in neither place that the history is read from: the node waits, too.
            _ if self.nodes.values().any(|node| node.disk.writing.is_some()) => {
                self.agenda.push(self.now_us + SECOND_US / 10, Event::Ending { stage });
            }
            // A lease may have ended a moment ago; who follows hears of it with the next heartbeat.
            _ if self.now_us < self.ending.converged_by_us && self.diverged().next().is_some() => {
                self.agenda.push(self.now_us + SECOND_US / 10, Event::Ending { stage });
            }
            _ => {
                let diverged: Vec<String> = self.diverged().collect();
                for what in diverged {
                    self.violations.push(Violation { invariant: Invariant::Liveness, what, operations: Vec::new() });
                }
                self.history.tenures = self.read_tenures();
                self.over = true;
            }
        }
    }

    fn audit(&mut self, name: usize) {
        let request = self.number();
        let mode = locks::Mode::Exclusive;
        let mode =
            if self.names[name].modes.contains(&mode) { mode } else { locks::Mode::Permits { count: 3, limit: 3 } };
        let what = What::Acquire { request, mode, ttl_ms: 3_000, wait_ms: 200_000, session: 0 };
        let ask = Ask { name: self.names[name].name.clone(), shard: self.names[name].shard, what };
        self.ask(AUDITOR, ask, Purpose::Audit { name });
    }

    pub(crate) fn audited(&mut self, name: usize, settled: &Settled) {
        match (&settled.ask.what, &settled.answer) {
            (What::Acquire { .. }, Ok(Done::Granted { token, .. })) => {
                let what = What::Release { token: *token };
                let ask = Ask { what, ..(*settled.ask).clone() };
                self.ask(AUDITOR, ask, Purpose::Audit { name });
            }
            (What::Release { .. }, Ok(_)) => {
                let ask = Ask { what: What::Check { linearizable: true }, ..(*settled.ask).clone() };
                self.ask(AUDITOR, ask, Purpose::Audit { name });
            }
            (What::Check { .. }, Ok(_)) => {
                self.ending.open.remove(&name);
                if self.ending.open.is_empty() {
                    self.agenda.push(self.now_us + 2 * SECOND_US, Event::Ending { stage: 1 });
                }
            }
            // Whatever it was, it may not stay so.
            _ => self.audit(name),
        }
    }

    /// The shards whose replicas do not all stand at the same index, as they must at rest. (That their states are equal then is
    /// judged with all samples.)
    fn diverged(&self) -> impl Iterator<Item = String> {
        self.map.shards().filter_map(|(shard, _)| {
            let index = |node: &Node| node.replicas.get(&shard).map(|replica| replica.status().applied_index);
            let last: Vec<_> = self.nodes.values().map(|node| (node.id, index(node))).collect();
            let differ = last.windows(2).any(|pair| pair[0].1 != pair[1].1);
            differ.then(|| format!("shard {shard}: at rest its replicas have applied up to (node, index) {last:?}"))
        })
    }

    /// Of every name, as the leaders tell: ended grants from the engine and from memory, and current ones.
    fn read_tenures(&mut self) -> Option<Vec<TenureRecord>> {
        let mut tenures = Vec::new();
        for at in 0..self.names.len() {
            let (name, shard) = (self.names[at].name.clone(), self.names[at].shard);
            let leader = self.nodes.values().find(|node| node.leads(shard)).map(|node| node.id)?;
            tenures.extend(self.tenures_of(leader, shard, &name));
        }
        Some(tenures)
    }

    fn tenures_of(&mut self, id: u64, shard: ShardId, name: &str) -> Vec<TenureRecord> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let now = node.clock.read(self.now_us);
        let query = Query::History { name: name.to_owned(), limit: usize::MAX };
        let question = Input::Read { ticket: OWN_TICKETS, query, linearizable: false };
        let replica = node.replicas.get_mut(&shard).expect("the leader's replica");
        let outputs = replica.step(now, [question]).unwrap_or_default();
        if let Some(write) = outputs.write {
            let _ = node.disk.engine.write(&[write.write]); // nobody dies any more
        }
        let replies = outputs.replies;
        let mut found = Vec::new();
        for (_, reply) in replies {
            if let Reply::Read { answer: Read::History { ended, current }, .. } = reply {
                found.extend(ended.into_iter().map(|tenure| (tenure.grant, Some(tenure.end))));
                found.extend(current.into_iter().map(|grant| (grant, None)));
            }
        }
        let in_memory: BTreeSet<u64> = found.iter().map(|(grant, _)| grant.token.0).collect();
        for record in node.disk.engine.history(shard, name, usize::MAX).expect("memory can be read") {
            let tenure = locks::Tenure::decode(&record.name, locks::Token(record.token), &record.tenure)
                .expect("as it was written");
            // The same tenure may be in both while a checkpoint is on its way; anything else that stands twice is told.
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
