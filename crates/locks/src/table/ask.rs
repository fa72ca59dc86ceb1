//! The fields of an acquire, with its caller. This module knows nothing of the table.

use crate::command::{Caller, Command};
use crate::types::{Mode, Quota, RequestId};

/// The fields of an acquire command.
pub(super) struct Ask<'a> {
    pub(super) request: RequestId,
    pub(super) name: &'a str,
    pub(super) owner: &'a str,
    pub(super) ttl_ms: u32,
    pub(super) mode: Mode,
    pub(super) wait: bool,
    pub(super) session: &'a str,
    pub(super) metadata: &'a str,
    pub(super) claim_ttl_ms: u32,
    pub(super) principal: &'a str,
    pub(super) quota: Quota,
}

impl<'a> Ask<'a> {
    /// The fields of `command`, if it is an acquire.
    pub(super) fn of(caller: Caller<'a>, command: &Command<'a>) -> Option<Ask<'a>> {
        let Caller { principal, quota } = caller;
        let Command::Acquire {
            request_id: request,
            name,
            owner,
            ttl_ms,
            mode,
            wait,
            session,
            metadata,
            claim_ttl_ms,
        } = *command
        else {
            return None;
        };
        Some(Ask {
            request,
            name,
            owner,
            ttl_ms,
            mode,
            wait,
            session,
            metadata,
            claim_ttl_ms,
            principal,
            quota,
        })
    }
}
