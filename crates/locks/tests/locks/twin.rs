//! Random histories, run by two replicas and the plain twin. One replica is restarted in every
//! possible way in between.

use crate::events::Seen;
use crate::model::Model;
use crate::pages;
use palisade_locks::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NAMES: [&str; 4] = ["a", "a/b", "c", "ü"];
const SESSIONS: [&str; 5] = ["", "", "s1", "s2", "s3"];
/// The callers of commands. Histories are run with the first alone, and with all: identities that
/// come, share a quota, and are off for a while.
const CALLERS: [(&str, Quota); 5] = [
    ("", Quota { locks: 0, sessions: 0, waits: 0 }),
    ("ann", Quota { locks: 0, sessions: 0, waits: 0 }),
    ("ann", Quota { locks: 3, sessions: 2, waits: 2 }),
    ("bob", Quota { locks: 2, sessions: 1, waits: 0 }),
    ("bob", Quota { locks: 0, sessions: 0, waits: 1 }),
];

#[derive(Clone, Debug)]
enum Op {
    /// `again`: with the request id of an earlier acquire.
    Acquire {
        again: Option<usize>,
        name: usize,
        mode: u8,
        wait: bool,
        session: usize,
        ttl_ms: u32,
        claim_ttl_ms: u32,
    },
    Renew {
        grant: usize,
        name: Option<usize>,
    },
    /// `by`: not said; or no session, or a lease begun earlier.
    Release {
        grant: usize,
        name: Option<usize>,
        by: Option<Option<usize>>,
    },
    /// `life`: names the life of an earlier lease, or any life.
    Heartbeat {
        session: usize,
        life: Option<usize>,
        broken_seen: u64,
    },
    CloseSession {
        session: usize,
    },
    /// `fresh`: with a new request id, which the next acquire then uses.
    CancelWait {
        request: usize,
        name: Option<usize>,
        given_up: bool,
        fresh: bool,
    },
    /// `stale`: names an earlier or later renewal.
    Expire {
        lease: usize,
        stale: i64,
    },
    Break {
        grant: usize,
        name: Option<usize>,
    },
    /// Restores the second replica from its snapshot.
    Restore,
    /// Writes a checkpoint of the second replica.
    Checkpoint,
    /// Restarts the second replica from its checkpoints and the log since.
    Crash,
}

fn any_op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let other_name = || prop::option::weighted(0.1, 0..NAMES.len());
    let session = || 2..SESSIONS.len();
    let recent = || 0..8usize;
    let claim = || prop_oneof![Just(0u32), 100..60_000u32];
    prop_oneof![
        10 => (prop::option::weighted(0.2, recent()), name(), 0..6u8, any::<bool>(), 0..SESSIONS.len(), 100..50_000u32, claim())
            .prop_map(|(again, name, mode, wait, session, ttl_ms, claim_ttl_ms)| {
                Op::Acquire { again, name, mode, wait, session, ttl_ms, claim_ttl_ms }
            }),
        2 => (recent(), other_name()).prop_map(|(grant, name)| Op::Renew { grant, name }),
        6 => (recent(), other_name(), prop::option::weighted(0.8, prop::option::weighted(0.6, recent())))
            .prop_map(|(grant, name, by)| Op::Release { grant, name, by }),
        2 => (session(), prop::option::weighted(0.6, recent()), 0..3u64)
            .prop_map(|(session, life, broken_seen)| Op::Heartbeat { session, life, broken_seen }),
        1 => session().prop_map(|session| Op::CloseSession { session }),
        3 => (recent(), other_name(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(request, name, given_up, fresh)| Op::CancelWait { request, name, given_up, fresh }),
        3 => (recent(), prop_oneof![3 => Just(0i64), 1 => -1..=1i64]).prop_map(|(lease, stale)| Op::Expire { lease, stale }),
        1 => (recent(), other_name()).prop_map(|(grant, name)| Op::Break { grant, name }),
        1 => Just(Op::Restore),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
    ]
}

/// The replica that is restarted, with its disk and the log since its last checkpoint.
#[derive(Default)]
struct Restarted {
    table: LockTable,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    log: Vec<Vec<u8>>,
}

impl Restarted {
    fn apply(&mut self, entry: &[u8]) -> (Outcome, Effects) {
        let batch = Batch::decode(entry).expect("it was built by the builder");
        let mut effects = Effects { watched: true, ..Effects::default() };
        let (caller, command) = &batch.commands[0];
        let outcome = self.table.apply_as(batch.stamp, *caller, command, &mut effects);
        (outcome, effects)
    }

    fn checkpoint(&mut self) {
        let announced = self.table.dirty_len();
        let changes = self.table.checkpoint();
        assert!(changes.len() <= announced, "{} changes, {announced} announced", changes.len());
        let mut keys: Vec<_> = changes.iter().map(|change| change.key.clone()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), changes.len(), "a key comes twice");
        for Change { key, value } in changes {
            match value {
                Some(value) => drop(self.disk.insert(key, value)),
                None => assert!(
                    self.disk.remove(&key).is_some() || key[0] >= 5,
                    "{key:?} was never written"
                ),
            }
        }
        self.log.clear();
        assert_eq!(
            (self.table.dirty_len(), self.table.checkpoint()),
            (0, vec![]),
            "nothing is left to write"
        );
    }

    fn restore(&mut self) {
        self.table = LockTable::restore(&self.table.snapshot()).expect("restores");
        self.disk.clear();
        self.checkpoint();
    }

    fn crash(&mut self) {
        self.table = LockTable::load(self.disk.clone()).expect("loads");
        assert_eq!(
            self.table.dirty_len(),
            usize::from(self.disk.is_empty()),
            "at most the first header"
        );
        for entry in self.log.clone() {
            self.apply(&entry);
        }
    }
}

#[derive(Default)]
struct Run {
    plain: LockTable,
    /// A replica on which no client reads outcomes.
    unheard: LockTable,
    restarted: Restarted,
    model: Model,
    /// What a watcher knows, who has watched from the beginning.
    seen: Seen,
    requests: Vec<(RequestId, &'static str)>,
    grants: Vec<(String, Token)>,
    leases: Vec<(LeaseId, u64)>,
    /// Shard time of the last command.
    shard_ms: u64,
}

/// The nth item, counted from the newest.
fn recent<T: Clone>(all: &[T], back: usize) -> Option<T> {
    all.len().checked_sub(1 + back).map(|at| all[at].clone())
}

impl Run {
    /// Expects the same outcome, except that grants are not described.
    fn apply_unheard(
        &mut self,
        stamp: Stamp,
        caller: Caller<'_>,
        command: &Command<'_>,
        outcome: &Outcome,
        effects: &Effects,
    ) {
        let mut unheard = Effects { unheard: true, ..Effects::default() };
        let told = self.unheard.apply_as(stamp, caller, command, &mut unheard);
        match outcome {
            Outcome::Granted(_) | Outcome::Broken(_) => assert_eq!(told, Outcome::Unheard),
            _ => assert_eq!(told, *outcome),
        }
        assert_eq!(unheard, Effects { unheard: true, granted: vec![], ..effects.clone() });
        assert_eq!(self.unheard.state_hash(), self.plain.state_hash(), "{command:?}");
    }

    fn life(&self, back: Option<usize>) -> LeaseId {
        back.and_then(|back| recent(&self.leases, back)).map_or(LeaseId(0), |(lease, _)| lease)
    }

    fn step(&mut self, stamp: Stamp, caller: usize, op: &Op) {
        let (principal, quota) = CALLERS[caller];
        let caller = Caller { principal, quota };
        let held;
        let command = match *op {
            Op::Acquire { again, name, mode, wait, session, ttl_ms, claim_ttl_ms } => {
                let fresh = (RequestId(self.requests.len() as u128 + 1), NAMES[name]);
                let (request_id, name) =
                    again.and_then(|back| recent(&self.requests, back)).unwrap_or(fresh);
                // Now and then an id is used again for another name.
                let name = if again.is_some() && ttl_ms % 5 == 0 { fresh.1 } else { name };
                self.requests.push((request_id, name));
                let mode = match mode {
                    0 | 1 => Mode::Exclusive,
                    2 | 3 => Mode::Shared,
                    4 => Mode::Permits { count: 1 + ttl_ms % 3, limit: 3 },
                    _ => Mode::Permits { count: 1, limit: 2 + ttl_ms % 2 },
                };
                let (owner, metadata) =
                    (["ann", "bob"][ttl_ms as usize % 2], ["", "m"][ttl_ms as usize / 2 % 2]);
                let session = SESSIONS[session];
                Command::Acquire {
                    request_id,
                    name,
                    owner,
                    ttl_ms,
                    mode,
                    wait,
                    session,
                    metadata,
                    claim_ttl_ms,
                }
            }
            Op::Renew { grant, name }
            | Op::Release { grant, name, .. }
            | Op::Break { grant, name } => {
                held = recent(&self.grants, grant).unwrap_or((NAMES[0].into(), Token(3)));
                let (name, token) = (name.map_or(held.0.as_str(), |name| NAMES[name]), held.1);
                match op {
                    Op::Renew { .. } => Command::Renew { name, token },
                    Op::Release { by, .. } => {
                        let by = by.map(|back| self.life(back));
                        Command::Release { name, token, by }
                    }
                    _ => Command::Break { name, token, by: "root", reason: "stuck" },
                }
            }
            Op::Heartbeat { session, life, broken_seen } => Command::Heartbeat {
                session: SESSIONS[session],
                life: self.life(life),
                broken_seen,
            },
            Op::CloseSession { session } => Command::CloseSession { session: SESSIONS[session] },
            Op::CancelWait { request, name, given_up, fresh } => {
                let next = RequestId(self.requests.len() as u128 + 1);
                let (request_id, asked) = match recent(&self.requests, request) {
                    Some(earlier) if !fresh => earlier,
                    _ => (next, NAMES[request % NAMES.len()]),
                };
                Command::CancelWait {
                    name: name.map_or(asked, |name| NAMES[name]),
                    request_id,
                    given_up,
                }
            }
            Op::Expire { lease, stale } => {
                let (lease, seq) = recent(&self.leases, lease).unwrap_or((LeaseId(1), 0));
                Command::ExpireLease { lease, renewal_seq: seq.saturating_add_signed(stale) }
            }
            Op::Restore => return self.restarted.restore(),
            Op::Checkpoint => return self.restarted.checkpoint(),
            Op::Crash => return self.restarted.crash(),
        };

        let mut encoded = Vec::new();
        command.encode_as(caller, &mut encoded);
        let would_refuse = self.plain.over_quota(&encoded, self.plain.shard_ms());
        let mut builder = BatchBuilder::new(stamp);
        builder.push(&encoded);
        let entry = builder.finish();

        let mut effects = Effects { watched: true, ..Effects::default() };
        let outcome = self.plain.apply_as(stamp, caller, &command, &mut effects);
        self.restarted.log.push(entry.clone());
        assert_eq!(
            self.restarted.apply(&entry),
            (outcome.clone(), effects.clone()),
            "replicas diverge at {command:?}"
        );
        self.seen.take(&effects.events);
        (effects.watched, effects.events) = (false, Vec::new());
        self.apply_unheard(stamp, caller, &command, &outcome, &effects);
        let (expected, expected_effects) = self.model.apply(stamp, caller, &command);
        let blank = |outcome| {
            if let Outcome::Conflict(_) = outcome { Outcome::Conflict("") } else { outcome }
        };
        assert_eq!(blank(outcome.clone()), expected, "{command:?}");
        assert_eq!(effects, expected_effects, "{command:?}");
        // Time may pass with the command, and with it the memory of requests and sessions: only
        // then may the leader's answer differ.
        if self.plain.shard_ms() == self.shard_ms {
            let refused = matches!(outcome, Outcome::OverQuota { .. });
            assert_eq!(would_refuse, refused.then(|| outcome.clone()), "{command:?}");
        }
        self.shard_ms = self.plain.shard_ms();

        if let Outcome::Granted(grant) = outcome {
            self.grants.push((grant.name, grant.token));
        }
        self.grants.extend(effects.granted.into_iter().map(|grant| (grant.name, grant.token)));
        for event in effects.leases {
            if let LeaseEvent::Alive { lease, renewal_seq, .. } = event {
                self.leases.push((lease, renewal_seq));
            }
        }
    }

    fn compare(&mut self) {
        for table in [&mut self.plain, &mut self.restarted.table] {
            assert_eq!(table.state_hash(), table.state_hash_from_scratch());
            for name in NAMES {
                assert_eq!(
                    table.holders(name, self.model.at()),
                    self.model.holders(name),
                    "holders of {name}"
                );
                assert_eq!(table.queue_len(name), self.model.queue_len(name), "queue of {name}");
            }
            self.seen.compare(table, self.model.at());
            for (prefix, limit) in [("", 3), ("a", 9), ("a/", 1)] {
                let listed = pages::list_all(table, prefix, limit, self.model.at());
                assert_eq!(listed, self.model.list(prefix, usize::MAX).0);
            }
            if self.model.counts().grants % 8 == 7 {
                table.forget_order();
            }
            assert_eq!(table.leases().collect::<Vec<_>>(), self.model.leases());
            assert_eq!(table.waiters().collect::<Vec<_>>(), self.model.waiters());
            assert_eq!(table.counts(), self.model.counts());
            for (principal, _) in CALLERS {
                assert_eq!(
                    table.holdings(principal),
                    self.model.holdings(principal),
                    "{principal}"
                );
            }
            assert_eq!(
                (table.last_token().0, table.shard_ms()),
                (self.model.last_token, self.model.shard_ms)
            );
        }
        assert_eq!(self.plain.state_hash(), self.restarted.table.state_hash());
        assert_eq!(self.plain.snapshot(), self.restarted.table.snapshot());
    }

    /// The records on disk make the snapshot of the table that they make.
    fn compare_joined(&mut self) {
        self.restarted.checkpoint();
        let mut joined = SnapshotBuilder::default();
        self.restarted.disk.iter().for_each(|(key, value)| joined.add(key, value));
        let joined = LockTable::restore(&joined.finish()).expect("restores");
        assert_eq!(joined.snapshot(), self.restarted.table.snapshot());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_and_the_plain_twin_agree(ops in history(1)) {
        agree(&ops);
    }

    #[test]
    fn replicas_and_the_plain_twin_agree_with_identities_and_quotas(ops in history(CALLERS.len())) {
        agree(&ops);
    }
}

/// A history of the first `callers`, with the time that passes before each operation.
fn history(callers: usize) -> impl Strategy<Value = Vec<(usize, Op, i64)>> {
    let pass_ms = prop_oneof![8 => 0..400i64, 1 => -500..0i64, 1 => 8_000..32_000i64];
    prop::collection::vec((0..callers, any_op(), pass_ms), 1..160)
}

fn agree(ops: &[(usize, Op, i64)]) {
    let mut run = Run::default();
    let mut stamp = Stamp { wall_ms: 1_700_000_000_000, shard_ms: 5_000 };
    for (caller, op, pass_ms) in ops {
        stamp.shard_ms = stamp.shard_ms.saturating_add_signed(*pass_ms);
        stamp.wall_ms = stamp.wall_ms.saturating_add_signed(*pass_ms);
        run.step(stamp, *caller, op);
        run.compare();
    }
    run.compare_joined();
}
