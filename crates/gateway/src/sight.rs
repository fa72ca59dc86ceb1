//! The part of a watch that its client may see, by the rights of its identity.
//!
//! | rights to the name or prefix | filter by session or owner | the client is told (own: of the identity itself) |
//! |---|---|---|
//! | `watch` and `read` | any | all that matches |
//! | `watch` alone | no | that something changed, and all own locks and waits |
//! | `watch` alone | yes | own locks and waits: more would tell the holder of a lock |
//! | neither, without name and prefix | yes, with `watch` on anything | own locks and waits |
//! | otherwise | any | nothing: the watch is denied |
//!
//! A name is read by its own rights, so that of a prefix some names can be told in full.

use crate::core::watch::Part;
use access::{Identity, Verb};
use std::sync::Arc;
use wire::v1::{Event, Grant, Waiter, WatchFilter};

/// The part of a watch that a client may see. The default is all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// `None` in a cluster without identities.
    identity: Option<Arc<Identity>>,
    /// Only the identity's own locks and waits.
    own: bool,
    /// All names of the filter may be read.
    reads: bool,
}

/// The name or the prefix of a filter.
pub(crate) fn scope(filter: &WatchFilter) -> &str {
    if filter.name.is_empty() { &filter.prefix } else { &filter.name }
}

impl Sight {
    /// The sight of an identity with this filter. `None` if it may not watch with it.
    pub(crate) fn of(identity: &Arc<Identity>, filter: &WatchFilter) -> Option<Sight> {
        let (rights, scope) = (&identity.rights, scope(filter));
        let narrowed = !filter.session_id.is_empty() || !filter.owner.is_empty();
        let watches = rights.permits(Verb::Watch, scope);
        let reads = rights.permits(Verb::Read, scope);
        let own_alone = scope.is_empty() && narrowed && rights.permits_any(Verb::Watch);
        if !watches && !own_alone {
            return None;
        }
        let own = !watches || (narrowed && !reads);
        Some(Sight { identity: Some(identity.clone()), own, reads })
    }

    /// Takes out of a part everything that the client may not see. Returns `false` if the part was
    /// of hidden events alone. Its client must not notice it: a position that moves would tell that,
    /// and when, something happened.
    pub(crate) fn show(&self, part: &mut Part) -> bool {
        let had_events = !part.events.is_empty();
        self.redact(part);
        part.state.is_some() || !part.events.is_empty() || !had_events
    }

    fn redact(&self, part: &mut Part) {
        let Some(identity) = &self.identity else { return };
        let principal = identity.principal.as_str();
        if self.own {
            part.events.retain(|event| principal_of(event) == principal);
            if let Some(state) = &mut part.state {
                state.held.retain(|grant| grant.principal == principal);
                state.queued.retain(|waiter| waiter.principal == principal);
            }
        }
        if self.reads {
            return;
        }
        let hidden = |name: &str| !identity.rights.permits(Verb::Read, name);
        for event in part.events.iter_mut().filter(|event| hidden(&event.resource_name)) {
            redact_event(event, principal);
        }
        let Some(state) = &mut part.state else { return };
        for grant in state.held.iter_mut().filter(|grant| hidden(&grant.resource_name)) {
            redact_grant(grant, principal);
        }
        for waiter in state.queued.iter_mut().filter(|waiter| hidden(&waiter.resource_name)) {
            redact_waiter(waiter, principal);
        }
    }
}

/// The identity with the hold or wait that an event is about.
fn principal_of(event: &Event) -> &str {
    let of_waiter = || event.waiter.as_ref().map_or("", |waiter| &waiter.principal);
    event.grant.as_ref().map_or_else(of_waiter, |grant| &grant.principal)
}

/// Leaves the kind of the change and the name of the lock.
fn redact_event(event: &mut Event, principal: &str) {
    event.reason.clear();
    event.broken_by.clear();
    event.broken_by_principal.clear();
    event.grant.iter_mut().for_each(|grant| redact_grant(grant, principal));
    event.waiter.iter_mut().for_each(|waiter| redact_waiter(waiter, principal));
}

fn redact_grant(grant: &mut Grant, principal: &str) {
    if grant.principal != principal {
        *grant = Grant {
            resource_name: std::mem::take(&mut grant.resource_name),
            state: grant.state,
            shard: grant.shard,
            mode: grant.mode,
            ..Grant::default()
        };
    }
}

fn redact_waiter(waiter: &mut Waiter, principal: &str) {
    if waiter.principal != principal {
        *waiter = Waiter {
            resource_name: std::mem::take(&mut waiter.resource_name),
            shard: waiter.shard,
            mode: waiter.mode,
            place: waiter.place,
            ..Waiter::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::WatchState;

    const POLICY: &str = r#"
roles: { both: { watch: ["a:"], read: ["a:1:"] }, all: { watch: [""], read: [""] } }
bindings: [{ identities: [both], roles: [both] }, { identities: [all], roles: [all] }]
"#;

    fn identity(name: &str) -> Arc<Identity> {
        let policy = access::Policy::parse(POLICY).unwrap();
        let principal: access::Principal = name.parse().unwrap();
        let unrestricted = Identity::unrestricted(principal.clone(), access::Quota::default());
        Arc::new(Identity { rights: policy.rights(&principal), ..unrestricted })
    }

    fn filter(prefix: &str, owner: &str) -> WatchFilter {
        WatchFilter { prefix: prefix.into(), owner: owner.into(), ..Default::default() }
    }

    fn grant(name: &str, principal: &str) -> Grant {
        Grant {
            resource_name: name.into(),
            principal: principal.into(),
            owner_id: "OWNER".into(),
            fencing_token: 77,
            ..Default::default()
        }
    }

    fn part() -> Part {
        let event = |name: &str, principal: &str| Event {
            resource_name: name.into(),
            grant: Some(grant(name, principal)),
            reason: "WHY".into(),
            broken_by_principal: "BREAKER".into(),
            ..Default::default()
        };
        let held = vec![grant("a:1:x", "bob"), grant("a:2:x", "bob"), grant("a:2:x", "both")];
        let waiter = |name: &str| Waiter {
            resource_name: name.into(),
            owner_id: "OWNER".into(),
            place: 3,
            ..Default::default()
        };
        let queued = vec![waiter("a:1:x"), waiter("a:2:x")];
        Part {
            state: Some(WatchState { held, queued, ..Default::default() }),
            events: vec![event("a:1:x", "bob"), event("a:2:x", "bob"), event("a:2:x", "both")],
            ..Part::default()
        }
    }

    #[test]
    fn who_may_read_everything_sees_everything() {
        let mut shown = part();
        Sight::of(&identity("all"), &filter("a:", "OWNER")).unwrap().show(&mut shown);
        assert_eq!(shown, part());
        Sight::default().show(&mut shown);
        assert_eq!(shown, part());
    }

    #[test]
    fn who_may_not_read_a_name_learns_nothing_of_others_there() {
        let mut shown = part();
        Sight::of(&identity("both"), &filter("a:", "")).unwrap().show(&mut shown);
        let [read, hidden, own] = &shown.events[..] else { panic!("{shown:?}") };
        assert_eq!(*read, part().events[0]);
        assert!(!format!("{hidden:?}").contains("OWNER"), "{hidden:?}");
        assert!(!format!("{hidden:?}").contains("77"), "{hidden:?}");
        assert_eq!(hidden.resource_name, "a:2:x");
        assert_eq!((own.grant.clone(), own.reason.as_str()), (part().events[2].grant.clone(), ""));
        assert_eq!(own.broken_by_principal, "");
        let state = shown.state.unwrap();
        assert_eq!((state.held[1].fencing_token, state.held[2].fencing_token), (0, 77));
        assert_eq!((state.queued[1].owner_id.as_str(), state.queued[1].place), ("", 3));
    }

    #[test]
    fn a_filter_by_owner_or_session_shows_own_locks_alone_to_who_may_not_read_all() {
        for of in [filter("a:", "OWNER"), filter("", "OWNER")] {
            let mut shown = part();
            let sight = Sight::of(&identity("both"), &of).unwrap();
            assert!(sight.show(&mut shown));
            assert_eq!(shown.events.len(), 1);
            assert_eq!((shown.state.as_ref().unwrap().held.len(), shown.events.len()), (1, 1));
            // Regression: an event of others moved the position that the client is told.
            let mut of_others = Part { state: None, ..part() };
            of_others.events.truncate(2);
            assert!(!sight.show(&mut of_others) && of_others.events.is_empty());
            assert!(sight.show(&mut Part::default()), "a place alone may be told");
        }
    }

    #[test]
    fn what_is_not_permitted_is_denied() {
        for (who, of) in [
            ("both", filter("", "")),
            ("both", filter("b:", "OWNER")),
            ("nobody", filter("", "OWNER")),
            ("nobody", filter("a:", "")),
        ] {
            assert!(Sight::of(&identity(who), &of).is_none(), "{who} {of:?}");
        }
    }
}
