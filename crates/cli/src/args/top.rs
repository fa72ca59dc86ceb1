//! The arguments of `top`.

use super::remote::Gateways;
use crate::duration;
use clap::Args;
use routing::Address;
use std::time::Duration;

/// The shortest and the longest time between two questions.
const INTERVAL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(3_600)];

#[derive(Debug, Args)]
#[command(after_help = "\
Keys: 1, 2, 3 and Tab choose the locks, the shards or the nodes; Enter opens a lock; / asks for \
names that begin with a text; s changes the order; ? shows all keys; q quits.

Locks and their changes come from one watch, so nothing is listed again and again. In each \
interval, one call asks for the state of the cluster, and two more for a lock that is open.

With NO_COLOR set, no colours are used.")]
pub struct Top {
    /// Only names that begin with this text. Default: all names
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// The time between two questions about the cluster: 500ms to 1h
    #[arg(long, default_value = "2s", value_parser = interval, value_name = "DURATION")]
    pub interval: Duration,
    /// The addresses where gateways serve /metrics, separated by commas. With them, renewals,
    /// refusals and denials are counted, which no watch tells. Default: none
    #[arg(long, value_delimiter = ',', value_parser = metrics_address, value_name = "HOST:PORT,…")]
    pub metrics: Vec<String>,
    #[command(flatten)]
    pub gateways: Gateways,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    let [least, most] = INTERVAL;
    match interval {
        interval if interval < least => Err("it is too short: the shortest is 500ms".into()),
        interval if interval > most => Err("it is too long: the longest is 1h".into()),
        interval => Ok(interval),
    }
}

fn metrics_address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}
