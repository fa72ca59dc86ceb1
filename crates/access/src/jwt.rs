//! Signed bearer tokens (JWT), checked with the public keys of one issuer.
//!
//! `jsonwebtoken` checks signatures only. The claims are checked here, because time is an argument,
//! and because each claim has exactly one accepted type.

use crate::principal::{Principal, PrincipalError};
use crate::yaml::FileError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use std::fmt;

/// The public keys of an issuer.
#[derive(Clone)]
pub struct Jwks {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("keys", &self.keys.len()).finish()
    }
}

/// Which signed tokens are accepted.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// The keys that may have signed a token.
    pub keys: Jwks,
    /// The `iss` that a token must have.
    pub issuer: String,
    /// The `aud` that a token must have.
    pub audience: String,
    /// How far the issuer's clock may be off, in seconds.
    pub clock_skew_s: u64,
    /// Stands before each subject (`sub`) in the identity, so that no issuer can name an identity
    /// of a certificate or of the tokens file. It may be empty.
    pub prefix: String,
}

/// A signed token that is refused. No variant shows the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is not three parts of base64 with JSON in them.
    #[error("it has another form")]
    Form,
    /// It is signed with an algorithm that is not accepted.
    #[error("its algorithm is not RS256, ES256 or EdDSA")]
    Algorithm,
    /// No key fits.
    #[error("no key of the issuer has its key id and algorithm")]
    Key,
    /// Its signature was not checked, because the caller did not permit it.
    #[error("its signature was not checked")]
    NotChecked,
    /// No key has made its signature.
    #[error("its signature is wrong")]
    Signature,
    /// It is of another issuer.
    #[error("its issuer (iss) is another")]
    Issuer,
    /// It is for another service.
    #[error("its audience (aud) is another")]
    Audience,
    /// It has no end.
    #[error("it has no expiry (exp)")]
    NoExpiry,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet (nbf)")]
    NotYet,
    /// It names no identity.
    #[error("its subject (sub) is no identity: {0}")]
    Subject(PrincipalError),
    /// It names the identity of clients that have none.
    #[error("its subject (sub) is `anonymous`, which no token can prove")]
    Anonymous,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Jwks {
    /// Reads a JSON Web Key Set. Keys of other kinds, or for encryption, are left out.
    ///
    /// # Errors
    /// If it is no key set, or if no key is left.
    pub fn parse(json: &str) -> Result<Jwks, FileError> {
        let set: KeySet = serde_json::from_str(json).map_err(|error| {
            // Only the place, because the message may quote a private key.
            FileError::one(format!(
                "it is no JSON Web Key Set, `{{\"keys\": […]}}` (line {} column {})",
                error.line(),
                error.column()
            ))
        })?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::of).collect();
        if keys.is_empty() {
            return Err(FileError::one(
                "it has no key that can be used: an RSA key, a P-256 key or an Ed25519 key for \
                 signatures",
            ));
        }
        Ok(Jwks { keys })
    }
}

impl Key {
    fn of(value: serde_json::Value) -> Option<Key> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            // A symmetric key would let every reader of the file sign tokens.
            _ => return None,
        };
        let is_for = |named: String| named == format!("{algorithm:?}");
        let named = jwk.common.key_algorithm.map(|named| named.to_string());
        let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if !named.is_none_or(is_for) || !signs {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Key { id: jwk.common.key_id, algorithm, key })
    }
}

impl Jwt {
    /// The identity that a token proves at this time (Unix time in seconds), and when it expires.
    ///
    /// # Errors
    /// The reason why it proves none.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<(Principal, u64), JwtError> {
        self.verify_if(token, now_s, || true)
    }

    /// Like [`verify`](Jwt::verify). `may_check` is asked right before a signature is checked.
    pub(crate) fn verify_if(
        &self,
        token: &str,
        now_s: u64,
        may_check: impl FnOnce() -> bool,
    ) -> Result<(Principal, u64), JwtError> {
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Form)?;
        let (_, claims) = message.split_once('.').ok_or(JwtError::Form)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| JwtError::Form)?;
        // Each key is for one algorithm, so that no header chooses how a key is used.
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
            return Err(JwtError::Algorithm);
        }
        let fits = |key: &&Key| {
            key.algorithm == header.alg && (header.kid.is_none() || header.kid == key.id)
        };
        let mut keys = self.keys.keys.iter().filter(fits).peekable();
        keys.peek().ok_or(JwtError::Key)?;
        if !may_check() {
            return Err(JwtError::NotChecked);
        }
        let signed = |key: &Key| {
            let message = message.as_bytes();
            jsonwebtoken::crypto::verify(signature, message, &key.key, key.algorithm)
                .unwrap_or(false)
        };
        if !keys.any(signed) {
            return Err(JwtError::Signature);
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| JwtError::Form)?;
        self.check(serde_json::from_slice(&claims).map_err(|_| JwtError::Form)?, now_s)
    }

    fn check(&self, claims: Claims, now_s: u64) -> Result<(Principal, u64), JwtError> {
        if claims.iss.as_deref() != Some(self.issuer.as_str()) {
            return Err(JwtError::Issuer);
        }
        let for_us = match claims.aud {
            Some(Audience::One(aud)) => aud == self.audience,
            Some(Audience::Many(all)) => all.contains(&self.audience),
            None => false,
        };
        if !for_us {
            return Err(JwtError::Audience);
        }
        let exp = claims.exp.filter(|exp| exp.is_finite()).ok_or(JwtError::NoExpiry)?;
        // Whole seconds, down: a token is never valid for longer than it says.
        let expires_at_s = (exp.max(0.0) as u64).saturating_add(self.clock_skew_s);
        if now_s >= expires_at_s {
            return Err(JwtError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now_s.saturating_add(self.clock_skew_s) as f64) {
            return Err(JwtError::NotYet);
        }
        // The subject by itself, because an empty one would become the identity of the prefix.
        let subject: Principal =
            claims.sub.unwrap_or_default().parse().map_err(JwtError::Subject)?;
        let principal: Principal =
            format!("{}{subject}", self.prefix).parse().map_err(JwtError::Subject)?;
        match principal.is_anonymous() {
            true => Err(JwtError::Anonymous),
            false => Ok((principal, expires_at_s)),
        }
    }
}
