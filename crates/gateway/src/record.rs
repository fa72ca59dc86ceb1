//! The line of the audit log for an operation that was let through.

use crate::visitor::Visitor;
use audit::{Audit, Event, Kind};
use link::mux::Answer;
use wire::v1::operation::Op;

/// An operation whose answer will be recorded: each break, and every operation where the cluster
/// file asks for all.
#[derive(Debug)]
pub(crate) struct Recorded(Box<Event>);

impl Recorded {
    /// `None` if the operation is not recorded.
    pub(crate) fn of(audit: &Audit, visitor: &Visitor, op: &Op) -> Option<Recorded> {
        let (kind, why) = match op {
            Op::BreakLock(request) if audit.is_on() => (Kind::Break, request.reason.as_str()),
            _ if audit.has_operations() => (Kind::Operation, ""),
            _ => return None,
        };
        let name = match op {
            Op::List(list) => &list.prefix,
            op => op.name().unwrap_or_default(),
        };
        let (operation, name, why) = (op.kind().as_str(), name.to_owned(), why.to_owned());
        Some(Recorded(Box::new(Event { operation, name, why, ..visitor.event(kind) })))
    }

    /// Records the operation with its outcome. A break keeps its reason, beside the error if it
    /// failed.
    pub(crate) fn answered(self, audit: &Audit, answer: &Answer) {
        let Recorded(mut event) = self;
        if let Answer::Error(error) = answer {
            let separator = if event.why.is_empty() { "" } else { "; " };
            event.why = format!("{}{separator}failed: {}", event.why, error.code().name());
        }
        audit.record(*event);
    }
}
