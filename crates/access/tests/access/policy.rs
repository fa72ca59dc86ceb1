//! The policy file: what it permits, why, and the problems that it is refused for.

use palisade_access::{Digest, Policy, Principal, Verb};
use proptest::prelude::*;

const POLICY: &str = r#"
roles:
  payments: { hold: ["payment:"], read: ["payment:"], watch: ["payment:"] }
  reader: { read: [""] }
  operator: { observe: true, operate: true, break: [""], read: [""] }
  empty: {}
bindings:
  - { identities: ["spiffe://corp/payments/*", "alice"], roles: [payments], owner: "{identity}", quota: batch }
  - { identities: ["alice"], roles: [reader], owner: "x/{identity}/*" }
  - { identities: ["oscar"], roles: [operator] }
  - { identities: ["dave"], roles: [reader], owner: "team/{identity}/*" }
  - { identities: ["eve"], roles: [empty] }
  - { identities: ["*"], roles: [reader], quota: batch }
quotas:
  default: { operations_per_second: 50000 }
  batch: { operations_per_second: 10, burst: 20, locks_per_shard: 3, waits: 2 }
revoked: ["mallory", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
"#;

fn principal(name: &str) -> Principal {
    name.parse().unwrap()
}

#[test]
fn what_no_rule_permits_is_denied() {
    let policy = Policy::parse(POLICY).unwrap();
    for (who, verb, name, permitted) in [
        ("alice", Verb::Hold, "payment:1", true),
        ("alice", Verb::Hold, "payment:", true),
        ("alice", Verb::Hold, "payment", false),
        ("alice", Verb::Hold, "orders:1", false),
        ("alice", Verb::Read, "orders:1", true),
        ("alice", Verb::Break, "payment:1", false),
        ("spiffe://corp/payments/w1", Verb::Watch, "payment:1", true),
        ("spiffe://corp/paymentsx", Verb::Hold, "payment:1", false),
        ("oscar", Verb::Break, "anything", true),
        ("oscar", Verb::Hold, "anything", false),
        ("mallory", Verb::Read, "payment:1", false),
        ("anonymous", Verb::Read, "payment:1", false),
    ] {
        let who = principal(who);
        let answer = policy.explain(&who, verb, Some(name));
        assert_eq!(answer.permitted, permitted, "{who} {verb} {name}: {}", answer.why);
        assert_eq!(policy.rights(&who).permits(verb, name), permitted, "{who} {verb} {name}");
    }
    let oscar = policy.rights(&principal("oscar"));
    assert!(oscar.permits_any(Verb::Observe) && oscar.permits_any(Verb::Operate));
    assert!(!oscar.permits_any(Verb::Hold) && !oscar.permits(Verb::Observe, "x"));
    assert!(policy.rights(&principal("mallory")).is_nothing());
    assert!(policy.rights(&Principal::anonymous()).is_nothing());
    assert!(policy.revokes_digest(&Digest::of(b"")) && !policy.revokes_digest(&Digest::of(b"x")));
    assert!(Policy::parse("roles: {}").unwrap().rights(&principal("alice")).is_nothing());
}

#[test]
fn an_answer_names_its_rule_or_what_is_missing() {
    let policy = Policy::parse(POLICY).unwrap();
    let why = |who, verb, name| policy.explain(&principal(who), verb, name).why;
    assert_eq!(
        why("spiffe://corp/payments/w1", Verb::Hold, Some("payment:1")),
        "binding 1 (spiffe://corp/payments/*) gives role payments, which may hold names that begin \
         with \"payment:\""
    );
    assert_eq!(
        why("oscar", Verb::Break, Some("x")),
        "binding 3 (oscar) gives role operator, which may break all names"
    );
    assert_eq!(
        why("alice", Verb::Hold, Some("orders:1")),
        "the roles of alice (payments, reader) may hold only names that begin with one of: payment:"
    );
    assert_eq!(why("dave", Verb::Hold, None), "no role of dave (reader) may hold anything");
    assert_eq!(why("anonymous", Verb::Read, None), "no binding with a role matches anonymous");
    assert_eq!(why("mallory", Verb::Read, None), "mallory is revoked, by \"mallory\"");
}

#[test]
fn the_first_binding_with_an_owner_or_a_quota_counts() {
    let policy = Policy::parse(POLICY).unwrap();
    let rights = |who| policy.rights(&principal(who));
    let bound = |who, owner: &str| {
        let mut owner = owner.to_owned();
        rights(who).bind_owner(&mut owner).map(|()| owner)
    };
    assert_eq!(bound("alice", ""), Ok("alice".into()));
    assert_eq!(bound("alice", "alice"), Ok("alice".into()));
    assert_eq!(bound("alice", "bob"), Err("alice".into()));
    assert_eq!(bound("dave", ""), Ok("team/dave/".into()));
    assert_eq!(bound("dave", "team/dave/host:1"), Ok("team/dave/host:1".into()));
    assert_eq!(bound("dave", "team/eve"), Err("team/dave/…".into()));
    assert_eq!(bound("oscar", "me"), Ok("me".into()));
    let per_second = |who| rights(who).quota().operations_per_second.map(u32::from);
    assert_eq!((per_second("alice"), per_second("someone")), (Some(10), Some(10)));
    assert_eq!(per_second("anonymous"), Some(50_000));
    assert_eq!(rights("alice").quota().streams, None, "a missing key is no bound");
}

#[test]
fn a_file_that_is_wrong_says_how_to_mend_it() {
    for (yaml, said) in [
        ("", "it is empty"),
        ("# nothing yet", "it is empty"),
        ("rols: {}", "did you mean `roles`?"),
        ("roles: { a: { hodl: [] } }", "did you mean `hold`?"),
        ("roles: { a: { hold: [pay] } }", "roles.a.hold: the prefix \"pay\" does not end at"),
        ("roles: { a: {}, a: {} }", "duplicate entry with key \"a\""),
        ("bindings: [{ identities: [x] }]", "missing field `roles`"),
        (
            "roles: { reader: {} }\nbindings: [{ identities: [x], roles: [raeder] }]",
            "binding 1: there is no role \"raeder\": did you mean `reader`?",
        ),
        (
            "bindings: [{ identities: [x], roles: [], quota: q }]",
            "binding 1: there is no quota \"q\": add it under quotas",
        ),
        ("bindings: [{ identities: ['a*b'], roles: [] }]", "has a `*` before its end"),
        ("bindings: [{ identities: [''], roles: [] }]", "the identity is empty"),
        (
            "bindings: [{ identities: [a], roles: [], owner: me }]",
            "the owner \"me\" is not a text with one {identity} in it",
        ),
        (
            "bindings: [{ identities: [a], roles: [], owner: '*/{identity}' }]",
            "has a `*` before its end",
        ),
        (
            "bindings: [{ identities: [a], roles: [], owner: '{identity}*' }]",
            "has no separator after {identity}",
        ),
        ("quotas: { default: { waits: 0 } }", "expected a nonzero u32"),
        ("quotas: { default: { burst: 5 } }", "quotas.default: burst needs operations_per_second"),
        ("revoked: ['sha256:12']", "a SHA-256 digest has 64 hex digits"),
        ("- x", "invalid type: sequence"),
    ] {
        let error = Policy::parse(yaml).expect_err(yaml).to_string();
        assert!(error.contains(said), "{yaml}: {error}");
    }
    let two = Policy::parse("roles: { a: { hold: [x], read: [y] } }").unwrap_err().to_string();
    assert_eq!(two.lines().count(), 2, "all problems at once: {two}");
}

/// Regression: by `{identity}*`, `bob` could write the owner of `bobby`.
#[test]
fn no_identity_writes_the_owner_of_another_that_begins_with_it() {
    let bound = |template: &str, owner: &str| {
        let policy = format!("bindings: [{{ identities: ['*'], roles: [], owner: '{template}' }}]");
        let policy = Policy::parse(&policy).ok()?;
        let mut owner = owner.to_owned();
        policy.rights(&principal("bob")).bind_owner(&mut owner).ok()
    };
    for template in ["{identity}", "{identity}*", "{identity}2/*", "{identity}/*", "{identity}:x*"]
    {
        assert_eq!(bound(template, "bobby"), None, "{template}");
        assert_eq!(bound(template, "bob2/x"), None, "{template}");
    }
    assert_eq!(bound("{identity}/*", "bob/2"), Some(()));
    assert_eq!(bound("on-{identity}.x*", "on-bob.x2"), Some(()));
}

proptest! {
    /// The rights that an identity carries, and the explanation, agree on every question.
    #[test]
    fn rights_and_explanation_agree(
        who in "[a-c]{1,2}",
        name in "[a-b:]{0,4}",
        prefixes in prop::collection::vec("[a-b]{0,2}:", 0..4),
        bound in prop::collection::vec("[a-c]{1,2}\\*?", 0..4),
    ) {
        let policy = format!(
            "roles: {{ r: {{ hold: {prefixes:?} }} }}\nbindings: [{{ identities: {bound:?}, roles: [r] }}]"
        );
        let (policy, who) = (Policy::parse(&policy).unwrap(), principal(&who));
        for verb in [Verb::Hold, Verb::Read] {
            let explained = policy.explain(&who, verb, Some(&name)).permitted;
            prop_assert_eq!(policy.rights(&who).permits(verb, &name), explained);
            let any = policy.explain(&who, verb, None).permitted;
            prop_assert_eq!(policy.rights(&who).permits_any(verb), any);
            prop_assert!(any || !explained);
        }
    }
}
