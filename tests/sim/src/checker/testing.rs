//! Histories written by hand, in milliseconds, for the tests of each invariant.

use super::*;
use std::ops::Range;

pub(super) struct Build {
    pub history: History,
    next_request: u64,
}

impl Build {
    pub fn new() -> Build {
        Build { history: History::default(), next_request: 1_000 }
    }

    fn push(
        &mut self,
        client: u32,
        name: &str,
        ms: (u64, Option<u64>),
        call: Call,
        result: Outcome,
    ) {
        self.history.operations.push(Operation {
            client,
            name: name.into(),
            shard: 0,
            invoke_us: ms.0 * 1_000,
            return_us: ms.1.map(|ms| ms * 1_000),
            tries: 1,
            call,
            result,
        });
    }

    pub(super) fn answered(
        &mut self,
        client: u32,
        name: &str,
        ms: Range<u64>,
        call: Call,
        result: Outcome,
    ) {
        self.push(client, name, (ms.start, Some(ms.end)), call, result);
    }

    fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn ask(request: u64, mode: Mode, ttl_ms: u32, wait_ms: u32, session: u64) -> Call {
        Call::Acquire { request, mode, ttl_ms, wait_ms, session }
    }

    pub fn acquire(&mut self, client: u32, name: &str, ms: Range<u64>, token: u64, ttl_ms: u32) {
        self.acquire_as(client, name, ms, token, ttl_ms, Mode::Exclusive);
    }

    pub fn acquire_as(
        &mut self,
        client: u32,
        name: &str,
        ms: Range<u64>,
        token: u64,
        ttl_ms: u32,
        mode: Mode,
    ) {
        let call = Self::ask(self.request(), mode, ttl_ms, 0, 0);
        self.answered(client, name, ms, call, Outcome::Granted { token, ttl_ms });
    }

    pub fn acquire_request(
        &mut self,
        client: u32,
        request: u64,
        name: &str,
        ms: Range<u64>,
        token: u64,
        ttl_ms: u32,
    ) {
        let call = Self::ask(request, Mode::Exclusive, ttl_ms, 0, 0);
        self.answered(client, name, ms, call, Outcome::Granted { token, ttl_ms });
    }

    pub fn acquire_waiting(
        &mut self,
        client: u32,
        name: &str,
        ms: Range<u64>,
        token: u64,
        ttl_ms: u32,
    ) {
        let call = Self::ask(self.request(), Mode::Exclusive, ttl_ms, 60_000, 0);
        self.answered(client, name, ms, call, Outcome::Granted { token, ttl_ms });
    }

    pub fn acquire_in_session(
        &mut self,
        client: u32,
        session: u64,
        name: &str,
        ms: Range<u64>,
        token: u64,
        ttl_ms: u32,
    ) {
        let call = Self::ask(self.request(), Mode::Exclusive, ttl_ms, 0, session);
        self.answered(client, name, ms, call, Outcome::Granted { token, ttl_ms });
    }

    pub fn acquire_unanswered(&mut self, client: u32, request: u64, name: &str, invoke_ms: u64) {
        let call = Self::ask(request, Mode::Exclusive, 1_000, 0, 0);
        self.push(client, name, (invoke_ms, None), call, Outcome::Unknown);
    }

    pub fn acquire_not_done(&mut self, client: u32, request: u64, name: &str, ms: Range<u64>) {
        let call = Self::ask(request, Mode::Exclusive, 1_000, 0, 0);
        self.answered(client, name, ms, call, Outcome::NotDone);
    }

    pub fn renew(&mut self, client: u32, name: &str, ms: Range<u64>, token: u64) {
        self.answered(client, name, ms, Call::Renew { token }, Outcome::Renewed);
    }

    pub fn renew_unanswered(&mut self, client: u32, name: &str, invoke_ms: u64, token: u64) {
        self.push(client, name, (invoke_ms, None), Call::Renew { token }, Outcome::Unknown);
    }

    pub fn release(&mut self, client: u32, name: &str, ms: Range<u64>, token: u64) {
        self.answered(
            client,
            name,
            ms,
            Call::Release { token },
            Outcome::Released { already: false },
        );
    }

    pub fn release_again(&mut self, client: u32, name: &str, ms: Range<u64>, token: u64) {
        self.answered(
            client,
            name,
            ms,
            Call::Release { token },
            Outcome::Released { already: true },
        );
    }

    pub fn release_unanswered(&mut self, client: u32, name: &str, invoke_ms: u64, token: u64) {
        self.push(client, name, (invoke_ms, None), Call::Release { token }, Outcome::Unknown);
    }

    pub fn break_hold(&mut self, client: u32, name: &str, ms: Range<u64>, token: u64) {
        self.answered(client, name, ms, Call::Break { token }, Outcome::Broken);
    }

    pub fn heartbeat(&mut self, client: u32, session: u64, ms: Range<u64>) {
        self.answered(client, "", ms, Call::Heartbeat { session }, Outcome::HeartbeatOk);
    }

    pub fn close(&mut self, client: u32, session: u64, ms: Range<u64>) {
        self.answered(client, "", ms, Call::CloseSession { session }, Outcome::Closed);
    }

    pub fn cancel(&mut self, client: u32, request: u64, name: &str, ms: Range<u64>, held: bool) {
        self.answered(client, name, ms, Call::CancelWait { request }, Outcome::Cancelled { held });
    }

    pub fn check(&mut self, client: u32, name: &str, ms: Range<u64>, tokens: &[u64]) {
        self.check_waiters(client, name, ms, tokens, 0);
    }

    pub fn check_waiters(
        &mut self,
        client: u32,
        name: &str,
        ms: Range<u64>,
        tokens: &[u64],
        waiters: u32,
    ) {
        let holders = tokens.iter().map(|&token| Holder { token, request: None }).collect();
        self.answered(
            client,
            name,
            ms,
            Call::Check { linearizable: true },
            Outcome::Holders { holders, waiters },
        );
    }

    pub fn check_requests(
        &mut self,
        client: u32,
        name: &str,
        ms: Range<u64>,
        holders: &[(u64, u64)],
    ) {
        let holders = holders
            .iter()
            .map(|&(token, request)| Holder { token, request: Some(request) })
            .collect();
        let result = Outcome::Holders { holders, waiters: 0 };
        self.answered(client, name, ms, Call::Check { linearizable: true }, result);
    }

    pub fn stale_check(&mut self, client: u32, name: &str, ms: Range<u64>, tokens: &[u64]) {
        let holders = tokens.iter().map(|&token| Holder { token, request: None }).collect();
        self.answered(
            client,
            name,
            ms,
            Call::Check { linearizable: false },
            Outcome::Holders { holders, waiters: 0 },
        );
    }

    pub fn tenure(&mut self, name: &str, token: u64, request: Option<u64>, end: Option<End>) {
        let tenure = TenureRecord { shard: 0, name: name.into(), token, request, end };
        self.history.tenures.get_or_insert_default().push(tenure);
    }

    fn found(&self) -> Vec<Violation> {
        let verdict = check(&self.history);
        assert!(verdict.undecided_names.is_empty(), "gave up on {:?}", verdict.undecided_names);
        verdict.violations
    }

    pub fn expect_fine(&self) {
        let found = self.found();
        assert!(found.is_empty(), "a legal history was refused: {found:#?}");
    }

    /// Expects a violation of this invariant, found by its own module.
    pub fn expect(&self, invariant: Invariant) {
        self.expect_among(invariant);
    }

    pub fn expect_among(&self, invariant: Invariant) {
        let found = self.found();
        assert!(
            found.iter().any(|v| v.invariant == invariant),
            "{invariant:?} was not found broken, but {found:#?}"
        );
    }
}
