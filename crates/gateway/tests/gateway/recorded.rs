//! Breaks in the audit log of a gateway.

use crate::fake::{NodeAnswer, NodeOp, Reaction};
use crate::identified::{Door, Files, Who, answer_all};
use audit::{Audit, Settings};
use std::time::Duration;
use wire::v1::operation::Op;
use wire::v1::*;

const POLICY: &str = r#"
roles: { operator: { break: [""], read: [""] } }
bindings: [{ identities: [operator], roles: [operator] }]
"#;

const OPERATOR: Who = Who::Named("operator");

fn a_break(reason: &str) -> Op {
    Op::BreakLock(BreakLockRequest {
        name: "a:1".into(),
        fencing_token: 7,
        reason: reason.into(),
        broken_by: String::new(),
    })
}

pub fn started(files: &Files) -> Audit {
    let file = files.path("audit.log").to_string_lossy().into_owned();
    let settings = Settings { file, bytes_max: 1 << 30, age_max: Duration::MAX, keep: 1 };
    Audit::start(settings, "gateway-a", false).unwrap()
}

/// Waits for the line of the audit log with this text.
pub async fn line(files: &Files, text: &str) -> serde_json::Value {
    let found = async {
        loop {
            let log = std::fs::read_to_string(files.path("audit.log")).unwrap();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return serde_json::from_str(line).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("the line is written")
}

/// The client hangs up after the break was sent, so no answer is ever seen here.
#[tokio::test]
async fn a_break_whose_client_hangs_up_is_in_the_audit_log() {
    let files = Files::of(POLICY);
    let fakes = files
        .start_audited(started(&files), |node, operation| match &operation.op {
            Some(NodeOp::BreakLock(_)) => Reaction::Silence,
            _ => answer_all(node, operation),
        })
        .await;
    let door = Door::of(&fakes).await;
    let sent = |count| fakes.until(count, |_, op| matches!(op, NodeOp::BreakLock(_)));
    let call = {
        let door = door.clone();
        tokio::spawn(async move { door.call(OPERATOR, a_break("as a call").into()).await })
    };
    sent(1).await;
    call.abort();
    let mut open = door.open(OPERATOR).await;
    let stream = tokio::spawn(async move { open.ask(a_break("in a stream")).await });
    sent(2).await;
    stream.abort();
    for reason in ["as a call", "in a stream"] {
        let line = line(&files, reason).await;
        assert_eq!(line["event"], "break");
        assert_eq!((&line["principal"], &line["fencing_token"]), (&"operator".into(), &7.into()));
        assert_eq!(line["why"], format!("{reason}; outcome unknown: its client was gone"));
    }
}

#[tokio::test]
async fn a_break_is_recorded_once_with_its_token_and_the_broken_identity() {
    let files = Files::of(POLICY);
    let fakes = files
        .start_audited(started(&files), |_, _| {
            let tenure = Tenure { principal: "holder".into(), ..Tenure::default() };
            Reaction::Answer(NodeAnswer::BreakLock(BreakLockResponse { tenure: Some(tenure) }))
        })
        .await;
    let door = Door::of(&fakes).await;
    assert_eq!(door.call(OPERATOR, a_break("gone").into()).await, None);
    assert_eq!(door.call(OPERATOR, a_break("the last").into()).await, None);
    assert_eq!(line(&files, "the last").await["holder"], "holder");
    let first = line(&files, "gone").await;
    assert_eq!((&first["why"], &first["fencing_token"]), (&"gone".into(), &7.into()));
    let log = std::fs::read_to_string(files.path("audit.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("break")).count(), 2, "{log}");
}

/// Regression: a handle of the log in a task that had not ended kept its last lines from the file.
#[tokio::test]
async fn the_shutdown_writes_the_audit_log_to_its_end() {
    let files = Files::of(POLICY);
    let audit = started(&files);
    let _kept = audit.clone();
    let fakes = files.start_audited(audit, answer_all).await;
    let door = Door::of(&fakes).await;
    for _ in 0..3 {
        let denied = door.call(Who::Named("reader"), a_break("gone").into()).await;
        assert_eq!(denied, Some(ErrorCode::PermissionDenied));
    }
    fakes.shut_down().await;
    let log = std::fs::read_to_string(files.path("audit.log")).unwrap();
    // The sum of further denials is not due for some seconds, except at the end.
    assert!(log.contains(r#""repeated":2"#), "{log}");
}
