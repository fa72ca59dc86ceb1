//! TLS between all processes: which certificates reach what, and what happens when they change.
//!
//! The clusters run inside the test's process, with the certificates in files.

use client::{Client, ClientOptions, ClientSide, Pem, Security};
use gateway::{Gateway, GatewayHandle, GatewayOptions};
use local_cluster::{Addresses, Launch, Member, Processes, cluster_config, free_addresses};
use net::dial::Target;
use net::frames::Event;
use net::role::Process;
use net::tls::InsideFiles;
use nix::sys::signal::Signal;
use node::{FirstStart, Node, NodeHandle, NodeOptions};
use palisade_tests::authority::{Authority, Pair, Says, Time};
use palisade_tests::files::Files;
use palisade_tests::handshake::{der, shake};
use palisade_tests::{eventually, palisade_binary};
use routing::{ClusterConfig, NodeConfig, NodeId, Settings};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use storage::MemoryEngine;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use wire::internal::v1::peer_service_client::PeerServiceClient;
use wire::internal::v1::{DeliverRequest, FramesRequest, FramesStatus, GreetRequest, Hello};

/// No step takes this long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);
const CONNECTS: Duration = Duration::from_secs(10);

/// Three nodes and a gateway.
struct Cluster {
    files: Files,
    config: ClusterConfig,
    nodes: Vec<NodeHandle>,
    gateway: GatewayHandle,
}

impl Cluster {
    async fn start() -> Cluster {
        let files = Files::new();
        let listeners: Vec<TcpListener> = (0..3).map(|_| listener()).collect();
        let node = |(id, listener): (u64, &TcpListener)| NodeConfig {
            id: NodeId(id),
            address: listener.local_addr().unwrap().to_string(),
            metrics: None,
            zone: None,
        };
        let config = ClusterConfig {
            cluster: "test".into(),
            nodes: (1..).zip(&listeners).map(node).collect(),
            gateways: Vec::new(),
            shards: 2,
            replicas: 3,
            placement: Vec::new(),
            settings: Settings::default(),
            tls: None,
            access: None,
            audit: None,
        };
        let mut nodes = Vec::new();
        for (id, listener) in (1..).zip(listeners) {
            let options = NodeOptions {
                seeds: Vec::new(),
                cluster: config.clone(),
                id: NodeId(id),
                engine: Arc::new(MemoryEngine::new()),
                tls: Some(files.inside(Process::Node(id))),
                first_start: FirstStart::AskPeers,
                guard_file: None,
                audit: Default::default(),
                insecure: false,
                listener: Some(listener),
                metrics_listener: None,
                by_hand: false,
                joins: None,
            };
            nodes.push(Node::start(options).await.unwrap());
        }
        let gateway = start_gateway(&files, &config).await;
        Cluster { files, config, nodes, gateway }
    }

    fn node(&self, id: usize) -> String {
        self.config.nodes[id - 1].address.clone()
    }

    fn client(&self) -> Client {
        client_of(self.gateway.address(), Some(self.files.client_side("client")))
    }

    /// Reads all files again, as SIGHUP does.
    fn reload(&self) {
        self.nodes.iter().for_each(NodeHandle::reload);
        self.gateway.reloader()();
    }

    async fn stop(self) {
        self.gateway.shutdown().await;
        for node in self.nodes {
            node.shutdown().await.unwrap();
        }
    }
}

async fn start_gateway(files: &Files, config: &ClusterConfig) -> GatewayHandle {
    let options = GatewayOptions {
        seeds: Vec::new(),
        cluster: config.clone(),
        inside: Some(files.inside(Process::Gateway("a".into()))),
        tls: Some(files.server()),
        listener: listener(),
        metrics_listener: None,
        reflection: false,
        audit: Default::default(),
        insecure: false,
    };
    Gateway::start(options).await.unwrap()
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn client_of(gateway: SocketAddr, tls: Option<ClientSide>) -> Client {
    let security = Security { tls: tls.map(Arc::new), ..Security::default() };
    Client::with_options([gateway.to_string()], ClientOptions::new().security(security))
}

/// Takes and releases a lock, as soon as the cluster serves.
async fn works(client: &Client) {
    let lock = async {
        loop {
            match client.acquire("a").await {
                Ok(grant) => return client.release("a", grant.fencing_token).await.unwrap(),
                Err(error) => println!("not yet: {error}"),
            }
        }
    };
    tokio::time::timeout(HANGS, lock).await.expect("the cluster serves");
}

/// The failure of a try with a short time.
async fn fails(gateway: SocketAddr, tls: Option<ClientSide>) -> String {
    let security = Security { tls: tls.map(Arc::new), ..Security::default() };
    let options = ClientOptions::new().timeout(Duration::from_millis(500)).security(security);
    let client = Client::with_options([gateway.to_string()], options);
    client.acquire("a").await.expect_err("no connection").to_string()
}

/// All methods of a service of the inside, as paths.
fn methods(service: &str) -> Vec<String> {
    let bytes = wire::internal::DESCRIPTORS;
    let set = <prost_types::FileDescriptorSet as prost::Message>::decode(bytes).unwrap();
    let services = set.file.into_iter().flat_map(|file| file.service);
    let service_of = |s: &prost_types::ServiceDescriptorProto| s.name() == service;
    let found = services.into_iter().find(service_of).expect(service);
    let path = |method: prost_types::MethodDescriptorProto| {
        format!("/palisade.internal.v1.{service}/{}", method.name())
    };
    found.method.into_iter().map(path).collect()
}

/// Calls a method with one empty message.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = path.parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let stream = tokio_stream::once(());
    let answered = client.streaming(Request::new(stream), path, codec).await;
    answered?.into_inner().message().await.map(drop)
}

/// How node 1 ends a stream of frames that names this method, and no cluster.
async fn ends_in_frames(target: &Target, method: &str) -> Code {
    let mut frames = target.connect_frames(CONNECTS, 64 << 10, HANGS).await.unwrap();
    let opening = FramesRequest { method: method.to_owned(), identity: None };
    frames.put(|buffer| wire::append(&opening, buffer));
    frames.put(|buffer| wire::append(&DeliverRequest { record: 1, ..Default::default() }, buffer));
    loop {
        match tokio::time::timeout(HANGS, frames.next(true)).await.expect("it ends").unwrap() {
            Event::Last(bytes) => return FramesStatus::read(bytes).code(),
            Event::Ended => return Code::Ok,
            Event::Frame(_) | Event::Written => {}
        }
    }
}

/// A channel to node 1 with this pair, as another process of the cluster would have it.
async fn channel(cluster: &Cluster, own: &Pair, role: &str) -> Channel {
    target(cluster, own, role).connect(CONNECTS, |endpoint| endpoint).await.unwrap()
}

/// Node 1, for a process with this pair.
fn target(cluster: &Cluster, own: &Pair, role: &str) -> Target {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = own.write(dir.path(), "own");
    let ca = cluster.files.path("inside-ca.crt");
    let tls = InsideFiles { cert, key, ca, role: role.parse().unwrap() }.open().unwrap();
    Target::inside(&cluster.node(1), Some(&tls), 1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_from_the_inside_of_its_cluster_only() {
    let cluster = Cluster::start().await;
    works(&cluster.client()).await;
    let inside = &cluster.files.inside;
    let stranger = Authority::new("stranger");
    let role = ["palisade://test/node/2"];
    let with = |time| inside.issue(&Says { uris: &role, time, ..Says::default() });
    let address = cluster.node(1);
    for (what, own, alert) in [
        ("no certificate", None, "CertificateRequired"),
        ("another authority", Some(stranger.issue_role(role[0])), "UnknownCA"),
        ("another cluster", Some(inside.issue_role("palisade://prod/node/2")), "AccessDenied"),
        ("no role", Some(inside.issue_role("spiffe://test/node/2")), "AccessDenied"),
        ("expired", Some(with(Time::Past)), "CertificateExpired"),
        ("not yet valid", Some(with(Time::Future)), "CertificateExpired"),
    ] {
        let error = shake(&address, own.as_ref()).await.expect_err(what);
        assert!(error.contains(alert), "{what}: {error}");
    }
    assert!(shake(&address, Some(&with(Time::Now))).await.is_ok(), "the right one");
    // A client of the gateway has the certificate of another authority.
    let client = cluster.files.clients.issue_role("spiffe://jobs/nightly");
    assert!(shake(&address, Some(&client)).await.is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_calls_what_it_may_and_nothing_else() {
    let cluster = Cluster::start().await;
    let (peer, shard) = (methods("PeerService"), methods("ShardService"));
    assert!(peer.len() >= 3 && shard.len() >= 3);
    let others = ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/x.Y/Z"];
    for (role, may) in [
        ("palisade://test/gateway/a", [shard.clone()].concat()),
        ("palisade://test/gateway/other", [shard.clone()].concat()),
        ("palisade://test/node/2", [peer.clone(), shard.clone()].concat()),
    ] {
        let own = cluster.files.inside.issue_role(role);
        let channel = channel(&cluster, &own, role).await;
        for path in peer.iter().chain(&shard).map(String::as_str).chain(others) {
            let code = call(&channel, path).await.err().map_or(Code::Ok, |status| status.code());
            let is_denied = code == Code::PermissionDenied;
            assert_eq!(!is_denied, may.iter().any(|may| may == path), "{role} {path}: {code:?}");
            let code = ends_in_frames(&target(&cluster, &own, role), path).await;
            let is_denied = code == Code::PermissionDenied;
            assert_eq!(!is_denied, may.iter().any(|may| may == path), "{role} {path}: {code:?}");
        }
    }
    cluster.stop().await;
}

/// A node with a certificate of its own could greet as another one, and so end that one's run.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_greets_as_the_node_of_its_certificate() {
    let cluster = Cluster::start().await;
    let own = cluster.files.inside.issue_role("palisade://test/node/2");
    let mut client =
        PeerServiceClient::new(channel(&cluster, &own, "palisade://test/node/2").await);
    let hello = |node| Hello {
        node,
        fingerprint: cluster.config.fingerprint().0.to_vec(),
        is_lost: true,
        ..Hello::default()
    };
    let mut greet = async |node| {
        let greeted = client.greet(GreetRequest { hello: Some(hello(node)) }).await;
        greeted.err().map_or((Code::Ok, String::new()), |s| (s.code(), s.message().to_owned()))
    };
    let (code, why) = greet(3).await;
    assert_eq!(code, Code::PermissionDenied, "{why}");
    assert!(why.contains("node 3") && why.contains("node 2"), "{why}");
    let (code, why) = greet(2).await;
    assert_ne!(code, Code::PermissionDenied, "{why}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_of_one_node_accepts_no_other() {
    let cluster = Cluster::start().await;
    let tls = cluster.files.inside(Process::Gateway("a".into()));
    let dial = async |address: &str, node| {
        let target = Target::inside(address, Some(&tls), node).unwrap();
        target.connect(CONNECTS, |endpoint| endpoint).await.map(drop)
    };
    dial(&cluster.node(2), 2).await.unwrap();
    dial(&cluster.node(2), 0).await.unwrap(); // any node
    let error = dial(&cluster.node(2), 1).await.unwrap_err().to_string();
    assert!(error.contains("node/2") && error.contains("node 1"), "{error}");
    let gateway = cluster.gateway.address().to_string();
    let error = dial(&gateway, 1).await.unwrap_err().to_string();
    assert!(error.contains("authorities"), "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_gateway_tell_what_is_wrong_between_them() {
    let cluster = Cluster::start().await;
    let (gateway, files) = (cluster.gateway.address(), &cluster.files);
    works(&cluster.client()).await;
    let right = files.client_side("client");
    let with = |own: Option<Pair>| ClientSide {
        own: own.map(|pair| (Pem::Text(pair.cert), Pem::Text(pair.key))),
        ..right.clone()
    };
    let stranger = Authority::new("stranger");
    let past = files.clients.issue(&Says { time: Time::Past, ..Says::default() });
    for (tls, words) in [
        (with(None), "--cert"),
        (with(Some(stranger.issue_role("spiffe://x/y"))), "authority of this side's certificate"),
        (with(Some(past)), "expired since"),
        (ClientSide { ca: Pem::Text(stranger.pem()), own: right.own.clone() }, "--ca"),
    ] {
        let error = fails(gateway, Some(tls)).await;
        assert!(error.contains(words), "{words}: {error}");
    }
    // A certificate of the inside is none of a client.
    let inside = files.inside.issue_role("palisade://test/node/1");
    assert!(fails(gateway, Some(with(Some(inside)))).await.contains("authority"));

    let named = |name: &str| {
        let tls = Some(Arc::new(right.clone()));
        let security = Security { tls, server_name: Some(name.into()), token: None };
        let options = ClientOptions::new().timeout(Duration::from_millis(500));
        Client::with_options([gateway.to_string()], options.security(security))
    };
    let error = named("gw.example").acquire("a").await.unwrap_err().to_string();
    assert!(error.contains("gw.example") && error.contains("--server-name"), "{error}");
    works(&named("localhost")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_to_tls_and_tls_to_plain_say_which_is_which() {
    let cluster = Cluster::start().await;
    let error = fails(cluster.gateway.address(), None).await;
    assert!(error.contains("the server speaks TLS"), "{error}");

    let options = GatewayOptions {
        seeds: Vec::new(),
        cluster: cluster.config.clone(),
        inside: Some(cluster.files.inside(Process::Gateway("a".into()))),
        tls: None,
        listener: listener(),
        metrics_listener: None,
        reflection: false,
        audit: Default::default(),
        insecure: false,
    };
    let plain = Gateway::start(options).await.unwrap();
    let error = fails(plain.address(), Some(cluster.files.client_side("client"))).await;
    assert!(error.contains("the server does not speak TLS"), "{error}");
    works(&client_of(plain.address(), None)).await;
    plain.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_begin_no_handshake_hold_up_no_other() {
    let cluster = Cluster::start().await;
    works(&cluster.client()).await;
    // So many of one source that most of them have the shorter time.
    let connect = |_| std::net::TcpStream::connect(cluster.gateway.address()).unwrap();
    let silent: Vec<_> = (0..300).map(connect).collect();
    works(&cluster.client()).await;
    drop(silent);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_change_nothing() {
    let cluster = Cluster::start().await;
    let files = &cluster.files;
    let (address, own) = (cluster.gateway.address().to_string(), cluster.client());
    works(&own).await;
    let client = Pair {
        cert: std::fs::read_to_string(files.path("client.crt")).unwrap(),
        key: std::fs::read_to_string(files.path("client.key")).unwrap(),
    };
    let shown = async || shake(&address, Some(&client)).await.unwrap();
    let before = shown().await;
    assert_eq!(before, der(&files.path("server.crt")));

    let (cert, key) = (files.path("server.crt"), files.path("server.key"));
    let good = [std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap()];
    let host = Says { hosts: &["127.0.0.1"], ..Says::default() };
    let issue = |time| files.clients.issue(&Says { time, ..host.clone() });
    let (past, future, other) = (issue(Time::Past), issue(Time::Future), issue(Time::Now));
    let bad = [
        ("no PEM", "-----BEGIN CERTIFICATE-----\nx\n".to_owned(), past.key.clone()),
        ("empty", String::new(), past.key.clone()),
        ("expired", past.cert, past.key),
        ("not yet valid", future.cert, future.key),
        ("another key", other.cert.clone(), client.key.clone()),
    ];
    for (what, new_cert, new_key) in bad {
        std::fs::write(&cert, new_cert).unwrap();
        std::fs::write(&key, new_key).unwrap();
        cluster.reload();
        assert_eq!(shown().await, before, "{what}");
    }
    std::fs::remove_file(&key).unwrap();
    cluster.reload();
    assert_eq!(shown().await, before, "no key");

    std::fs::write(&cert, &other.cert).unwrap();
    std::fs::write(&key, &other.key).unwrap();
    cluster.reload();
    assert_eq!(shown().await, der(&cert), "a good one is used at once");
    std::fs::write(&cert, &good[0]).unwrap();
    std::fs::write(&key, &good[1]).unwrap();
    works(&own).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_certificates_are_replaced_under_load_and_no_operation_fails() {
    let cluster = Cluster::start().await;
    let files = &cluster.files;
    let client = cluster.client();
    works(&client).await;
    let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = |n: usize| {
        let (client, is_over, done) = (client.clone(), is_over.clone(), done.clone());
        tokio::spawn(async move {
            let name = format!("lock-{n}");
            while !is_over.load(Ordering::Relaxed) {
                let grant = client.acquire(name.as_str()).await.unwrap();
                client.release(&name, grant.fencing_token).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let load: Vec<_> = (0..4).map(load).collect();
    let progress = async || {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };

    // 1. Both authorities are trusted. 2. All certificates are of the new ones. 3. The old ones are
    // not trusted any more.
    let (inside, clients) = (Authority::new("inside 2"), Authority::new("clients 2"));
    files.write("inside-ca.crt", &(files.inside.pem() + &inside.pem()));
    files.write("clients-ca.crt", &(files.clients.pem() + &clients.pem()));
    cluster.reload();
    progress().await;
    let role = "palisade://test/node/2";
    let peer = channel(&cluster, &files.inside.issue_role(role), role).await;
    files.issue_all(&inside, &clients);
    cluster.reload();
    progress().await;
    call(&peer, "/palisade.internal.v1.ShardService/Cluster").await.expect("both are trusted");
    files.write("inside-ca.crt", &inside.pem());
    files.write("clients-ca.crt", &clients.pem());
    cluster.reload();
    progress().await;

    // Connections of the old authority have ended, and new ones are made with the new one alone.
    let ended = call(&peer, "/palisade.internal.v1.ShardService/Cluster").await;
    assert!(ended.is_err(), "the connection of a peer with an old certificate");
    for (id, node) in ["node-1", "node-2", "node-3"].iter().enumerate() {
        let own = inside.issue_role("palisade://test/gateway/b");
        let shown = shake(&cluster.node(id + 1), Some(&own)).await.unwrap();
        assert_eq!(shown, der(&files.path(&format!("{node}.crt"))));
        let old = files.inside.issue_role("palisade://test/gateway/b");
        assert!(shake(&cluster.node(id + 1), Some(&old)).await.is_err(), "the old authority");
    }
    let second = start_gateway(files, &cluster.config).await;
    works(&client_of(second.address(), Some(files.client_side("client")))).await;
    works(&cluster.client()).await;
    progress().await;

    is_over.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("no operation failed");
    }
    second.shutdown().await;
    cluster.stop().await;
}

/// The processes read what the cluster file names, each its own, and again at SIGHUP.
#[tokio::test(flavor = "multi_thread")]
async fn processes_load_the_files_of_the_cluster_file_and_again_when_told() {
    let files = Files::new();
    let addresses = free_addresses(2).unwrap();
    let mut config = cluster_config(
        "test",
        1,
        &[Addresses::only(&addresses[0])],
        &[Addresses::only(&addresses[1])],
    );
    config.tls = Some(files.tls());
    let mut processes = Processes::new(files.dir(), config).unwrap();
    let (node, gateway) = (Member::Node(1), Member::Gateway(1));
    let program = || std::process::Command::new(palisade_binary());
    processes.start(node, program(), &Launch::default()).unwrap();
    let named = Launch { args: vec!["--name".into(), "a".into()], ..Launch::default() };
    processes.start(gateway, program(), &named).unwrap();
    let client = client_of(addresses[1].parse().unwrap(), Some(files.client_side("client")));
    works(&client).await;

    files.issue_all(&files.inside, &files.clients);
    processes.signal(node, Signal::SIGHUP);
    processes.signal(gateway, Signal::SIGHUP);
    let own = files.inside.issue_role("palisade://test/gateway/b");
    let client_pair = files.clients.issue(&Says { common_name: "x", ..Says::default() });
    let (node_cert, server_cert) = (der(&files.path("node-1.crt")), der(&files.path("server.crt")));
    eventually("the new certificates are shown", async || {
        let of_node = shake(&addresses[0], Some(&own)).await.ok()?;
        let of_gateway = shake(&addresses[1], Some(&client_pair)).await.ok()?;
        (of_node == node_cert && of_gateway == server_cert).then_some(())
    })
    .await;
    works(&client).await;

    // A process does not start with the certificate of another one.
    let output = program()
        .args(["gateway", "--name", "b", "--listen", "127.0.0.1:1", "--config"])
        .arg(processes.config_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("gateway-b.crt cannot be read"), "{said}");
    std::fs::copy(files.path("gateway-a.crt"), files.path("gateway-b.crt")).unwrap();
    std::fs::copy(files.path("gateway-a.key"), files.path("gateway-b.key")).unwrap();
    let output = program()
        .args(["gateway", "--name", "b", "--listen", "127.0.0.1:1", "--config"])
        .arg(processes.config_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("gateway/a, not for palisade://test/gateway/b"), "{said}");
}
