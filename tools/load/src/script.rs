//! The script of one client: a pure state machine of requests and answers.
//!
//! It has a request whenever the client asks for one. Each name belongs to one client, except for
//! hot names. The module knows nothing of connections, clocks and statistics.

use crate::names::Dice;
use crate::{Mix, SEED_RENEWALS, Workload};
use std::sync::Arc;
use std::time::Duration;
use wire::OperationKind;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{
    AcquireRequest, CancelWaitRequest, CheckRequest, CloseSessionRequest, Consistency, Grant,
    HeartbeatRequest, Mode, ReleaseRequest, RenewRequest, SessionLease,
};

/// The next step of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send this request, and pass its result to [`Script::answered`] or [`Script::failed`].
    Send(Op),
    /// Wait for this time, then ask again.
    Pause(Duration),
}

/// One client's part of a workload.
///
/// * Client `c` of `n` uses the cold names c, c + n, c + 2n, …, so no two clients ever share one.
/// * At most one request is open.
#[derive(Debug)]
pub struct Script {
    workload: Arc<Workload>,
    client: u32,
    owner: String,
    dice: Dice,
    requests: u64,
    /// The place of the last used name among the client's own names.
    place: u32,
    /// Tokens of the client's own names, by place; 0 if the lock is not held. Only mixes that hold
    /// locks from the start use it.
    tokens: Vec<u64>,
    /// The client's session; empty without one.
    session: String,
    shards: Vec<u32>,
    life: Life,
    checks_left: u32,
    paused: bool,
    /// Requests that release or cancel at the end. They belong to failed operations that hold a
    /// lock, or may hold one.
    left_behind: Vec<Op>,
}

/// Limit of `left_behind` for one client. Further locks of failed operations end with their TTL,
/// because a cluster without answers must not fill this memory.
const LEFT_BEHIND_MAX: usize = 64;

/// The lock that is held now, in mixes that acquire and release.
#[derive(Clone, Debug, Default)]
struct Life {
    name: String,
    token: u64,
    /// The token of the last requested release.
    released: u64,
    renewals: u32,
}

impl Script {
    /// Creates the script of one client.
    pub fn new(workload: Arc<Workload>, client: u32) -> Script {
        let mut owner = format!("bench-{client:06}");
        owner.extend(std::iter::repeat_n('.', workload.owner_bytes.saturating_sub(owner.len())));
        owner.truncate(workload.owner_bytes);
        let dice = Dice::new(u64::from(workload.names.run) << 32 | u64::from(client));
        Script {
            client,
            owner,
            dice,
            requests: 0,
            place: 0,
            tokens: Vec::new(),
            session: String::new(),
            shards: Vec::new(),
            life: Life::default(),
            checks_left: 0,
            paused: false,
            left_behind: Vec::new(),
            workload,
        }
    }

    /// Attaches the client's locks to a session.
    pub fn use_session(&mut self, session: String) {
        self.session = session;
    }

    /// Number of cold names that belong to this client.
    fn places(&self) -> u32 {
        (self.workload.names.count - self.client).div_ceil(self.workload.clients)
    }

    fn own_name(&self, place: u32) -> String {
        self.workload.names.cold(self.client + place * self.workload.clients)
    }

    /// Returns the next acquire before the mix begins, for the locks that it holds from the start.
    /// `None` means that all are acquired.
    pub fn prepare(&mut self) -> Option<Op> {
        let place = self.tokens.len() as u32;
        if !self.workload.mix.holds_from_the_start() || place >= self.places() {
            return None;
        }
        Some(self.acquire(self.own_name(place)))
    }

    /// Takes the answer to an operation of [`prepare`](Self::prepare). Returns `false` if the
    /// answer is no grant.
    pub fn prepared(&mut self, answer: &Answer) -> bool {
        let Some(grant) = answer.grant() else { return false };
        self.tokens.push(grant.fencing_token);
        if !self.shards.contains(&grant.shard) {
            self.shards.push(grant.shard);
        }
        true
    }

    /// Returns the next step. If a returned release is not sent, its lock stays held.
    pub fn step(&mut self) -> Step {
        Step::Send(match self.workload.mix {
            Mix::AcquireRelease | Mix::Seed => return self.come_and_go(),
            Mix::Renew => {
                self.place = (self.place + 1) % self.places();
                let token = self.tokens[self.place as usize];
                Op::Renew(RenewRequest { name: self.own_name(self.place), fencing_token: token })
            }
            Mix::Check => self.check_any(Consistency::Linearizable),
            Mix::StaleCheck => self.check_any(Consistency::Stale),
            Mix::Heartbeat => Op::Heartbeat(HeartbeatRequest {
                session_id: self.session.clone(),
                leases: self
                    .shards
                    .iter()
                    .map(|shard| SessionLease { shard: *shard, ..Default::default() })
                    .collect(),
            }),
        })
    }

    /// Takes the answer to the last step's request.
    pub fn answered(&mut self, answer: &Answer) {
        match answer {
            Answer::Acquire(_) => {
                self.life.token = answer.grant().map_or(0, |grant| grant.fencing_token)
            }
            Answer::Renew(_) => self.life.renewals += 1,
            Answer::Release(_) => self.life.token = 0,
            _ => return,
        }
        self.checks_left = self.workload.reads_per_write;
    }

    /// Records that the last step's request failed. If there was or may be a lock, it is released
    /// at the end of the run.
    pub fn failed(&mut self, kind: OperationKind, held_by_another: bool) {
        let name = self.life.name.clone();
        let left = match kind {
            OperationKind::Acquire if held_by_another => None,
            OperationKind::Acquire => {
                Some(Op::CancelWait(CancelWaitRequest { name, request_id: self.request_id() }))
            }
            OperationKind::Release => Some(release(name, self.life.released)),
            _ if self.life.token != 0 => Some(self.release()),
            _ => None,
        };
        if self.left_behind.len() < LEFT_BEHIND_MAX {
            self.left_behind.extend(left);
        }
        self.life.token = 0;
        self.checks_left = 0;
    }

    /// Records that a cancel at the end found a granted acquire.
    pub fn was_granted(&mut self, grant: &Grant) {
        self.left_behind.push(release(grant.resource_name.clone(), grant.fencing_token));
    }

    /// Number of locks that one answered heartbeat of this client has kept alive.
    pub fn locks_per_heartbeat(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// Returns the next request that releases locks at the end. `None` means that no lock is held
    /// any more.
    pub fn let_go(&mut self) -> Option<Op> {
        if !self.session.is_empty() {
            let session_id = std::mem::take(&mut self.session);
            self.tokens.clear();
            return Some(Op::CloseSession(CloseSessionRequest {
                session_id,
                shards: self.shards.clone(),
            }));
        }
        if self.life.token != 0 {
            return Some(self.release());
        }
        if let Some(op) = self.left_behind.pop() {
            return Some(op);
        }
        let token = self.tokens.pop()?;
        Some(release(self.own_name(self.tokens.len() as u32), token))
    }

    fn come_and_go(&mut self) -> Step {
        if self.checks_left > 0 {
            self.checks_left -= 1;
            let consistency = Consistency::Linearizable.into();
            return Step::Send(Op::Check(CheckRequest {
                name: self.life.name.clone(),
                consistency,
                ..Default::default()
            }));
        }
        if self.life.token == 0 {
            let name = self.next_name();
            let first = self.requests == 0 && self.workload.staggered;
            let renewals = if first { self.dice.below(SEED_RENEWALS + 1) } else { 0 };
            self.life = Life { name: name.clone(), renewals, ..Life::default() };
            return Step::Send(self.acquire(name));
        }
        if self.workload.mix == Mix::Seed && self.life.renewals < SEED_RENEWALS {
            if !self.workload.renewal_pause.is_zero() && !std::mem::replace(&mut self.paused, true)
            {
                return Step::Pause(self.workload.renewal_pause);
            }
            self.paused = false;
            let (name, fencing_token) = (self.life.name.clone(), self.life.token);
            return Step::Send(Op::Renew(RenewRequest { name, fencing_token }));
        }
        Step::Send(self.release())
    }

    fn next_name(&mut self) -> String {
        if self.dice.falls_in(self.workload.hot) {
            return self.workload.names.hot(self.dice.below(self.workload.names.hot));
        }
        self.place = (self.place + 1) % self.places();
        self.own_name(self.place)
    }

    /// The request id of the last acquire.
    fn request_id(&self) -> Vec<u8> {
        let (run, client, request) = (self.workload.names.run, self.client, self.requests);
        let mut request_id = Vec::with_capacity(16);
        request_id.extend_from_slice(&run.to_le_bytes());
        request_id.extend_from_slice(&client.to_le_bytes());
        request_id.extend_from_slice(&request.to_le_bytes());
        request_id
    }

    fn acquire(&mut self, name: String) -> Op {
        self.requests += 1;
        let request_id = self.request_id();
        Op::Acquire(AcquireRequest {
            name,
            owner: self.owner.clone(),
            ttl_ms: self.workload.ttl_ms,
            request_id,
            wait_ms: 0,
            mode: Mode::Exclusive.into(),
            permits: 0,
            permit_limit: 0,
            session_id: self.session.clone(),
            ..Default::default()
        })
    }

    fn release(&mut self) -> Op {
        let fencing_token = std::mem::take(&mut self.life.token);
        self.life.released = fencing_token;
        release(self.life.name.clone(), fencing_token)
    }

    fn check_any(&mut self, consistency: Consistency) -> Op {
        let name = self.workload.names.cold(self.dice.below(self.workload.names.count));
        Op::Check(CheckRequest { name, consistency: consistency.into(), ..Default::default() })
    }
}

/// A release request for a lock with a private lease.
fn release(name: String, fencing_token: u64) -> Op {
    Op::Release(ReleaseRequest { name, fencing_token, session_life: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NameSpace;
    use std::collections::BTreeSet;
    use wire::v1::{Grant, ReleaseResponse, RenewResponse};

    fn workload(mix: Mix) -> Workload {
        Workload {
            mix,
            clients: 3,
            names: NameSpace { run: 1, count: 10, hot: 2, bytes: 40 },
            owner_bytes: 50,
            ttl_ms: 30_000,
            hot: 0.0,
            renewal_pause: Duration::ZERO,
            reads_per_write: 0,
            staggered: false,
        }
    }

    fn granted(token: u64) -> Answer {
        Answer::granted(Grant { fencing_token: token, shard: token as u32 % 2, ..Grant::default() })
    }

    /// Runs a script against answers that always succeed. Returns the kinds of its requests, one
    /// letter each, and the names.
    fn run(script: &mut Script, steps: usize) -> (String, Vec<String>) {
        let (mut kinds, mut names) = (String::new(), Vec::new());
        for token in 1..=steps as u64 {
            let op = match script.step() {
                Step::Send(op) => op,
                Step::Pause(_) => {
                    kinds.push('.');
                    continue;
                }
            };
            names.extend(op.name().map(str::to_owned));
            let (kind, answer) = match &op {
                Op::Acquire(_) => ('a', granted(token)),
                Op::Renew(_) => ('n', Answer::Renew(RenewResponse::default())),
                Op::Release(_) => ('r', Answer::Release(ReleaseResponse::default())),
                Op::Check(_) => ('c', Answer::Check(Default::default())),
                Op::Heartbeat(_) => ('h', Answer::Heartbeat(Default::default())),
                other => panic!("{other:?}"),
            };
            kinds.push(kind);
            script.answered(&answer);
        }
        (kinds, names)
    }

    #[test]
    fn clients_take_and_release_names_of_their_own() {
        let workload = Arc::new(workload(Mix::AcquireRelease));
        let mut all = BTreeSet::new();
        for client in 0..3 {
            let (kinds, names) = run(&mut Script::new(workload.clone(), client), 8);
            assert_eq!(kinds, "arararar");
            assert!(names.chunks(2).all(|pair| pair[0] == pair[1]));
            let own: BTreeSet<String> = names.into_iter().collect();
            assert!(
                own.iter().all(|name| all.insert(name.clone())),
                "shared with another client: {own:?}"
            );
        }
        assert_eq!(all.len(), 10, "every name is used");
    }

    #[test]
    fn the_seed_mix_renews_twenty_times_and_reads_between() {
        let workload = Workload {
            reads_per_write: 1,
            renewal_pause: Duration::from_millis(1),
            ..workload(Mix::Seed)
        };
        let (kinds, _) = run(&mut Script::new(Arc::new(workload), 0), 66);
        assert_eq!(kinds, format!("ac{}rcac", ".nc".repeat(20)));
    }

    #[test]
    fn first_lives_are_cut_short_if_lives_are_not_to_run_in_step() {
        let workload = Arc::new(Workload { staggered: true, clients: 10, ..workload(Mix::Seed) });
        let first: BTreeSet<usize> = (0..10)
            .map(|client| {
                let (kinds, _) = run(&mut Script::new(workload.clone(), client), 70);
                let lives: Vec<usize> =
                    kinds.split('r').map(|life| life.matches('n').count()).collect();
                assert!(lives[0] <= 20 && lives[1] == 20, "{kinds}");
                lives[0]
            })
            .collect();
        assert!(first.len() > 4, "{first:?}");
    }

    #[test]
    fn a_lock_that_was_not_granted_is_not_released() {
        let mut script = Script::new(Arc::new(workload(Mix::AcquireRelease)), 0);
        let Step::Send(Op::Acquire(first)) = script.step() else { panic!("an acquire") };
        script.failed(OperationKind::Acquire, true);
        let Step::Send(Op::Acquire(second)) = script.step() else { panic!("another acquire") };
        assert_ne!(first.name, second.name);
        assert_ne!(first.request_id, second.request_id);
        assert_eq!(script.let_go(), None);
        script.answered(&granted(5));
        assert!(
            matches!(script.let_go(), Some(Op::Release(release)) if release.fencing_token == 5)
        );
        assert_eq!(script.let_go(), None);
    }

    #[test]
    fn a_lock_whose_requests_failed_is_let_go_at_the_end() {
        let mut script = Script::new(Arc::new(workload(Mix::Seed)), 0);
        let next = |script: &mut Script| match script.step() {
            Step::Send(op) => op,
            Step::Pause(_) => panic!("nothing pauses here"),
        };
        // The acquire may have been granted, so it is cancelled, and released if it was granted.
        let acquire = next(&mut script);
        script.failed(OperationKind::Acquire, false);
        let Some(Op::CancelWait(cancel)) = script.let_go() else {
            panic!("the acquire is in doubt")
        };
        assert!(
            matches!(&acquire, Op::Acquire(acquire) if acquire.request_id == cancel.request_id)
        );
        script.was_granted(&Grant {
            resource_name: "a".into(),
            fencing_token: 3,
            ..Grant::default()
        });
        assert!(
            matches!(script.let_go(), Some(Op::Release(release)) if release.fencing_token == 3)
        );
        // The lock is held, and a renewal failed.
        next(&mut script);
        script.answered(&granted(7));
        assert!(matches!(next(&mut script), Op::Renew(_)));
        script.failed(OperationKind::Renew, false);
        // The lock is held, and the release failed.
        next(&mut script);
        script.answered(&granted(8));
        (0..SEED_RENEWALS).for_each(|_| {
            next(&mut script);
            script.answered(&Answer::Renew(RenewResponse::default()));
        });
        assert!(matches!(next(&mut script), Op::Release(_)));
        script.failed(OperationKind::Release, false);
        let mut tokens: Vec<u64> = Vec::new();
        while let Some(Op::Release(release)) = script.let_go() {
            tokens.push(release.fencing_token);
        }
        tokens.sort();
        assert_eq!(tokens, [7, 8]);
    }

    #[test]
    fn what_is_held_from_the_start_is_renewed_in_turn_and_let_go_at_the_end() {
        let mut script = Script::new(Arc::new(workload(Mix::Renew)), 1);
        let mut token = 0;
        while let Some(Op::Acquire(_)) = script.prepare() {
            token += 1;
            assert!(script.prepared(&granted(token)));
        }
        assert_eq!(token, 3, "names 1, 4 and 7");
        let (kinds, names) = run(&mut script, 6);
        assert_eq!((kinds.as_str(), names.iter().collect::<BTreeSet<_>>().len()), ("nnnnnn", 3));
        let released = std::iter::from_fn(|| script.let_go()).count();
        assert_eq!(released, 3);
    }

    #[test]
    fn a_session_names_the_shards_where_it_holds_and_closes() {
        let mut script = Script::new(Arc::new(workload(Mix::Heartbeat)), 0);
        script.use_session("s".into());
        for token in 1.. {
            let Some(Op::Acquire(acquire)) = script.prepare() else { break };
            assert_eq!(acquire.session_id, "s");
            script.prepared(&granted(token));
        }
        assert_eq!(script.locks_per_heartbeat(), 4);
        let Step::Send(Op::Heartbeat(beat)) = script.step() else { panic!("a heartbeat") };
        assert_eq!(beat.leases.len(), 2);
        assert!(matches!(script.let_go(), Some(Op::CloseSession(_))));
        assert_eq!(script.let_go(), None);
    }
}
