//! The identities of clients, and the quota of each.
//!
//! In some runs identities are off. In the others some clients share an identity, and some have
//! none, as with a gateway that does not ask for identities yet.

use super::ask::What;
use crate::rng::Rng;
use gateway::core::Caller;
use locks::{Holdings, LockTable, Quota};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

const PRINCIPALS: [&str; 4] = ["ann", "bob", "spiffe://sim/job", "cy"];

/// An identity. The default one is that of a client without any: it may touch everything, and has
/// no quota.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity {
    principal: &'static str,
    quota: Quota,
}

/// The identities of a run.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    of_clients: BTreeMap<u32, Identity>,
    /// The client that asked for each acquire.
    askers: BTreeMap<u64, u32>,
}

impl Identities {
    /// Gives identities to clients `1..=count` and to the auditor, or to none of them.
    pub(crate) fn choose(rng: &mut Rng, count: u32, auditor: u32) -> Identities {
        let mut identities = Identities::default();
        if rng.percent(25) {
            return identities;
        }
        let all = PRINCIPALS.map(|principal| {
            let quota = match rng.percent(60) {
                true => Quota {
                    locks: rng.range(2, 6) as u32,
                    sessions: rng.range(1, 4) as u32,
                    waits: rng.range(0, 4) as u32,
                },
                false => Quota::default(),
            };
            Identity { principal, quota }
        });
        for client in 1..=count {
            let identity = if rng.percent(12) { Identity::default() } else { *rng.pick(&all) };
            identities.of_clients.insert(client, identity);
        }
        let of_auditor = Identity { principal: "auditor", quota: Quota::default() };
        identities.of_clients.insert(auditor, of_auditor);
        identities
    }

    fn of(&self, client: u32) -> Identity {
        self.of_clients.get(&client).copied().unwrap_or_default()
    }

    /// The principals of all clients with an identity.
    pub(crate) fn principals(&self) -> BTreeSet<&'static str> {
        let all = self.of_clients.values().map(|identity| identity.principal);
        all.filter(|principal| !principal.is_empty()).collect()
    }

    /// The principal of a client. Empty if it has no identity.
    pub(crate) fn principal(&self, client: u32) -> &'static str {
        self.of(client).principal
    }

    /// Notes which client asks for this acquire.
    pub(crate) fn note_asker(&mut self, client: u32, what: &What) {
        if let What::Acquire { request, .. } = what {
            self.askers.entry(*request).or_insert(client);
        }
    }

    /// The caller of a client's operations, as the gateway that proved its identity has it.
    pub(crate) fn caller(&self, client: u32) -> Caller {
        let Identity { principal, quota } = self.of(client);
        let Ok(principal) = principal.parse() else { return Caller::Anyone };
        let quota = access::Quota {
            locks_per_shard: NonZeroU32::new(quota.locks),
            sessions_per_shard: NonZeroU32::new(quota.sessions),
            waits_per_shard: NonZeroU32::new(quota.waits),
            ..access::Quota::default()
        };
        Caller::Client(Arc::new(access::Identity::unrestricted(principal, quota)))
    }

    /// Whether a client may not touch the grants, waits and sessions of another one.
    pub(crate) fn is_barred(&self, client: u32, owner: u32) -> bool {
        let (own, other) = (self.of(client).principal, self.of(owner).principal);
        !own.is_empty() && !other.is_empty() && own != other
    }

    /// Whether a client may not touch the grant of this request.
    pub(crate) fn is_barred_from(&self, client: u32, request: u64) -> bool {
        self.askers.get(&request).is_some_and(|owner| self.is_barred(client, *owner))
    }

    /// The quotas that a table exceeds, as it is.
    ///
    /// It counts the grants and waiters that the table shows, and does not use the table's own counts.
    pub(crate) fn exceeded<'a>(
        &'a self,
        table: &'a LockTable,
        names: impl Iterator<Item = &'a str>,
    ) -> Vec<(Identity, Holdings)> {
        let quotas: BTreeMap<&str, Identity> = (self.of_clients.values())
            .filter(|identity| identity.quota != Quota::default())
            .map(|identity| (identity.principal, *identity))
            .collect();
        let mut all: BTreeMap<&str, Holdings> = BTreeMap::new();
        let mut sessions: BTreeSet<(&str, String)> = BTreeSet::new();
        for grant in names.flat_map(|name| table.holders(name, locks::Stamp::default())) {
            let Some((principal, _)) = quotas.get_key_value(grant.principal.as_str()) else {
                continue;
            };
            let has = all.entry(principal).or_default();
            has.locks += 1;
            if !grant.session.is_empty() && sessions.insert((principal, grant.session)) {
                has.sessions += 1;
            }
        }
        for (_, request) in table.waiters() {
            let asker = self.askers.get(&(request.0 as u64)).copied().unwrap_or_default();
            all.entry(self.of(asker).principal).or_default().waits += 1;
        }
        let exceeds = |bound: u32, has: u32| bound > 0 && has > bound;
        all.into_iter()
            .filter_map(|(principal, has)| Some((*quotas.get(principal)?, has)))
            .filter(|(Identity { quota, .. }, has)| {
                exceeds(quota.locks, has.locks + has.waits)
                    || exceeds(quota.sessions, has.sessions)
                    || exceeds(quota.waits, has.waits)
            })
            .collect()
    }
}
