//! Measures how long a shard has no leader after its leader is killed.
//!
//! The time runs from SIGKILL to the next successful acquire on the shard, which the SDK requests
//! through the gateways. The cluster has default settings and no other load. Kills go around the
//! shards, and each kill waits until the cluster is whole again.

use crate::cluster::{Cluster, SHARDS};
use crate::error::Error;
use crate::network::Network;
use crate::probe::{all_back, all_level};
use crate::report::quantile;
use client::{AcquireOptions, Client};
use local_cluster::Member;
use routing::Settings;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest time for recovery. Beyond it the cluster is stuck.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// The time in which leaderships return to the nodes that the map prefers. No leadership may be
/// moving when the next leader is killed.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// The times to the next acquire, one for each kill.
#[derive(Clone, Debug, Default)]
pub struct Failovers {
    /// The times in the order of the kills.
    pub times: Vec<Duration>,
}

/// Kills leaders `kills` times. `told` hears of each kill.
///
/// # Errors
/// The reason why it could not go on, for people.
pub async fn failovers(
    kills: u32,
    dir: &Path,
    namespaces: bool,
    mut told: impl FnMut(u32, u32, Duration),
) -> Result<Failovers, Error> {
    let mut cluster =
        Cluster::start(dir, Network::new(&Cluster::hosts(), namespaces)?, Settings::default())?;
    if !all_back(&cluster, WHOLE_WITHIN).await {
        return Err(Error::Reason(format!(
            "the cluster did not start within {WHOLE_WITHIN:?}: see the logs in {}",
            dir.display()
        )));
    }
    let client = Client::connect(cluster.processes.endpoints());
    let mut failovers = Failovers::default();
    for kill in 1..=kills {
        let shard = kill % SHARDS;
        let leaders = settled(&cluster).await?;
        if all_level(&cluster, WHOLE_WITHIN).await.is_none() {
            return Err(Error::Reason(format!(
                "the cluster was not whole within {WHOLE_WITHIN:?} after kill {}",
                kill - 1
            )));
        }
        // The acquire opens the connections, because a client in use has open connections as well.
        acquire(&cluster, &client, shard, &format!("before-{kill}")).await?;
        let leader = Member::Node(leaders[&shard]);
        let killed = Instant::now();
        cluster.strike(leader);
        acquire(&cluster, &client, shard, &format!("after-{kill}")).await?;
        let time = killed.elapsed();
        told(kill, shard, time);
        failovers.times.push(time);
        cluster.kill(leader);
        cluster.start_one(leader);
    }
    Ok(failovers)
}

/// Waits until the node that the map prefers leads every shard. Returns these nodes.
async fn settled(cluster: &Cluster) -> Result<BTreeMap<u32, u64>, Error> {
    let wanted: BTreeMap<u32, u64> = cluster
        .map
        .shards()
        .map(|(shard, replicas)| (shard.0, replicas.preferred_leader.0))
        .collect();
    let asked = Instant::now();
    loop {
        let leaders = cluster.leaders().await.unwrap_or_default();
        if leaders.iter().map(|(shard, leader)| (*shard, leader.node)).collect::<BTreeMap<_, _>>()
            == wanted
        {
            return Ok(wanted);
        }
        if asked.elapsed() > SETTLES_WITHIN {
            return Err(Error::Reason(format!(
                "leaderships did not go back within {SETTLES_WITHIN:?}: {leaders:?}, wanted \
                 {wanted:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Acquires a fresh name of a shard, with as many tries as it takes.
async fn acquire(
    cluster: &Cluster,
    client: &Client,
    shard: u32,
    prefix: &str,
) -> Result<(), Error> {
    let mut names = (0..)
        .map(|n| format!("{prefix}/{n}"))
        .filter(|name| cluster.map.route(name).shard.0 == shard);
    let asked = Instant::now();
    loop {
        let name = names.next().expect("every shard has names");
        match client.acquire(AcquireOptions::new(name).ttl(Duration::from_secs(5))).await {
            Ok(_) => return Ok(()),
            Err(error) if asked.elapsed() > SERVES_WITHIN => {
                return Err(Error::caused(
                    format!("shard {shard} did not serve within {SERVES_WITHIN:?}"),
                    error,
                ));
            }
            Err(_) => {}
        }
    }
}

impl Failovers {
    /// Formats the times for people.
    pub fn summary(&self) -> String {
        let at = |share| quantile(&self.times, share).unwrap_or_default().as_secs_f64();
        format!(
            "{} kills of a shard's leader. From the kill to the next acquire through a gateway:\n\
             median {:.3} s, p99 {:.3} s, least {:.3} s, most {:.3} s",
            self.times.len(),
            at(0.5),
            at(0.99),
            at(0.0),
            at(1.0)
        )
    }

    /// Formats the times for programs, as JSON.
    pub fn json(&self) -> String {
        let at = |share| quantile(&self.times, share).map(|time| time.as_secs_f64() * 1_000.0);
        serde_json::json!({
            "kills": self.times.len(),
            "median_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": at(1.0),
            "all_ms": self.times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect::<Vec<_>>(),
        })
        .to_string()
    }
}
