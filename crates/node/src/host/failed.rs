//! A replica of META that has failed, or could not be opened. Its node serves on without it.
//!
//! A failure of a replica of locks stops the node, because the node could acknowledge what the
//! replica has lost. Nobody needs META for locks, so its replica alone ends: something else takes
//! its seat, and does nothing there. Its data stay, and the next start of the node opens them
//! again. A failure of the disk is one of the node in any case.
//!
//! A panic in META's replica is a failure of it, too. The code under it panics where its own rules
//! are broken, as by a message that no replica sends. Without META all nodes serve on, and a message
//! to all of its replicas would otherwise end all nodes.

use super::stepper::Stepper;
use crate::board::Board;
use routing::{META, NodeId};
use shard::{Fatal, Input, Now, Outputs, Reply, Role, Status, Ticket};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Tells that META's replica on this node has failed: in the log, with the next step, and on the
/// board for metrics.
pub(crate) fn tell_failed(board: &Board, why: String) {
    tracing::error!(
        "{why}; the replica of the topology's group has stopped on this node, and locks are served without it. Start the node \
         again; if it fails again, and the other replicas of the group are well, re-seed the node (see `palisade node --help`)"
    );
    board.meta_failed(why);
}

/// Does something with META's replica. A panic is a failure of the replica, which must not be used
/// after that.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Fatal> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let what = format!(
            "it panicked ({}), by a fault of this program: report it with the lines above",
            words(&*panic)
        );
        Fatal { shard: META, what }
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

/// META's replica. A panic in it is a failure like others.
pub(super) struct Contained {
    /// `None` once it has panicked.
    replica: Option<Box<dyn Stepper>>,
    /// Its status at the beginning.
    first: Status,
}

impl Contained {
    pub(super) fn new(replica: Box<dyn Stepper>) -> Contained {
        Contained { first: replica.status(), replica: Some(replica) }
    }
}

impl Stepper for Contained {
    fn step(&mut self, now: Now, inputs: &mut Vec<Input>) -> Result<Outputs, Fatal> {
        let panicked = || Fatal { shard: META, what: "it panicked before".to_owned() };
        let replica = self.replica.as_mut().ok_or_else(panicked)?;
        let stepped = contained(|| replica.step(now, inputs));
        if stepped.is_err() {
            self.replica = None;
        }
        stepped?
    }

    fn status(&self) -> Status {
        let told = self.replica.as_ref().and_then(|replica| contained(|| replica.status()).ok());
        told.unwrap_or_else(|| self.first.clone())
    }

    /// What a replica had in flight when it panicked is not known. Its callers stop waiting by
    /// themselves.
    fn retire(self: Box<Self>) -> Vec<(Ticket, Reply)> {
        let replies = self.replica.and_then(|replica| contained(|| replica.retire()).ok());
        replies.unwrap_or_default()
    }
}

/// What sits in the place of a replica that failed.
pub(crate) struct Failed {
    status: Status,
}

impl Failed {
    /// In the place of the replica with this status.
    pub(crate) fn after(status: Status) -> Failed {
        let (role, leader) = (Role::Follower, None);
        let (caught_up, successors) = (Vec::new(), Vec::new());
        Failed { status: Status { role, leader, caught_up, successors, ..status } }
    }

    /// In the place of META's replica on this node, which could not be opened.
    pub(crate) fn unopened(node: NodeId) -> Failed {
        Failed::after(Status { shard: META, node, ..Status::default() })
    }
}

/// The replies to operations that were handed to a replica in the step in which it failed. It may
/// have proposed them.
pub(crate) fn in_doubt(inputs: &[Input]) -> Vec<(Ticket, Reply)> {
    answers(inputs, &Reply::Unknown)
}

fn answers(inputs: &[Input], to_proposal: &Reply) -> Vec<(Ticket, Reply)> {
    let answer = |input: &Input| match input {
        Input::Propose { ticket, .. } => Some((*ticket, to_proposal.clone())),
        Input::Read { ticket, .. } => Some((*ticket, Reply::NoLeader)),
        _ => None,
    };
    inputs.iter().filter_map(answer).collect()
}

impl Stepper for Failed {
    fn step(&mut self, _: Now, inputs: &mut Vec<Input>) -> Result<Outputs, Fatal> {
        let replies = answers(inputs, &Reply::NoLeader);
        inputs.clear();
        Ok(Outputs { replies, ..Outputs::default() })
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    fn retire(self: Box<Self>) -> Vec<(Ticket, Reply)> {
        Vec::new()
    }
}
