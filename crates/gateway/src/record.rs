//! The line of the audit log for an operation or a change of the cluster that was let through.

use crate::visitor::Visitor;
use audit::{Audit, Event, Kind};
use link::mux::Answer;
use wire::v1::Error;
use wire::v1::operation::Op;

/// The outcome of an operation if its client was gone before the answer came.
const GONE: &str = "outcome unknown: its client was gone";

/// An operation that is recorded: each break and each change of the cluster, and every operation
/// where the cluster file asks for all.
///
/// * It is recorded exactly once: with its answer, or when it is dropped without one. The operation
///   may have been sent by then, so a client cannot hide it by hanging up.
#[derive(Debug)]
pub(crate) struct Recorded {
    audit: Audit,
    /// `None` once it is recorded.
    event: Option<Box<Event>>,
}

impl Recorded {
    /// `None` if the operation is not recorded.
    pub(crate) fn of(audit: &Audit, visitor: &Visitor, op: &Op) -> Option<Recorded> {
        let kind = match op {
            Op::BreakLock(_) if audit.is_on() => Kind::Break,
            _ if audit.has_operations() => Kind::Operation,
            _ => return None,
        };
        let name = match op {
            Op::List(list) => &list.prefix,
            op => op.name().unwrap_or_default(),
        };
        let (operation, name) = (op.kind().as_str(), name.to_owned());
        let mut event = Event { operation, name, ..visitor.event(kind) };
        if let Op::BreakLock(request) = op {
            (event.fencing_token, event.why) = (request.fencing_token, request.reason.clone());
        }
        Some(Recorded { audit: audit.clone(), event: Some(Box::new(event)) })
    }

    /// A change of the cluster, in words.
    pub(crate) fn of_change(
        audit: &Audit,
        visitor: &Visitor,
        operation: &'static str,
        name: String,
    ) -> Recorded {
        let event = Event { operation, name, ..visitor.event(Kind::ClusterChange) };
        Recorded { audit: audit.clone(), event: Some(Box::new(event)) }
    }

    /// Records the change of the cluster with its outcome.
    pub(crate) fn changed<T>(mut self, done: &Result<T, Box<Error>>) {
        let failed = done.as_ref().err().map(|error| format!("failed: {}", error.message));
        self.record(&failed.unwrap_or_default());
    }

    /// Records the operation with its outcome: the holder that a break has found, or the error.
    pub(crate) fn answered(mut self, answer: &Answer) {
        match answer {
            Answer::Error(error) => self.record(&format!("failed: {}", error.code().name())),
            Answer::BreakLock(broken) => {
                if let (Some(event), Some(tenure)) = (&mut self.event, &broken.tenure) {
                    event.holder.clone_from(&tenure.principal);
                }
                self.record("");
            }
            _ => self.record(""),
        }
    }

    /// Records the operation, unless that was done. A break keeps its reason beside the outcome.
    fn record(&mut self, outcome: &str) {
        let Some(mut event) = self.event.take() else { return };
        if !event.why.is_empty() && !outcome.is_empty() {
            event.why.push_str("; ");
        }
        event.why.push_str(outcome);
        self.audit.record(*event);
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.record(GONE);
    }
}
