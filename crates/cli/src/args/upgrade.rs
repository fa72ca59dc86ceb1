//! The command line of `palisade cluster upgrade`.

use super::remote::Remote;
use crate::duration;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Shows how far an upgrade is, unless a step of it is named.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ClusterUpgrade {
    #[command(subcommand)]
    pub step: Option<UpgradeStep>,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Subcommand)]
pub enum UpgradeStep {
    /// Activate the highest level of formats and commands that all nodes know. The program before
    /// cannot be used after that
    Finalize(UpgradeFinalize),
}

#[derive(Debug, Args)]
pub struct UpgradeFinalize {
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// Activate the level, and do not wait until all groups have reached it
    #[arg(long)]
    pub detach: bool,
    /// Stop waiting after this time. The groups go on
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", conflicts_with = "detach")]
    pub within: Option<Duration>,
    #[command(flatten)]
    pub remote: Remote,
}

impl ClusterUpgrade {
    /// Whether the verb prints JSON.
    pub fn json(&self) -> bool {
        match &self.step {
            None => self.remote.json,
            Some(UpgradeStep::Finalize(args)) => args.remote.json,
        }
    }
}
