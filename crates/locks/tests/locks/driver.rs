//! A table with a clock, and shorthand for its commands.

use palisade_locks::*;

pub struct Driver {
    pub table: LockTable,
    pub at: Stamp,
    /// The identity that asks. At first there is none.
    pub caller: Caller<'static>,
    /// Side effects of the last command.
    pub effects: Effects,
}

/// An acquire in exclusive mode, with a private lease and without waiting. The methods change that.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub id: u128,
    pub name: &'a str,
    pub owner: &'a str,
    pub ttl_ms: u32,
    pub mode: Mode,
    pub wait: bool,
    pub session: &'a str,
    pub claim_ttl_ms: u32,
}

pub fn ask(id: u128, name: &str) -> Ask<'_> {
    Ask {
        id,
        name,
        owner: "ann",
        ttl_ms: 5_000,
        mode: Mode::Exclusive,
        wait: false,
        session: "",
        claim_ttl_ms: 0,
    }
}

impl<'a> Ask<'a> {
    pub fn wait(self) -> Self {
        Ask { wait: true, ..self }
    }
    pub fn shared(self) -> Self {
        Ask { mode: Mode::Shared, ..self }
    }
    pub fn permits(self, count: u32, limit: u32) -> Self {
        Ask { mode: Mode::Permits { count, limit }, ..self }
    }
    pub fn session(self, session: &'a str) -> Self {
        Ask { session, ..self }
    }
    pub fn owner(self, owner: &'a str) -> Self {
        Ask { owner, ..self }
    }
    pub fn ttl(self, ttl_ms: u32) -> Self {
        Ask { ttl_ms, ..self }
    }
    pub fn claim(self, claim_ttl_ms: u32) -> Self {
        Ask { claim_ttl_ms, ..self }
    }
    pub fn command(self) -> Command<'a> {
        Command::Acquire {
            request_id: RequestId(self.id),
            name: self.name,
            owner: self.owner,
            ttl_ms: self.ttl_ms,
            mode: self.mode,
            wait: self.wait,
            session: self.session,
            metadata: "",
            claim_ttl_ms: self.claim_ttl_ms,
        }
    }
}

impl Driver {
    pub fn new() -> Self {
        let at = Stamp { wall_ms: 1_700_000_000_000, shard_ms: 1_000 };
        Driver {
            table: LockTable::new(),
            at,
            caller: Caller::default(),
            effects: Effects::default(),
        }
    }

    /// From now on events are made.
    pub fn watch(&mut self) {
        self.effects.watched = true;
    }

    /// From now on this identity asks, without a quota.
    pub fn by(&mut self, principal: &'static str) -> &mut Self {
        self.caller = Caller::of(principal);
        self
    }

    /// From now on the present identity has this quota.
    pub fn quota(&mut self, locks: u32, sessions: u32, waits: u32) {
        self.caller.quota = Quota { locks, sessions, waits };
    }

    pub fn pass(&mut self, ms: u64) {
        self.at.wall_ms += ms;
        self.at.shard_ms += ms;
    }

    pub fn apply(&mut self, command: Command<'_>) -> Outcome {
        self.effects = Effects { watched: self.effects.watched, ..Effects::default() };
        self.table.apply_as(self.at, self.caller, &command, &mut self.effects)
    }

    /// The refusal of a leader that is asked for this command.
    pub fn over_quota(&self, command: Command<'_>) -> Option<Outcome> {
        let mut bytes = Vec::new();
        command.encode_as(self.caller, &mut bytes);
        self.table.over_quota(&bytes, self.at.shard_ms)
    }

    pub fn acquire(&mut self, ask: Ask<'_>) -> Outcome {
        self.apply(ask.command())
    }

    /// Acquires a lock that must be free.
    pub fn hold(&mut self, ask: Ask<'_>) -> Grant {
        match self.acquire(ask) {
            Outcome::Granted(grant) => grant,
            other => panic!("{} was to be free: {other:?}", ask.name),
        }
    }

    /// Queues for a lock that must be held. Returns the length of the queue after that.
    pub fn queue(&mut self, ask: Ask<'_>) -> u32 {
        match self.acquire(ask.wait()) {
            Outcome::Queued => self.table.queue_len(ask.name),
            other => panic!("{} was to be held: {other:?}", ask.name),
        }
    }

    /// Releases in the name of no session.
    pub fn release(&mut self, name: &str, token: u64) -> Outcome {
        self.release_by(0, name, token)
    }

    pub fn release_by(&mut self, life: u64, name: &str, token: u64) -> Outcome {
        self.apply(Command::Release { name, token: Token(token), by: Some(LeaseId(life)) })
    }

    pub fn renew(&mut self, name: &str, token: u64) -> Outcome {
        self.apply(Command::Renew { name, token: Token(token) })
    }

    pub fn expire(&mut self, lease: LeaseId, renewal_seq: u64) -> Outcome {
        self.apply(Command::ExpireLease { lease, renewal_seq })
    }

    pub fn close(&mut self, session: &str) -> Outcome {
        self.apply(Command::CloseSession { session })
    }

    /// Renews the session in any of its lives.
    pub fn heartbeat(&mut self, session: &str) -> Outcome {
        self.beat(session, 0, 0)
    }

    pub fn beat(&mut self, session: &str, life: u64, broken_seen: u64) -> Outcome {
        self.apply(Command::Heartbeat { session, life: LeaseId(life), broken_seen })
    }

    /// Cancels as a client does: it has given its acquire up.
    pub fn cancel(&mut self, id: u128, name: &str) -> Outcome {
        self.apply(Command::CancelWait { name, request_id: RequestId(id), given_up: true })
    }

    /// Cancels as a leader or a gateway does when no client awaits the acquire any more.
    pub fn leave(&mut self, id: u128, name: &str) -> Outcome {
        self.apply(Command::CancelWait { name, request_id: RequestId(id), given_up: false })
    }

    pub fn holders(&self, name: &str) -> Vec<Grant> {
        self.table.holders(name, self.at)
    }

    pub fn break_hold(&mut self, name: &str, token: u64) -> Outcome {
        self.apply(Command::Break { name, token: Token(token), by: "root", reason: "stuck" })
    }

    /// Request ids of the waiters that the last command granted a lock.
    pub fn handed(&self) -> Vec<u128> {
        self.effects.granted.iter().map(|grant| grant.request_id.0).collect()
    }

    pub fn dropped(&self) -> Vec<(u128, DropReason)> {
        self.effects.dropped.iter().map(|(id, why)| (id.0, *why)).collect()
    }

    pub fn tokens(&self, name: &str) -> Vec<u64> {
        self.holders(name).iter().map(|grant| grant.token.0).collect()
    }
}
