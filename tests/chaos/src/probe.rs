//! The conductor's own checks: every shard serves, every node is back, and the history can be read.

use crate::cluster::{Cluster, NODES, SHARDS};
use crate::error::Error;
use crate::load::{Caller, Wish, number_of};
use crate::record::Recorder;
use client::{Client, ClientOptions, ClusterStatus, GrantState, ShardStatus, Tenure};
use palisade_sim::checker::{End, Mode, Sample, TenureRecord};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The conductor's number among the clients of a record.
const CLIENT: u32 = 1;
/// The timeout of one try of a probe. It is short, so that the next try comes soon.
const TRY_FOR: Duration = Duration::from_millis(1_000);
/// The number of tenures of a name that can be read at once. A name with more tenures cannot be
/// judged.
const TENURES_MAX: u32 = 1_000;
const READS_AT_ONCE: usize = 24;
const READ_WITHIN: Duration = Duration::from_secs(30);

/// The conductor's client, with its own record.
#[derive(Debug)]
pub struct Prober {
    caller: Caller,
    patient: Client,
    /// The recorder of its own attempts.
    pub recorder: Arc<Recorder>,
    probes: u64,
}

impl Prober {
    /// Creates a prober for this cluster.
    pub fn new(cluster: &Cluster) -> Prober {
        let recorder = Arc::new(Recorder::default());
        let caller =
            Caller::new(cluster.client(TRY_FOR), CLIENT, recorder.clone(), cluster.map.clone());
        let options = ClientOptions::new().timeout(Duration::from_secs(10)).owner("conductor");
        let patient = Client::with_options(cluster.processes.endpoints(), options);
        Prober { caller, patient, recorder, probes: 0 }
    }

    /// The time from now until an acquire sent from now on has succeeded on every shard. `None` if
    /// this takes longer than `within`.
    pub async fn all_serve(&mut self, round: u32, within: Duration) -> Option<Duration> {
        self.probes += 1;
        let started = Instant::now();
        let mut shards = JoinSet::new();
        for shard in 0..SHARDS {
            let (caller, prefix) = (self.caller.clone(), format!("r{round}.probe/{}", self.probes));
            shards.spawn(async move { serves(&caller, shard, &prefix, started, within).await });
        }
        let mut longest = Duration::ZERO;
        while let Some(served) = shards.join_next().await {
            longest = longest.max(served.ok().flatten()?);
        }
        Some(longest)
    }

    /// Has an entry of every shard and of these names applied from now on. Returns whether that
    /// happened in time.
    pub async fn mark(&mut self, round: u32, names: &[String], within: Duration) -> bool {
        let started = Instant::now();
        for name in names {
            loop {
                let request = self.caller.number();
                let (name, mode) = (name.clone(), Mode::Exclusive);
                let wish =
                    Wish { request, name, mode, ttl_ms: 1_000, wait_ms: 5_000, session: None };
                if let Ok(grant) = self.caller.acquire(&wish).await {
                    let _ = self.caller.release(&wish.name, grant.fencing_token).await;
                    break;
                }
                if started.elapsed() > within {
                    return false;
                }
            }
        }
        self.all_serve(round, within).await.is_some()
    }

    /// Reads every tenure of these names.
    ///
    /// # Errors
    /// If some tenures cannot be read.
    pub async fn tenures(&self, names: Vec<String>) -> Result<Vec<TenureRecord>, Error> {
        let mut names = names.into_iter();
        let mut reads = JoinSet::new();
        let mut found = Vec::new();
        loop {
            while reads.len() < READS_AT_ONCE
                && let Some(name) = names.next()
            {
                let client = self.patient.clone();
                reads.spawn(async move { history(&client, &name).await });
            }
            match reads.join_next().await {
                Some(Ok(read)) => found.extend(read?),
                Some(Err(error)) => {
                    return Err(Error::caused("a task that reads the history", error));
                }
                None => return Ok(found),
            }
        }
    }
}

async fn serves(
    caller: &Caller,
    shard: u32,
    prefix: &str,
    from: Instant,
    within: Duration,
) -> Option<Duration> {
    let mut names =
        (0..).map(|n| format!("{prefix}-{n}")).filter(|name| caller.shard(name) == shard);
    loop {
        // Each try uses another name, because a name with an unknown outcome may be held.
        let name = names.next().expect("every shard has names");
        let (request, mode) = (caller.number(), Mode::Exclusive);
        let wish = Wish { request, name, mode, ttl_ms: 1_000, wait_ms: 0, session: None };
        if let Ok(grant) = caller.acquire(&wish).await {
            let served = from.elapsed();
            let _ = caller.release(&wish.name, grant.fencing_token).await;
            return Some(served);
        }
        if from.elapsed() > within {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn history(client: &Client, name: &str) -> Result<Vec<TenureRecord>, Error> {
    let started = Instant::now();
    loop {
        match client.history(name, TENURES_MAX).await {
            Ok(tenures) if tenures.len() as u32 >= TENURES_MAX => {
                return Err(Error::Reason(format!(
                    "{name:?} has {TENURES_MAX} tenures or more: its history cannot be judged"
                )));
            }
            Ok(tenures) => return Ok(tenures.iter().map(|tenure| record(name, tenure)).collect()),
            Err(error) if started.elapsed() > READ_WITHIN => {
                return Err(Error::caused(
                    format!("the history of {name:?} cannot be read"),
                    error,
                ));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn record(name: &str, tenure: &Tenure) -> TenureRecord {
    let end = match tenure.state() {
        GrantState::Released => Some(End::Released),
        GrantState::Expired => Some(End::Expired),
        GrantState::Broken => Some(End::Broken),
        GrantState::Acquired | GrantState::Unspecified => None,
    };
    let (name, request) = (name.to_owned(), number_of(&tenure.owner_id));
    TenureRecord { shard: tenure.shard, name, token: tenure.fencing_token, request, end }
}

/// The states that the replicas reported.
pub fn samples(shards: &[ShardStatus]) -> Vec<Sample> {
    let sample = |status: &ShardStatus| Sample {
        shard: status.shard,
        node: status.node,
        applied_index: status.applied_index,
        state_hash: status.state_hash,
    };
    shards.iter().map(sample).collect()
}

/// Waits until every node answers and every shard has a leader that all its replicas follow, each
/// at the leader's index. Returns the statuses at that time, or `None` after `within`.
pub async fn all_level(cluster: &Cluster, within: Duration) -> Option<Vec<ShardStatus>> {
    let level =
        |leader: &ShardStatus, status: &ShardStatus| status.applied_index == leader.applied_index;
    settled(cluster, within, level).await
}

/// Waits until every node answers and every shard has a leader that all its replicas follow.
/// Replicas may lag. Returns whether this happened within the given time.
pub async fn all_back(cluster: &Cluster, within: Duration) -> bool {
    settled(cluster, within, |_, _| true).await.is_some()
}

fn answers(status: &ClusterStatus, id: u64) -> bool {
    status.nodes.iter().any(|node| node.node == id && node.reachable)
}

async fn settled(
    cluster: &Cluster,
    within: Duration,
    as_wanted: impl Fn(&ShardStatus, &ShardStatus) -> bool,
) -> Option<Vec<ShardStatus>> {
    let started = Instant::now();
    let settled = |shards: &[ShardStatus], shard: u32| {
        let replicas: Vec<&ShardStatus> =
            shards.iter().filter(|status| status.shard == shard).collect();
        let leader = replicas.iter().find(|status| status.role == "leader");
        leader.is_some_and(|leader| {
            replicas.len() as u64 == NODES
                && replicas
                    .iter()
                    .all(|status| status.leader == leader.node && as_wanted(leader, status))
        })
    };
    loop {
        if let Some(status) = cluster.status().await
            && cluster.nodes().iter().all(|id| answers(&status, *id))
            && (0..SHARDS).all(|shard| settled(&status.shards, shard))
        {
            return Some(status.shards);
        }
        if started.elapsed() > within {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
