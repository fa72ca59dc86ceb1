//! The options of every verb that asks a cluster: where it is, and how the answer is printed.

use crate::duration;
use clap::Args;
use std::time::Duration;

/// How to reach the service.
#[derive(Clone, Debug, Args)]
pub struct Gateways {
    /// The gateways, separated by commas. The next one is tried when one does not answer
    #[arg(
        long,
        env = "PALISADE_ENDPOINT",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT,…"
    )]
    pub endpoint: String,
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
