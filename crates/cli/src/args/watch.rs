//! The arguments of `watch`.

use super::remote::Remote;
use clap::{Args, ValueEnum};
use wire::v1::EventKind;

/// What happens to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A client got the lock
    Granted,
    /// An acquire began to wait in the queue
    Queued,
    /// The holder let the lock go
    Released,
    /// The lease ended without a renewal
    Expired,
    /// Another ended the hold
    Broken,
    /// A wait ended without a grant
    Cancelled,
}

impl From<Kind> for EventKind {
    fn from(kind: Kind) -> EventKind {
        match kind {
            Kind::Granted => EventKind::Granted,
            Kind::Queued => EventKind::Queued,
            Kind::Released => EventKind::Released,
            Kind::Expired => EventKind::Expired,
            Kind::Broken => EventKind::Broken,
            Kind::Cancelled => EventKind::Cancelled,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
The present state comes first: a line `held` for each holder, and a line `waits` for each place in \
a queue. Then each change has a line. `resync` says that changes were lost, and that the state of \
the shard comes again.

Ctrl-C ends the watch with exit code 0. The position is then shown on standard error. A watch with \
the same options and --position goes on there, by any gateway.")]
pub struct Watch {
    /// The name of the lock. Default: all locks
    #[arg(conflicts_with = "prefix")]
    pub name: Option<String>,
    /// Only names that begin with this text
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Only what this session holds and waits for
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only what this owner holds and waits for
    #[arg(long)]
    pub owner: Option<String>,
    /// Only these kinds of changes, separated by commas. Default: all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<Kind>,
    /// Go on after the earlier watch that showed this position, with the same options
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub position: String,
    #[command(flatten)]
    pub remote: Remote,
}
