//! The files of identities: policy, tokens, and keys of an issuer. They are used together, or not at
//! all.

use crate::error::GatewayError;
use access::{FileError, Jwks, Jwt, Policy, SignIn, Tokens};
use net::reload::{File, LoadError, Reloading};
use routing::AccessConfig;
use std::path::PathBuf;

/// The files, in messages.
pub(super) const WHAT: &str = "policy, tokens and keys";

/// The content of the files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) policy: Policy,
    pub(super) sign_in: SignIn,
}

/// A file that cannot be used, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub(super) struct AccessFileError {
    path: String,
    source: FileError,
}

pub(super) type Files = Reloading<Loaded, AccessFileError>;
pub(super) type Outcome = net::reload::Outcome<AccessFileError>;

/// Reads the files.
pub(super) fn open(config: &AccessConfig) -> Result<Files, GatewayError> {
    let jwt_path = config.jwt.as_ref().map(|jwt| &jwt.jwks);
    let paths = [Some(&config.policy), config.tokens.as_ref(), jwt_path];
    let paths: Vec<PathBuf> = paths.into_iter().flatten().map(PathBuf::from).collect();
    let config = config.clone();
    let opened = Reloading::open(WHAT, paths, move |files| load(&config, files));
    opened.map_err(|error: LoadError<AccessFileError>| GatewayError::Config(error.to_string()))
}

fn load(config: &AccessConfig, files: &[File]) -> Result<Loaded, AccessFileError> {
    let mut files = files.iter();
    let policy = read(files.next(), Policy::parse)?;
    let tokens = config.tokens.as_ref().map(|_| read(files.next(), Tokens::parse)).transpose()?;
    let jwt = config.jwt.as_ref().map(|jwt| {
        let keys = read(files.next(), Jwks::parse)?;
        let (issuer, audience) = (jwt.issuer.clone(), jwt.audience.clone());
        let prefix = jwt.prefix.clone().unwrap_or_default();
        Ok(Jwt { keys, issuer, audience, clock_skew_s: jwt.clock_skew_s, prefix })
    });
    let sign_in = SignIn { tokens, jwt: jwt.transpose()? };
    let path = config.tokens.clone().unwrap_or_default();
    sign_in.check().map_err(|source| AccessFileError { path, source })?;
    Ok(Loaded { policy, sign_in })
}

fn read<T>(
    file: Option<&File>,
    parse: impl FnOnce(&str) -> Result<T, FileError>,
) -> Result<T, AccessFileError> {
    let (path, bytes) = file.map_or(("", &[][..]), |file| (&file.name, &file.bytes));
    let failed = |source| AccessFileError { path: path.to_owned(), source };
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| failed(FileError::not_utf8(error.valid_up_to())))?;
    parse(text).map_err(failed)
}
