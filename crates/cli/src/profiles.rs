//! Where a cluster is and how this user signs in: the command line, then the environment, then a
//! profile of `~/.config/palisade/config.yaml`.
//!
//! A flag wins over its variable, and that over the profile. The command-line parser joins the
//! first two, so this module sees a value or none. It reads one file, and opens no certificate and
//! no token: the SDK reads those when it connects.
//!
//! ```yaml
//! default: prod
//! profiles:
//!   prod:
//!     endpoint: locks-1.example:7400,locks-2.example:7400
//!     ca: prod/clients-ca.pem        # paths begin at this file's directory
//!     cert: prod/alice.pem
//!     key: prod/alice.key
//!   staging: { endpoint: "staging.example:7400", ca: staging-ca.pem, token_file: staging.token }
//! ```

use crate::args::Gateways;
use crate::failure::{Exit, Failure};
use client::Security;
use net::dial::{ClientSide, Pem};
use net::token::Token;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The address where `palisade dev` listens, for users without any setup.
const LOCAL_ENDPOINT: &str = "127.0.0.1:7400";

/// How to reach a cluster.
///
/// * There is a certificate of the client's own only if there is an authority to check the server
///   with, because only then TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The gateways, as `host:port` each. None if the user gave an empty list.
    pub endpoints: Vec<String>,
    /// The authorities of the gateways' certificates. Without them no TLS is spoken.
    pub ca: Option<PathBuf>,
    /// The name in the gateways' certificates. Otherwise it is the dialled one.
    pub server_name: Option<String>,
    /// The client's certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The file of the client's bearer token.
    pub token_file: Option<PathBuf>,
}

impl Reach {
    /// The settings with which the SDK shows the user's identity. The files are read when it
    /// connects.
    pub fn security(&self) -> Security {
        let tls = self.ca.clone().map(|ca| {
            let own = self.own.clone().map(|(cert, key)| (Pem::File(cert), Pem::File(key)));
            ClientSide { ca: Pem::File(ca), own }.into()
        });
        let token = self.token_file.clone().map(Token::file);
        Security { tls, token, server_name: self.server_name.clone() }
    }
}

/// The reason why it is not clear how to reach a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not as it should be.
    #[error("{} cannot be used: {source}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: serde_yaml::Error,
    },
    /// A profile was named, and the file does not have it.
    #[error("{} has no profile {name:?}", path.display())]
    NoProfile { path: PathBuf, name: String, known: Vec<String> },
    /// A profile was named, and there is no file.
    #[error("the profile {name:?} is wanted, and there is no file {}", path.display())]
    NoFile { path: PathBuf, name: String },
    /// A certificate without its key, or the other way round.
    #[error("{given} is given without {missing}")]
    HalfAPair { given: &'static str, missing: &'static str },
    /// A certificate of the client, and nothing to check the server with.
    #[error("a certificate is given without --ca, so no TLS would be spoken")]
    NoCa,
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Failure {
        let next = match &error {
            ProfileError::Unreadable { .. } => "make it readable for this user".into(),
            ProfileError::Unusable { .. } => {
                "correct it: `default: NAME`, and under `profiles: NAME:` the keys endpoint, ca, \
                 server_name, cert, key and token_file"
                    .into()
            }
            ProfileError::NoProfile { known, .. } if known.is_empty() => {
                "add it under `profiles:`".into()
            }
            ProfileError::NoProfile { known, .. } => {
                format!("add it under `profiles:`, or choose one of: {}", known.join(", "))
            }
            ProfileError::NoFile { .. } => {
                "write the file, or leave --profile and PALISADE_PROFILE out and use --endpoint"
                    .into()
            }
            ProfileError::HalfAPair { missing, .. } => {
                format!("add {missing}, from where the other one was made")
            }
            ProfileError::NoCa => {
                "add --ca with the authority of the gateways (clients-ca.pem of `palisade cert`)"
                    .into()
            }
        };
        Failure::new(Exit::Usage, "CONFIG", error.to_string(), next)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    default: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    endpoint: Option<String>,
    ca: Option<PathBuf>,
    server_name: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

/// Joins the command line and the environment with the user's profile.
///
/// # Errors
/// [`ProfileError`], if the profile cannot be used or the given flags do not fit together.
pub fn reach(given: &Gateways) -> Result<Reach, ProfileError> {
    let path = file_path(&|name| std::env::var_os(name));
    join(given, profile(given, path.as_deref())?)
}

/// `$XDG_CONFIG_HOME/palisade/config.yaml`, or `~/.config/palisade/config.yaml`. `None` if the
/// environment names no home.
fn file_path(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The specification of these directories says that a relative one is to be ignored.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("palisade/config.yaml"))
}

/// The profile to use: the named one, or the default one of the file.
///
/// An endpoint that is given otherwise leaves the default profile out, because that profile's token
/// would be sent to a server that it was not made for.
fn profile(given: &Gateways, path: Option<&Path>) -> Result<Profile, ProfileError> {
    if given.profile.is_none() && given.endpoint.is_some() {
        return Ok(Profile::default());
    }
    let found = match path {
        Some(path) => read(path)?.map(|profiles| (path, profiles)),
        None => None,
    };
    let Some((path, mut profiles)) = found else {
        return match &given.profile {
            None => Ok(Profile::default()),
            Some(name) => Err(ProfileError::NoFile {
                path: path.unwrap_or(Path::new("~/.config/palisade/config.yaml")).to_owned(),
                name: name.clone(),
            }),
        };
    };
    let Some(name) = given.profile.clone().or(profiles.default) else {
        return Ok(Profile::default());
    };
    let Some(profile) = profiles.profiles.remove(&name) else {
        let known = profiles.profiles.into_keys().collect();
        return Err(ProfileError::NoProfile { path: path.to_owned(), name, known });
    };
    let dir = path.parent().unwrap_or(Path::new(""));
    let from_there = |file: Option<PathBuf>| file.map(|file| dir.join(file));
    Ok(Profile {
        endpoint: profile.endpoint,
        ca: from_there(profile.ca),
        server_name: profile.server_name,
        cert: from_there(profile.cert),
        key: from_there(profile.key),
        token_file: from_there(profile.token_file),
    })
}

/// `None` if there is no file.
fn read(path: &Path) -> Result<Option<Profiles>, ProfileError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ProfileError::Unreadable { path: path.to_owned(), source }),
    };
    // An empty file has no profiles.
    let profiles: Option<Profiles> = serde_yaml::from_str(&text)
        .map_err(|source| ProfileError::Unusable { path: path.to_owned(), source })?;
    Ok(Some(profiles.unwrap_or_default()))
}

fn join(given: &Gateways, profile: Profile) -> Result<Reach, ProfileError> {
    // A certificate of one source with a key of the other would never match.
    let own = match (&given.cert, &given.key) {
        (None, None) => pair(profile.cert, profile.key)?,
        (cert, key) => pair(cert.clone(), key.clone())?,
    };
    let ca = given.ca.clone().or(profile.ca);
    if own.is_some() && ca.is_none() {
        return Err(ProfileError::NoCa);
    }
    let endpoint =
        given.endpoint.clone().or(profile.endpoint).unwrap_or_else(|| LOCAL_ENDPOINT.into());
    let endpoints = endpoint.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
    Ok(Reach {
        endpoints: endpoints.map(str::to_owned).collect(),
        ca,
        server_name: given.server_name.clone().or(profile.server_name),
        own,
        token_file: given.token_file.clone().or(profile.token_file),
    })
}

fn pair(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, ProfileError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ProfileError::HalfAPair { given: "--cert", missing: "--key" }),
        (None, Some(_)) => Err(ProfileError::HalfAPair { given: "--key", missing: "--cert" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FILE: &str = "
default: prod
profiles:
  prod: { endpoint: 'prod:7400, prod2:7400', ca: prod-ca.pem, cert: /keys/a.pem, key: /keys/a.key }
  test: { endpoint: 'test:7400', token_file: test.token }
";

    fn given() -> Gateways {
        Gateways {
            endpoint: None,
            profile: None,
            ca: None,
            server_name: None,
            cert: None,
            key: None,
            token_file: None,
            timeout: Duration::from_secs(5),
        }
    }

    /// The reach with this command line and this file.
    fn reached(file: Option<&str>, given: &Gateways) -> Result<Reach, ProfileError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.yaml");
        if let Some(text) = file {
            std::fs::write(&path, text).expect("write");
        }
        let mut reach = join(given, profile(given, Some(&path))?)?;
        let below =
            |found: PathBuf| found.strip_prefix(dir.path()).map(PathBuf::from).unwrap_or(found);
        reach.ca = reach.ca.map(below);
        reach.token_file = reach.token_file.map(below);
        Ok(reach)
    }

    #[test]
    fn the_default_profile_is_used_whole_and_each_value_of_it_can_be_replaced() {
        let path = |text: &str| Some(PathBuf::from(text));
        let prod = reached(Some(FILE), &given()).expect("the default profile");
        assert_eq!(prod.endpoints, ["prod:7400", "prod2:7400"]);
        assert_eq!((&prod.ca, &prod.token_file), (&path("prod-ca.pem"), &None));
        assert_eq!(prod.own, Some(("/keys/a.pem".into(), "/keys/a.key".into())));
        let other_ca = Gateways { ca: path("other.pem"), ..given() };
        let other = reached(Some(FILE), &other_ca).expect("one value replaced");
        assert_eq!(other, Reach { ca: path("other.pem"), ..prod.clone() });
        let name = Some("gateway.example".to_owned());
        let other_name = Gateways { server_name: name.clone(), ..given() };
        let other = reached(Some(FILE), &other_name).expect("one value replaced");
        assert_eq!(other.security().server_name, name);
        let pair = Gateways { cert: path("b.pem"), key: path("b.key"), ..given() };
        let other = reached(Some(FILE), &pair).expect("the pair replaced");
        assert_eq!(other, Reach { own: Some(("b.pem".into(), "b.key".into())), ..prod });
    }

    /// Otherwise `--endpoint elsewhere:7400` would send the token of the default profile there.
    #[test]
    fn an_endpoint_of_the_command_line_leaves_the_default_profile_out() {
        let elsewhere = Gateways { endpoint: Some("elsewhere:1".into()), ..given() };
        let default_has_token = FILE.replace("default: prod", "default: test");
        let reach = reached(Some(&default_has_token), &elsewhere).expect("no profile");
        assert_eq!(reach.endpoints, ["elsewhere:1"]);
        assert_eq!((reach.ca, reach.own, reach.token_file), (None, None, None));
        let named = Gateways { profile: Some("test".into()), ..elsewhere };
        let reach = reached(Some(FILE), &named).expect("asked for");
        assert_eq!(reach.endpoints, ["elsewhere:1"]);
        assert_eq!(reach.token_file, Some("test.token".into()));
    }

    #[test]
    fn without_a_file_the_cluster_is_the_one_on_this_machine() {
        for file in [None, Some(""), Some("# nothing\n"), Some("profiles: {}\n")] {
            let reach = reached(file, &given()).expect("nothing is needed");
            assert_eq!(reach.endpoints, [LOCAL_ENDPOINT], "{file:?}");
        }
        let named = Gateways { profile: Some("prod".into()), ..given() };
        assert!(matches!(reached(None, &named), Err(ProfileError::NoFile { .. })));
    }

    #[test]
    fn a_mistake_is_told_with_the_next_step() {
        let told = |file: &str, given: &Gateways| {
            Failure::from(reached(Some(file), given).expect_err("a mistake")).for_people()
        };
        let path = |text: &str| Some(PathBuf::from(text));
        let named = Gateways { profile: Some("prd".into()), ..given() };
        assert!(told(FILE, &named).contains("one of: prod, test"));
        let half = Gateways { cert: path("a.pem"), ..given() };
        assert!(told(FILE, &half).contains("next: add --key"), "not the profile's key");
        let no_ca = Gateways { cert: path("a.pem"), key: path("a.key"), ..given() };
        assert!(told("", &no_ca).contains("next: add --ca"));
        assert!(told("profile: {}", &given()).contains("unknown field `profile`"));
        assert!(told("default: none", &given()).contains("no profile \"none\""));
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let at = |variables: &[(&str, &str)]| {
            let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
            file_path(&|name| variables.get(name).map(OsString::from))
        };
        let home = PathBuf::from("/home/a/.config/palisade/config.yaml");
        assert_eq!(at(&[("HOME", "/home/a")]), Some(home.clone()));
        let xdg = [("XDG_CONFIG_HOME", "/etc/xdg"), ("HOME", "/home/a")];
        assert_eq!(at(&xdg), Some("/etc/xdg/palisade/config.yaml".into()));
        assert_eq!(at(&[("XDG_CONFIG_HOME", "relative"), ("HOME", "/home/a")]), Some(home));
        assert_eq!(at(&[]), None);
    }
}
