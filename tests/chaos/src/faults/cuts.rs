//! Faults of the network: partitions and packet loss.

use super::{Stage, Wound};
use crate::cluster::{Cluster, NODES};
use crate::delay::SlowWay;
use crate::error::{Because, Error};
use client::{AcquireOptions, Client, ClientOptions};
use local_cluster::Member;
use std::collections::BTreeMap;
use std::time::Duration;

impl Stage<'_> {
    /// Two nodes and a gateway stand on one side, three nodes and the other gateway on the other.
    pub(super) fn halves(&mut self) -> Result<Wound, Error> {
        let nodes: Vec<Member> = self.shuffled().into_iter().map(Member::Node).collect();
        let minority = [nodes[0], nodes[1], Member::Gateway(2)];
        let majority = [nodes[2], nodes[3], nodes[4], Member::Gateway(1)];
        self.cluster.network.split(&minority, &majority);
        self.cluster.network.apply()?;
        Ok(Wound::lasting_s(self.rng, 5, 9).serves())
    }

    /// Cuts a leader from its peers. Clients still reach it through both gateways, but it must not
    /// answer for its followers.
    pub(super) fn isolate_leader(&mut self) -> Result<Wound, Error> {
        let leader = self.some_leader();
        for id in 1..=NODES {
            self.cluster.network.cut(Member::Node(leader), Member::Node(id));
        }
        self.cluster.network.apply()?;
        Ok(Wound::lasting_s(self.rng, 5, 9).serves())
    }

    /// Each node hears only two others.
    pub(super) fn ring(&mut self) -> Result<Wound, Error> {
        let nodes = self.shuffled();
        let count = nodes.len();
        for at in 0..count {
            self.cluster
                .network
                .cut(Member::Node(nodes[at]), Member::Node(nodes[(at + 2) % count]));
        }
        self.cluster.network.apply()?;
        Ok(Wound::lasting_s(self.rng, 5, 9))
    }

    /// Cuts one direction: a leader hears none of its peers, or none of its peers hears the leader.
    pub(super) fn one_way(&mut self) -> Result<Wound, Error> {
        let leader = Member::Node(self.some_leader());
        let deaf = self.rng.percent(50);
        for id in 1..=NODES {
            let (ear, mouth) =
                if deaf { (leader, Member::Node(id)) } else { (Member::Node(id), leader) };
            self.cluster.network.deafen(ear, mouth);
        }
        self.cluster.network.apply()?;
        Ok(Wound::lasting_s(self.rng, 5, 9).serves())
    }

    pub(super) fn lose_packets(&mut self) -> Result<Wound, Error> {
        let percent = self.rng.range(5, 50) as u32;
        for host in Cluster::hosts() {
            self.cluster.network.lose(host, percent);
        }
        self.cluster.network.apply()?;
        Ok(Wound::lasting_s(self.rng, 6, 10))
    }

    /// Nodes and gateways reach nodes only over a slow way, and each piece has another delay.
    pub(super) async fn delay(&mut self) -> Result<Wound, Error> {
        let most = Duration::from_millis(*self.rng.pick(&[10, 40, 120]));
        for id in 1..=NODES {
            let (host, seed) = (Member::Node(id), self.rng.next_u64());
            let to = self.cluster.network.address(host).to_owned();
            let way = SlowWay::open(to, most, seed).await.because("a slow way")?;
            self.cluster.network.detour(host, way.port());
            self.cluster.slow_ways.push(way);
        }
        self.cluster.network.apply()?;
        // Open connections would go on without the delay, so they are broken.
        self.cluster.network.break_connections().await?;
        let mut wound = Wound::lasting_s(self.rng, 8, 10);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let unused = self.cluster.slow_ways.iter().filter(|way| way.led() == 0).count();
        if unused > 0 {
            wound.failures.push(format!(
                "{unused} slow ways led no connection within 4 s: they took no effect"
            ));
        }
        Ok(wound)
    }

    /// Cuts a gateway from the node that leads a shard, in both directions. Through this gateway,
    /// the names of that node's shards must be refused and all others served. Through the other
    /// gateway all names are served.
    pub(super) async fn cut_gateway(&mut self) -> Result<Wound, Error> {
        let leader = self.some_leader();
        let led = |leaders: &BTreeMap<u32, u64>| -> Vec<u32> {
            leaders.iter().filter_map(|(shard, node)| (*node == leader).then_some(*shard)).collect()
        };
        let before = led(&self.leaders);
        self.cluster.network.cut(Member::Gateway(1), Member::Node(leader));
        self.cluster.network.apply()?;
        let mut wound = Wound::lasting_s(self.rng, 3, 5).serves();
        for gateway in [1, 2] {
            let answers = through(self.cluster, gateway, self.rng.next_u64()).await;
            for (shard, answer) in (0..).zip(answers) {
                let fails = gateway == 1 && before.contains(&shard);
                match answer {
                    Ok(()) if fails => wound.failures.push(format!(
                        "shard {shard} was served through gateway {gateway}, which is cut from its \
                         leader, node {leader}"
                    )),
                    Err(why) if !fails => wound.failures.push(format!(
                        "shard {shard} was not served through gateway {gateway}, which reaches its \
                         leader: {why}"
                    )),
                    _ => {}
                }
            }
        }
        // If leaderships moved meanwhile, the result means nothing.
        let after = self.cluster.leaders().await.unwrap_or_default();
        if led(&after.into_iter().map(|(shard, leader)| (shard, leader.node)).collect()) != before {
            wound.failures.clear();
        }
        Ok(wound)
    }
}

/// Whether an acquire of a fresh name on each shard succeeds through one gateway alone.
async fn through(cluster: &Cluster, gateway: u64, nonce: u64) -> Vec<Result<(), Error>> {
    let options = ClientOptions::new().timeout(Duration::from_secs(4)).owner("conductor");
    let client = Client::with_options([cluster.network.address(Member::Gateway(gateway))], options);
    let asks = cluster.map.shards().map(|(shard, _)| {
        let mut names = (0..).map(|n| format!("cut-{nonce:x}/{gateway}-{n}"));
        let name = names
            .find(|name| cluster.map.route(name).shard == shard)
            .expect("every shard has names");
        let client = client.clone();
        tokio::spawn(async move {
            let grant =
                client.acquire(AcquireOptions::new(&name).ttl(Duration::from_secs(1))).await;
            grant.map(|_| ()).map_err(Error::other)
        })
    });
    let asks: Vec<_> = asks.collect();
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.await.unwrap_or_else(|error| Err(Error::other(error))));
    }
    answers
}
