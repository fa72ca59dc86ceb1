//! What certificates and tokens prove together, without a connection.

use super::*;
use crate::connection::Connection;
use access::{Tokens, new_token};
use net::certificate::Certificate as Shown;
use tonic::codegen::http::HeaderValue;

const POLICY: &str = r#"
roles: { r: { hold: ["a:"] } }
bindings: [{ identities: ["spiffe://corp/*", bob], roles: [r] }]
revoked: [mallory, "sha256:0101010101010101010101010101010101010101010101010101010101010101"]
"#;

fn identities(policy: &str) -> (tempfile::TempDir, Identities) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let line = |name: &str| {
        Tokens::line(&name.parse().unwrap(), &Digest::of(token(name).as_bytes()), None)
    };
    let (policy, tokens) = (write("policy", policy), line("bob") + &line("mallory"));
    let config = AccessConfig { policy, tokens: Some(write("tokens", &tokens)), jwt: None };
    let opened = Identities::open(&config).unwrap();
    (dir, opened)
}

fn token(name: &str) -> String {
    new_token(Digest::of(name.as_bytes()).0)
}

/// A visitor with a certificate of this URI and fingerprint, and the token of this name.
fn visitor(certificate: Option<(&str, u8)>, name: Option<&str>) -> Visitor {
    let certificate = certificate.map(|(uri, byte)| {
        Arc::new(Shown {
            uris: vec![uri.into()],
            dns_names: Vec::new(),
            common_name: Some("ignored".into()),
            not_before_s: 0,
            not_after_s: i64::MAX,
            fingerprint: [byte; 32],
        })
    });
    let header = name.map(|name| HeaderValue::try_from(format!("Bearer {}", token(name))).unwrap());
    Visitor { proof: Proof { certificate, header }, ..Visitor::default() }
}

#[test]
fn a_token_comes_before_the_certificate_and_what_is_revoked_proves_nothing() {
    let (_dir, identities) = identities(POLICY);
    let proven = |certificate, name| {
        let proven = identities.identify(&visitor(certificate, name), 0);
        proven.map(|proven| proven.identity.principal.to_string()).map_err(|error| error.message)
    };
    let alice = Some(("spiffe://corp/alice", 2));
    assert_eq!(proven(None, None).as_deref(), Ok("anonymous"));
    assert_eq!(proven(alice, None).as_deref(), Ok("spiffe://corp/alice"));
    assert_eq!(proven(alice, Some("bob")).as_deref(), Ok("bob"));
    let refused = |certificate, name, said: &str| {
        let error = proven(certificate, name).expect_err(said);
        assert!(error.contains(said), "{error}");
    };
    refused(None, Some("mallory"), "mallory is revoked");
    refused(None, Some("guess"), "not known");
    refused(Some(("mallory", 2)), None, "mallory is revoked");
    refused(Some(("mallory", 2)), Some("bob"), "mallory is revoked");
    refused(Some(("spiffe://corp/alice", 1)), Some("bob"), "certificate is revoked");
}

/// Regression: an identity outlived the certificate that proved it, as long as its connection.
#[test]
fn an_identity_ends_with_its_certificate_and_an_ended_certificate_proves_nothing() {
    let (_dir, identities) = identities(POLICY);
    let identify = |name, not_after_s| {
        let mut visitor = visitor(Some(("spiffe://corp/alice", 2)), name);
        let shown = visitor.proof.certificate.as_mut().unwrap();
        Arc::get_mut(shown).unwrap().not_after_s = not_after_s;
        identities.identify(&visitor, 0).map(|proven| proven.identity)
    };
    let end_s = now_s() + 1_000;
    for (name, principal) in [(None, "spiffe://corp/alice"), (Some("bob"), "bob")] {
        let identity = identify(name, end_s as i64).unwrap();
        assert_eq!(identity.principal.as_str(), principal);
        assert_eq!(identity.expires_at_s, Some(end_s + 1), "{principal}");
        let error = identify(name, now_s() as i64 - 1).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthenticated);
        assert!(error.message.contains("expired since"), "{error:?}");
    }
}

#[test]
fn a_connection_remembers_its_last_header_only() {
    let (_dir, identities) = identities(POLICY);
    let connection = Arc::new(Connection::default());
    let of = |name| Visitor { connection: connection.clone(), ..visitor(None, name) };
    let identify = |name| identities.identify(&of(name), 0).unwrap().identity;
    let (bob, again) = (identify(Some("bob")), identify(Some("bob")));
    assert!(Arc::ptr_eq(&bob, &again), "no look-up for the same header");
    assert!(identify(None).principal.is_anonymous(), "another call without it is nameless");
    assert!(identities.identify(&of(Some("guess")), 0).is_err());
    assert_eq!(identify(Some("bob")).principal.as_str(), "bob");
}

#[test]
fn new_files_end_what_a_connection_remembers() {
    let (dir, identities) = identities(POLICY);
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let mut bob = visitor(None, Some("bob"));
    identities.prove_again(&mut bob, 0, &audit, &metrics).unwrap();
    std::fs::write(dir.path().join("policy"), POLICY.replace("[mallory,", "[mallory, bob,"))
        .unwrap();
    identities.prove_again(&mut bob, 0, &audit, &metrics).expect("not seen yet");
    identities.reload(&audit, &metrics);
    let error = identities.prove_again(&mut bob, 0, &audit, &metrics).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    assert_eq!(metrics.sign_ins_failed.get(), 1);
}
