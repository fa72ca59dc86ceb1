//! One operation on one shard, from its first try to its answer.

use super::Env;
use super::caller::Caller;
use super::directory::{Directory, Targets, with};
use super::planted_bugs;
use crate::limits::{ATTEMPT_TIMEOUT_MS, STALE_ATTEMPT_TIMEOUT_MS};
use link::mux::{Failure, Outcome};
use link::retry::{Decision, Policy, Tries, Try};
use routing::{Edition, ShardId};
use std::sync::Arc;
use wire::OperationKind;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{Operation, Route};
use wire::v1::{Consistency, Error};

/// The place that an operation is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The shard that owns the operation's name.
    OfName,
    /// This shard, regardless of its names.
    Shard(ShardId),
}

/// The bounds of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The time for all tries, without the wait.
    pub(super) timeout_ms: u64,
    /// Whether BUSY is tried again here, because the client cannot retry a single part.
    pub(super) retry_busy: bool,
}

/// An operation with its route and the state of its tries.
///
/// * One try at most is under way.
/// * The route and the targets are those of one edition of the map. After a pause they are taken
///   anew, if the directory has a later one by then. A leader that is no target becomes one, if it
///   is a node: replicas may have moved since.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shard: ShardId,
    place: Place,
    kind: OperationKind,
    stale: bool,
    operation: Operation,
    targets: Arc<[u64]>,
    edition: Edition,
    retry: Tries,
    /// The node of the last try.
    tried: u64,
}

/// The next step that a part wants, or its end.
#[allow(clippy::large_enum_variant)] // moved once: a box would cost more
#[derive(Debug)]
pub(super) enum Want {
    Send(Try),
    Pause {
        ms: u64,
    },
    Answered(RoutedAnswer),
    /// There is no answer, and no further try.
    GivenUp(Box<Error>),
}

impl From<Decision> for Want {
    fn from(decision: Decision) -> Want {
        match decision {
            Decision::Send(next) => Want::Send(next),
            Decision::RetryAfter { ms } => Want::Pause { ms },
            Decision::GiveUp(error) => Want::GivenUp(error),
        }
    }
}

impl Part {
    /// Makes the operation ready for its first try.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is no such shard.
    pub(super) fn new(
        op: Op,
        place: Place,
        bounds: Bounds,
        caller: &Caller,
        directory: &Directory,
        now_ms: u64,
    ) -> Result<Part, Box<Error>> {
        let edition = directory.edition();
        let stale = matches!(&op, Op::Check(check) if check.consistency() == Consistency::Stale);
        let route = route(&op, place, directory);
        let shard = ShardId(route.shard);
        let Some(Targets { all, first }) = directory.targets(shard, stale) else {
            return Err(Box::new(Error::invalid(format!("the cluster has no shard {shard}"))));
        };
        let policy = Policy {
            kind: op.kind(),
            timeout_ms: bounds.timeout_ms,
            wait_ms: op.wait_ms(),
            first_try_timeout_ms: if stale { STALE_ATTEMPT_TIMEOUT_MS } else { ATTEMPT_TIMEOUT_MS },
            retry_busy: bounds.retry_busy,
            targets_retry: false,
        };
        let mut operation = Operation::routed(op, route);
        caller.sign(&mut operation);
        Ok(Part {
            shard,
            place,
            kind: policy.kind,
            stale,
            operation,
            targets: all,
            edition,
            retry: Tries::new(policy, now_ms, first),
            tried: first,
        })
    }

    pub(super) fn kind(&self) -> OperationKind {
        self.kind
    }

    pub(super) fn op(&self) -> Option<&Op> {
        self.operation.op.as_ref()
    }

    /// The number of tries so far.
    pub(super) fn tries(&self) -> u32 {
        self.retry.tries()
    }

    /// The node of the last try.
    pub(super) fn tried(&self) -> u64 {
        self.tried
    }

    /// Whether a try may have been done without an answer.
    pub(super) fn in_doubt(&self) -> bool {
        self.retry.in_doubt()
    }

    /// The time left to the operation, its wait included, at least 1.
    pub(super) fn left_ms(&self, now_ms: u64) -> u64 {
        self.retry.deadline_ms().saturating_sub(now_ms).max(1)
    }

    /// Decides at the start, and when a pause is over.
    pub(super) fn resume(&mut self, directory: &Directory, now_ms: u64) -> Want {
        if self.retry.tries() > 0 {
            self.route_anew(directory);
        }
        self.retry.start_or_resume(now_ms).into()
    }

    /// Decides after the outcome of the try under way.
    pub(super) fn on_outcome(
        &mut self,
        outcome: Outcome<RoutedAnswer>,
        directory: &Directory,
        env: &mut impl Env,
    ) -> Want {
        if !self.stale {
            directory.learn(self.shard, self.kind, self.tried, &outcome);
        }
        let failure = match outcome {
            Ok(answer) => return Want::Answered(answer),
            Err(failure) => failure,
        };
        if let Failure::NotLeader { leader: Some(leader), .. } = &failure
            && !self.targets.contains(&leader.0)
            && directory.has_node(*leader)
        {
            self.targets = with(&self.targets, leader.0);
        }
        let now_ms = env.now_ms();
        let jitter = env.jitter();
        self.retry.after_failure(now_ms, jitter, failure.for_retry(), &self.targets).into()
    }

    /// The operation as it goes out with this try.
    pub(super) fn outgoing(&mut self, next: &Try) -> Operation {
        self.tried = next.target;
        if self.tries() > 1 {
            planted_bugs::sent_again(&mut self.operation.op);
        }
        let mut operation = self.operation.clone();
        if let Some(Op::Acquire(acquire)) = &mut operation.op {
            acquire.wait_ms = next.wait_ms;
        }
        operation
    }

    /// Takes the route and the targets of a later map, if there is one.
    fn route_anew(&mut self, directory: &Directory) {
        let edition = directory.edition();
        let Some(op) = &self.operation.op else { return };
        if self.edition >= edition {
            return;
        }
        let route = route(op, self.place, directory);
        let shard = ShardId(route.shard);
        if let Some(targets) = directory.targets(shard, self.stale) {
            self.retry.turn_to(targets.first);
            (self.shard, self.targets, self.edition) = (shard, targets.all, edition);
            self.operation.route = Some(route);
        }
    }
}

fn route(op: &Op, place: Place, directory: &Directory) -> Route {
    match place {
        Place::OfName => {
            let route = directory.route(op.name().unwrap_or_default());
            Route {
                shard: route.shard.0,
                slot: route.slot.index().into(),
                map_version: route.version.0,
            }
        }
        Place::Shard(shard) => {
            Route { shard: shard.0, slot: 0, map_version: directory.version().0 }
        }
    }
}
