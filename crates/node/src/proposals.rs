//! Proposals to the replica of META on this node, and their answers.
//!
//! A proposal travels as an operation of a stream of its own. So it is bounded as operations are,
//! and is answered even if the replica is retired meanwhile. Proposals are few, so a stream for each
//! costs little. This module knows nothing of what is proposed.

use crate::context::Context;
use crate::host::{Answer, Host, StreamKey, Submission, ticket};
use crate::limits::{PROPOSAL_GIVE_UP, PROPOSAL_MAX};
use routing::META;
use service::Request;
use shard::Reply;
use tokio::sync::mpsc;
use topology::{Proposal, Refusal, Version};

/// The reason why a proposal is not known to be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// It was applied and refused, so nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing was proposed.
    #[error(
        "the group of the topology is not led here, so nothing was proposed: ask the node that \
         leads it"
    )]
    NotLeader,
    /// Nothing was proposed.
    #[error("too much waits here, so nothing was proposed: try again in a moment")]
    Busy,
    /// It may have been applied, or may yet be.
    #[error(
        "the change may have been made or not, because no answer came in time: look at the \
         topology before it is tried again"
    )]
    Unknown,
}

/// Proposes a change through the replica of META here, and waits for its outcome. Returns the version
/// of the topology with the change.
///
/// # Errors
/// [`NotApplied`]. Only [`NotApplied::Unknown`] leaves the outcome open.
pub(crate) async fn propose(context: &Context, proposal: &Proposal) -> Result<Version, NotApplied> {
    let host = &*context.host;
    let seat = host.seat(META).ok_or(NotApplied::NotLeader)?;
    let (port, mut answers) = mpsc::unbounded_channel(); // for one answer
    let stream = Stream { host, key: host.next_stream() };
    host.open_stream(stream.key, &port);
    drop(port); // the answers end with the shard threads
    let submission = Submission {
        index: seat.index,
        ticket: ticket(stream.key, 0),
        give_up_at_ms: context.clock.mono_ms() + PROPOSAL_GIVE_UP.as_millis() as u64,
        request: Request::Propose { command: proposal.encode(), wait: None },
    };
    host.submit(seat.thread, vec![submission]).map_err(|_| NotApplied::Busy)?;
    let answered = tokio::time::timeout(PROPOSAL_MAX, answers.recv()).await;
    outcome(answered.ok().flatten().and_then(|mut answers| answers.pop()))
}

fn outcome(answer: Option<Answer>) -> Result<Version, NotApplied> {
    match answer.ok_or(NotApplied::Unknown)?.reply {
        Some(Reply::Applied(applied)) => Ok(applied?),
        // The replica was retired before the proposal came.
        None | Some(Reply::NotLeader { .. } | Reply::NoLeader) => Err(NotApplied::NotLeader),
        Some(Reply::Busy) => Err(NotApplied::Busy),
        Some(_) => Err(NotApplied::Unknown),
    }
}

/// An open stream of operations.
struct Stream<'a> {
    host: &'a Host,
    key: StreamKey,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.host.close_stream(self.key, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_done_is_told_as_that() {
        let of = |reply| outcome(Some(Answer { op_index: 0, reply, entry: None }));
        assert_eq!(of(Some(Reply::Applied(Ok(Version(3))))), Ok(Version(3)));
        let refusal = Refusal::NotFounded;
        let refused = of(Some(Reply::Applied(Err(refusal.clone()))));
        assert_eq!(refused, Err(NotApplied::Refused(refusal)));
        assert_eq!(of(None), Err(NotApplied::NotLeader));
        let other = Reply::NotLeader { hint: None, term: 3 };
        assert_eq!(of(Some(other)), Err(NotApplied::NotLeader));
        assert_eq!(of(Some(Reply::NoLeader)), Err(NotApplied::NotLeader));
        assert_eq!(of(Some(Reply::Busy)), Err(NotApplied::Busy));
        assert_eq!(of(Some(Reply::Unknown)), Err(NotApplied::Unknown));
        assert_eq!(outcome(None), Err(NotApplied::Unknown));
    }
}
