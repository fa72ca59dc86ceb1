//! Files of identities that people write, and the headers that clients send.

use access::{Jwks, Jwt, Policy, Principal, SignIn, Tokens, Verb};

/// Identities and names that are asked about.
const IDENTITIES: [&str; 4] = ["anonymous", "alice", "spiffe://corp/payments/1", "mallory"];
const NAMES: [&str; 4] = ["", "payment:1", "orders/7", "x"];

/// An accepted policy answers every question, with the same answer from an identity's rights and
/// from the explanation. A refused one says why.
pub(super) fn policy_yaml(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for identity in IDENTITIES {
        let identity: Principal = identity.parse().expect("an identity");
        let rights = policy.rights(&identity);
        for verb in Verb::ALL {
            for name in NAMES {
                let explained = policy.explain(&identity, verb, Some(name));
                let permitted = match verb.is_of_names() {
                    true => rights.permits(verb, name),
                    false => rights.permits_any(verb),
                };
                assert_eq!(explained.permitted, permitted, "{}", explained.why);
            }
        }
        assert!(!policy.revokes(&identity) || rights.is_nothing());
        let mut owner = String::new();
        rights.bind_owner(&mut owner).expect("an owner that is left out is filled in");
    }
    true
}

/// A tokens file is accepted or refused without showing a token. The same bytes are also tried as a
/// header and as a signed token, and prove nothing.
pub(super) fn tokens_yaml(bytes: &[u8]) -> bool {
    let now_s = 1_800_000_000;
    let keys = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let keys = Jwks::parse(keys).expect("the example of RFC 8037");
    let (issuer, audience) = ("i".to_owned(), "a".to_owned());
    let jwt = Jwt { keys, issuer, audience, clock_skew_s: 60, prefix: "jwt:".into() };
    let sign_in = SignIn { tokens: Some(Tokens::default()), jwt: Some(jwt) };
    sign_in.header(bytes, now_s).expect_err("no such token");
    sign_in.header(&[b"Bearer ", bytes].concat(), now_s).expect_err("no such token");
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let _ = Jwks::parse(text);
    match Tokens::parse(text) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.to_string().contains("plk_"), "{error}");
            false
        }
    }
}
