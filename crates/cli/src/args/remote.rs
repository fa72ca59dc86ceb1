//! The options of every verb that asks a cluster: where it is, and how the answer is printed.

use crate::duration;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the service.
#[derive(Clone, Debug, Args)]
pub struct Gateways {
    /// The gateways, separated by commas. The next one is tried when one does not answer. Default:
    /// those of the profile, or 127.0.0.1:7400
    #[arg(long, env = "PALISADE_ENDPOINT", value_name = "HOST:PORT,…")]
    pub endpoint: Option<String>,
    /// A profile of ~/.config/palisade/config.yaml: values for the options that are not given.
    /// Default: the one that the file names, unless an endpoint is given
    #[arg(long, env = "PALISADE_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// The certificate authorities of the gateways, as PEM. With them, TLS is spoken
    #[arg(long, env = "PALISADE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The name that the gateways' certificates have, where it is another than the one that is dialled
    #[arg(long, env = "PALISADE_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// The certificate that shows who you are, as PEM
    #[arg(long, env = "PALISADE_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The private key of --cert, as PEM
    #[arg(long, env = "PALISADE_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The file with the bearer token that shows who you are. Its changes are noticed
    #[arg(long, env = "PALISADE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Give up after this time without an answer. A --wait is added to it
    #[arg(long, default_value = "5s", value_parser = duration::parse, value_name = "DURATION")]
    pub timeout: Duration,
}

/// The options of every client verb.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    pub gateways: Gateways,
    /// Print one JSON document on standard output, errors included
    #[arg(long)]
    pub json: bool,
}
