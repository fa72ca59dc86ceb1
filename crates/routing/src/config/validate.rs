//! The rules for a cluster file, and the warnings.
//!
//! All problems are reported at once, each with what to change. Relations between settings are
//! checked here, so that the crates that use them need not do it.

use super::*;
use crate::address::Address;
use crate::map::SHARDS_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// Upper limit for `entry_bytes_max`. An entry travels with its envelope in a message of at most 1
/// MiB.
const ENTRY_BYTES_LIMIT: usize = (1 << 20) - (16 << 10);
/// Lower limit for `entry_bytes_max`. Any single command fits.
const ENTRY_BYTES_LEAST: usize = 16 << 10;
/// Heartbeats per election timeout: a follower misses two before it may stand for election.
const HEARTBEATS_PER_ELECTION: usize = 3;

/// Highest node id. A replica's id in Raft is a u64, and the other half holds the incarnation of
/// its node's data directory.
pub(crate) const NODE_ID_MAX: u64 = u32::MAX as u64;

impl ClusterConfig {
    /// Checks a configuration that was not made by [`parse`](ClusterConfig::parse) by the same
    /// rules. Returns warnings for people.
    ///
    /// # Errors
    /// All problems, one per line, each with the change to make.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        if self.cluster.trim().is_empty() {
            problems.push("`cluster` is empty: give the cluster a name".to_owned());
        }
        self.check_nodes(&mut problems);
        self.check_sizes(&mut problems, &mut warnings);
        self.check_addresses(&mut problems, &mut warnings);
        self.check_placement(&mut problems);
        self.settings.check(&mut problems);
        super::security::check(self, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError(problems.join("\n")));
        }
        self.warn_of_zones(&mut warnings);
        Ok(warnings)
    }

    fn check_nodes(&self, problems: &mut Vec<String>) {
        let mut ids = BTreeSet::new();
        for node in &self.nodes {
            if node.id.0 == 0 {
                problems.push("a node has id 0: ids start at 1".to_owned());
            } else if node.id.0 > NODE_ID_MAX {
                problems
                    .push(format!("a node has id {}: choose ids from 1 to {NODE_ID_MAX}", node.id));
            } else if !ids.insert(node.id) {
                problems.push(format!("two nodes have id {}: give each its own", node.id));
            }
            if node.zone.as_deref().is_some_and(|zone| zone.trim().is_empty()) {
                problems.push(format!(
                    "node {} has an empty `zone`: name it, or leave it out",
                    node.id
                ));
            }
        }
    }

    fn check_sizes(&self, problems: &mut Vec<String>, warnings: &mut Vec<String>) {
        if self.shards == 0 || self.shards > SHARDS_MAX {
            problems.push(format!("`shards` is {}: choose 1 to {SHARDS_MAX}", self.shards));
        }
        if self.replicas == 0 {
            problems.push("`replicas` is 0: choose 3 or 5 (1 survives no failure)".to_owned());
        } else if self.replicas as usize > self.nodes.len() {
            problems.push(format!(
                "too few nodes: `replicas` is {}, and `nodes` lists {}; add nodes or lower `replicas`",
                self.replicas,
                self.nodes.len()
            ));
        } else if self.replicas.is_multiple_of(2) {
            warnings.push(format!(
                "replicas {} is even: it survives no more failures than {} and needs one more vote; choose an odd number",
                self.replicas,
                self.replicas - 1
            ));
        }
    }

    fn check_addresses(&self, problems: &mut Vec<String>, warnings: &mut Vec<String>) {
        let mut all: Vec<Listener<'_>> = Vec::new();
        let tls = self.tls.as_ref();
        let inside = tls.is_some_and(|tls| tls.inside.is_some());
        let clients = tls.is_some_and(|tls| tls.clients.is_some()) && self.access.is_some();
        for (process, node) in self.nodes.iter().enumerate() {
            let who = format!("node {}", node.id);
            all.push(Listener {
                process,
                what: format!("{who} (`address`)"),
                dialled: true,
                serves: Serves::Locks { protected: inside },
                address: &node.address,
            });
            let metrics = node.metrics.iter();
            all.extend(metrics.map(|address| Listener {
                process,
                what: format!("{who} (`metrics`)"),
                dialled: false,
                serves: Serves::Metrics,
                address,
            }));
        }
        for (at, gateway) in self.gateways.iter().enumerate() {
            let (process, who) = (self.nodes.len() + at, format!("gateway {}", at + 1));
            all.push(Listener {
                process,
                what: format!("{who} (`address`)"),
                dialled: false,
                serves: Serves::Locks { protected: clients },
                address: &gateway.address,
            });
            let metrics = gateway.metrics.iter();
            all.extend(metrics.map(|address| Listener {
                process,
                what: format!("{who} (`metrics`)"),
                dialled: false,
                serves: Serves::Metrics,
                address,
            }));
        }
        let mut users: Vec<(Address, &Listener<'_>)> = Vec::new();
        let (mut unprotected, mut open_metrics) = (Vec::new(), Vec::new());
        for listener in &all {
            let address: Address = match listener.address.parse() {
                Ok(parsed) => parsed,
                Err(why) => {
                    problems.push(format!(
                        "{} has the address {:?}: {why}",
                        listener.what, listener.address
                    ));
                    continue;
                }
            };
            if address.is_unspecified() && listener.dialled {
                problems.push(format!(
                    "{} has the address {:?}, which other nodes cannot dial: name the host or its address",
                    listener.what, listener.address
                ));
            }
            match listener.serves {
                _ if address.is_loopback() => {}
                Serves::Locks { protected: true } => {}
                Serves::Locks { protected: false } => unprotected.push(listener.what.as_str()),
                Serves::Metrics => open_metrics.push(listener.what.as_str()),
            }
            users.push((address, listener));
        }
        check_shared(&users, problems);
        if let Some(who) = listen(&unprotected) {
            warnings.push(format!(
                "{who} beyond this machine without TLS or access control: any client that reaches the port can take and break locks; \
                 keep it inside a trusted network"
            ));
        }
        if let Some(who) = listen(&open_metrics) {
            warnings.push(format!(
                "{who} beyond this machine: metrics have neither TLS nor identities, and tell loads, addresses and states; \
                 keep them inside a network for operators"
            ));
        }
    }

    fn check_placement(&self, problems: &mut Vec<String>) {
        if self.placement.is_empty() {
            return;
        }
        let known: BTreeSet<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let mut placed = BTreeSet::new();
        for PlacementConfig { shard, nodes } in &self.placement {
            if shard.0 >= self.shards {
                problems.push(format!(
                    "`placement` names shard {shard}, but `shards` is {}: they are numbered from 0",
                    self.shards
                ));
            }
            if !placed.insert(*shard) {
                problems.push(format!("`placement` has shard {shard} twice: keep one"));
            }
            if nodes.len() != self.replicas as usize {
                problems.push(format!(
                    "`placement` of shard {shard} lists {}, but `replicas` is {}: list as many",
                    if nodes.len() == 1 {
                        "1 node".to_owned()
                    } else {
                        format!("{} nodes", nodes.len())
                    },
                    self.replicas
                ));
            }
            let mut seen = BTreeSet::new();
            for node in nodes {
                if !known.contains(node) {
                    problems.push(format!(
                        "`placement` of shard {shard} names node {node}, which is not in `nodes`"
                    ));
                }
                if !seen.insert(*node) {
                    problems.push(format!(
                        "`placement` of shard {shard} names node {node} twice: replicas live apart"
                    ));
                }
            }
        }
        let missing: Vec<String> = (0..self.shards.min(SHARDS_MAX))
            .filter(|s| !placed.contains(&ShardId(*s)))
            .map(|s| s.to_string())
            .collect();
        if !missing.is_empty() {
            problems.push(format!(
                "`placement` lacks shard {}: place every shard, or leave `placement` out",
                missing.join(", ")
            ));
        }
    }

    /// Warns of zones that hold a majority of a shard. The configuration is valid otherwise.
    fn warn_of_zones(&self, warnings: &mut Vec<String>) {
        let zone_of: BTreeMap<NodeId, _> =
            self.nodes.iter().map(|node| (node.id, node.zone())).collect();
        if zone_of.values().collect::<BTreeSet<_>>().len() < 2 {
            return;
        }
        let mut exposed: Vec<(ShardId, String)> = Vec::new();
        for (shard, replicas) in self.shard_map().shards() {
            let mut of_zone: BTreeMap<_, usize> = BTreeMap::new();
            for node in &replicas.nodes {
                *of_zone.entry(&zone_of[node]).or_default() += 1;
            }
            for (zone, count) in of_zone {
                // A zone without a name is a single node. It fails as a whole under any placement.
                if let placement::Zone::Named(name) = zone
                    && replicas.nodes.len() > 1
                    && count > replicas.nodes.len() / 2
                {
                    exposed.push((
                        shard,
                        format!("zone {name} holds {count} of {} replicas", replicas.nodes.len()),
                    ));
                }
            }
        }
        if let Some((shard, what)) = exposed.first() {
            let others = match exposed.len() - 1 {
                0 => String::new(),
                1 => " (and 1 more shard)".to_owned(),
                more => format!(" (and {more} more shards)"),
            };
            warnings.push(format!(
                "shard {shard}: {what}{others}, so it stops when that zone does: spread the nodes over three zones or more, or \
                 give a `placement`"
            ));
        }
    }
}

impl Settings {
    fn check(&self, problems: &mut Vec<String>) {
        let mut range = |name: &str, value: u64, least: u64, most: u64| {
            if value < least || value > most {
                problems.push(format!("`settings.{name}` is {value}: choose {least} to {most}"));
            }
        };
        range("tick_ms", self.tick_ms, 5, 1_000);
        range("heartbeat_ticks", self.heartbeat_ticks as u64, 1, 100);
        range("election_ticks", self.election_ticks as u64, 3, 1_000);
        range("shard_threads", self.shard_threads as u64, 0, 1_024);
        range(
            "entry_bytes_max",
            self.entry_bytes_max as u64,
            ENTRY_BYTES_LEAST as u64,
            ENTRY_BYTES_LIMIT as u64,
        );
        range("entries_in_flight_max", self.entries_in_flight_max as u64, 1, 64);
        range("append_hold_ms", self.append_hold_ms, 0, 1_000);
        range("queue_ops_max", self.queue_ops_max as u64, 16, 10_000_000);
        range("checkpoint_log_bytes", self.checkpoint_log_bytes, 1 << 20, 1 << 30);
        range("log_keep_bytes", self.log_keep_bytes, 64 << 10, 4 << 30);
        range("history_days", u64::from(self.history_days), 1, 3_650);
        range("waiter_grace_ms", self.waiter_grace_ms, 0, 600_000);
        range("disk_hang_exit_ms", self.disk_hang_exit_ms, 1_000, 3_600_000);
        range("disk_reserve_bytes", self.disk_reserve_bytes, 0, 16 << 30);
        if self.election_ticks < self.heartbeat_ticks.saturating_mul(HEARTBEATS_PER_ELECTION) {
            problems.push(format!(
                "`settings.election_ticks` is {} with `heartbeat_ticks` {}: make it at least {HEARTBEATS_PER_ELECTION} times \
                 that, or one late heartbeat costs a leader",
                self.election_ticks, self.heartbeat_ticks
            ));
        }
        if self.append_hold_ms >= self.tick_ms {
            problems.push(format!(
                "`settings.append_hold_ms` is {} with `tick_ms` {}: make it less than that, or followers that lag on purpose look \
                 like followers that cannot keep up",
                self.append_hold_ms, self.tick_ms
            ));
        }
        let in_flight_bytes =
            (self.entry_bytes_max as u64).saturating_mul(self.entries_in_flight_max as u64);
        // A replica draws 3/4 of the setting or more.
        if self.checkpoint_log_bytes - self.checkpoint_log_bytes / 4 < in_flight_bytes {
            problems.push(format!(
                "`settings.checkpoint_log_bytes` is {}: make it at least 4/3 of `entry_bytes_max` × `entries_in_flight_max` \
                 ({in_flight_bytes}), or every entry brings a checkpoint",
                self.checkpoint_log_bytes
            ));
        }
    }
}

/// An address on which a process of the cluster listens.
struct Listener<'a> {
    /// Index of the process, the same for all of its listeners.
    process: usize,
    /// Name of the listener, for people.
    what: String,
    /// Whether other nodes connect to exactly this address.
    dialled: bool,
    serves: Serves,
    address: &'a str,
}

/// The purpose of a listener.
enum Serves {
    /// Operations on locks, or what leads to them.
    Locks {
        /// Whether TLS, and for clients identities, protect them.
        protected: bool,
    },
    /// Metrics and probes, which nothing protects.
    Metrics,
}

/// The beginning of a sentence about some listeners. `None` if there are none.
fn listen(listeners: &[&str]) -> Option<String> {
    let (first, others) = listeners.split_first()?;
    Some(match others.len() {
        0 => format!("{first} listens"),
        more => format!("{first} and {more} more listen"),
    })
}

/// Reports each address that two or more listeners share, once.
///
/// Only listeners with a [`Near`] in common are compared, because a cluster of some thousand nodes
/// has too many pairs.
fn check_shared(users: &[(Address, &Listener<'_>)], problems: &mut Vec<String>) {
    let mut near: BTreeMap<Near, Vec<usize>> = BTreeMap::new();
    for (at, user) in users.iter().enumerate() {
        for key in near_of(user) {
            near.entry(key).or_default().push(at);
        }
    }
    let mut told = vec![false; users.len()];
    for (at, (address, first)) in users.iter().enumerate() {
        if told[at] {
            continue;
        }
        let neighbours: BTreeSet<usize> =
            near_of(&users[at]).flat_map(|key| &near[&key]).copied().collect();
        let sharing: Vec<usize> = neighbours
            .range(at + 1..)
            .copied()
            .filter(|other| !told[*other] && collide(&users[at], &users[*other]))
            .collect();
        if sharing.is_empty() {
            continue;
        }
        let mut names = vec![first.what.clone()];
        for other in sharing {
            told[other] = true;
            let (_, listener) = &users[other];
            let spelt = if listener.address == first.address {
                String::new()
            } else {
                format!(" as {:?}", listener.address)
            };
            names.push(format!("{}{spelt}", listener.what));
        }
        problems.push(format!(
            "{} share the address {address}: give each its own port",
            names.join(" and ")
        ));
    }
}

/// What two listeners that collide have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Near {
    Socket(String, u16),
    Process(usize, u16),
}

fn near_of((address, listener): &(Address, &Listener<'_>)) -> impl Iterator<Item = Near> {
    let port = address.port();
    let socket = || Near::Socket(address.host_key(), port);
    // An unspecified address collides only within its process.
    let socket = (!address.is_unspecified()).then(socket);
    socket.into_iter().chain([Near::Process(listener.process, port)])
}

/// Whether two listeners cannot both have their address.
///
/// An unspecified address stands for all addresses of its own machine, so it collides only within
/// one process.
fn collide(
    (one, first): &(Address, &Listener<'_>),
    (other, second): &(Address, &Listener<'_>),
) -> bool {
    match one.is_unspecified() || other.is_unspecified() {
        true => one.port() == other.port() && first.process == second.process,
        false => one.is_same_as(other),
    }
}
