//! Attacks on copies of the replicas' tables, with what identities have, had, or asked for of late.
//!
//! A copy is thrown away after that, so these attacks may be many, and the run does not depend on
//! them. Each must get the answer to a token, request or session that never was. A picture of the
//! copy is taken before all and after all, and the two must be equal.

use super::attacks::RECENT;
use super::state::World;
use super::state::chaos::FaultKind;
use crate::checker::{Call, Invariant, Outcome as Told, Violation};
use locks::{
    Caller, Command, Counts, Effects, Grant, Holdings, LeaseId, LiveLease, LockTable, Mode,
    Outcome, RequestId, Stamp, TOKEN_MAX, Token,
};
use routing::ShardId;
use std::collections::BTreeSet;

/// A replica's table is probed at each such index.
const EVERY: u64 = 64;
/// Of late acquires, so many are targets, beside all that holds a lock.
const TARGETS: usize = 16;
/// An identity that has nothing, and never asked for anything before.
const STRANGER: &str = "mallory";
/// The request ids of owners and of thieves that nothing was ever asked with.
const NEVER: [RequestId; 2] = [RequestId(u128::MAX), RequestId(u128::MAX - 1)];

/// What an identity has, had, or asked for.
#[derive(Clone, Debug)]
struct Target {
    owner: String,
    name: String,
    /// 0 if it is not known.
    token: Token,
    request: RequestId,
    /// Empty for none.
    session: String,
    life: LeaseId,
}

/// All that a table tells of what identities have, and its answers to late copies of what is over.
#[derive(Debug, PartialEq)]
struct Picture {
    holders: Vec<Vec<Grant>>,
    waiters: Vec<(String, RequestId)>,
    leases: Vec<LiveLease>,
    counts: Counts,
    holdings: Vec<Holdings>,
    answers: Vec<Outcome>,
}

/// A copy of a table.
struct Probe {
    table: LockTable,
    at: Stamp,
    names: Vec<String>,
    principals: BTreeSet<&'static str>,
    /// One of them, and the stranger.
    thieves: [&'static str; 2],
    targets: Vec<Target>,
    tokens: BTreeSet<Token>,
    /// The requests that hold or wait.
    in_use: BTreeSet<RequestId>,
}

impl World {
    /// Attacks a copy of the table of a replica that has just applied something.
    pub(crate) fn probe(&mut self, node: u64, shard: ShardId) {
        let principals = self.identities.principals();
        let Some(replica) = self.nodes[&node].replicas.get(&shard) else { return };
        let index = replica.status().applied_index;
        if principals.is_empty() || !index.is_multiple_of(EVERY) {
            return;
        }
        // A bug on purpose may make a snapshot that does not restore. Other checks find that.
        let Some(table) = replica.table() else { return };
        let Ok(table) = LockTable::restore(&table.snapshot()) else { return };
        let names = self.names.iter().filter(|name| name.shard == shard);
        let names = names.map(|name| name.name.clone()).collect();
        let nth = (index / EVERY) as usize % principals.len();
        let thieves = [*principals.iter().nth(nth).expect("one of them"), STRANGER];
        let mut probe = Probe::new(table, names, principals, thieves, self.asked_of_late(shard));
        let found = probe.attack();
        self.faults.add(FaultKind::Probed);
        self.violations.extend(found.into_iter().map(|what| Violation {
            invariant: Invariant::Identity,
            what: format!("shard {shard} on node {node} at index {index}: {what}"),
            operations: Vec::new(),
        }));
    }

    /// What clients with an identity asked this shard for of late.
    fn asked_of_late(&self, shard: ShardId) -> Vec<Target> {
        let asked = self.history.operations.iter().rev().take(RECENT);
        asked
            .filter(|asked| asked.shard == shard.0)
            .filter_map(|asked| {
                let Call::Acquire { request, session, .. } = asked.call else { return None };
                let token = match asked.result {
                    Told::Granted { token, .. } => token,
                    _ => 0,
                };
                Some(Target {
                    owner: self.identities.principal(asked.client).to_owned(),
                    name: asked.name.clone(),
                    token: Token(token),
                    request: RequestId(request.into()),
                    session: super::ask::session_id(session),
                    life: LeaseId::NONE,
                })
            })
            .filter(|target| !target.owner.is_empty())
            .take(TARGETS)
            .collect()
    }
}

impl Probe {
    fn new(
        table: LockTable,
        names: Vec<String>,
        principals: BTreeSet<&'static str>,
        thieves: [&'static str; 2],
        mut targets: Vec<Target>,
    ) -> Probe {
        let at = Stamp { wall_ms: 0, shard_ms: table.shard_ms() };
        let held: Vec<Grant> = names.iter().flat_map(|name| table.holders(name, at)).collect();
        let waiting = table.waiters().map(|(_, request)| request);
        let in_use = held.iter().map(|grant| grant.request_id).chain(waiting).collect();
        let tokens = held.iter().map(|grant| grant.token).collect();
        let owned = held.into_iter().filter(|grant| !grant.principal.is_empty());
        targets.extend(owned.map(|grant| Target {
            owner: grant.principal,
            name: grant.name,
            token: grant.token,
            request: grant.request_id,
            session: grant.session,
            life: grant.lease,
        }));
        Probe { table, at, names, principals, thieves, targets, tokens, in_use }
    }

    /// Makes all attacks. Returns the first thing that is wrong.
    fn attack(&mut self) -> Option<String> {
        let before = self.picture();
        // First, because the stranger's own cancels and closes are remembered after the others.
        for target in self.targets.clone() {
            if let Some(found) = self.acquire(&target) {
                return Some(found);
            }
        }
        for thief in self.thieves {
            for target in self.targets.clone().iter().filter(|target| target.owner != thief) {
                if let Some(found) = self.touch(thief, target) {
                    return Some(found);
                }
            }
        }
        let after = self.picture();
        (before != after).then(|| format!("attacks made {after:?} of {before:?}"))
    }

    /// Acquires with what is another identity's, for a name that is held.
    fn acquire(&mut self, target: &Target) -> Option<String> {
        let name = self.held_name()?;
        let asks = [
            ask(target.request, &name, ""),
            ask(target.request, &name, &target.session),
            ask(NEVER[0], &name, &target.session),
        ];
        for command in asks {
            let told = self.apply(STRANGER, &command);
            let is_in_use = matches!(&command, Command::Acquire { request_id, .. }
                if self.in_use.contains(request_id));
            let is_right = match &told {
                Ok(Outcome::Conflict(_)) => is_in_use,
                Ok(Outcome::Held { .. }) => !is_in_use,
                _ => false,
            };
            if !is_right {
                return Some(format!("{STRANGER} asked {command:?}, and was told {told:?}"));
            }
        }
        None
    }

    /// Renews, releases, cancels, heartbeats and closes what is another identity's.
    fn touch(&mut self, principal: &str, target: &Target) -> Option<String> {
        let Target { name, token, request, session, life, .. } = target;
        let (token, request_id, life) = (*token, *request, *life);
        let unknown = Token(TOKEN_MAX);
        let release = |token| Command::Release { name, token, by: Some(life) };
        let mut asks = vec![
            (Command::Renew { name, token }, Command::Renew { name, token: unknown }),
            (release(token), release(unknown)),
        ];
        for given_up in [false, true] {
            let cancel = |request_id| Command::CancelWait { name, request_id, given_up };
            asks.push((cancel(request_id), cancel(NEVER[1])));
        }
        if !session.is_empty() {
            for life in [LeaseId::NONE, life] {
                let beat = |session| Command::Heartbeat { session, life, broken_seen: 0 };
                asks.push((beat(session), beat("never")));
            }
            let close = |session| Command::CloseSession { session };
            asks.push((close(session), close("never")));
        }
        asks.into_iter().find_map(|(command, unknown)| {
            let (told, wanted) = (self.apply(principal, &command), self.apply(principal, &unknown));
            (told.is_err() || told != wanted).then(|| {
                format!(
                    "{principal} asked {command:?}, and was told {told:?} instead of {wanted:?}"
                )
            })
        })
    }

    fn apply(&mut self, principal: &str, command: &Command<'_>) -> Result<Outcome, Box<Effects>> {
        let mut effects = Effects::default();
        let told = self.table.apply_as(self.at, Caller::of(principal), command, &mut effects);
        if effects == Effects::default() { Ok(told) } else { Err(Box::new(effects)) }
    }

    fn held_name(&self) -> Option<String> {
        let is_held = |name: &&String| !self.table.holders(name, self.at).is_empty();
        self.names.iter().find(is_held).cloned()
    }

    fn picture(&mut self) -> Picture {
        let table = &self.table;
        let mut picture = Picture {
            holders: self.names.iter().map(|name| table.holders(name, self.at)).collect(),
            waiters: table.waiters().map(|(name, request)| (name.to_owned(), request)).collect(),
            leases: table.leases().collect(),
            counts: table.counts(),
            holdings: self.principals.iter().map(|principal| table.holdings(principal)).collect(),
            answers: Vec::new(),
        };
        // None of these changes anything: what they name is over, or was never there.
        let held = self.held_name();
        for Target { owner, name, token, request, session, .. } in self.targets.clone() {
            if !self.tokens.contains(&token) {
                let release = Command::Release { name: &name, token, by: None };
                picture.answers.extend(self.apply(&owner, &release));
            }
            if let Some(name) = held.as_ref().filter(|_| !self.in_use.contains(&request)) {
                picture.answers.extend(self.apply(&owner, &ask(request, name, "")));
                let joins = ask(NEVER[0], name, &session);
                picture.answers.extend(self.apply(&owner, &joins));
            }
        }
        picture
    }
}

fn ask<'a>(request_id: RequestId, name: &'a str, session: &'a str) -> Command<'a> {
    Command::Acquire {
        request_id,
        name,
        owner: "probe",
        ttl_ms: 1_000,
        mode: Mode::Exclusive,
        wait: false,
        session,
        metadata: "",
        claim_ttl_ms: 0,
    }
}
