//! The news for the screen, from the tasks that ask the cluster.

use super::gateways::Answer;
use client::{Checked, ClusterStatus, Error, Tenure, Told};

/// One piece of news.
#[derive(Debug)]
pub enum News {
    /// From the watch with this number. Those of an earlier watch are out of date.
    Watch { number: u64, watched: Watched },
    /// An answer about the cluster, or its failure.
    Status(Result<ClusterStatus, Error>),
    /// About the lock that is open.
    Lock { name: String, answer: Box<LockAnswer> },
    /// From the metrics of all gateways.
    Metrics(Vec<(String, Answer)>),
}

/// News of a watch.
#[derive(Debug)]
pub enum Watched {
    /// A gateway has taken the watch.
    Open,
    /// The connection broke, and the watch is tried again.
    Lost,
    Told(Box<Told>),
    /// The watch was refused. It is asked for again after a while.
    Refused(Error),
}

/// The answers about one lock.
#[derive(Debug)]
pub struct LockAnswer {
    pub checked: Result<Checked, Error>,
    pub history: Result<Vec<Tenure>, Error>,
}
