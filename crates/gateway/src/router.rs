//! The way of an operation to its answer: validate, route, send to the right replica, and retry
//! where that is safe.

use crate::in_flight::is_scan;
use crate::known::Known;
use crate::leave::Leaving;
use crate::limits::{ATTEMPT_TIMEOUT_MS, COME_BACK_MAX, STALE_ATTEMPT_TIMEOUT_MS};
use crate::metrics::Metrics;
use crate::nodes::{Nodes, Outcome, Port};
use crate::share::Waits;
use crate::translate::{confused, to_client, to_shard};
use futures_util::future::BoxFuture;
use link::drive::{Course, GivenUp};
use link::leaders::LeaderCache;
use link::mux::{Answer, Failure};
use link::retry::{Policy, Try};
use routing::{ClusterConfig, NodeId, ShardId, ShardMap};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};
use wire::accept::Accepted;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{
    CancelWait, ClusterIdentity, ClusterResponse, Operation as RoutedOperation, Route,
};
use wire::limits::{DEFAULT_TIMEOUT_MS, TIMEOUT_MS_MAX};
use wire::v1::operation::Op;
use wire::v1::{AcquireRequest, CancelWaitResponse, Consistency, Error, ErrorCode, Operation};
use wire::{ErrorClass, OperationKind};

/// The `abandoned` flag of work that is finished even if its client goes.
pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

/// The state that all client streams share.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) cluster: ClusterConfig,
    pub(crate) map: ShardMap,
    pub(crate) identity: ClusterIdentity,
    pub(crate) nodes: Nodes,
    pub(crate) known: Known,
    pub(crate) metrics: Metrics,
    pub(crate) leaving: Leaving,
    pub(crate) waits: Arc<Waits>,
    /// The open connections of clients.
    pub(crate) accepted: Arc<Accepted>,
    /// The replicas of each shard, the preferred leader first.
    replicas: BTreeMap<ShardId, Arc<[u64]>>,
    leaders: RwLock<LeaderCache>,
    /// Counts stale checks, so that each begins at the next follower.
    turn: AtomicUsize,
}

/// An operation on one shard, with its route and the state of its retries.
#[derive(Debug)]
pub(crate) struct Asking {
    shard: ShardId,
    kind: OperationKind,
    stale: bool,
    operation: RoutedOperation,
    targets: Arc<[u64]>,
    course: Course,
}

impl Asking {
    fn to_send(&self, next: &Try) -> RoutedOperation {
        let mut operation = self.operation.clone();
        if let Some(RoutedOp::Acquire(acquire)) = &mut operation.op {
            acquire.wait_ms = next.wait_ms;
        }
        operation
    }
}

/// An operation whose first try is in flight.
#[derive(Debug)]
pub(crate) struct Sent {
    asking: Asking,
    target: u64,
}

impl Sent {
    pub(crate) fn kind(&self) -> OperationKind {
        self.asking.kind
    }
}

/// An operation whose first try failed.
#[derive(Debug)]
pub(crate) struct Failed {
    sent: Box<Sent>,
    failure: Failure,
}

/// An operation that waits, or that needs more than one answer of one node.
#[derive(Debug)]
pub(crate) struct Alone {
    op: Op,
    timeout_ms: u64,
}

/// The state of an operation after [`Router::begin`].
#[derive(Debug)]
pub(crate) enum Begun {
    Answered(Answer),
    Sent(Box<Sent>),
    Alone(Alone),
}

/// Where an operation goes, and how it is retried.
pub(crate) struct Plan {
    pub(crate) shard: ShardId,
    pub(crate) slot: u32,
    pub(crate) timeout_ms: u64,
    pub(crate) retry_busy: bool,
}

impl Router {
    pub(crate) fn new(
        cluster: ClusterConfig,
        identity: ClusterIdentity,
        nodes: Nodes,
        metrics: Metrics,
        leaving: Leaving,
    ) -> Router {
        let map = cluster.shard_map();
        let replicas = map.shards().map(|(shard, replicas)| {
            let preferred = replicas.preferred_leader;
            let others = replicas.nodes.iter().filter(|node| **node != preferred);
            (shard, std::iter::once(&preferred).chain(others).map(|node| node.0).collect())
        });
        let replicas = replicas.collect();
        Router {
            known: Known::new(&cluster),
            cluster,
            map,
            identity,
            nodes,
            metrics,
            leaving,
            waits: Arc::default(),
            accepted: Arc::default(),
            replicas,
            leaders: RwLock::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// How long a waiter whose client is gone keeps its place, because the client may come back
    /// through another gateway.
    pub(crate) fn waiter_grace(&self) -> Duration {
        Duration::from_millis(self.cluster.settings.waiter_grace_ms).min(COME_BACK_MAX)
    }

    /// Takes in the report of a node that was reached at this address.
    pub(crate) fn heard(&self, node: u64, address: &str, response: &ClusterResponse) {
        self.known.said(node, response);
        self.nodes.found(node, address);
        for hosted in response.shards.iter().filter(|hosted| hosted.leads) {
            let shard = ShardId(hosted.shard);
            let known = self.leaders.read().unwrap_or_else(PoisonError::into_inner).term(shard);
            if hosted.term > known && self.replicas.contains_key(&shard) {
                self.leaders_mut().learn(shard, Some(NodeId(node)), hosted.term);
            }
        }
    }

    fn leaders_mut(&self) -> RwLockWriteGuard<'_, LeaderCache> {
        self.leaders.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one operation of a client.
    ///
    /// Most operations need one answer of one node. Such an operation is sent at once, and its
    /// outcome comes to the port that `port` gives. The other operations, and those that fail at
    /// first, go on as futures.
    pub(crate) fn begin(&self, operation: Operation, port: impl FnOnce() -> Port) -> Begun {
        let Alone { op, timeout_ms } = match prepare(operation) {
            Ok(alone) => alone,
            Err(error) => return Begun::Answered(Answer::Error(*error)),
        };
        if op.wait_ms() > 0 || matches!(op, Op::CancelWait(_)) || is_scan(&op) {
            return Begun::Alone(Alone { op, timeout_ms });
        }
        let op = match to_shard(op) {
            Ok(op) => op,
            Err(op) => return Begun::Alone(Alone { op: *op, timeout_ms }),
        };
        let plan = self.plan(op.name().unwrap_or_default(), timeout_ms);
        let asked =
            self.asking(op, &plan).and_then(|mut asking| Ok((asking.course.first()?, asking)));
        match asked {
            Ok((first, asking)) => {
                self.nodes.submit(first.target, asking.operation.clone(), first.timeout_ms, port());
                Begun::Sent(Box::new(Sent { asking, target: first.target }))
            }
            Err(error) => Begun::Answered(Answer::Error(*error)),
        }
    }

    /// Serves one operation that does not wait, from its receipt to its answer.
    pub(crate) async fn unary(&self, operation: Operation) -> Answer {
        let (received, kind) = (Instant::now(), operation.op.as_ref().map(Op::kind));
        let _counted = self.metrics.counted();
        let answer = match prepare(operation) {
            Ok(alone) => self.serve(alone, &NEVER).await,
            Err(error) => Answer::Error(*error),
        };
        self.metrics.answered(kind, &answer, received.elapsed());
        answer
    }

    /// Settles an operation that [`begin`](Self::begin) sent: its answer, or its failure.
    pub(crate) fn settle(&self, sent: Box<Sent>, outcome: Outcome) -> Result<Answer, Failed> {
        self.learn(&sent.asking, sent.target, &outcome);
        outcome.map(to_client).map_err(|failure| Failed { sent, failure })
    }

    /// Retries an operation after its first failure. There is no further try once `abandoned` is
    /// set.
    pub(crate) async fn go_on(&self, failed: Failed, abandoned: &AtomicBool) -> Answer {
        let Failed { sent, failure } = failed;
        let answer = self.try_on(sent.asking, failure, abandoned).await;
        answer.map_or_else(|error| Answer::Error(*error), to_client)
    }

    /// Serves an operation that [`begin`](Self::begin) did not send.
    pub(crate) async fn serve(&self, alone: Alone, abandoned: &AtomicBool) -> Answer {
        let Alone { op, timeout_ms } = alone;
        let answer = match op {
            Op::Heartbeat(request) => {
                self.heartbeat(request, timeout_ms).await.map(Answer::Heartbeat)
            }
            Op::CloseSession(request) => {
                self.close_session(request, timeout_ms).await.map(Answer::CloseSession)
            }
            Op::List(request) => self.list(request, timeout_ms).await.map(Answer::List),
            op => match to_shard(op) {
                Ok(op) => self.by_name(op, timeout_ms, abandoned).await.map(to_client),
                Err(_) => Err(Box::new(confused())),
            },
        };
        answer.unwrap_or_else(|error| Answer::Error(*error))
    }

    fn plan(&self, name: &str, timeout_ms: u64) -> Plan {
        let route = self.map.route(name);
        Plan { shard: route.shard, slot: route.slot.index().into(), timeout_ms, retry_busy: false }
    }

    pub(crate) async fn by_name(
        &self,
        op: RoutedOp,
        timeout_ms: u64,
        abandoned: &AtomicBool,
    ) -> Result<RoutedAnswer, Box<Error>> {
        let plan = self.plan(op.name().unwrap_or_default(), timeout_ms);
        self.ask(op, &plan, abandoned).await
    }

    /// Asks one shard: the leader first, or for a stale check a follower.
    pub(crate) async fn ask(
        &self,
        op: RoutedOp,
        plan: &Plan,
        abandoned: &AtomicBool,
    ) -> Result<RoutedAnswer, Box<Error>> {
        let mut asking = self.asking(op, plan)?;
        let first = asking.course.first()?;
        match self.send(&asking, first).await {
            Ok(answer) => Ok(answer),
            Err(failure) => self.try_on(asking, failure, abandoned).await,
        }
    }

    fn asking(&self, op: RoutedOp, plan: &Plan) -> Result<Asking, Box<Error>> {
        let Some(replicas) = self.replicas.get(&plan.shard) else {
            return Err(Box::new(Error::invalid(format!(
                "the cluster has no shard {}",
                plan.shard
            ))));
        };
        let (kind, leader) = (op.kind(), self.leader(plan.shard));
        let mut policy = Policy {
            kind,
            timeout_ms: plan.timeout_ms,
            wait_ms: op.wait_ms(),
            attempt_timeout_ms: ATTEMPT_TIMEOUT_MS,
            retry_busy: plan.retry_busy,
            relays: false,
        };
        let stale =
            matches!(&op, RoutedOp::Check(check) if check.consistency() == Consistency::Stale);
        let targets = if stale {
            policy.attempt_timeout_ms = STALE_ATTEMPT_TIMEOUT_MS;
            self.followers_first(replicas, leader)
        } else {
            replicas.clone()
        };
        let first = if stale { targets[0] } else { leader.unwrap_or(targets[0]) };
        let route =
            Route { shard: plan.shard.0, slot: plan.slot, map_version: self.map.version().0 };
        let operation = RoutedOperation::routed(op, route);
        Ok(Asking {
            shard: plan.shard,
            kind,
            stale,
            operation,
            targets,
            course: Course::new(policy, first),
        })
    }

    async fn send(&self, asking: &Asking, next: Try) -> Outcome {
        let outcome = self.nodes.call(next.target, asking.to_send(&next), next.timeout_ms).await;
        self.learn(asking, next.target, &outcome);
        outcome
    }

    async fn try_on(
        &self,
        asking: Asking,
        failed: Failure,
        abandoned: &AtomicBool,
    ) -> Result<RoutedAnswer, Box<Error>> {
        let (course, targets) = (asking.course.clone(), asking.targets.clone());
        let send = |next| {
            self.metrics.retried(asking.kind);
            self.send(&asking, next)
        };
        let driven =
            course.drive(Some(failed), targets, || abandoned.load(Ordering::Relaxed), send).await;
        match driven {
            Ok(driven) => Ok(driven.answer),
            Err(given_up) => self.given_up(&asking, given_up).await,
        }
    }

    /// Ends an operation that is not tried again.
    ///
    /// An acquire that was refused while one of its tries is in doubt is cancelled before its
    /// client gets the answer. Otherwise the late try could still reach its node and be granted,
    /// after the client was told that another holds the lock.
    ///
    /// The cancel cannot come after the answer. By then the client may have come back through
    /// another gateway with its id, and the cancel would release the grant that it holds.
    async fn given_up(
        &self,
        asking: &Asking,
        given_up: GivenUp,
    ) -> Result<RoutedAnswer, Box<Error>> {
        let GivenUp { error, in_doubt } = given_up;
        let open = matches!(error.class(), ErrorClass::Unknown | ErrorClass::Retry);
        let Some(RoutedOp::Acquire(acquire)) =
            asking.operation.op.as_ref().filter(|_| in_doubt && !open)
        else {
            return Err(error);
        };
        let left_ms = asking.course.left().as_millis() as u64;
        match self.cancel(acquire, left_ms.max(1)).await {
            Ok(RoutedAnswer::CancelWait(CancelWaitResponse { grant: Some(grant), .. })) => {
                Ok(RoutedAnswer::Grant(grant))
            }
            Ok(RoutedAnswer::CancelWait(_)) => Err(error),
            unclear => {
                let why = unclear
                    .err()
                    .map_or_else(|| "an answer of another kind".into(), |why| why.message);
                Err(Box::new(Error::outcome_unknown(format!(
                    "an earlier try may be granted yet, and could not be cancelled ({why}), though the last one was refused \
                     ({}): try again with the same request id",
                    error.message
                ))))
            }
        }
    }

    /// Cancels an acquire. Boxed, because a cancel is itself an operation on a shard.
    fn cancel<'a>(
        &'a self,
        acquire: &AcquireRequest,
        timeout_ms: u64,
    ) -> BoxFuture<'a, Result<RoutedAnswer, Box<Error>>> {
        let (name, request_id) = (acquire.name.clone(), acquire.request_id.clone());
        let cancel = RoutedOp::CancelWait(CancelWait { name, request_id, abandoned: false });
        Box::pin(async move { self.by_name(cancel, timeout_ms, &NEVER).await })
    }

    /// The replicas for a stale check. Followers take turns, so that they share the reads. The
    /// leader comes last, because it has enough to do.
    fn followers_first(&self, replicas: &[u64], leader: Option<u64>) -> Arc<[u64]> {
        let leader = leader.unwrap_or(replicas[0]);
        let followers: Vec<u64> = replicas.iter().copied().filter(|node| *node != leader).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..followers.len()).map(|nth| followers[(turn + nth) % followers.len()]);
        in_turn.chain([leader]).collect()
    }

    fn leader(&self, shard: ShardId) -> Option<u64> {
        self.leaders.read().unwrap_or_else(PoisonError::into_inner).leader(shard).map(|node| node.0)
    }

    fn learn(&self, asking: &Asking, node: u64, outcome: &Outcome) {
        if asking.stale {
            return;
        }
        let (shard, node) = (asking.shard, NodeId(node));
        let leaders = || self.leaders_mut();
        match outcome {
            // A read says nothing of leadership, because followers answer reads too.
            Ok(_) if asking.kind.is_read() || self.leader(shard) == Some(node.0) => {}
            Ok(_) => leaders().confirm(shard, node),
            Err(Failure::NotSent(_) | Failure::Lost(_)) => leaders().suspect(shard, node),
            Err(Failure::NotLeader { leader, term, .. }) => {
                let hint = Some(NodeId(*leader)).filter(|hint| hint.0 != 0);
                let mut leaders = leaders();
                if !leaders.learn(shard, hint, *term) {
                    leaders.suspect(shard, node);
                }
            }
            Err(Failure::StaleRoute(_)) => {}
            Err(Failure::Refused(error)) => match error.code() {
                ErrorCode::NoLeader | ErrorCode::ShuttingDown => leaders().suspect(shard, node),
                _ => {}
            },
        }
    }
}

/// Checks an operation and fills in defaults for unset fields.
fn prepare(operation: Operation) -> Result<Alone, Box<Error>> {
    // The total size needs no check: each field has its limit, and all of them together stay below
    // the limit of an operation.
    wire::check_operation(&operation)?;
    let timeout_ms = match operation.timeout_ms {
        0 => DEFAULT_TIMEOUT_MS,
        asked => asked.min(TIMEOUT_MS_MAX),
    };
    let Some(mut op) = operation.op else {
        return Err(Box::new(Error::invalid("the operation is empty")));
    };
    wire::fill_defaults(&mut op, rand::random);
    Ok(Alone { op, timeout_ms: timeout_ms.into() })
}
