//! Identities, permissions and rates, as pure decisions.
//!
//! The way of a client's credentials:
//!
//! ```text
//! certificate ─┐
//! token        ├─► SignIn ──► Principal ──► Policy ──► Identity ──► permits? within its rate?
//! JWT          ┘
//! ```
//!
//! - [`Policy`] is read from YAML: roles, bindings, quotas and revocations. An operation that no
//!   rule permits is denied. [`Policy::explain`] says why.
//! - [`SignIn`] turns a bearer token into a principal.
//! - [`Identity`] is a principal with its rights, ready for many questions.
//! - [`Accounts`] count and bound the operations of each principal.
//!
//! This crate knows nothing of sockets, TLS, gRPC and locks. Files are read elsewhere, and time and
//! random bytes are arguments.

#![forbid(unsafe_code)]

mod account;
mod certificate;
mod digest;
mod identity;
mod jwt;
mod policy;
mod prefix;
mod principal;
mod rate;
mod remembered;
mod sign_in;
mod tokens;
mod verb;
mod yaml;

pub use account::{Account, Accounts, Place, Work};
pub use certificate::Certificate;
pub use digest::{Digest, DigestError};
pub use identity::Identity;
pub use jwt::{Jwks, Jwt, JwtError};
pub use policy::{Explained, Policy, Quota, Rights};
pub use prefix::{Pattern, PatternError, Prefix, PrefixError};
pub use principal::{ANONYMOUS, Principal, PrincipalError};
pub use rate::Bucket;
pub use remembered::Remembered;
pub use sign_in::{SignIn, SignInError, SignedIn, revocable_digest};
pub use tokens::{TOKEN_PREFIX, Tokens, new_token};
pub use verb::{Verb, VerbError};
pub use yaml::FileError;
