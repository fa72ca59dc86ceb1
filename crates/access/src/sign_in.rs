//! From a bearer token to a principal.

use crate::digest::Digest;
use crate::jwt::{Jwt, JwtError};
use crate::principal::Principal;
use crate::tokens::{TOKEN_PREFIX, Tokens};
use crate::yaml::FileError;

/// Most bytes of an `authorization` header. A longer one is not parsed.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// The tokens that are accepted.
#[derive(Clone, Debug, Default)]
pub struct SignIn {
    /// The tokens of the tokens file.
    pub tokens: Option<Tokens>,
    /// Signed tokens.
    pub jwt: Option<Jwt>,
}

/// An identity that a token has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The identity.
    pub principal: Principal,
    /// Unix time in seconds from which on the token is refused.
    pub expires_at_s: Option<u64>,
    /// The SHA-256 by which the token is revoked, as of [`revocable_digest`].
    pub digest: Digest,
}

/// The SHA-256 by which a token is revoked: of a token of the file as a whole, of a signed one
/// (JWT) up to its last dot.
///
/// An ES256 signature can be changed into another valid one without the key, so a digest with the
/// signature could be evaded.
///
/// ```
/// use palisade_access::{Digest, revocable_digest};
/// assert_eq!(revocable_digest("plk_x.y"), Digest::of(b"plk_x.y"));
/// assert_eq!(revocable_digest("header.claims.signature"), Digest::of(b"header.claims"));
/// ```
pub fn revocable_digest(token: &str) -> Digest {
    let signed = match token.rsplit_once('.') {
        Some((signed, _)) if !token.starts_with(TOKEN_PREFIX) => signed,
        _ => token,
    };
    Digest::of(signed.as_bytes())
}

/// A token that proves nothing. No variant shows the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// The header is longer than any token.
    #[error(
        "the header `authorization` has {bytes} bytes: at most {HEADER_BYTES_MAX} are read, so \
         have a token with fewer claims issued"
    )]
    TooLong {
        /// The length of the header.
        bytes: usize,
    },
    /// The header has another form.
    #[error("the header `authorization` is not `Bearer TOKEN`")]
    NotBearer,
    /// The cluster file names no tokens of this kind.
    #[error("this cluster accepts no tokens of this kind: use a certificate, or another token")]
    NotAccepted,
    /// No token of the tokens file.
    #[error("the token is not known: it may have been removed, or be of another cluster")]
    Unknown,
    /// The token's time is over.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// A signed token that proves nothing.
    #[error("the signed token (JWT) is refused: {0}")]
    Jwt(#[from] JwtError),
}

impl SignIn {
    /// Whether only a signed token can prove this identity, because it begins with the prefix of
    /// signed tokens.
    pub fn reserves(&self, principal: &Principal) -> bool {
        let prefix = self.jwt.as_ref().map_or("", |jwt| &jwt.prefix);
        !prefix.is_empty() && principal.as_str().starts_with(prefix)
    }

    /// Checks that no entry of the tokens file has a [reserved](SignIn::reserves) identity.
    ///
    /// # Errors
    /// A problem of the tokens file.
    pub fn check(&self) -> Result<(), FileError> {
        let mut principals = self.tokens.iter().flat_map(Tokens::principals);
        match principals.find(|principal| self.reserves(principal)) {
            None => Ok(()),
            Some(principal) => Err(FileError::one(format!(
                "the identity {principal} begins with `access.jwt.prefix` of the cluster file, so \
                 only signed tokens may prove it: use another"
            ))),
        }
    }

    /// The identity that an `authorization` header proves at this time (Unix time in seconds).
    ///
    /// # Errors
    /// The reason why it proves none, without the token.
    pub fn header(&self, header: &[u8], now_s: u64) -> Result<SignedIn, SignInError> {
        self.header_if(header, now_s, |_| true)
    }

    /// Like [`header`](SignIn::header). `may_check` is asked with the SHA-256 of a signed token
    /// right before its signature is checked, because that is the only step that costs much.
    ///
    /// # Errors
    /// As of [`header`](SignIn::header), and [`JwtError::NotChecked`] if `may_check` says no.
    pub fn header_if(
        &self,
        header: &[u8],
        now_s: u64,
        may_check: impl FnOnce(Digest) -> bool,
    ) -> Result<SignedIn, SignInError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(SignInError::TooLong { bytes: header.len() });
        }
        let text = std::str::from_utf8(header).map_err(|_| SignInError::NotBearer)?;
        let (scheme, token) = text.trim().split_once(' ').ok_or(SignInError::NotBearer)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(SignInError::NotBearer);
        }
        self.bearer(token, now_s, may_check)
    }

    fn bearer(
        &self,
        token: &str,
        now_s: u64,
        may_check: impl FnOnce(Digest) -> bool,
    ) -> Result<SignedIn, SignInError> {
        let digest = revocable_digest(token);
        if token.starts_with(TOKEN_PREFIX) {
            let tokens = self.tokens.as_ref().ok_or(SignInError::NotAccepted)?;
            let entry = tokens.find(&digest).ok_or(SignInError::Unknown)?;
            let (principal, expires_at_s) = (entry.principal.clone(), entry.expires_at_s);
            return match expires_at_s.is_some_and(|at_s| now_s >= at_s) {
                true => Err(SignInError::Expired),
                false => Ok(SignedIn { principal, expires_at_s, digest }),
            };
        }
        let jwt = self.jwt.as_ref().ok_or(SignInError::NotAccepted)?;
        let may_check = || may_check(Digest::of(token.as_bytes()));
        let (principal, expires_at_s) = jwt.verify_if(token, now_s, may_check)?;
        Ok(SignedIn { principal, expires_at_s: Some(expires_at_s), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::new_token;

    #[test]
    fn a_token_of_the_file_proves_its_identity_until_it_expires() {
        let (token, bob) = (new_token([1; 32]), "bob".parse::<Principal>().unwrap());
        let line = Tokens::line(&bob, &Digest::of(token.as_bytes()), Some(100));
        let sign_in = SignIn { tokens: Some(Tokens::parse(&line).unwrap()), jwt: None };
        let header = |text: String, now_s| {
            sign_in.header(text.as_bytes(), now_s).map(|signed_in| signed_in.principal)
        };
        assert_eq!(header(format!("Bearer {token}"), 99), Ok(bob.clone()));
        assert_eq!(header(format!("bearer  {token} "), 99), Ok(bob));
        assert_eq!(header(format!("Bearer {token}"), 100), Err(SignInError::Expired));
        assert_eq!(header(format!("Bearer {token}x"), 0), Err(SignInError::Unknown));
        assert_eq!(header(format!("Bearer {}", &token[4..]), 0), Err(SignInError::NotAccepted));
        for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "plk_x"] {
            assert_eq!(header(bad.into(), 0), Err(SignInError::NotBearer), "{bad:?}");
        }
        // Regression: a header of any length was parsed, and hashed or checked with a key.
        for (spaces, refused) in [
            (HEADER_BYTES_MAX - 54, None),
            (HEADER_BYTES_MAX - 53, Some(SignInError::TooLong { bytes: HEADER_BYTES_MAX + 1 })),
        ] {
            let padded = format!("Bearer {}{token}", " ".repeat(spaces));
            assert_eq!(header(padded, 0).err(), refused, "{spaces} spaces");
        }
        let none = SignIn::default().header(format!("Bearer {token}").as_bytes(), 0);
        assert_eq!(none, Err(SignInError::NotAccepted));
    }
}
