//! Waits of clients that lose their identity or their rights while they wait.

use crate::fake;
use crate::fake::{Fakes, NodeAnswer, NodeOp, NodeOperation, Reaction, granted, granted_before};
use crate::identified::{Door, Files, Who, answer_all};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::*;

const POLICY: &str = r#"
roles: { both: { hold: ["a:"], read: ["a:"] }, other: { hold: ["b:"] } }
bindings: [{ identities: [both], roles: [both] }, { identities: [both], roles: [other] }]
"#;

const BOTH: Who = Who::Named("both");

fn wait() -> AcquireRequest {
    AcquireRequest {
        name: "a:1".into(),
        wait_ms: 60_000,
        request_id: vec![7; 16],
        ..Default::default()
    }
}

/// The waits that a node has not answered yet.
type Queue = Arc<Mutex<Vec<(AcquireRequest, oneshot::Sender<NodeAnswer>)>>>;

/// A node that lets acquires wait, until a cancel ends them: with a grant, if `grants`.
fn node(
    queue: &Queue,
    grants: bool,
) -> impl Fn(u64, &NodeOperation) -> Reaction + Send + Sync + use<> {
    let queue = queue.clone();
    move |node, operation| match &operation.op {
        Some(NodeOp::Acquire(acquire)) => {
            let (later, answer) = oneshot::channel();
            queue.lock().unwrap().push((acquire.clone(), later));
            Reaction::Later(answer)
        }
        Some(NodeOp::CancelWait(cancel)) => {
            for (acquire, later) in queue.lock().unwrap().drain(..) {
                let Reaction::Answer(grant) = granted(&acquire, 5) else { unreachable!() };
                let cancelled = Error::new(ErrorCode::WaitCancelled, "cancelled");
                let _ = later.send(if grants { grant } else { NodeAnswer::Error(cancelled) });
            }
            if grants { granted_before(cancel, 5) } else { answer_all(node, operation) }
        }
        _ => answer_all(node, operation),
    }
}

async fn waiting(fakes: &Fakes) {
    fakes.until(1, |_, op| matches!(op, NodeOp::Acquire(_))).await;
}

/// Waits until the request was ended for good.
async fn cancelled(fakes: &Fakes) {
    let for_good = |_, op: &NodeOp| matches!(op, NodeOp::CancelWait(cancel) if !cancel.abandoned);
    tokio::time::timeout(fake::LONG / 4, fakes.until(1, for_good)).await.expect("a cancel");
}

#[tokio::test]
async fn a_wait_as_a_call_ends_with_the_identity_of_its_client() {
    let files = Files::of(POLICY);
    let fakes = files.start(node(&Queue::default(), false)).await;
    let door = Door::of(&fakes).await;
    let call = tokio::spawn(async move { door.call(BOTH, wait().into()).await });
    waiting(&fakes).await;
    files.policy(&format!("{POLICY}revoked: [both]\n"));
    fakes.gateway.reload();
    let answered = tokio::time::timeout(fake::LONG / 4, call).await.expect("an answer");
    assert_eq!(answered.unwrap(), Some(ErrorCode::Unauthenticated));
    cancelled(&fakes).await;
}

#[tokio::test]
async fn a_wait_ends_when_its_client_loses_the_right_to_the_name_and_a_grant_is_released() {
    for (in_stream, grants) in [(false, false), (false, true), (true, false), (true, true)] {
        let files = Files::of(POLICY);
        let fakes = files.start(node(&Queue::default(), grants)).await;
        let door = Door::of(&fakes).await;
        let mut open = door.open(BOTH).await;
        let asked = tokio::spawn(async move {
            match in_stream {
                true => open.ask(Op::Acquire(wait())).await.expect("the stream stays"),
                false => door.call(BOTH, wait().into()).await,
            }
        });
        waiting(&fakes).await;
        files.policy(&POLICY.replace("a:", "c:"));
        fakes.gateway.reload();
        let answered = tokio::time::timeout(fake::LONG / 4, asked).await.expect("an answer");
        assert_eq!(answered.unwrap(), Some(ErrorCode::PermissionDenied), "{in_stream} {grants}");
        cancelled(&fakes).await;
        if grants {
            let released = fakes.until(1, |_, op| matches!(op, NodeOp::Release(_)));
            tokio::time::timeout(fake::LONG / 4, released).await.expect("a release");
        }
    }
}

#[tokio::test]
async fn a_wait_whose_client_loses_the_right_to_read_learns_nothing_of_the_holder() {
    let (files, queue) = (Files::of(POLICY), Queue::default());
    let fakes = files.start(node(&queue, false)).await;
    let door = Door::of(&fakes).await;
    let mut open = door.open(BOTH).await;
    let id = open.send(Op::Acquire(wait())).await;
    waiting(&fakes).await;
    files.policy(&POLICY.replace(r#"read: ["a:"]"#, r#"read: ["c:"]"#));
    fakes.gateway.reload();
    // The answer to another operation shows that the stream has seen the new policy.
    let check = CheckRequest { name: "a:1".into(), ..Default::default() };
    assert_eq!(open.ask(Op::Check(check)).await, Ok(Some(ErrorCode::PermissionDenied)));
    let (_, later) = queue.lock().unwrap().pop().expect("it waits");
    let held = Error::held("BOB has it with token 77", 77, "BOB");
    assert!(later.send(NodeAnswer::Error(held)).is_ok());
    let Ok((answered, Answer::Error(error))) = open.next().await else { panic!("no error") };
    assert_eq!(answered, id);
    assert_eq!((error.code(), error.current_token), (ErrorCode::Held, 0));
    assert!(!format!("{error:?}").contains("BOB"), "{error:?}");
}
