//! The identities that certificates and tokens prove together, without a connection.

use super::*;
use crate::connection::Connection;
use access::{Tokens, new_token};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use net::certificate::Certificate as Shown;
use rcgen::SigningKey;
use routing::JwtConfig;
use tonic::codegen::http::HeaderValue;

const POLICY: &str = r#"
roles: { r: { hold: ["a:"] } }
bindings: [{ identities: ["spiffe://corp/*", bob], roles: [r] }]
revoked: [mallory, "sha256:0101010101010101010101010101010101010101010101010101010101010101"]
"#;

fn identities(policy: &str) -> (tempfile::TempDir, Identities) {
    with_keys(policy, None)
}

/// Identities with signed tokens by these keys of the issuer `i`.
fn with_keys(policy: &str, jwks: Option<&str>) -> (tempfile::TempDir, Identities) {
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
    let jwt = jwks.map(|jwks| JwtConfig {
        jwks: write("jwks", jwks),
        issuer: "i".into(),
        audience: "a".into(),
        clock_skew_s: 0,
        prefix: Some("jwt:".into()),
    });
    let config = AccessConfig { policy, tokens: Some(write("tokens", &tokens)), jwt };
    let opened = Identities::open(&config).unwrap();
    (dir, opened)
}

/// An issuer of signed tokens.
struct Issuer(rcgen::KeyPair);

impl Issuer {
    fn new() -> Issuer {
        Issuer(rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }

    fn jwks(&self) -> String {
        let x = BASE64.encode(self.0.public_key_raw());
        serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
    }

    fn token(&self, subject: &str) -> String {
        let claims = serde_json::json!({
            "iss": "i", "aud": "a", "sub": subject, "exp": now_s() + 3_600,
        });
        let part = |text: &str| BASE64.encode(text);
        let signed = format!("{}.{}", part(r#"{"alg":"EdDSA"}"#), part(&claims.to_string()));
        let signature = BASE64.encode(self.0.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}")
    }
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
    std::fs::write(
        dir.path().join("policy"),
        POLICY.replace("[mallory,", "[mallory, bob, jwt:bob,"),
    )
    .unwrap();
    identities.prove_again(&mut bob, 0, &audit, &metrics).expect("not seen yet");
    identities.reload(&audit, &metrics);
    let error = identities.prove_again(&mut bob, 0, &audit, &metrics).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    assert_eq!(metrics.sign_ins_failed.get(), 1);
}

/// A client at this address with the token of this name, by a connection of its own.
fn client(address: &str, name: &str) -> Visitor {
    shows(address, &token(name))
}

/// A client at this address with this token, by a connection of its own.
fn shows(address: &str, token: &str) -> Visitor {
    let header = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let proof = Proof { certificate: None, header: Some(header) };
    Visitor { remote: Some(address.parse().unwrap()), proof, ..Visitor::default() }
}

/// Regression: each wrong signed token cost the check of a signature, as often as a client liked.
#[test]
fn a_source_of_wrong_signed_tokens_is_refused_before_they_are_checked() {
    let (issuer, forger) = (Issuer::new(), Issuer::new());
    let (_dir, identities) = with_keys(POLICY, Some(&issuer.jwks()));
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let prove = |visitor: &mut Visitor, now_ms| {
        let proven = identities.prove_again(visitor, now_ms, &audit, &metrics);
        proven.map_err(|error| (error.code(), error.retry_after_ms))
    };
    for n in 0..100 {
        let _ = prove(&mut shows("10.0.0.1:2", &forger.token(&format!("guess {n}"))), 0);
    }
    assert_eq!((metrics.sign_ins_failed.get(), metrics.sign_ins_refused.get()), (20, 80));
    // A right token proves that it was not checked. It can come back in a moment.
    let (alice, busy) = (issuer.token("alice"), Err((ErrorCode::Busy, 100)));
    assert_eq!(prove(&mut shows("10.0.0.1:3", &alice), 0), busy);
    assert_eq!(prove(&mut shows("10.0.0.1:3", &alice), 100), Ok(()));
    assert_eq!(prove(&mut shows("10.0.0.2:3", &issuer.token("bob")), 0), Ok(()), "another source");
    assert_eq!(prove(&mut visitor(None, None), 0), Ok(()), "there is nothing to look at");
}

/// Regression: one client with wrong tokens behind a shared address locked all others there out.
#[test]
fn wrong_tokens_of_one_client_lock_out_no_other_at_its_address() {
    let (issuer, forger) = (Issuer::new(), Issuer::new());
    let (_dir, identities) = with_keys(POLICY, Some(&issuer.jwks()));
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let prove = |mut visitor: Visitor| {
        let proven = identities.prove_again(&mut visitor, 0, &audit, &metrics);
        proven.map_err(|error| error.code())
    };
    let (alice, late) = (issuer.token("alice"), issuer.token("late"));
    for n in 0..1_000 {
        assert!(prove(client("10.0.0.1:2", &format!("guess {n}"))).is_err());
    }
    assert_eq!(metrics.sign_ins_refused.get(), 0, "a look at a token of the file costs nothing");
    assert_eq!(prove(shows("10.0.0.1:3", &alice)), Ok(()), "nor do they count for signed ones");
    for n in 0..100 {
        assert!(prove(shows("10.0.0.1:2", &forger.token(&format!("guess {n}")))).is_err());
        assert!(prove(client("10.0.0.1:2", &format!("guess {n}"))).is_err());
        assert_eq!(prove(client("10.0.0.1:4", "bob")), Ok(()), "of the file, after {n}");
        assert_eq!(prove(shows("10.0.0.1:5", &alice)), Ok(()), "signed and known, after {n}");
    }
    assert_eq!(prove(shows("10.0.0.1:6", &late)), Err(ErrorCode::Busy), "signed and not known");
}

/// A policy that changes during a flood must not end the streams of clients at the same address.
#[test]
fn a_header_that_was_proven_is_not_refused_for_the_failures_of_others() {
    let (issuer, forger) = (Issuer::new(), Issuer::new());
    let (dir, identities) = with_keys(POLICY, Some(&issuer.jwks()));
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let prove = |visitor: &mut Visitor, now_ms| {
        let proven = identities.prove_again(visitor, now_ms, &audit, &metrics);
        proven.map_err(|error| error.code())
    };
    let mut open = shows("10.0.0.1:1", &issuer.token("bob"));
    prove(&mut open, 0).unwrap();
    let (connection, proof) = (open.connection.clone(), open.proof.clone());
    let next_call = || {
        let (connection, proof) = (connection.clone(), proof.clone());
        Visitor { connection, proof, ..client("10.0.0.1:1", "") }
    };
    for n in 0..30 {
        let _ = prove(&mut shows("10.0.0.1:2", &forger.token(&format!("guess {n}"))), 0);
    }
    let change = |policy: &str| {
        std::fs::write(dir.path().join("policy"), policy).unwrap();
        identities.reload(&audit, &metrics);
    };
    change(&POLICY.replace("a:", "b:"));
    assert_eq!((prove(&mut next_call(), 0), prove(&mut open.clone(), 0)), (Ok(()), Ok(())));
    change(&POLICY.replace("[mallory,", "[mallory, bob, jwt:bob,"));
    assert_eq!(prove(&mut open.clone(), 0), Err(ErrorCode::Unauthenticated));
    assert_eq!(prove(&mut next_call(), 0), Err(ErrorCode::Unauthenticated), "it is remembered");
    assert_eq!(prove(&mut next_call(), 1_000), Err(ErrorCode::Unauthenticated));
    change(POLICY);
    assert_eq!(prove(&mut next_call(), 1_000), Ok(()), "new files, and one more may fail by now");
}

#[test]
fn a_refused_header_is_remembered_by_its_connection_for_a_moment() {
    let (issuer, forged) = (Issuer::new(), Issuer::new().token("alice"));
    let (dir, identities) = with_keys(POLICY, Some(&issuer.jwks()));
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let prove = |visitor: &mut Visitor, now_ms| {
        let proven = identities.prove_again(visitor, now_ms, &audit, &metrics);
        proven.map_err(|error| error.code())
    };
    let connection = Arc::new(Connection::default());
    let again = |name| Visitor { connection: connection.clone(), ..client("10.0.0.1:1", name) };
    for _ in 0..1_000 {
        assert_eq!(prove(&mut again("guess"), 0), Err(ErrorCode::Unauthenticated));
    }
    assert_eq!(prove(&mut again("bob"), 0), Ok(()), "another header is looked at");
    let forged = Visitor { connection: connection.clone(), ..shows("10.0.0.1:1", &forged) };
    for _ in 0..1_000 {
        assert_eq!(prove(&mut forged.clone(), 0), Err(ErrorCode::Unauthenticated));
    }
    let signed = issuer.token("alice");
    assert_eq!(prove(&mut shows("10.0.0.1:2", &signed), 0), Ok(()), "it counted once");
    assert_eq!(prove(&mut again("guess"), 0), Err(ErrorCode::Unauthenticated));
    // By new tokens it is right, and its connection looks at it at once.
    let line =
        Tokens::line(&"carol".parse().unwrap(), &Digest::of(token("guess").as_bytes()), None);
    std::fs::write(dir.path().join("tokens"), line).unwrap();
    identities.reload(&audit, &metrics);
    assert_eq!(prove(&mut again("guess"), 0), Ok(()));
}

/// Regression: a certificate without a header was looked at again with each call.
#[test]
fn a_refused_certificate_is_remembered_by_its_connection_for_a_moment() {
    let (_dir, identities) = identities(POLICY);
    let revoked = visitor(Some(("spiffe://corp/alice", 1)), None);
    let first = identities.identify(&revoked, 0).unwrap_err();
    let remembered = || revoked.connection.refused.lock().unwrap().clone().unwrap();
    assert_eq!((remembered().header, remembered().at_ms), (None, 0));
    assert_eq!(identities.identify(&revoked, 999).unwrap_err(), first);
    assert_eq!(remembered().at_ms, 0, "it was not looked at again");
    assert_eq!(identities.identify(&revoked, 1_000).unwrap_err(), first);
    assert_eq!(remembered().at_ms, 1_000);
}

/// Regression: a certificate or an entry of the tokens file could be the identity of a signed
/// token.
#[test]
fn only_a_signed_token_proves_an_identity_with_the_prefix_of_signed_tokens() {
    let issuer = Issuer::new();
    let (dir, identities) = with_keys(POLICY, Some(&issuer.jwks()));
    let (audit, metrics) = (Audit::off(), Metrics::new([]).unwrap());
    let proven = identities.identify(&shows("10.0.0.1:1", &issuer.token("alice")), 0).unwrap();
    assert_eq!(proven.identity.principal.as_str(), "jwt:alice");
    let error = identities.identify(&visitor(Some(("jwt:alice", 2)), None), 0).unwrap_err();
    assert!(error.message.contains("only a signed token"), "{}", error.message);
    assert!(identities.identify(&visitor(Some(("jwt", 2)), None), 0).is_ok());
    let line = |name: &str| {
        Tokens::line(&name.parse().unwrap(), &Digest::of(token(name).as_bytes()), None)
    };
    let tokens = |text: String| {
        std::fs::write(dir.path().join("tokens"), text).unwrap();
        identities.reload(&audit, &metrics);
        metrics.access_refused.get()
    };
    assert_eq!(tokens(line("bob") + &line("jwt:alice")), 1, "the file is refused");
    assert_eq!(tokens(line("carol")), 1);
    assert!(identities.identify(&client("10.0.0.1:1", "carol"), 0).is_ok());
}
