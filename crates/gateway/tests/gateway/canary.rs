//! Secrets in everything that a gateway writes: a token, a signed token and a key are marked, and
//! then looked for in logs, audit log, metrics and answers.
//!
//! This file is a program of its own, because it takes all logs of its process.

use crate::fake::{NodeOp, code};
use crate::identified::{Files, answer_all};
use audit::{Audit, Settings};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::Request;
use tonic::transport::Channel;
use wire::v1::lock_service_client::LockServiceClient;
use wire::v1::*;

const POLICY: &str = r#"
roles: { r: { hold: ["a:"], read: ["a:"], break: ["a:"] } }
bindings: [{ identities: [reader, alice], roles: [r] }]
"#;

/// The marks, which are valid as base64 and as a part of a token.
const MARK: &str = "CANARYcanaryCANARY";

#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Logs {
    type Writer = Logs;

    fn make_writer(&'a self) -> Logs {
        self.clone()
    }
}

#[tokio::test]
async fn nothing_that_a_gateway_writes_shows_a_secret() {
    let logs = Logs::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(logs.clone())
        .init();
    let files = Files::of(POLICY);
    // A token that is known, one that is not, one that expired, and a signed one.
    let known = format!("plk_{MARK}known{}", "x".repeat(20));
    let unknown = format!("plk_{MARK}other{}", "x".repeat(20));
    let part = |json: String| BASE64.encode(json);
    let jwt = format!(
        "{}.{}.{}",
        part(r#"{"alg":"EdDSA"}"#.into()),
        part(format!(r#"{{"sub":"alice","jti":"{MARK}"}}"#)),
        BASE64.encode(format!("{MARK}signature"))
    );
    let of_reader = access::Tokens::line(
        &"reader".parse().unwrap(),
        &access::Digest::of(known.as_bytes()),
        None,
    );
    files.tokens(&of_reader);
    let file = files.path("audit.log").to_string_lossy().into_owned();
    let settings = Settings { file, bytes_max: 1 << 30, age_max: Duration::MAX, keep: 1 };
    let audit = Audit::start(settings, "gateway-a", true).unwrap();
    let fakes = files
        .start_audited(audit.clone(), |node, operation| match &operation.op {
            Some(NodeOp::Renew(_)) => code(ErrorCode::NotOwner),
            _ => answer_all(node, operation),
        })
        .await;
    let url = format!("http://{}", fakes.gateway.address());
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = LockServiceClient::new(channel);
    let mut said = String::new();
    for authorization in [
        format!("Bearer {known}"),
        format!("Bearer {unknown}"),
        format!("Bearer {jwt}"),
        format!("Basic {MARK}"),
        MARK.to_owned(),
    ] {
        macro_rules! call {
            ($method:ident, $body:expr) => {{
                let mut request = Request::new($body);
                let mut header: tonic::metadata::AsciiMetadataValue =
                    authorization.parse().unwrap();
                header.set_sensitive(true); // as the SDK does, whose logs are in this process
                request.metadata_mut().insert("authorization", header);
                said += &format!("{:?}\n", client.$method(request).await);
            }};
        }
        for name in ["a:1", "b:1"] {
            let name = || name.to_owned();
            call!(acquire, AcquireRequest { name: name(), ..Default::default() });
            call!(renew, RenewRequest { name: name(), fencing_token: 7 });
            let (reason, fencing_token) = ("gone".to_owned(), 7);
            let broken_by = String::new();
            call!(break_lock, BreakLockRequest { name: name(), fencing_token, reason, broken_by });
        }
        let frames = tokio_stream::iter([StreamRequest::default()]);
        call!(stream, frames);
    }
    // Files that hold secrets by mistake.
    for tokens in [known.clone(), format!("- {{ identity: bob, sha256: {known} }}")] {
        files.tokens(&tokens);
        fakes.gateway.reload();
    }
    said += &fakes.get("/metrics").await;
    let audited = || std::fs::read_to_string(files.path("audit.log")).unwrap();
    while !audited().contains("policy_refused") {
        tokio::time::sleep(Duration::from_millis(2)).await; // the last event
    }
    drop(audit);
    fakes.shut_down().await;
    let logged = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    for (what, text) in [("answers", said), ("audit log", audited()), ("logs", logged)] {
        assert!(text.len() > 500, "{what}: {text}");
        let shown: Vec<&str> = text.lines().filter(|line| line.contains(MARK)).collect();
        assert!(shown.is_empty(), "{what}: {shown:#?}");
        let claims = BASE64.encode(MARK);
        assert!(!text.contains(&claims[..16]), "{what} shows the claims of a signed token");
    }
    let audited = audited();
    let has = |event: &str| audited.contains(&format!("\"event\":\"{event}\""));
    for event in ["started", "denied", "signed_in_failed", "break", "operation", "policy_refused"] {
        assert!(has(event), "{event} in {audited}");
    }
}
