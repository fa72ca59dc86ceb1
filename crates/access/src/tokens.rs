//! The file of bearer tokens: their hashes, and the identity that each proves.
//!
//! ```yaml
//! - { identity: bob, sha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 }
//! - { identity: ci, sha256: …, expires: 2027-01-01T00:00:00Z }
//! ```
//!
//! A token has 256 random bits, and is looked up by its SHA-256. How long the look-up takes tells
//! nothing that helps to guess one: a guess changes the whole hash, so the comparison need not take
//! constant time.

use crate::digest::Digest;
use crate::principal::Principal;
use crate::yaml::{self, FileError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

/// The first characters of each token, by which scanners for secrets find it.
pub const TOKEN_PREFIX: &str = "plk_";

/// All tokens that are accepted.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    by_digest: BTreeMap<Digest, Entry>,
}

/// The identity of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) principal: Principal,
    /// Unix time in seconds from which on the token is refused.
    pub(crate) expires_at_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    identity: String,
    sha256: String,
    #[serde(default)]
    expires: Option<String>,
}

/// A new token from 32 random bytes: `plk_` and 43 characters.
pub fn new_token(random: [u8; 32]) -> String {
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// All problems, each with the change to make in the file. None shows a token that was written
    /// into the file by mistake.
    pub fn parse(yaml: &str) -> Result<Tokens, FileError> {
        let parsed: Result<Option<Vec<EntryFile>>, FileError> = yaml::parse(yaml);
        // A file that is being written anew can be seen while it is empty.
        let Some(entries) = parsed.map_err(without_tokens)? else {
            return Err(FileError::one("it is empty: a file without tokens is `[]`"));
        };
        let (mut by_digest, mut problems) = (BTreeMap::new(), Vec::new());
        for (entry, number) in entries.into_iter().zip(1..) {
            match entry.read() {
                Err(why) => problems.push(format!("token {number}: {why}")),
                Ok((digest, _)) if by_digest.contains_key(&digest) => {
                    problems.push(format!("token {number}: an earlier one has the same sha256"));
                }
                Ok((digest, entry)) => drop(by_digest.insert(digest, entry)),
            }
        }
        match problems.is_empty() {
            true => Ok(Tokens { by_digest }),
            false => Err(without_tokens(FileError(problems))),
        }
    }

    /// One entry of such a file, as a line.
    pub fn line(principal: &Principal, digest: &Digest, expires_at_s: Option<u64>) -> String {
        // JSON's texts are texts in YAML, too.
        let identity = serde_json::Value::from(principal.as_str());
        let expires = expires_at_s.map_or_else(String::new, |at_s| {
            let at = UNIX_EPOCH + std::time::Duration::from_secs(at_s);
            format!(", expires: {}", humantime::format_rfc3339_seconds(at))
        });
        format!("- {{ identity: {identity}, sha256: {digest}{expires} }}\n")
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether no token is accepted.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    pub(crate) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.by_digest.values().map(|entry| &entry.principal)
    }

    pub(crate) fn find(&self, digest: &Digest) -> Option<&Entry> {
        self.by_digest.get(digest)
    }
}

/// Hides problems that quote a token. The parser quotes a value of the wrong type, or a key.
fn without_tokens(FileError(problems): FileError) -> FileError {
    let hidden = |problem: String| match problem.contains(TOKEN_PREFIX) {
        true => "it holds a token itself: write only its hash, as \
                 `palisade policy token` does, and make a new token"
            .to_owned(),
        false => problem,
    };
    FileError(problems.into_iter().map(hidden).collect())
}

impl EntryFile {
    fn read(self) -> Result<(Digest, Entry), String> {
        let principal = self.identity.parse::<Principal>().map_err(|error| error.to_string())?;
        if principal.is_anonymous() {
            return Err("`anonymous` stands for clients without any identity: use another".into());
        }
        let digest = self.sha256.parse::<Digest>().map_err(|error| format!("sha256: {error}"))?;
        let expires_at_s = self.expires.map(|text| {
            let bad = || "expires: write a time such as 2027-01-01T00:00:00Z".to_owned();
            let at = humantime::parse_rfc3339(&text).map_err(|_| bad())?;
            at.duration_since(UNIX_EPOCH).map(|at| at.as_secs()).map_err(|_| bad())
        });
        Ok((digest, Entry { principal, expires_at_s: expires_at_s.transpose()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_file_is_read_back() {
        let (token, bob) = (new_token([7; 32]), "bo\"b: {x}".parse().unwrap());
        assert_eq!((token.len(), &token[..4]), (47, "plk_"));
        let digest = Digest::of(token.as_bytes());
        let line = Tokens::line(&bob, &digest, Some(1_798_761_600));
        assert!(line.contains("expires: 2027-01-01T00:00:00Z"), "{line}");
        let tokens = Tokens::parse(&line).unwrap();
        let entry = Entry { principal: bob, expires_at_s: Some(1_798_761_600) };
        assert_eq!(tokens.find(&digest), Some(&entry));
        assert!(Tokens::parse("").is_err() && Tokens::parse("[]").unwrap().is_empty());
    }

    #[test]
    fn no_error_shows_a_token() {
        let token = new_token([9; 32]);
        let digest = Digest::of(b"x");
        for bad in [
            token.clone(),
            format!("- {token}"),
            format!("- {{ identity: bob, sha256: {token} }}"),
            format!("- {{ identity: bob, {token}: 1 }}"),
            format!("- {{ identity: bob, sha256: {digest}, expires: {token} }}"),
            format!("{token}: bob"),
        ] {
            let error = Tokens::parse(&bad).expect_err(&bad).to_string();
            assert!(!error.contains(&token[4..]), "{bad}: {error}");
        }
        let twice = Tokens::line(&"bob".parse().unwrap(), &digest, None).repeat(2);
        assert!(Tokens::parse(&twice).unwrap_err().to_string().contains("token 2"));
        assert!(Tokens::parse(&format!("- {{ identity: anonymous, sha256: {digest} }}")).is_err());
    }
}
