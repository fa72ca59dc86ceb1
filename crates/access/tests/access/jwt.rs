//! Signed tokens, each wrong in one way.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use palisade_access::{Digest, Jwks, Jwt, JwtError, SignIn};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

const NOW_S: u64 = 1_800_000_000;

/// An issuer with one key.
struct Issuer {
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Issuer {
    fn ed25519(kid: &str) -> Issuer {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = BASE64.encode(pair.public_key());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid});
        Issuer { algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(pkcs8.as_ref()), jwk }
    }

    fn p256(kid: &str) -> Issuer {
        let (random, of) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(of, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(of, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig"});
        Issuer { algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk }
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn accepting(keys: &[&Value]) -> Jwt {
    Jwt {
        keys: Jwks::parse(&json!({"keys": keys}).to_string()).unwrap(),
        issuer: "https://issuer".into(),
        audience: "palisade".into(),
        clock_skew_s: 60,
        prefix: String::new(),
    }
}

fn claims() -> Value {
    json!({"iss": "https://issuer", "aud": "palisade", "sub": "alice", "exp": NOW_S + 600})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

#[test]
fn a_token_is_accepted_if_each_claim_is_right() {
    for issuer in [Issuer::ed25519("k1"), Issuer::p256("k1")] {
        let jwt = accepting(&[&issuer.jwk]);
        let of = |claims: Value| {
            let verified = jwt.verify(&issuer.sign(Some("k1"), &claims), NOW_S);
            verified.map(|(principal, expires_at_s)| (principal.to_string(), expires_at_s))
        };
        assert_eq!(of(claims()), Ok(("alice".into(), NOW_S + 660)));
        assert_eq!(of(with("aud", json!(["x", "palisade"]))), of(claims()));
        assert_eq!(of(with("nbf", json!(NOW_S + 60))), of(claims()), "the skew");
        for (key, value, refused) in [
            ("iss", json!("https://other"), JwtError::Issuer),
            ("iss", Value::Null, JwtError::Issuer),
            ("aud", json!("other"), JwtError::Audience),
            ("aud", json!([]), JwtError::Audience),
            ("aud", Value::Null, JwtError::Audience),
            ("exp", json!(NOW_S - 60), JwtError::Expired),
            ("exp", json!(-1), JwtError::Expired),
            ("exp", Value::Null, JwtError::NoExpiry),
            ("exp", json!((NOW_S + 600).to_string()), JwtError::Form),
            ("nbf", json!(NOW_S + 61), JwtError::NotYet),
            ("nbf", json!("0"), JwtError::Form),
            ("sub", json!("anonymous"), JwtError::Anonymous),
        ] {
            assert_eq!(of(with(key, value.clone())), Err(refused), "{key}: {value}");
        }
        assert!(matches!(of(with("sub", Value::Null)), Err(JwtError::Subject(_))));
        assert!(matches!(of(with("sub", json!("a\nb"))), Err(JwtError::Subject(_))));
    }
}

/// Regression: a token and a certificate of the same name were one identity, whatever signed them.
#[test]
fn with_a_prefix_no_subject_is_an_identity_of_another_kind() {
    let issuer = Issuer::ed25519("k1");
    let of = |prefix: &str, sub: &str| {
        let jwt = Jwt { prefix: prefix.into(), ..accepting(&[&issuer.jwk]) };
        let verified = jwt.verify(&issuer.sign(Some("k1"), &with("sub", json!(sub))), NOW_S);
        verified.map(|(principal, _)| principal.to_string())
    };
    assert_eq!(of("jwt:", "alice"), Ok("jwt:alice".into()));
    assert_eq!(of("jwt:", "anonymous"), Ok("jwt:anonymous".into()));
    assert_eq!(of("anony", "mous"), Err(JwtError::Anonymous));
    assert!(matches!(of("jwt:", ""), Err(JwtError::Subject(_))));
    assert!(matches!(of("jwt:", &"x".repeat(253)), Err(JwtError::Subject(_))));
}

#[test]
fn a_token_is_refused_unless_a_key_of_its_id_has_signed_it() {
    let (ours, other, theirs) = (Issuer::ed25519("k1"), Issuer::p256("k2"), Issuer::ed25519("k1"));
    let jwt = accepting(&[&ours.jwk, &other.jwk]);
    let verify = |token: &str| jwt.verify(token, NOW_S).map(|_| ());
    assert_eq!(verify(&ours.sign(None, &claims())), Ok(()), "without an id, all keys are tried");
    assert_eq!(verify(&other.sign(Some("k2"), &claims())), Ok(()));
    assert_eq!(verify(&ours.sign(Some("k2"), &claims())), Err(JwtError::Key));
    assert_eq!(verify(&theirs.sign(Some("k1"), &claims())), Err(JwtError::Signature));
    let token = ours.sign(Some("k1"), &claims());
    let parts: Vec<&str> = token.split('.').collect();
    let forged = BASE64.encode(with("sub", json!("bob")).to_string());
    let forged = [parts[0], &forged, parts[2]].join(".");
    assert_eq!(verify(&forged), Err(JwtError::Signature));
    for bad in ["", ".", "..", "a.b.c", &parts[..2].join("."), &format!("{token}.x")] {
        assert_eq!(verify(bad), Err(JwtError::Form), "{bad}");
    }
    let unsigned = BASE64.encode(r#"{"alg":"none"}"#);
    assert_eq!(verify(&[&unsigned, parts[1], ""].join(".")), Err(JwtError::Form));
}

/// The order of the curve P-256.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
    0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Makes the other valid signature of an ES256 token: instead of `s`, the curve's order less `s`.
/// This needs no key.
fn resigned(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64.decode(signature).unwrap();
    let mut borrow = 0;
    for (s, order) in signature[32..].iter_mut().zip(P256_ORDER).rev() {
        let difference = i16::from(order) - i16::from(*s) - borrow;
        borrow = i16::from(difference < 0);
        *s = difference.rem_euclid(256) as u8;
    }
    format!("{signed}.{}", BASE64.encode(signature))
}

#[test]
fn another_signature_of_a_token_does_not_evade_its_revocation() {
    let issuer = Issuer::p256("k1");
    let sign_in = SignIn { tokens: None, jwt: Some(accepting(&[&issuer.jwk])) };
    let digest = |token: &str| {
        let signed_in = sign_in.header(format!("Bearer {token}").as_bytes(), NOW_S);
        signed_in.expect("its signature is right").digest
    };
    let token = issuer.sign(Some("k1"), &claims());
    let resigned = resigned(&token);
    assert_ne!(token, resigned);
    assert_eq!(digest(&token), digest(&resigned));
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(digest(&token), Digest::of(signed.as_bytes()), "as the manual says");
    let later = issuer.sign(Some("k1"), &with("exp", json!(NOW_S + 601)));
    assert_ne!(digest(&token), digest(&later), "another token is not revoked with it");
}

#[test]
fn a_public_key_is_no_shared_secret() {
    // The classic confusion: the public key's bytes as the secret of an HMAC.
    let issuer = Issuer::ed25519("k1");
    let secret = BASE64.decode(issuer.jwk["x"].as_str().unwrap()).unwrap();
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(&secret);
    let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    let verified = accepting(&[&issuer.jwk]).verify(&token, NOW_S);
    assert_eq!(verified.map(|_| ()), Err(JwtError::Algorithm));
    // A file with a symmetric key is of no use.
    let shared = json!({"keys": [{"kty": "oct", "k": BASE64.encode("secret"), "alg": "HS256"}]});
    let error = Jwks::parse(&shared.to_string()).unwrap_err().to_string();
    assert!(error.starts_with("it has no key that can be used"), "{error}");
    assert!(Jwks::parse("[]").is_err() && Jwks::parse("{").is_err());
}

#[test]
fn rs256_is_checked_with_the_example_of_rfc_7515() {
    let key = json!({"kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0",
        "Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS",
        "5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH",
        "7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    )});
    let token = concat!(
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLm",
        "NvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AA",
        "uHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75",
        "vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6Bf",
        "I7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe7",
        "7Rw",
    );
    let jwt = Jwt { issuer: "joe".into(), ..accepting(&[&key]) };
    // The signature is right, and the example has no audience.
    assert_eq!(jwt.verify(token, 0).map(|_| ()), Err(JwtError::Audience));
    let broken = token.replace("7Rw", "7RA");
    assert_eq!(jwt.verify(&broken, 0).map(|_| ()), Err(JwtError::Signature));
}
