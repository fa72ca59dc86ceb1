//! A history sorted for the checker's modules: operations by name, grants as holds with their safe
//! intervals.
//!
//! A hold's **safe interval** begins at the return of its acquire. It ends at the earliest of two
//! times:
//!
//! - the invocation of any operation that may have ended the hold (release, break, close of its
//!   session);
//! - the invocation of the last acknowledged acquire, renewal or heartbeat, plus the TTL.
//!
//! The holder may rely on the lock within this interval.

use super::history::*;
use std::collections::BTreeMap;

/// One acknowledged grant.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The acquire, as a place in the history.
    pub operation: usize,
    /// The fencing token of the grant.
    pub token: u64,
    /// The request id of the acquire.
    pub request: u64,
    /// The mode of the lock.
    pub mode: Mode,
    /// The session of the grant. 0 stands for a private lease.
    pub session: u64,
    /// The first invocation of any try of this request.
    pub invoke_us: u64,
    /// The start of the safe interval: the first return.
    pub start_us: u64,
    /// The end of the safe interval. It may lie before the start.
    pub end_us: u64,
    /// The earliest invocation of any operation that may end the hold on purpose. `u64::MAX` if
    /// there is none.
    pub let_go_us: u64,
    /// The earliest return of an answer saying that the hold has ended on purpose. `u64::MAX` if
    /// there is none.
    pub gone_by_us: u64,
}

/// The operations on one name, by invocation.
#[derive(Debug, Default)]
pub struct NameOperations {
    /// All operations, as places in the history.
    pub all: Vec<usize>,
    /// The acknowledged grants, by token, each token once.
    pub holds: Vec<Hold>,
}

impl NameOperations {
    /// Finds the grant of this token.
    pub fn hold(&self, token: u64) -> Option<&Hold> {
        self.holds.binary_search_by_key(&token, |hold| hold.token).ok().map(|at| &self.holds[at])
    }
}

/// A history with its operations by name, by session and by request.
pub struct Index<'a> {
    /// The history that this index describes.
    pub history: &'a History,
    /// The operations on each name, by (shard, name).
    pub names: BTreeMap<(u32, &'a str), NameOperations>,
    /// The operations on each session, by (shard, session), in order of invocation.
    pub sessions: BTreeMap<(u32, u64), Vec<usize>>,
    /// The acquires of each request id, in order of invocation.
    pub requests: BTreeMap<u64, Vec<usize>>,
}

impl<'a> Index<'a> {
    /// Sorts a history by name, session and request.
    pub fn new(history: &'a History) -> Index<'a> {
        let mut order: Vec<usize> = (0..history.operations.len()).collect();
        order.sort_by_key(|&at| history.operations[at].invoke_us);
        let mut index = Index {
            history,
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        for at in order {
            let operation = &history.operations[at];
            match operation.call {
                Call::Heartbeat { session } | Call::CloseSession { session } => {
                    index.sessions.entry((operation.shard, session)).or_default().push(at);
                    continue;
                }
                Call::Acquire { request, session, .. } => {
                    index.requests.entry(request).or_default().push(at);
                    if session != 0 {
                        index.sessions.entry((operation.shard, session)).or_default().push(at);
                    }
                }
                _ => {}
            }
            index.names.entry((operation.shard, operation.name.as_str())).or_default().all.push(at);
        }
        let keys: Vec<(u32, &str)> = index.names.keys().copied().collect();
        for key in keys {
            let holds = index.holds(key.0, &index.names[&key].all);
            index.names.get_mut(&key).expect("listed").holds = holds;
        }
        index
    }

    /// The operation at a place of the history.
    pub fn operation(&self, at: usize) -> &'a Operation {
        &self.history.operations[at]
    }

    /// The first invocation with this request id.
    pub fn first_invoke_us(&self, request: u64) -> u64 {
        self.requests
            .get(&request)
            .and_then(|all| all.first())
            .map_or(0, |&at| self.operation(at).invoke_us)
    }

    fn holds(&self, shard: u32, all: &[usize]) -> Vec<Hold> {
        let mut holds: BTreeMap<(u64, u64), Hold> = BTreeMap::new();
        for &at in all {
            let operation = self.operation(at);
            let (
                &Call::Acquire { request, mode, session, .. },
                &Outcome::Granted { token, ttl_ms },
                Some(start_us),
            ) = (&operation.call, &operation.result, operation.return_us)
            else {
                continue;
            };
            let invoke_us = self.first_invoke_us(request);
            let lease_us = match session {
                0 => invoke_us,
                session => self.session_alive_us(shard, session),
            };
            let hold = holds.entry((token, request)).or_insert(Hold {
                operation: at,
                token,
                request,
                mode,
                session,
                invoke_us,
                start_us,
                end_us: lease_us + self.history.bounds.shortest_us(ttl_ms),
                let_go_us: u64::MAX,
                gone_by_us: u64::MAX,
            });
            hold.start_us = hold.start_us.min(start_us);
        }
        for &at in all {
            let operation = self.operation(at);
            let (Call::Renew { token } | Call::Release { token } | Call::Break { token }) =
                operation.call
            else {
                continue;
            };
            for (_, hold) in holds.range_mut((token, 0)..=(token, u64::MAX)) {
                if matches!(operation.call, Call::Renew { .. }) {
                    if operation.result == Outcome::Renewed
                        && let Call::Acquire { ttl_ms: asked_ms, session, .. } =
                            self.operation(hold.operation).call
                        && let Outcome::Granted { ttl_ms, .. } =
                            self.operation(hold.operation).result
                    {
                        // A claimed grant has the TTL that its acquire asked for, from the claim
                        // on.
                        let ttl_ms = if session == 0 { asked_ms.max(ttl_ms) } else { ttl_ms };
                        let until_us =
                            operation.invoke_us + self.history.bounds.shortest_us(ttl_ms);
                        hold.end_us = hold.end_us.max(until_us);
                    }
                    continue;
                }
                hold.let_go_us = hold.let_go_us.min(operation.invoke_us);
                if matches!(operation.result, Outcome::Released { .. } | Outcome::Broken) {
                    hold.gone_by_us = hold.gone_by_us.min(operation.return_us.unwrap_or(u64::MAX));
                }
            }
        }
        let mut holds: Vec<Hold> = holds.into_values().collect();
        for hold in &mut holds {
            if hold.session != 0 {
                self.close(shard, hold);
            }
            hold.end_us = hold.end_us.min(hold.let_go_us);
        }
        holds
    }

    fn close(&self, shard: u32, hold: &mut Hold) {
        for &at in self.sessions.get(&(shard, hold.session)).into_iter().flatten() {
            let operation = self.operation(at);
            if matches!(operation.call, Call::CloseSession { .. })
                && operation.return_us.is_none_or(|us| us > hold.invoke_us)
            {
                hold.let_go_us = hold.let_go_us.min(operation.invoke_us);
                if operation.result == Outcome::Closed && operation.invoke_us >= hold.start_us {
                    hold.gone_by_us = hold.gone_by_us.min(operation.return_us.unwrap_or(u64::MAX));
                }
            }
        }
    }

    /// The last time at which the session's lease on this shard was known to start anew. It is the
    /// invocation of the last acknowledged heartbeat, or of the first acquire that may have begun
    /// the session.
    fn session_alive_us(&self, shard: u32, session: u64) -> u64 {
        let mut first = None;
        let mut last = 0;
        for &at in self.sessions.get(&(shard, session)).into_iter().flatten() {
            let operation = self.operation(at);
            match (&operation.call, &operation.result) {
                (Call::Heartbeat { .. }, Outcome::HeartbeatOk) => last = operation.invoke_us,
                (Call::Acquire { .. }, Outcome::NotDone) => {}
                (Call::Acquire { .. }, _) => {
                    first.get_or_insert(operation.invoke_us);
                }
                _ => {}
            }
        }
        last.max(first.unwrap_or(0))
    }
}
