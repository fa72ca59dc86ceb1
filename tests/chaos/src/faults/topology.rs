//! Changes of the topology under load, as an operator makes them: by `palisade cluster`, and as
//! `docs/operate/change-the-nodes.md` says.
//!
//! Each row leaves five replicas of every shard. A node that has joined and has no replica yet, a
//! spare, stays for the next row. The nodes of these rows change from row to row, so they have a
//! cluster of their own.

use super::{Stage, Wound};
use crate::cluster::{NODES, SHARDS};
use crate::error::{Because, Error};
use crate::probe::all_back;
use client::{AcquireOptions, ClientOptions};
use local_cluster::Member;
use palisade_tests::palisade_binary;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// The longest time that a job may take. A longer time is a failure.
const JOB_WITHIN: &str = "120s";
/// The longest wait for a change that is not a job.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// A verb that must fail is given up after this time.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// The longest time until restarted nodes take part again.
const BACK_WITHIN: Duration = Duration::from_secs(45);

impl Stage<'_> {
    pub(super) async fn join_a_node(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        self.remove_spare(&mut wound).await?;
        let id = self.join().await?;
        wound.notes.push(format!("node {id} joined"));
        Ok(wound.serves())
    }

    /// A leader is replaced by a spare. Half of the time it is dead. It must be refused when it
    /// starts again.
    pub(super) async fn replace_a_node(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        let (old, new) = (self.some_member(), self.spare().await?);
        let is_dead = self.rng.percent(50);
        if is_dead {
            self.cluster.kill(Member::Node(old));
        }
        let verb = ["replace-node", &old.to_string(), &new.to_string()];
        self.job(&verb, &mut wound).await?;
        self.cluster.forget(old);
        self.expect_members(&mut wound).await?;
        wound.notes.push(format!("node {old} was replaced by {new}; it was dead: {is_dead}"));
        if is_dead {
            self.cluster.start_one(Member::Node(old));
        }
        wound.must_end.insert(old);
        Ok(wound.serves())
    }

    /// A drained node leads nothing. Nobody misses it when it is killed.
    pub(super) async fn drain_a_node(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        let id = self.some_member();
        self.job(&["drain", &id.to_string()], &mut wound).await?;
        let leaders = self.cluster.leaders().await.unwrap_or_default();
        if leaders.is_empty() || leaders.values().any(|leader| leader.node == id) {
            wound.failures.push(format!("node {id} is drained, and leaders are {leaders:?}"));
        }
        self.cluster.kill(Member::Node(id));
        sleep(Duration::from_millis(self.rng.range(500, 3_000))).await;
        self.cluster.start_one(Member::Node(id));
        self.job(&["undrain", &id.to_string()], &mut wound).await?;
        wound.notes.push(format!("node {id} was drained, killed and taken back"));
        Ok(wound.serves())
    }

    /// The replicas of a leader move to a spare, and its process ends by itself.
    pub(super) async fn remove_a_node(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        let (old, new) = (self.some_member(), self.spare().await?);
        self.job(&["remove-node", &old.to_string()], &mut wound).await?;
        self.cluster.forget(old);
        self.expect_members(&mut wound).await?;
        wound.notes.push(format!("node {old} was removed, and node {new} has its replicas"));
        wound.must_end.insert(old);
        Ok(wound.serves())
    }

    pub(super) async fn change_replica_count(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        for count in ["3", "5"] {
            self.job(&["replicas", count], &mut wound).await?;
            wound.notes.push(format!("every shard has {count} replicas"));
        }
        Ok(wound.serves())
    }

    /// Without a spare, the members that leave a shard are those that come back. A leader may be
    /// killed in between.
    pub(super) async fn move_members_back(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        self.remove_spare(&mut wound).await?;
        let shard = self.rng.below(SHARDS.into()) as u32;
        let before = self.voters(shard).await?;
        let number = shard.to_string();
        self.job(&["replicas", "3", "--shard", &number], &mut wound).await?;
        let between = self.voters(shard).await?;
        if self.rng.percent(50) {
            let killed = Member::Node(self.some_member());
            self.cluster.kill(killed);
            sleep(Duration::from_millis(self.rng.range(200, 2_000))).await;
            self.cluster.start_one(killed);
        }
        self.job(&["replicas", "5", "--shard", &number], &mut wound).await?;
        let after = self.voters(shard).await?;
        if between.len() != 3 || before != after {
            wound.failures.push(format!("shard {shard}: {before:?}, {between:?}, {after:?}"));
        }
        wound.notes.push(format!("shard {shard}: {before:?} → {between:?} → {after:?}"));
        Ok(wound.serves())
    }

    /// Three of the five members of the topology's group are killed, within a job of another shard.
    /// A shard of which two of three replicas live must serve. No change can be made, and the verb
    /// must say so. The job goes on when the members are back.
    pub(super) async fn take_meta_its_quorum(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        self.remove_spare(&mut wound).await?;
        self.job(&["replicas", "3"], &mut wound).await?;
        let shard = self.rng.below(SHARDS.into()) as u32;
        let topology = self.topology().await?;
        let meta = nodes_of(&topology["meta"], "voters");
        let live: BTreeSet<u64> = self.voters(shard).await?.into_iter().take(2).collect();
        let killed: Vec<u64> = meta.iter().copied().filter(|node| !live.contains(node)).collect();
        // A job of this shard could make voters of nodes that are killed then.
        let other = ((shard + 1) % SHARDS).to_string();
        self.verb(&["replicas", "5", "--shard", &other, "--detach"]).await?;
        for node in &killed {
            self.cluster.kill(Member::Node(*node));
        }
        if killed.len() * 2 <= meta.len() {
            wound.failures.push(format!("{killed:?} of {meta:?} were killed: that is no majority"));
        }
        let options = ClientOptions::new().timeout(SHOWN_WITHIN).owner("conductor");
        let client = client::Client::with_options(self.cluster.processes.endpoints(), options);
        let name = self.fresh_name(shard);
        let ttl = Duration::from_secs(2);
        if let Err(error) = client.acquire(AcquireOptions::new(name).ttl(ttl)).await {
            wound.failures.push(format!(
                "shard {shard} did not serve on {live:?} while the topology's group had no quorum: {error}"
            ));
        }
        let drained = live.first().expect("two of its replicas live").to_string();
        let (has_succeeded, said) = self.verb(&["drain", &drained]).await?;
        if has_succeeded {
            wound.failures.push(format!("a drain without the topology's group: {said}"));
        }
        wound
            .notes
            .push(format!("without {killed:?}: {}", said.lines().next().unwrap_or_default()));
        for node in killed {
            self.cluster.start_one(Member::Node(node));
        }
        if !all_answer(self, BACK_WITHIN).await {
            wound.failures.push(format!("not every node was back within {BACK_WITHIN:?}"));
        }
        // The drain may be done now, as the verb said: the order was in the log of a member that
        // lived. While it is at work, it cannot be taken back.
        let asked = Instant::now();
        loop {
            let (has_succeeded, said) = self.verb(&["undrain", &drained]).await?;
            if has_succeeded {
                break;
            }
            if asked.elapsed() > ENDS_WITHIN {
                wound.failures.push(format!("palisade cluster undrain {drained}: {said}"));
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        // The former order may have been lost with its leader, and is at work otherwise.
        let asked = Instant::now();
        while !self.misplaced().await?.is_empty() && asked.elapsed() < ENDS_WITHIN {
            self.verb(&["replicas", "5", "--detach"]).await?;
            sleep(Duration::from_secs(1)).await;
        }
        self.expect_members(&mut wound).await?;
        Ok(wound)
    }

    /// Three nodes join and get replicas, and any three nodes are removed.
    pub(super) async fn grow_and_shrink(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        while (self.cluster.nodes().len() as u64) < NODES + 3 {
            self.join().await?;
        }
        self.job(&["rebalance", "--members"], &mut wound).await?;
        if let Some(id) = self.idle().await? {
            wound.failures.push(format!("after `rebalance --members`, node {id} has no replica"));
        }
        self.expect_members(&mut wound).await?;
        for _ in 0..3 {
            let nodes: Vec<u64> = self.cluster.nodes().iter().copied().collect();
            let old = *self.rng.pick(&nodes);
            self.hurt.insert(old);
            self.job(&["remove-node", &old.to_string()], &mut wound).await?;
            self.cluster.forget(old);
            wound.must_end.insert(old);
        }
        self.expect_members(&mut wound).await?;
        Ok(wound.serves())
    }

    /// All nodes stop, and start at other addresses with another cluster file.
    pub(super) async fn move_all_addresses(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        self.cluster.move_all_nodes()?;
        for host in self.cluster.members() {
            self.cluster.kill(host);
        }
        for host in self.cluster.members() {
            self.cluster.start_one(host);
        }
        if !all_back(self.cluster, BACK_WITHIN).await {
            wound.failures.push(format!(
                "with other addresses, not every node was back within {BACK_WITHIN:?}"
            ));
        }
        let asked = Instant::now();
        loop {
            let known = addresses(&self.topology().await?);
            let is_told = |id: &u64| {
                let address = self.cluster.network.address(Member::Node(*id));
                known.contains(&(*id, address.to_owned()))
            };
            if self.cluster.nodes().iter().all(is_told) {
                break;
            }
            if asked.elapsed() > SHOWN_WITHIN {
                wound.failures.push(format!("the topology has old addresses: {known:?}"));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(wound)
    }

    /// A node that hosts replicas, which leads if any such node does.
    fn some_member(&mut self) -> u64 {
        let leaders: Vec<u64> = self.leaders.values().copied().collect();
        let node = *self.rng.pick(&leaders);
        self.hurt.insert(node);
        node
    }

    /// A node without replicas: one that has joined before, or one that joins now.
    async fn spare(&mut self) -> Result<u64, Error> {
        match self.idle().await? {
            Some(id) => Ok(id),
            None => self.join().await,
        }
    }

    async fn idle(&mut self) -> Result<Option<u64>, Error> {
        let topology = self.topology().await?;
        let shards = topology["shards"].as_array().ok_or("a topology has shards")?;
        let hosts: BTreeSet<u64> =
            shards.iter().flat_map(|shard| nodes_of(shard, "wanted")).collect();
        Ok(self.cluster.nodes().iter().copied().find(|id| !hosts.contains(id)))
    }

    /// Removes nodes until five are left, those without replicas first. They may end while this round
    /// lasts. After another count of replicas, a sixth node may have some.
    async fn remove_spare(&mut self, wound: &mut Wound) -> Result<(), Error> {
        while let Some(last) = self.cluster.nodes().last().copied()
            && self.cluster.nodes().len() as u64 > NODES
        {
            let id = self.idle().await?.unwrap_or(last);
            self.job(&["remove-node", &id.to_string()], wound).await?;
            self.cluster.forget(id);
            wound.must_end.insert(id);
        }
        Ok(())
    }

    async fn join(&mut self) -> Result<u64, Error> {
        let id = self.cluster.let_join()?;
        let asked = Instant::now();
        loop {
            let topology = self.topology().await?;
            let known = |node: &Value| node["node"] == id && node["binary"] != "";
            if topology["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(known)) {
                return Ok(id);
            }
            if asked.elapsed() > SHOWN_WITHIN {
                let log = self.cluster.processes.log_end(Member::Node(id), 3);
                return Err(Error::Reason(format!("node {id} did not join: {log}")));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Checks that every shard has five voters, all on nodes of the cluster, and none besides.
    async fn expect_members(&mut self, wound: &mut Wound) -> Result<(), Error> {
        for group in self.misplaced().await? {
            wound.failures.push(format!("after the job a shard is not as it should be: {group}"));
        }
        Ok(())
    }

    /// The shards that are not as they should be.
    async fn misplaced(&mut self) -> Result<Vec<Value>, Error> {
        let topology = self.topology().await?;
        let shards = topology["shards"].as_array().into_iter().flatten();
        let is_right = |group: &&Value| {
            let voters = nodes_of(group, "voters");
            voters.len() == 5 && voters.is_subset(self.cluster.nodes())
        };
        Ok(shards.filter(|group| !is_right(group)).cloned().collect())
    }

    async fn voters(&mut self, shard: u32) -> Result<BTreeSet<u64>, Error> {
        let topology = self.topology().await?;
        let shards = topology["shards"].as_array().into_iter().flatten();
        let group = shards.into_iter().find(|group| group["shard"] == shard);
        Ok(nodes_of(group.ok_or("a topology has every shard")?, "voters"))
    }

    /// The newest topology that a gateway tells, as soon as one does. A job was seen to be done at
    /// one of them, and another one may be behind.
    async fn topology(&mut self) -> Result<Value, Error> {
        let asked = Instant::now();
        loop {
            let (mut newest, mut refused) = (None, String::new());
            for endpoint in self.cluster.processes.endpoints() {
                let (has_succeeded, said) =
                    self.verb(&["topology", "--json", "--endpoint", &endpoint]).await?;
                if !has_succeeded {
                    refused = said;
                    continue;
                }
                let told: Value = serde_json::from_str(&said).because("a topology")?;
                newest = newest.into_iter().chain([told]).max_by_key(version);
            }
            if let Some(newest) = newest {
                return Ok(newest);
            }
            if asked.elapsed() > SHOWN_WITHIN {
                return Err(Error::Reason(format!("no topology: {refused}")));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Runs a job to its end. It is a failure of the row if it is not done.
    async fn job(&mut self, verb: &[&str], wound: &mut Wound) -> Result<(), Error> {
        let asked = Instant::now();
        let (has_succeeded, said) = self.verb(&[verb, &["--within", JOB_WITHIN]].concat()).await?;
        if !has_succeeded {
            wound.failures.push(format!("palisade cluster {}: {said}", verb.join(" ")));
        }
        wound.notes.push(format!("{} took {:.1?}", verb.join(" "), asked.elapsed()));
        Ok(())
    }

    /// Runs `palisade cluster …`. Returns whether it succeeded, and what it said.
    async fn verb(&self, args: &[&str]) -> Result<(bool, String), Error> {
        let mut command = Command::new(palisade_binary());
        command.arg("cluster").args(args).kill_on_drop(true);
        command.env("PALISADE_ENDPOINT", self.cluster.processes.endpoints().join(","));
        let output = tokio::time::timeout(4 * ENDS_WITHIN, command.output()).await;
        let output = output.because("palisade cluster")?.because("palisade cluster")?;
        let said = match output.status.success() {
            true => output.stdout,
            false => [output.stdout, output.stderr].concat(),
        };
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Waits until every node answers, whether its replicas are level or not.
async fn all_answer(stage: &Stage<'_>, within: Duration) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < within {
        if let Some(status) = stage.cluster.status().await {
            let answers = |id: &u64| status.nodes.iter().any(|it| it.node == *id && it.reachable);
            if stage.cluster.nodes().iter().all(answers) {
                return true;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    false
}

fn version(topology: &Value) -> u64 {
    topology["version"].as_u64().unwrap_or_default()
}

fn nodes_of(group: &Value, which: &str) -> BTreeSet<u64> {
    group[which].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn addresses(topology: &Value) -> BTreeSet<(u64, String)> {
    let nodes = topology["nodes"].as_array().into_iter().flatten();
    let address =
        |node: &Value| Some((node["node"].as_u64()?, node["address"].as_str()?.to_owned()));
    nodes.filter_map(address).collect()
}
