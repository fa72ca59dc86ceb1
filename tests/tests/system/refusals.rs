//! What nodes and gateways refuse before a request is served is in their audit logs.

use local_cluster::{Addresses, Launch, Member, Processes, cluster_config, free_addresses};
use net::dial::Target;
use net::tls::InsideFiles;
use palisade_tests::authority::{Authority, Says, Time};
use palisade_tests::handshake::shake;
use palisade_tests::{eventually, palisade_binary};
use routing::{AuditConfig, ClientCerts, ClientTls, InsideTls, TlsConfig};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tonic::Code;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::shard_service_client::ShardServiceClient;
use wire::internal::v1::{GreetRequest, Hello};

const CONNECTS: Duration = Duration::from_secs(10);

/// The reasons of refusals of this kind, as far as they are lines yet.
fn reasons(audit: &Path, kind: &str) -> Vec<String> {
    let lines = std::fs::read_to_string(audit).unwrap_or_default();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_kind = lines.filter(|line| line["event"] == kind);
    let from_here = |line: &Value| line["remote"].as_str().unwrap().starts_with("127.0.0.");
    of_kind
        .inspect(|line| assert!(from_here(line), "{line}"))
        .map(|l| l["why"].to_string())
        .collect()
}

/// Regression: neither a certificate nor a greeting that was refused left a line.
#[tokio::test(flavor = "multi_thread")]
async fn refused_certificates_and_greetings_are_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, clients, stranger) =
        (Authority::new("inside"), Authority::new("clients"), Authority::new("stranger"));
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("inside-ca.crt"), inside.pem()).unwrap();
    std::fs::write(path("clients-ca.crt"), clients.pem()).unwrap();
    for (role, name) in [("node/1", "node-1"), ("gateway/a", "gateway-a")] {
        inside.issue_role(&format!("palisade://test/{role}")).write(dir.path(), name);
    }
    let server = Says { hosts: &["127.0.0.1"], ..Says::default() };
    clients.issue(&server).write(dir.path(), "server");
    let addresses = free_addresses(2).unwrap();
    let (node, gateway) = (Addresses::only(&addresses[0]), Addresses::only(&addresses[1]));
    let mut config = cluster_config("test", 1, &[node], &[gateway]);
    config.tls = Some(TlsConfig {
        inside: Some(InsideTls {
            cert: path("{process}.crt"),
            key: path("{process}.key"),
            ca: path("inside-ca.crt"),
        }),
        clients: Some(ClientTls {
            cert: path("server.crt"),
            key: path("server.key"),
            client_ca: Some(path("clients-ca.crt")),
            client_certs: ClientCerts::Require,
        }),
    });
    let file = path("audit-{process}.log");
    let (bytes_max, hours_max, keep) = (1 << 20, 24, 1);
    config.audit = Some(AuditConfig { file, bytes_max, hours_max, keep, operations: false });
    let mut processes = Processes::new(dir.path(), config).unwrap();
    let program = || std::process::Command::new(palisade_binary());
    processes.start(Member::Node(1), program(), &Launch::default()).unwrap();
    let named = Launch { args: vec!["--name".into(), "a".into()], ..Launch::default() };
    processes.start(Member::Gateway(1), program(), &named).unwrap();
    let own = inside.issue_role("palisade://test/gateway/b");
    let client = clients.issue(&Says { common_name: "alice", ..Says::default() });
    eventually("both serve", async || {
        shake(&addresses[0], Some(&own)).await.ok()?;
        shake(&addresses[1], Some(&client)).await.ok()
    })
    .await;

    // Two of each source or identity, because the first is a line at once, and the last is in the
    // line of their sum.
    let role = ["palisade://test/node/2"];
    let past = clients.issue(&Says { uris: &role, time: Time::Past, ..Says::default() });
    for (address, pair) in [
        (&addresses[0], Some(stranger.issue_role(role[0]))),
        (&addresses[0], Some(inside.issue_role("palisade://prod/node/2"))),
        (&addresses[1], Some(past)),
        (&addresses[1], None),
    ] {
        shake(address, pair.as_ref()).await.expect_err("it is refused");
    }
    let (cert, key) = inside.issue_role(role[0]).write(dir.path(), "own");
    let ca = path("inside-ca.crt").into();
    let tls = InsideFiles { cert, key, ca, role: role[0].parse().unwrap() }.open().unwrap();
    let target = Target::inside(&addresses[0], Some(&tls), 1).unwrap();
    let channel = target.connect(CONNECTS, |endpoint| endpoint).await.unwrap();
    let greeting = GreetRequest { hello: Some(Hello { node: 3, ..Hello::default() }) };
    let greeted = PeerServiceClient::new(channel.clone()).greet(greeting).await;
    assert_eq!(greeted.unwrap_err().code(), Code::PermissionDenied);
    let operated = ShardServiceClient::new(channel).operate(tokio_stream::empty()).await;
    assert_eq!(operated.unwrap_err().code(), Code::FailedPrecondition);

    let (of_node, of_gateway) = (path("audit-node-1.log"), path("audit-gateway-a.log"));
    for (audit, kind, words) in [
        (&of_node, "peer_refused", "authorities"),
        (&of_node, "peer_refused", "another cluster"),
        (&of_gateway, "signed_in_failed", "expired since"),
        (&of_gateway, "signed_in_failed", "requires one"),
        (&of_node, "peer_refused", "it is node 3"),
        (&of_node, "peer_refused", "refuses this caller"),
    ] {
        eventually(words, async || {
            reasons(audit.as_ref(), kind).iter().any(|why| why.contains(words)).then_some(())
        })
        .await;
    }
}
