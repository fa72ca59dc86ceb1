//! The callers of a frame: each operation names its caller, or says the number of one that was
//! named before.
//!
//! A caller is checked and encoded once per frame. This module knows nothing of what it may do.

use crate::refusal::{Refused, invalid};
use locks::{Quota, validate_principal};
use wire::internal::v1::Operation;

/// The caller of an operation, as it stands before its command in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    encoded: Vec<u8>,
}

impl Caller {
    /// The caller of an operation without an identity: identities are off.
    pub const NOBODY: Caller = Caller { encoded: Vec::new() };

    /// Whether the operation has no identity.
    pub fn is_nobody(&self) -> bool {
        self.encoded.is_empty()
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// The callers that the operations of one frame have named so far.
///
/// - A caller that is refused has a number too. Otherwise the callers after it would get the
///   numbers of others, and act in their names.
#[derive(Debug, Default)]
pub struct Callers {
    named: Vec<Result<Caller, Refused>>,
}

impl Callers {
    /// The caller of the frame's next operation. It has to be asked for each operation, also for
    /// one that is refused.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is no such identity, or no caller of this number.
    pub fn of(&mut self, operation: &Operation) -> Result<&Caller, Refused> {
        const NOBODY: &Caller = &Caller::NOBODY;
        let place = match (operation.principal.is_empty(), operation.caller as usize) {
            (true, 0) => return Ok(NOBODY),
            (true, number) => number - 1,
            (false, _) => {
                self.named.push(caller(operation));
                self.named.len() - 1
            }
        };
        match self.named.get(place) {
            Some(caller) => caller.as_ref().map_err(Clone::clone),
            None => Err(invalid(format!(
                "the operation is of caller {}, and this frame names {} before it",
                operation.caller,
                self.named.len()
            ))),
        }
    }
}

fn caller(Operation { principal, quota, .. }: &Operation) -> Result<Caller, Refused> {
    validate_principal(principal).map_err(|error| invalid(error.to_string()))?;
    let quota = quota.unwrap_or_default();
    let quota = Quota { locks: quota.locks, sessions: quota.sessions, waits: quota.waits };
    let mut encoded = Vec::new();
    locks::Caller { principal, quota }.encode(&mut encoded);
    Ok(Caller { encoded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::internal::v1::operation_result::Result as OpResult;
    use wire::v1::ErrorCode;

    fn of(principal: &str) -> Operation {
        Operation { principal: principal.into(), ..Operation::default() }
    }

    fn numbered(caller: u32) -> Operation {
        Operation { caller, ..Operation::default() }
    }

    #[test]
    fn a_numbered_caller_is_the_one_that_the_frame_named() {
        let mut frame = ["ann", "bob", "", "ann", "bob", "bob"].map(of);
        let named = frame.clone().map(|one| Callers::default().of(&one).unwrap().clone());
        wire::number_callers(&mut frame);
        assert!(frame[3..].iter().all(|one| one.principal.is_empty()));
        let mut callers = Callers::default();
        assert_eq!(frame.map(|one| callers.of(&one).unwrap().clone()), named);
        assert!(named[2].is_nobody() && !named[3].is_nobody());
    }

    #[test]
    fn an_identity_that_no_gateway_proves_is_refused() {
        for (principal, told) in [("x".repeat(257), "257 bytes"), ("a\nb".into(), "control")] {
            let refused = Callers::default().of(&of(&principal)).expect_err("no such identity");
            let OpResult::Error(error) = *refused else { panic!("{refused:?}") };
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message.contains(told), "{}", error.message);
        }
    }

    #[test]
    fn a_refused_caller_keeps_its_number() {
        let mut callers = Callers::default();
        let ann = callers.of(&of("ann")).unwrap().clone();
        assert!(callers.of(&of("a\nb")).is_err());
        let bob = callers.of(&of("bob")).unwrap().clone();
        assert_eq!(callers.of(&numbered(1)), Ok(&ann));
        assert!(callers.of(&numbered(2)).is_err());
        assert_eq!(callers.of(&numbered(3)), Ok(&bob));
    }

    #[test]
    fn a_number_that_the_frame_has_not_named_is_refused() {
        let mut callers = Callers::default();
        for number in [1, 2, u32::MAX] {
            assert!(callers.of(&numbered(number)).is_err(), "{number}");
        }
        callers.of(&of("ann")).unwrap();
        assert!(callers.of(&numbered(1)).is_ok());
        assert!(callers.of(&numbered(2)).is_err());
    }
}
