//! The verbs of `palisade policy`.

use crate::duration;
use access::{Principal, Verb};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Policy verbs.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy file, or ask what an identity may do by it. The exit code is 0 for yes, 5 for
    /// no, and 2 for a file that cannot be used
    Check(PolicyCheck),
    /// Make a bearer token, print it once, and add its hash to a tokens file
    Token(PolicyToken),
    /// Print the hash by which a token is revoked: of a token of a tokens file, or of a signed one
    /// (JWT)
    Hash(PolicyHash),
}

#[derive(Debug, Args)]
pub struct PolicyCheck {
    /// The path of the policy file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Ask about this identity
    #[arg(long = "as", value_name = "ID", requires = "can")]
    pub identity: Option<Principal>,
    /// Ask whether the identity may do this: hold, read, watch, break, observe or operate
    #[arg(long, value_name = "VERB", requires = "identity")]
    pub can: Option<Verb>,
    /// The name of the lock that is asked about. Default: whether the verb is permitted for anything
    #[arg(value_name = "NAME", requires = "can")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The token is on standard output, and nowhere else: the file has only its hash. Gateways read the \
file again within a second or two. To take the token back, remove its line from the file, or list \
its hash as `sha256:HEX` under `revoked` in the policy.")]
pub struct PolicyToken {
    /// The identity that the token proves
    #[arg(value_name = "IDENTITY")]
    pub identity: Principal,
    /// The path of the tokens file. It is made if it is missing
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// The token is refused after this time. Default: it has no end
    #[arg(long, value_name = "DURATION", value_parser = expiry)]
    pub expires: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
List the hash under `revoked` in the policy. The token itself is read from a file or from standard \
input, because other users of the machine can see arguments.")]
pub struct PolicyHash {
    /// The path of a file with the token. Default: standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Most days until a token expires: ten years.
const DAYS_MAX: u64 = 3_650;

fn expiry(text: &str) -> Result<Duration, String> {
    let expiry = duration::parse(text).map_err(|error| error.to_string())?;
    match expiry.as_secs() {
        0 => Err("it is less than a second: write a time such as 90d".into()),
        s if s > DAYS_MAX * 86_400 => Err(format!("it is longer than {DAYS_MAX} days")),
        _ => Ok(expiry),
    }
}
