//! Answers for a caller that may not read the name that it asked about: they tell nothing of
//! others.
//!
//! Errors of the lock table name the holder, its token and its owner, in fields and in their
//! texts. The texts are replaced as a whole, so that no later text can tell more.

use link::mux::Answer;
use wire::v1::{Error, ErrorCode, Tenure};

/// Takes out of an answer everything that only readers of the name may see.
pub(crate) fn redact(answer: &mut Answer) {
    match answer {
        Answer::Error(error) => redact_error(error),
        // The breaker learns that the hold ended, and not its holder.
        Answer::BreakLock(broken) => {
            if let Some(tenure) = &mut broken.tenure {
                *tenure = Tenure {
                    resource_name: std::mem::take(&mut tenure.resource_name),
                    fencing_token: tenure.fencing_token,
                    ended_at_ms: tenure.ended_at_ms,
                    state: tenure.state,
                    broken_by: std::mem::take(&mut tenure.broken_by),
                    break_reason: std::mem::take(&mut tenure.break_reason),
                    broken_by_principal: std::mem::take(&mut tenure.broken_by_principal),
                    shard: tenure.shard,
                    ..Tenure::default()
                };
            }
        }
        // A grant that an acquire or a cancel answers is the caller's own, and so are its sessions.
        // Checks, histories and lists are for readers only.
        _ => {}
    }
}

fn redact_error(error: &mut Error) {
    let text = match error.code() {
        ErrorCode::Held => "another holds the lock",
        ErrorCode::WaitTimeout => "the lock was not free within the wait",
        ErrorCode::WaitCancelled => "the wait was cancelled",
        ErrorCode::NotOwner => "this token does not hold the lock",
        ErrorCode::Expired => "the lease of this token has expired",
        ErrorCode::SessionLost => "the session is not known, or not any more",
        // Its text may quote the refusal of an earlier try.
        ErrorCode::OutcomeUnknown => {
            "it may or may not have been done: try again with the same request id"
        }
        _ => {
            (error.current_token, error.holder) = (0, String::new());
            return;
        }
    };
    let retry_after_ms = error.retry_after_ms;
    *error = Error { retry_after_ms, ..Error::new(error.code(), text) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::BreakLockResponse;

    #[test]
    fn no_answer_tells_of_another_holder() {
        for code in (0..100).filter_map(|code| ErrorCode::try_from(code).ok()) {
            let held = Error::held("bob holds it with token 77", 77, "bob");
            let mut answer = Answer::Error(Error { code: code.into(), retry_after_ms: 5, ..held });
            redact(&mut answer);
            let Answer::Error(error) = &answer else { unreachable!() };
            assert_eq!((error.code(), error.current_token), (code, 0));
            assert_eq!((error.holder.as_str(), error.retry_after_ms), ("", 5));
            let of_the_lock = !matches!(
                code.class(),
                wire::ErrorClass::FixInput
                    | wire::ErrorClass::Retry
                    | wire::ErrorClass::Denied
                    | wire::ErrorClass::Internal
            );
            assert!(!of_the_lock || !error.message.contains("bob"), "{error:?}");
        }
    }

    #[test]
    fn a_breaker_that_may_not_read_learns_nothing_of_the_holder() {
        let tenure = Tenure {
            resource_name: "a".into(),
            owner_id: "bob".into(),
            principal: "bob".into(),
            session_id: "bob's".into(),
            fencing_token: 7,
            break_reason: "gone".into(),
            ..Default::default()
        };
        let mut answer = Answer::BreakLock(BreakLockResponse { tenure: Some(tenure) });
        redact(&mut answer);
        let shown = format!("{answer:?}");
        assert!(!shown.contains("bob") && shown.contains("gone"), "{shown}");
    }
}
