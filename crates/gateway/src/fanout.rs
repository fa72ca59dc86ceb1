//! Operations that fan out to many shards: heartbeats, closes, lists, status.

use crate::limits::STATUS_TIMEOUT_MS;
use crate::router::{NEVER, Plan, Router};
use futures_util::future::join_all;
use routing::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as Answer;
use wire::internal::v1::{CloseSession, Heartbeat, Operation, ReadStatus, Route, ShardPage};
use wire::limits::DEFAULT_TTL_MS;
use wire::v1::{
    CloseSessionRequest, CloseSessionResponse, ClusterStatusResponse, Error, ErrorCode, Grant,
    HeartbeatRequest, HeartbeatResponse, ListRequest, ListResponse, NodeStatus, OpenSessionRequest,
    OpenSessionResponse, SessionLease, SessionLeaseState, ShardStatus,
};
use wire::{ErrorClass, check_session_options, decode_cursor, encode_cursor};

type Outcome = Result<Answer, Box<Error>>;

/// Most broken tokens in one answer to a heartbeat, so that the answer fits a frame.
const BROKEN_TOKENS_MAX: usize = 1 << 16;

/// Fits one shard's part of an answer into `room`. Tokens that do not fit are dropped and reported
/// as an overflow.
fn within(mut lease: SessionLeaseState, room: &mut usize) -> SessionLeaseState {
    if lease.broken_tokens.len() > *room {
        lease.broken_tokens.clear();
        lease.broken_overflow = true;
    }
    *room -= lease.broken_tokens.len();
    lease
}

impl Router {
    /// Makes a new session id. Nothing is sent to any node.
    pub(crate) fn open_session(
        &self,
        request: &OpenSessionRequest,
    ) -> Result<OpenSessionResponse, Box<Error>> {
        check_session_options(&request.owner, request.ttl_ms, &request.metadata)?;
        let id: u128 = rand::random();
        let ttl_ms = if request.ttl_ms == 0 { DEFAULT_TTL_MS } else { request.ttl_ms };
        Ok(OpenSessionResponse { session_id: format!("{id:032x}"), ttl_ms })
    }

    /// Renews on all shards at the same time. A slow shard holds up the answers of the others for
    /// at most `timeout_ms`.
    pub(crate) async fn heartbeat(
        &self,
        request: HeartbeatRequest,
        timeout_ms: u64,
    ) -> Result<HeartbeatResponse, Box<Error>> {
        let lives: BTreeMap<u32, SessionLease> =
            request.leases.iter().map(|lease| (lease.shard, *lease)).collect();
        let (known, unknown) = self.known(lives.keys().copied());
        let op = |shard: ShardId| {
            let SessionLease { life, broken_seen, .. } =
                lives.get(&shard.0).copied().unwrap_or_default();
            Op::Heartbeat(Heartbeat { session_id: request.session_id.clone(), life, broken_seen })
        };
        let mut answer = HeartbeatResponse { lost_shards: unknown, ..Default::default() };
        let mut room = BROKEN_TOKENS_MAX;
        for (shard, outcome) in self.ask_each(known, timeout_ms, op).await {
            match outcome {
                Ok(Answer::Heartbeat(lease)) => {
                    answer.renewed_shards += 1;
                    answer.leases.push(within(lease, &mut room));
                }
                Ok(_) => answer.failed_shards.push(shard.0),
                Err(error) if error.class() == ErrorClass::Fenced => {
                    answer.lost_shards.push(shard.0)
                }
                Err(error) if error.class() == ErrorClass::FixInput => return Err(error),
                Err(_) => answer.failed_shards.push(shard.0),
            }
        }
        Ok(answer)
    }

    /// Closes the session on every shard named. If one shard fails the whole fails, because closing
    /// a second time does no harm.
    pub(crate) async fn close_session(
        &self,
        request: CloseSessionRequest,
        timeout_ms: u64,
    ) -> Result<CloseSessionResponse, Box<Error>> {
        let (known, unknown) = self.known(request.shards.iter().copied());
        if let Some(shard) = unknown.first() {
            return Err(Box::new(Error::invalid(format!("the cluster has no shard {shard}"))));
        }
        let op = |_| Op::CloseSession(CloseSession { session_id: request.session_id.clone() });
        let mut answer = CloseSessionResponse::default();
        let mut failed = None;
        for (_, outcome) in self.ask_each(known, timeout_ms, op).await {
            match outcome {
                Ok(Answer::CloseSession(of_shard)) => answer.released += of_shard.released,
                Ok(_) => {}
                Err(error) if error.class() == ErrorClass::Fenced => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(answer), Err)
    }

    /// Reads one page of all shards' grants, by name. Shards that failed are named in the answer;
    /// if all failed, the list fails.
    pub(crate) async fn list(
        &self,
        request: ListRequest,
        timeout_ms: u64,
    ) -> Result<ListResponse, Box<Error>> {
        let all: Vec<ShardId> = self.map.shards().map(|(shard, _)| shard).collect();
        let shards = all.len();
        let mut pages = Vec::with_capacity(shards);
        let (mut missing, mut failed) = (Vec::new(), None);
        for (shard, outcome) in self.ask_each(all, timeout_ms, |_| Op::List(request.clone())).await
        {
            match outcome {
                Ok(Answer::List(page)) => pages.push(page),
                Ok(_) => missing.push(shard.0),
                Err(error) if error.class() == ErrorClass::FixInput => return Err(error),
                Err(error) => {
                    missing.push(shard.0);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if missing.len() == shards => Err(error),
            _ => {
                Ok(ListResponse { missing_shards: missing, ..merge(pages, request.limit as usize) })
            }
        }
    }

    /// Asks every replica for its state. A replica that does not answer in time is left out, and
    /// its node is shown as unreachable.
    pub(crate) async fn cluster_status(&self) -> ClusterStatusResponse {
        let replicas = self
            .map
            .shards()
            .flat_map(|(shard, replicas)| replicas.nodes.iter().map(move |node| (shard, *node)));
        let asked =
            replicas.map(|(shard, node)| async move { self.shard_status(shard, node.0).await });
        let shards: Vec<ShardStatus> = join_all(asked).await.into_iter().flatten().collect();
        let answered: BTreeSet<u64> = shards.iter().map(|replica| replica.node).collect();
        let nodes = self.cluster.nodes.iter().map(|node| {
            let hosts_nothing = self.map.hosted_by(node.id).next().is_none();
            NodeStatus {
                node: node.id.0,
                address: node.address.clone(),
                zone: node.zone.clone().unwrap_or_default(),
                reachable: answered.contains(&node.id.0)
                    || (hosts_nothing && self.nodes.is_connected(node.id)),
            }
        });
        ClusterStatusResponse {
            cluster: self.cluster.cluster.clone(),
            map_version: self.map.version().0,
            nodes: nodes.collect(),
            shards,
        }
    }

    async fn shard_status(&self, shard: ShardId, node: u64) -> Option<ShardStatus> {
        let route = Route { shard: shard.0, slot: 0, map_version: self.map.version().0 };
        let operation = Operation::routed(Op::ReadStatus(ReadStatus {}), route);
        match self.nodes.call(node, operation, STATUS_TIMEOUT_MS).await {
            Ok(Answer::Status(status)) => Some(status),
            outcome => {
                tracing::debug!(%shard, node, ?outcome, "no status");
                None
            }
        }
    }

    /// Splits shard numbers into shards that exist, each once, and numbers that do not.
    fn known(&self, shards: impl Iterator<Item = u32>) -> (Vec<ShardId>, Vec<u32>) {
        let named: BTreeSet<u32> = shards.collect();
        let (known, unknown): (Vec<u32>, Vec<u32>) =
            named.into_iter().partition(|shard| self.map.replicas(ShardId(*shard)).is_some());
        (known.into_iter().map(ShardId).collect(), unknown)
    }

    /// Asks all shards at the same time. Busy shards are retried here, because the client cannot
    /// retry a single shard.
    async fn ask_each(
        &self,
        shards: Vec<ShardId>,
        timeout_ms: u64,
        op: impl Fn(ShardId) -> Op,
    ) -> Vec<(ShardId, Outcome)> {
        let asked = shards.into_iter().map(|shard| {
            let op = op(shard);
            let plan = Plan { shard, slot: 0, timeout_ms, retry_busy: true };
            async move {
                let outcome = self.ask(op, &plan, &NEVER).await; // the parts are all safe to finish
                if let Err(error) = &outcome
                    && error.code() != ErrorCode::SessionLost
                {
                    tracing::debug!(%shard, %error, "one shard of a fan-out failed");
                }
                (shard, outcome)
            }
        });
        join_all(asked).await
    }
}

/// Merges one page of each shard into one page.
///
/// The page ends where the first shard page with a cursor ends. The next grants of that shard come
/// before the rest of the others, so going on would skip them.
fn merge(pages: Vec<ShardPage>, limit: usize) -> ListResponse {
    let key = |grant: &Grant| (grant.resource_name.clone(), grant.fencing_token);
    let mut end = pages.iter().filter_map(|page| decode_cursor(&page.next_cursor)).min();
    let mut grants: Vec<Grant> = pages.into_iter().flat_map(|page| page.grants).collect();
    grants.sort_by_cached_key(key);
    if let Some(end) = &end {
        let fits = |grant: &Grant| {
            (grant.resource_name.as_str(), grant.fencing_token) <= (end.0.as_str(), end.1)
        };
        grants.truncate(grants.partition_point(fits));
    }
    if grants.len() > limit {
        grants.truncate(limit);
        end = grants.last().map(key);
    }
    let next_cursor = end.map(|(name, token)| encode_cursor(&name, token)).unwrap_or_default();
    ListResponse { grants, more: !next_cursor.is_empty(), missing_shards: Vec::new(), next_cursor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], next: Option<&str>) -> ShardPage {
        let grant = |name: &&str| Grant {
            resource_name: (*name).into(),
            fencing_token: 3,
            ..Default::default()
        };
        let next_cursor = next.map(|name| encode_cursor(name, 3)).unwrap_or_default();
        ShardPage { grants: names.iter().map(grant).collect(), next_cursor }
    }

    fn merged(pages: &[ShardPage], limit: usize) -> (Vec<String>, Option<String>) {
        let page = merge(pages.to_vec(), limit);
        assert_eq!(page.more, !page.next_cursor.is_empty());
        let names = page.grants.into_iter().map(|grant| grant.resource_name).collect();
        (names, decode_cursor(&page.next_cursor).map(|(name, _)| name))
    }

    #[test]
    fn a_page_ends_where_the_first_shard_with_more_does() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (short, long) = (page(&["b", "d"], Some("d")), page(&["a", "c", "e", "g"], None));
        assert_eq!(
            merged(&[short.clone(), long.clone()], 10),
            (names(&["a", "b", "c", "d"]), Some("d".into()))
        );
        assert_eq!(merged(&[short, long.clone()], 3), (names(&["a", "b", "c"]), Some("c".into())));
        assert_eq!(
            merged(&[page(&["b"], None), long.clone()], 5),
            (names(&["a", "b", "c", "e", "g"]), None)
        );
        // A page without grants still has a cursor for the names that it looked through.
        assert_eq!(merged(&[page(&[], Some("b")), long], 5), (names(&["a"]), Some("b".into())));
    }
}
