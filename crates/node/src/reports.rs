//! What this node tells the controller: what the node is, and how its replicas stand.
//!
//! * Reports are made from the published statuses ([`board`](crate::board)). They decide plans, and
//!   no operation.
//! * A report goes to the leader of META when there is news, and every [`REPORT_EVERY`] otherwise.
//!   While another node leads META than should, it goes every [`REPORT_SOON`]: the next leader plans
//!   nothing before each live node has reported to it. Nobody is asked in vain for long: pauses grow while no node takes reports.
//! * A node that does not know its own address reports nothing, because no plan could use it.
//!
//! This module knows nothing of what follows from a report.

use crate::board::Board;
use crate::context::Context;
use crate::limits::{REPORT_EVERY, REPORT_LOOK_EVERY, REPORT_SOON, REPORT_TIMEOUT, REPORT_TRIES};
use crate::lineage::Claim;
use crate::transport::{NotConnected, connect};
use routing::{AddressVersion, META, NodeConfig, NodeId, ShardId};
use shard::{Status, replica_report};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use topology::plan::Report;
use topology::{KNOWN_LEVELS, NodeTold, StoreId};
use wire::internal::v1::topology_service_client::TopologyServiceClient;
use wire::internal::v1::{BehindVoter, ClusterIdentity, NotMetaLeader, ReportRequest};

/// What this node tells of itself for as long as it runs.
pub(crate) fn told(node: NodeId, claim: Claim, me: &NodeConfig) -> NodeTold {
    told_of(node, claim.id.in_topology(), claim.address_version(), me)
}

/// What a node with this data directory tells of itself.
pub(crate) fn told_of(
    node: NodeId,
    store: StoreId,
    start: AddressVersion,
    me: &NodeConfig,
) -> NodeTold {
    NodeTold {
        node,
        address: me.address.clone(),
        zone: me.zone.clone(),
        store,
        start,
        levels: KNOWN_LEVELS,
        binary: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Reports to the leader of META until the future is dropped.
pub(crate) async fn report(context: Arc<Context>, told: NodeTold) {
    if told.address.is_empty() {
        tracing::warn!(
            "this node takes no part in changes of the topology, because its own address in the \
             cluster file is one that stands for all: give it the host:port at which other \
             processes find it"
        );
        return;
    }
    let mut rates = Rates::default();
    let mut sender = Sender { context: context.clone(), to: None, taken_by: None };
    let (mut sent, mut pause): (Option<(Instant, Report)>, _) = (None, REPORT_LOOK_EVERY);
    loop {
        tokio::time::sleep(pause).await;
        let report = report_of(&context.board, &told, &mut rates, context.clock.mono_ms());
        let is_due = sent.as_ref().is_none_or(|(at, before)| {
            at.elapsed() >= sender.pause() || report.is_news_after(before)
        });
        if !is_due {
            continue;
        }
        if sender.send(&report).await {
            (sent, pause) = (Some((Instant::now(), report)), REPORT_LOOK_EVERY);
        } else {
            pause = (pause * 2).min(REPORT_EVERY);
        }
    }
}

/// The report of this node as of now, without rates.
pub(crate) fn report_now(board: &Board, told: &NodeTold, now_ms: u64) -> Report {
    report_of(board, told, &mut Rates::default(), now_ms)
}

/// The report of a node with these statuses.
fn report_of(board: &Board, told: &NodeTold, rates: &mut Rates, now_ms: u64) -> Report {
    // A replica that has published nothing yet is not shown as one with nothing. The last status of
    // a failed replica of META tells nothing: it may have led.
    let has_failed = board.meta_failure().is_some();
    let is_told =
        |status: &Status| status.node == told.node && !(has_failed && status.shard == META);
    let statuses: Vec<Status> = board.all().into_iter().filter(is_told).collect();
    let behind = statuses.iter().flat_map(|status| {
        status.behind_voters().map(|node| (status.shard, node)).collect::<Vec<_>>()
    });
    let behind = behind.collect();
    let replica = |status: Status| {
        let ops_per_s = rates.of(status.shard, status.commands_applied, now_ms);
        (status.shard, replica_report(&status, ops_per_s))
    };
    let replicas = statuses.into_iter().map(replica).collect();
    Report { heard_ms: 0, told: told.clone(), replicas, behind }
}

fn request_of(report: &Report) -> ReportRequest {
    let behind = report.behind.iter();
    let behind = behind.map(|(shard, node)| BehindVoter { shard: shard.0, node: node.0 }).collect();
    ReportRequest { report: report.encode(), behind }
}

/// How many operations each shard applies per second, as a mean over some seconds.
#[derive(Debug, Default)]
struct Rates {
    by_shard: BTreeMap<ShardId, Rate>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    since_ms: u64,
    /// The count of operations at that time.
    count: u64,
    ops_per_s: u64,
}

impl Rates {
    /// The rate of a shard whose count is this one now. 0 until there is a mean.
    fn of(&mut self, shard: ShardId, count: u64, now_ms: u64) -> u64 {
        let begun = Rate { since_ms: now_ms, count, ops_per_s: 0 };
        let rate = self.by_shard.entry(shard).or_insert(begun);
        let past_ms = now_ms.saturating_sub(rate.since_ms);
        if count < rate.count {
            *rate = begun; // another life of the replica
        } else if past_ms >= REPORT_EVERY.as_millis() as u64 {
            let ops_per_s = (count - rate.count).saturating_mul(1_000) / past_ms;
            *rate = Rate { ops_per_s, ..begun };
        }
        rate.ops_per_s
    }
}

/// Finds the leader of META, and keeps the connection to it.
struct Sender {
    context: Arc<Context>,
    to: Option<(NodeId, Channel)>,
    /// The node that took the last report.
    taken_by: Option<NodeId>,
}

impl Sender {
    /// The longest time until the next report.
    fn pause(&self) -> Duration {
        let preferred = self.context.view.now().preferred_leader(META);
        if preferred.is_none() || preferred == self.taken_by { REPORT_EVERY } else { REPORT_SOON }
    }

    /// Sends a report to the leader of META, and tells whether that has taken it.
    async fn send(&mut self, report: &Report) -> bool {
        let context = self.context.clone();
        if context.controller.take(&context.board, context.clock.now(), report.clone()) {
            (self.to, self.taken_by) = (None, Some(context.id));
            return true;
        }
        let mut search = Search::new(context.id, self.likeliest(), self.members());
        for _ in 0..REPORT_TRIES {
            let Some((node, hint)) = search.next() else { break };
            match self.send_to(node, hint, request_of(report)).await {
                Ok(None) => {
                    self.taken_by = Some(node);
                    return true;
                }
                Ok(Some(elsewhere)) => search.hint(&elsewhere),
                Err(error) => {
                    tracing::debug!(to = %node, reason = %error, "a report was not taken");
                }
            }
            self.to = None;
        }
        false
    }

    /// The node that took the last report, then the leader that the replica of META here knows.
    fn likeliest(&self) -> impl Iterator<Item = NodeId> + use<> {
        let last = self.to.as_ref().map(|(node, _)| *node);
        let known = self.context.board.get(META).and_then(|status| status.leader);
        last.into_iter().chain(known)
    }

    /// The nodes with a replica of META.
    fn members(&self) -> Vec<NodeId> {
        let view = self.context.view.now();
        let group = view.groups.get(&META);
        group.into_iter().flat_map(|group| group.nodes.iter().copied()).collect()
    }

    async fn send_to(
        &mut self,
        node: NodeId,
        hint: Option<String>,
        report: ReportRequest,
    ) -> Result<Option<NotMetaLeader>, NotTaken> {
        let channel = match self.to.take().filter(|(known, _)| *known == node) {
            Some((_, channel)) => channel,
            None => self.connect(node, hint).await?,
        };
        let mut request = tonic::Request::new(report);
        let meant = ClusterIdentity { node: node.0, ..self.context.identity.clone() };
        meant.put(request.metadata_mut());
        let mut client = TopologyServiceClient::new(channel.clone());
        let answer = tokio::time::timeout(REPORT_TIMEOUT, client.report(request)).await;
        let response = answer.map_err(|_| NotTaken::Silent)?.map_err(Box::new)?.into_inner();
        self.to = Some((node, channel));
        Ok(response.elsewhere)
    }

    /// A connection at one of the node's addresses, or at the one of a hint.
    async fn connect(&self, node: NodeId, hint: Option<String>) -> Result<Channel, NotTaken> {
        let mut failure = NotTaken::NoAddress;
        let known = self.context.addresses(node);
        let hint = hint.filter(|address| !address.is_empty() && !known.contains(address));
        for address in known.iter().chain(&hint) {
            match connect(self.context.tls.as_ref(), node, address).await {
                Ok(channel) => return Ok(channel),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }
}

/// The nodes to ask for the leader of META, each once: those that are likely to lead it, what they
/// say, and then all its members.
#[derive(Debug)]
pub(crate) struct Search {
    next: VecDeque<(NodeId, Option<String>)>,
    asked: Vec<NodeId>,
}

impl Search {
    /// Node `own` does not lead META.
    pub(crate) fn new(
        own: NodeId,
        likeliest: impl Iterator<Item = NodeId>,
        members: Vec<NodeId>,
    ) -> Search {
        let next = likeliest.chain(members).map(|node| (node, None)).collect();
        Search { next, asked: vec![own] }
    }

    /// Takes the word of a node that does not lead META.
    pub(crate) fn hint(&mut self, elsewhere: &NotMetaLeader) {
        if elsewhere.leader != 0 {
            let address = Some(elsewhere.address.clone());
            self.next.push_front((NodeId(elsewhere.leader), address));
        }
    }
}

impl Iterator for Search {
    type Item = (NodeId, Option<String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, hint) = self.next.pop_front()?;
            if !self.asked.contains(&node) {
                self.asked.push(node);
                return Some((node, hint));
            }
        }
    }
}

/// The reason why a node did not take a report.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("its address is not known")]
    NoAddress,
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    #[error("no answer in {} ms", Duration::as_millis(&REPORT_TIMEOUT))]
    Silent,
    #[error("{}", wire::reason(.0))]
    Refused(#[from] Box<tonic::Status>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: shard::Role) -> Status {
        Status { shard: ShardId(2), node: NodeId(3), role, ..Status::default() }
    }

    fn told() -> NodeTold {
        NodeTold {
            node: NodeId(3),
            address: "three:1".into(),
            zone: None,
            store: StoreId([3; 16]),
            start: Default::default(),
            levels: KNOWN_LEVELS,
            binary: "1".into(),
        }
    }

    #[test]
    fn a_replica_without_a_status_is_not_reported() {
        let board = Board::new([ShardId(1), ShardId(2)]);
        board.publish(status(shard::Role::Follower));
        let told = report_of(&board, &told(), &mut Rates::default(), 1);
        assert_eq!(told.replicas.keys().copied().collect::<Vec<_>>(), [ShardId(2)]);
    }

    /// A failed replica once was a leader, or level, in each report until the node ended.
    #[test]
    fn a_failed_replica_of_meta_is_not_reported() {
        let board = Board::new([ShardId(2), META]);
        board.publish(status(shard::Role::Follower));
        board.publish(Status { shard: META, ..status(shard::Role::Leader) });
        let shards = || {
            let told = report_of(&board, &told(), &mut Rates::default(), 1);
            told.replicas.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(shards(), [ShardId(2), META]);
        board.meta_failed("it parted from the others".to_owned());
        assert_eq!(shards(), [ShardId(2)]);
    }

    #[test]
    fn a_rate_is_a_mean_over_five_seconds() {
        let mut rates = Rates::default();
        let mut of = |count, now_ms| rates.of(ShardId(1), count, now_ms);
        assert_eq!(of(1_000, 100), 0);
        assert_eq!(of(9_000, 5_099), 0, "too early");
        assert_eq!(of(11_000, 5_100), 2_000);
        assert_eq!(of(11_000, 10_099), 2_000);
        assert_eq!(of(11_000, 10_100), 0);
        assert_eq!(of(5, 11_000), 0, "another life of the replica counts from 0");
        assert_eq!(of(505, 16_000), 100);
    }

    #[test]
    fn each_node_is_asked_once_and_hints_go_first() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let mut search = Search::new(NodeId(1), nodes(&[4]).into_iter(), nodes(&[1, 2, 3, 4]));
        assert_eq!(search.next(), Some((NodeId(4), None)));
        let hint =
            |leader, address: &str| NotMetaLeader { leader, address: address.into(), term: 3 };
        search.hint(&hint(9, "nine:1"));
        assert_eq!(search.next(), Some((NodeId(9), Some("nine:1".into()))));
        search.hint(&hint(4, "four:1"));
        search.hint(&hint(0, ""));
        assert_eq!(search.next(), Some((NodeId(2), None)));
        search.hint(&hint(1, "one:1"));
        assert_eq!(search.next(), Some((NodeId(3), None)));
        assert_eq!(search.next(), None);
    }
}
